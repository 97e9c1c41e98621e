"""`change-events look`: one look now, and what it changed."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from change_events._cli.app import load_app, split_app
from change_events._cli.options import json_option
from change_events._cli.problems import FOUND
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events._event import Found, Gone, Unchanged
    from change_events._worker import Worker

ABSENT = "(absent)"

BY_HAND = (
    "the cached entity is not what a look has stored: somebody has changed it by hand, and a look "
    "keeps it. `change-events audit --repair` mends it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """
    What a look found and did.

    Attributes:
        outcome: See `change_events.Outcome`; None: the look failed.
        error: Why it failed.
        gone: The source says that the entity does not exist; None: it said nothing.
        diff: From the cache before the look to the source, as a unified diff; None: not known,
            because the sink can't return what is cached, or the source said nothing.
        hint: What the user should know.
    """

    id: str
    outcome: str | None = None
    error: str | None = None
    gone: bool | None = None
    diff: str | None = None
    hint: str | None = None


@click.command()
@click.argument("app_and_ids", nargs=-1, metavar="APP ID...")
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, app_and_ids: Sequence[str], as_json: bool) -> None:
    """
    Look at entities now, and show what changes.

    \b
      change-events look shop.cache:worker p1 p2

    It shows what the cache has against what the source has, as a diff. Then it stores what the
    source says, and shows the outcome. It sends two GETs for each ID, and is safe beside any number
    of workers. If CHANGE_EVENTS_APP is
    set, APP can be left out; the first argument is APP if it is written module:attribute.

    Exit status: 1 if a look failed.
    """
    app, ids = split_app(ctx, app_and_ids, least=1)
    worker = load_app(app)
    looked = [_look(worker, id) for id in ids]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in looked], indent=2))
    else:
        for each in looked:
            _print(each)
    if any(each.error is not None for each in looked):
        ctx.exit(FOUND)


def _look(worker: Worker[Any], id: str) -> Looked:
    from change_events._operations.sides import bodies_of, equal

    try:
        bodies = bodies_of(worker.sink)
        cached = bodies and bodies.read([id]).get(id)
        fetched = worker.fetcher.fetch(id)
        outcome = worker.refresh(id).value
        left = bodies and bodies.read([id]).get(id)
    except Exception as error:  # of the fetcher, or of the sink
        return Looked(id=id, error=printable(error))
    diff = None if bodies is None else _diff(cached, fetched)
    # Unless a worker's look has stored it meanwhile.
    is_by_hand = outcome == "unchanged" and bool(diff) and equal(left, cached)
    return Looked(
        id=id,
        outcome=outcome,
        gone=_is_gone(fetched),
        diff=diff,
        hint=BY_HAND if is_by_hand else None,
    )


def _is_gone(fetched: Found[Any] | Unchanged | Gone) -> bool:
    from change_events._event import Gone

    return isinstance(fetched, Gone)


def _diff(cached: object, fetched: Found[Any] | Unchanged | Gone) -> str:
    from change_events._event import Found
    from change_events._operations.sides import equal

    entity = fetched.value if isinstance(fetched, Found) else None
    if equal(cached, entity):
        return ""
    lines = difflib.unified_diff(_lines(cached), _lines(entity), "cache", "source", lineterm="")
    return "\n".join(map(printable, lines))


def _lines(entity: object) -> list[str]:
    if entity is None:
        return [ABSENT]
    text = json.dumps(entity, indent=2, sort_keys=True, ensure_ascii=False, default=repr)
    return text.splitlines()


def _print(looked: Looked) -> None:
    id = printable(looked.id)
    if looked.error is not None:
        click.echo(f"{id}: the look failed: {looked.error}")
        return
    for line in (looked.diff or "").splitlines():
        color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(line, fg=color)
    gone = ", gone at the source" if looked.gone else ""
    click.echo(f"{id}: {looked.outcome}{gone}")
    if looked.hint is not None:
        click.echo(f"{id}: {looked.hint}")
