"""
The command and its subcommands, one module each.

To add a subcommand, add its name to `COMMANDS`, and write a module of this package that has that
name (with `_` for `-`) and a click command named `command`. The module is imported when somebody
asks for the subcommand, or for a list of all of them. So it imports what is slow in its functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

from change_events._cli.problems import explained

COMMANDS = (
    "doctor",
    "worker",
    "status",
    "resume",
    "backfill",
    "audit",
    "look",
    "publish",
    "dead-letters",
    "template",
)
"""The subcommands, in the order in which `--help` lists them."""


class Group(click.Group):
    """Imports its commands when they are asked for, and explains errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"change_events._cli.{cmd_name.replace('-', '_')}")
        return cast("click.Command", module.command)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that the arguments name."""
        with explained(ctx):
            return super().invoke(ctx)


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"change-events {version('change-events')}")
        ctx.exit()


@click.group(
    cls=Group,
    context_settings={
        "auto_envvar_prefix": "CHANGE_EVENTS",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,  # a deployment can have a variable of that name
    show_default=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def group() -> None:
    """
    Start a cache, check it, repair it, operate it.

    APP names your Worker as module:attribute, like shop.cache:worker. The module is looked for in
    the current directory, too.

    \b
      change-events worker shop.cache:worker
      change-events audit shop.cache:worker --listing https://products.example.com/products

    Every option is an environment variable, too: CHANGE_EVENTS_APP is APP, and
    CHANGE_EVENTS_AUDIT_SAMPLE is --sample of audit. The help of a command names them.

    \b
    Exit statuses:
      0    done, and nothing is wrong
      1    done, and something was found, or is left to do
      2    not begun: an argument, a setting or a permission is wrong
      3    not finished: a service does not answer, or refuses; try again
      70   a bug; please open an issue
      130  Ctrl-C
      143  SIGTERM
    """
