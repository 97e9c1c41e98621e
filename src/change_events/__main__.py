"""Run the command: `change-events`, or `python -m change_events`."""

from __future__ import annotations

import io
import os
import sys

MISSING = "change-events: the command needs click and rich: pip install 'change-events[cli]'"


def main() -> None:
    """Run the command. Without the extra `cli`, say what to install, and exit with status 2."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError:
        print(MISSING, file=sys.stderr)  # noqa: T201  # there is no click
        sys.exit(2)
    from change_events._cli.group import group

    if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding can lack characters of an entity
        sys.stdout.reconfigure(errors="backslashreplace")
    # See no-color.org. click does not look.
    group.main(prog_name="change-events", color=False if os.environ.get("NO_COLOR") else None)


if __name__ == "__main__":
    main()
