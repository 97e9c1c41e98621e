"""Arguments and options that several commands have."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

F = TypeVar("F", bound="Callable[..., Any]")

option = partial(click.option, show_envvar=True)
"""An option. Without `envvar=` its variable has the command's name, too."""

app_argument = click.argument("app", envvar="CHANGE_EVENTS_APP")

json_option = option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="CHANGE_EVENTS_JSON",
    help="Print the result as JSON, to stdout.",
)
