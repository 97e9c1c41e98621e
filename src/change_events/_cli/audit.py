"""`change-events audit`: compares a cache with its source, and repairs it."""

from __future__ import annotations

import json
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

if TYPE_CHECKING:
    from change_events._operations.audit_report import AuditReport, RepairReport


@click.command()
@app_argument
@listing_options
@option(
    "--sample", type=click.IntRange(1), metavar="N", help="How many ids to compare.  [default: all]"
)
@option(
    "--min-age",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Seconds for which an entry must be wrong.  [default: the worker's audit_min_age]",
)
@rate_option
@option("--repair", is_flag=True, help="Look at what is wrong again, and store what comes.")
@allow_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    app: str,
    sample: int | None,
    min_age: float | None,
    rate: float | None,
    repair: bool,
    allow_mass_deletion: bool,
    as_json: bool,
    **listing: Any,
) -> None:
    """
    Compare the cache with its source.

    \b
      change-events audit shop.cache:worker --listing https://products.example.com/products
      change-events audit shop.cache:worker --sample 1000 --repair

    What differs is read again after --min-age, because a cache is always a little late. Workers can
    run meanwhile. The result is kept in the sink's state, for `status`.

    Exit status: 1 if something is stale or could not be compared. With --repair, 1 if something
    is still so; what was found and repaired is in the report.
    """
    from change_events._operations.audit import Audit
    from change_events._operations.own_audit import min_age_of
    from change_events._operations.throttle import threads_for

    worker = load_app(app)
    with Bar("audit") as bar:
        audit = Audit(
            listing_for(worker, **listing),
            fetcher=worker.fetcher,
            sink=worker.sink,
            min_age=min_age_of(worker) if min_age is None else min_age,
            threads=threads_for(worker.threads),
            max_gets_per_second=rate or worker.max_gets_per_second,
            on_progress=lambda now: bar.show(now.done, now.total, str(now)),
        )
        with stopping(audit.stop, then="Nothing was changed."):
            report = audit.run(sample=sample)
    if not as_json:
        click.echo(report)
    repaired = None
    try:
        if repair and report.stale:
            with stopping(audit.stop, then="What was repaired stays repaired."):
                repaired = report.repair(
                    allow_mass_deletion=allow_mass_deletion or worker.allow_mass_deletion
                )
    finally:  # also if too many entities are gone
        _print(report, repaired, as_json=as_json)
    left = report.undecided + (report.stale if repaired is None else len(repaired.failed_ids))
    if left:
        ctx.exit(FOUND)


def _print(report: AuditReport, repaired: RepairReport | None, *, as_json: bool) -> None:
    if as_json:
        done = repaired and {
            "outcomes": {each.value: number for each, number in repaired.outcomes.items()},
            "failed_ids": dict(repaired.failed_ids),
        }
        click.echo(json.dumps({**report.as_dict(), "repaired": done}, indent=2))
    elif repaired is not None:
        click.echo(repaired)
