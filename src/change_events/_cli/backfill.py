"""`change-events backfill`: fills a cache from a listing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from change_events._cli.app import load_app
from change_events._cli.interrupts import stopping
from change_events._cli.options import (
    allow_option,
    app_argument,
    json_option,
    listing_for,
    listing_options,
    option,
    rate_option,
)
from change_events._cli.problems import FOUND
from change_events._cli.progress import Bar
from change_events._text import printable

if TYPE_CHECKING:
    from change_events._operations.backfill import Backfill
    from change_events._operations.progress import BackfillReport
    from change_events._worker import Worker


@click.command()
@app_argument
@listing_options
@rate_option
@option("--restart", is_flag=True, help="Begin with the first page again.")
@allow_option
@option("--pause", is_flag=True, help="Only let the backfill that runs send no more GETs.")
@option("--resume", is_flag=True, help="Only let it go on.")
@option(
    "--set-rate",
    type=click.FloatRange(0.01, 10_000),
    metavar="N",
    help="Only change the most GETs in a second of the backfill that runs.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    app: str,
    rate: float | None,
    restart: bool,
    allow_mass_deletion: bool,
    pause: bool,
    resume: bool,
    set_rate: float | None,
    as_json: bool,
    **listing: Any,
) -> None:
    """
    Fill the cache with what the source has already. Subscribe the queue first.

    \b
      change-events backfill shop.cache:worker --entities \\
          --listing 'https://products.example.com/products?limit=100'
      change-events backfill shop.cache:worker --set-rate 10

    It overwrites nothing that an event has brought, and workers can run meanwhile. Ctrl-C stops it;
    the next run goes on there. So it does after a crash. One process at a time fills a cache:
    another one is told which it is. --pause, --resume and --set-rate are for that one, wherever it
    runs: it learns of them within a second.

    Exit status: 1 if some entities could not be looked at, 3 if another backfill runs.
    """
    if sum((pause, resume, set_rate is not None)) > 1:
        raise click.UsageError("Give one of --pause, --resume and --set-rate.", ctx)
    worker = load_app(app)
    if pause or resume or set_rate is not None:
        said = _control(_backfill(worker, ()), pause=pause, rate=set_rate)
        click.echo(json.dumps({"said": said}) if as_json else said)
        return
    with Bar("backfill") as bar:
        backfill = _backfill(
            worker,
            listing_for(worker, **listing),
            max_gets_per_second=rate or worker.max_gets_per_second,
            allow_mass_deletion=allow_mass_deletion or worker.allow_mass_deletion,
            on_progress=lambda now: bar.show(now.done, now.total, str(now)),
        )
        _tell_owner(worker)
        with stopping(backfill.stop, then="What was done is kept: the next run goes on there."):
            report = backfill.run(restart=restart)
    click.echo(json.dumps(_as_dict(report), indent=2) if as_json else report)
    if report.failed:
        ctx.exit(FOUND)


def _backfill(worker: Worker[Any], listing: Any, **settings: Any) -> Backfill[Any]:
    from change_events._operations.backfill import Backfill
    from change_events._operations.throttle import threads_for

    threads = threads_for(worker.threads)
    return Backfill(listing, fetcher=worker.fetcher, sink=worker.sink, threads=threads, **settings)


def _tell_owner(worker: Worker[Any]) -> None:
    from change_events._operations.filled import STATE, TYPES
    from change_events._operations.state import LEASE, Kept, stateful

    kept = Kept(stateful(worker.sink), STATE, types=TYPES)
    kept.read()
    if kept.owner is not None:
        click.echo(
            f"{printable(kept.owner)} fills this cache, or was killed: this shows within "
            f"{LEASE:.0f} s",
            err=True,
        )


def _control(backfill: Backfill[Any], *, pause: bool, rate: float | None) -> str:
    """Tell the backfill that runs; return what it was told."""
    if rate is not None:
        backfill.max_gets_per_second = rate
        return f"at most {rate:g} GETs a second, until the backfill is complete"
    if pause:
        backfill.pause()
        return "paused: no backfill of this cache sends GETs, until --resume"
    backfill.resume()
    return "resumed"


def _as_dict(report: BackfillReport) -> dict[str, Any]:
    outcomes = {each.value: number for each, number in report.outcomes.items()}
    return {**asdict(report), "outcomes": outcomes}
