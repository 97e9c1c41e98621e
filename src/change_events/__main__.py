"""Run the command: `change-events`, or `python -m change_events`."""

from __future__ import annotations

import sys

MISSING = "change-events: the command needs click and rich: pip install 'change-events[cli]'"


def main() -> None:
    """Run the command. Without the extra `cli`, say what to install, and exit with status 2."""
    try:
        from change_events._cli.group import group
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit(_missing())
    group.main(prog_name="change-events")


def _missing() -> int:
    print(MISSING, file=sys.stderr)  # noqa: T201  # there is no click
    return 2


if __name__ == "__main__":
    main()
