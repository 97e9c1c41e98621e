"""`change-events dead-letters`: lists, redrives and drops dead letters."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from change_events._cli.app import load_app, split_app
from change_events._cli.options import allow_option, app_argument, json_option, option, rate_option
from change_events._cli.problems import FOUND, Unfinished
from change_events._cli.progress import Bar
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from change_events._operations.dead_letters import RedriveProgress, RedriveReport
    from change_events._operations.dropping import DropReport
    from change_events._worker import Worker

SHOWN = 100
"""How many lines of each kind are printed."""

queue_option = option(
    "--queue",
    envvar="CHANGE_EVENTS_DEAD_LETTERS_QUEUE",
    metavar="URL",
    help="The dead-letter queue's URL.  [default: that of the worker's queue]",
)

limit_option = option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="The most letters to receive.  [default: no limit]",
)

yes_option = option("--yes", is_flag=True, help="Do it. Without it, only say what would be done.")


@click.group()
def command() -> None:
    """
    List, redrive and drop dead letters.

    A dead letter is an event that no look has settled. These commands find the dead-letter queue of
    the worker's queue by its redrive policy. The one of its subscription is named by --queue.
    """


@command.command("list")
@app_argument
@queue_option
@limit_option
@json_option
@click.pass_context
def list_letters(
    ctx: click.Context, /, *, app: str, queue: str | None, limit: int | None, as_json: bool
) -> None:
    """
    List the dead letters.

    \b
      change-events dead-letters list shop.cache:worker

    It counts those of each id, and names those that are not change events. Nothing is looked at or
    deleted. Each letter counts one more receive.

    Exit status: 1 if there are letters.
    """
    worker = load_app(app, in_memory=True)
    report = _redrive(worker, queue, dry_run=True, limit=limit)
    _show(ctx, report, as_json=as_json)


@command.command("redrive")
@app_argument
@queue_option
@limit_option
@rate_option
@allow_option
@yes_option
@json_option
@click.pass_context
def redrive_letters(
    ctx: click.Context,
    /,
    *,
    app: str,
    queue: str | None,
    limit: int | None,
    rate: float | None,
    allow_mass_deletion: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """
    Look at the ids of dead letters.

    \b
      change-events dead-letters redrive shop.cache:worker          # says what it would do
      change-events dead-letters redrive shop.cache:worker --yes

    It deletes the letters that a look settles. Many letters of one id are one look. Workers can run
    meanwhile. A letter whose look fails stays, and so does one that is not a change event. Ctrl-C
    loses nothing.

    Exit status: 1 if letters are left, 3 if it stopped early: the source, the cache or SQS is down,
    or too many entities are gone.
    """
    worker = load_app(app)
    report = _redrive(
        worker,
        queue,
        dry_run=not yes,
        limit=limit,
        max_gets_per_second=rate or worker.max_gets_per_second,
        allow_mass_deletion=allow_mass_deletion or worker.allow_mass_deletion,
    )
    if not yes and not as_json and report.letters:
        click.echo(f"It would look at {len(report.ids):,} ids. To do so, add --yes.")
    _show(ctx, report, as_json=as_json)


@command.command("drop")
@click.argument("app_and_ids", nargs=-1, metavar="APP [ID]...")
@option(
    "--all",
    "everything",
    is_flag=True,
    envvar="CHANGE_EVENTS_DEAD_LETTERS_DROP_ALL",
    help="Drop all letters, also change events.",
)
@queue_option
@yes_option
@json_option
@click.pass_context
def drop_letters(
    ctx: click.Context,
    /,
    *,
    app_and_ids: Sequence[str],
    everything: bool,
    queue: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """
    Delete dead letters without a look.

    \b
      change-events dead-letters drop shop.cache:worker          # says what it would drop
      change-events dead-letters drop shop.cache:worker --yes
      change-events dead-letters drop shop.cache:worker p7 p8 --yes

    By default it drops the letters that are not change events, which no redrive can settle. With
    IDs, it drops the letters of these ids and no others: their copies can then be stale. If
    CHANGE_EVENTS_APP is set, APP can be left out.

    Exit status: 1 if letters that it should drop are left: without --yes, all of them.
    """
    from change_events._cli.queues import dead_letter_queue
    from change_events._operations.dropping import drop

    app, ids = split_app(ctx, app_and_ids, least=0)
    if everything and ids:
        raise click.UsageError("Give ids or --all, not both.", ctx)
    worker = load_app(app, in_memory=True)
    report = drop(
        dead_letter_queue(worker, queue),
        settings=worker,
        ids=frozenset(ids),
        everything=everything,
        dry_run=not yes,
    )
    if as_json:
        click.echo(json.dumps(_as_dict(report), indent=2))
    else:
        for line in _drop_lines(report):
            click.echo(line)
    if report.chosen > report.dropped:
        ctx.exit(FOUND)


def _redrive(worker: Worker[Any], queue: str | None, **settings: Any) -> RedriveReport:
    from change_events._cli.queues import dead_letter_queue
    from change_events._operations.dead_letters import redrive
    from change_events._operations.throttle import threads_for

    queue_url = dead_letter_queue(worker, queue)

    def tell(now: RedriveProgress) -> None:
        bar.show(
            now.deleted,
            None,
            f"{now.letters:,} letters of {now.ids:,} ids, {now.looks:,} looks, "
            f"{now.deleted:,} letters deleted, {now.failed:,} ids failed",
        )

    with Bar("redrive") as bar:
        return redrive(
            queue_url,
            fetcher=worker.fetcher,
            sink=worker.sink,
            topic_arn=worker.topic_arn,
            verify_signatures=worker.verify_signatures,
            settle=worker.settle,
            client=worker.client,
            threads=threads_for(worker.threads),
            on_progress=tell,
            **settings,
        )


def _show(ctx: click.Context, report: RedriveReport, *, as_json: bool) -> None:
    stopped = report.stopped and printable(report.stopped)
    if as_json:
        click.echo(json.dumps({**_as_dict(report), "stopped": stopped}, indent=2))
    else:
        for id, number in list(report.ids.items())[:SHOWN] if report.dry_run else ():
            click.echo(f"{printable(id)}: {number:,}")
        click.echo(report)
    if stopped:
        raise Unfinished(f"stopped early: {stopped}")
    if report.kept:
        ctx.exit(FOUND)


def _as_dict(report: RedriveReport | DropReport) -> dict[str, Any]:
    # Not `asdict`, which makes another thing of a Counter.
    return {each.name: getattr(report, each.name) for each in fields(report)}


def _drop_lines(report: DropReport) -> Iterator[str]:
    named = {f"message {id}": reason for id, reason in report.reasons.items()}
    named |= {id: f"{number:,} letters" for id, number in report.ids.items()}
    for name, what in list(named.items())[:SHOWN]:
        yield f"{printable(name)}: {what}"
    if len(named) > SHOWN:
        yield f"and {len(named) - SHOWN:,} more"
    would = "would be dropped; to drop them, add --yes" if report.dry_run else "dropped"
    number = report.chosen if report.dry_run else report.dropped
    yield f"{report.letters:,} letters: {number:,} {would}"
