"""Arguments and options that several commands have."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from change_events._cli.problems import Mistake
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._worker import Worker

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


def processes_option(text: str) -> Callable[[F], F]:
    """Return the option `--processes`, with its help."""
    return option(
        "--processes",
        type=click.IntRange(1, 256),
        metavar="N",
        default=1,
        envvar="CHANGE_EVENTS_PROCESSES",
        help=text,
    )


rate_option = option(
    "--rate",
    type=click.FloatRange(0.01, 10_000),
    metavar="N",
    help="The most GETs in a second.  [default: the worker's max_gets_per_second]",
)

allow_option = option(
    "--allow-mass-deletion",
    is_flag=True,
    help="Refuse no deletion: the entities are meant to be gone.",
)

LISTING = {
    "--listing": "The URL of the first page. At the origin of APP's fetcher it is sent the same "
    "headers and auth.  [default: what the worker has as backfill=]",
    "--items": "Where a page has its list: a key, or a path like data.products.",
    "--id-of": "Where an item has its id: a key or a path.  [default: id]",
    "--next": "Where a page names the next one: a key or a path.  [default: its Link header]",
    "--cursor": "The parameter of the query that asks for the next page.",
    "--total": "Where a page says how many there are in all: a header, a key or a path.",
    "--entity": "Where an item has its entity: a key or a path.  [default: the item]",
}
"""The options that name a listing; see `HTTPListing`."""


def listing_options(command: F) -> F:
    """Add the options that name a listing."""
    entities = option(
        "--entities",
        is_flag=True,
        envvar="CHANGE_EVENTS_LISTING_ENTITIES",
        help="The pages have whole entities, exactly as a GET of each one returns them.",
    )
    for name, text in reversed(LISTING.items()):
        if name == "--items":
            command = entities(command)
        what = "" if name == "--listing" else name[1:].replace("-", "_").upper()
        command = option(
            name,
            envvar=f"CHANGE_EVENTS_LISTING{what}",
            metavar={"--listing": "URL", "--cursor": "NAME"}.get(name, "PATH"),
            help=text,
        )(command)
    return command


def listing_for(worker: Worker[Any], **settings: Any) -> Any:
    """
    Return the listing that the options name, or else the worker's own. One at the origin of the
    worker's `HTTPFetcher` is asked as that asks.

    Raises:
        Mistake: There is none, or the options are for one that is not named.
        ConfigurationError: A value is out of its range.
    """
    url = settings.pop("listing")
    given = {name: value for name, value in settings.items() if value}
    if url is not None:
        from change_events._source.fetcher import HTTPFetcher
        from change_events._source.listing import HTTPListing

        if isinstance(worker.fetcher, HTTPFetcher):
            with suppress(ConfigurationError):  # another origin, or what is wrong without it, too
                return HTTPListing(url, fetcher=worker.fetcher, **given)
        return HTTPListing(url, **given)
    if given:
        raise Mistake(f"--{next(iter(given)).replace('_', '-')} needs --listing, too")
    if worker.backfill is None:
        raise Mistake("there is no listing: give --listing URL, or make the worker with backfill=")
    return worker.backfill
