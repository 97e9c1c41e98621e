"""`change-events doctor`: checks a worker and everything around it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from change_events._cli.app import load, load_app
from change_events._cli.options import json_option, option
from change_events._cli.problems import FOUND
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from change_events._operations.doctor import Check
    from change_events.typing import Sink

COLORS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "bright_black"}


@click.command()
@click.argument("app", envvar="CHANGE_EVENTS_APP", required=False)
@option("--queue-url", help="The queue.  [default: APP's]")
@option("--url", help="An entity's URL, with {id}.  [default: APP's fetcher]")
@option("--sink", help="The cache, as module:attribute.  [default: APP's]")
@option(
    "--topic-arn",
    envvar="CHANGE_EVENTS_TOPIC_ARN",
    help="The topic.  [default: APP's, or the one that the queue's policy names]",
)
@option(
    "--id",
    "known_id",
    envvar="CHANGE_EVENTS_DOCTOR_ID",
    help="An id that the source has.  [default: one that is cached]",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    app: str | None,
    queue_url: str | None,
    url: str | None,
    sink: str | None,
    topic_arn: str | None,
    known_id: str | None,
    as_json: bool,
) -> None:
    """
    Check a worker's queue, topic, permissions, cache, source and clock.

    \b
      change-events doctor shop.cache:worker
      change-events doctor --queue-url https://sqs... --url 'https://products.example.com/{id}'

    Run it where the worker runs, with the worker's credentials: it checks what these can do. What
    needs a permission that only the doctor would use is skipped if it is not allowed:
    sns:ListSubscriptionsByTopic, sns:GetSubscriptionAttributes, lambda:ListEventSourceMappings,
    lambda:GetFunctionConfiguration, and sqs:GetQueueAttributes on the dead-letter queues.

    It changes nothing but a state of its own in the sink. It receives only while the queue is
    empty, because a receive counts towards a message's maxReceiveCount.

    Exit status: 1 if there is a problem. Warnings are none.
    """
    from change_events._operations.checkup import Case
    from change_events._operations.doctor import doctor
    from change_events._source.fetcher import HTTPFetcher

    if not any((queue_url, url, sink)):
        if app is None:
            raise click.UsageError("Name APP, or --queue-url, --url or --sink.", ctx)
        case = Case.of(load_app(app, in_memory=True), topic_arn=topic_arn, known_id=known_id)
    elif app is not None and ctx.get_parameter_source("app") is ParameterSource.COMMANDLINE:
        raise click.UsageError("APP has a queue, a URL and a sink already.", ctx)
    else:
        case = Case(
            queue_url=queue_url,
            topic_arn=topic_arn,
            fetcher=None if url is None else HTTPFetcher(url),
            sink=None if sink is None else _sink(sink),
            known_id=known_id,
        )
    checks = doctor(case)
    found = list(checks) if as_json else _printed(checks)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    if any(each.status == "problem" for each in found):
        ctx.exit(FOUND)


def _sink(name: str) -> Sink[Any]:
    from change_events._consumer.settings import require_sink

    sink = cast("Sink[Any]", load(name, what="--sink"))
    require_sink(sink)
    return sink


def _printed(checks: Iterable[Check]) -> list[Check]:
    """Print each check when it is done; return them."""
    found: list[Check] = []
    for each in checks:
        found.append(each)
        status = click.style(f"{each.status:8}", fg=COLORS[each.status])
        click.echo(f"{status} {each.name}: {printable(each.seen)}")
        if each.advice:
            click.echo(f"{'':8} -> {printable(each.advice)}")
    times = Counter[str](each.status for each in found)
    problems, warnings, skipped = (times[each] for each in ("problem", "warning", "skipped"))
    click.echo(f"{problems} problem(s), {warnings} warning(s), {skipped} check(s) skipped")
    return found
