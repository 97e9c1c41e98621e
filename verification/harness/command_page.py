"""
Write the options of the command's subcommands into docs/reference/command.md.

    python -m verification.harness.command_page

The page has a pair of markers for each subcommand. A test says if the page is old.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from change_events._cli.group import group

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command.md"

HEAD = "| option | environment variable | default | what it does |\n|---|---|---|---|"
TABLE = re.compile(r"(<!-- (?P<name>.+): start -->\n).*?(<!-- (?P=name): end -->)", re.DOTALL)
HELP = re.compile(r"(?P<text>.*?)(?:  \[default: (?P<default>.*)\])?")


def contexts(
    command: click.Command = group, parent: click.Context | None = None, name: str = ""
) -> Iterator[click.Context]:
    """Yield a context for each command that is not a group; its path is its name."""
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    if not isinstance(command, click.Group):
        yield context
        return
    for each in command.list_commands(context):
        found = command.get_command(context, each)
        if found is not None:
            yield from contexts(found, context, each)


def table(context: click.Context) -> str:
    """Return the table of a command's options."""
    options = [each for each in context.command.params if isinstance(each, click.Option)]
    rows = [_row(each, context) for each in options if not each.hidden]
    return "\n".join([HEAD, *rows, ""])


def _row(option: click.Option, context: click.Context) -> str:
    help_ = HELP.fullmatch(option.help or "")
    assert help_ is not None  # noqa: S101  # the pattern fits every text
    given = option.default
    has_default = isinstance(given, (int, str)) and not option.is_flag
    default = help_["default"] or (given if has_default else "")
    metavar = "" if option.is_flag else f" {option.make_metavar(context)}"
    variable = option.envvar or f"{context.auto_envvar_prefix}_{str(option.name).upper()}"
    name = f"{option.opts[0]}{metavar}".replace("|", r"\|")
    return f"| `{name}` | `{variable}` | {default} | {help_['text']} |"


def rendered(page: str) -> str:
    """Return the page with the tables of the code."""
    tables = {context.command_path.strip(): table(context) for context in contexts()}
    return TABLE.sub(lambda found: f"{found[1]}{tables[found['name']]}{found[3]}", page)


def main() -> None:
    """Write the page."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
