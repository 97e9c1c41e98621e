"""`change-events publish`: broadcasts ids by hand."""

from __future__ import annotations

import json
import os
import sys
import time
from codecs import BOM_UTF8
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING

import click

from change_events._aws import could_be_credentials
from change_events._cli.options import json_option
from change_events._cli.problems import Mistake, Unfinished, is_aws
from change_events._cli.progress import Bar
from change_events._ids import checked_id
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from change_events._producer.publishers import SNSPublisher

PORTION = 1000
"""Ids that are published at once: a hundred calls, twenty at a time."""

MAX_LINE = 4096
"""Bytes of a line. The longest id has 512 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """
    Ids to publish at once.

    Attributes:
        ids: The ids, perhaps none.
        start: Where it begins, as text: what to go on with if it could not be published.
        end: Where the next one begins.
        problem: Why the next one can't be read. Then this portion is the last one.
    """

    ids: Sequence[str]
    start: str
    end: str
    problem: str | None = None


@click.command()
@click.argument("topic_and_ids", nargs=-1, metavar="TOPIC_ARN [ID]...")
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, topic_and_ids: Sequence[str], as_json: bool) -> None:
    """
    Broadcast ids by hand.

    \b
      change-events publish arn:aws:sns:eu-west-1:123456789012:products p1 p2
      psql shop -Atc 'SELECT id FROM products' | change-events publish arn:aws:sns:...

    Do it after a change by SQL, a restore, a cascade, or a save that nobody has announced: when it
    is committed. Without an ID it reads them from stdin, one a line, as many as there are. Empty
    lines do not count. They are published by the thousand. To publish an id twice only costs a
    look. If CHANGE_EVENTS_TOPIC_ARN is set, TOPIC_ARN can be left out.

    Exit status: 2 if a line is not an id, or 3 if SNS does not accept one. It then says how many
    were published, and from where to go on.
    """
    from change_events._producer.publishers import SNSPublisher

    topic_arn, ids = _split(ctx, topic_and_ids)
    publisher = SNSPublisher(topic_arn)
    if ids:
        portions = _given(ids)
    elif sys.stdin is None or sys.stdin.buffer.isatty():  # None: it was closed
        raise click.UsageError("Name ids, or send them through stdin, one a line.", ctx)
    else:
        portions = _read(sys.stdin.buffer)
    published = _publish(publisher, portions)
    if as_json:
        click.echo(json.dumps({"topic_arn": topic_arn, "published": published}))
    else:
        click.echo(f"{published:,} ids published")


def _split(ctx: click.Context, arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    if arguments and arguments[0].startswith("arn:"):
        return arguments[0], arguments[1:]
    if topic_arn := os.environ.get("CHANGE_EVENTS_TOPIC_ARN"):
        return topic_arn, arguments
    raise click.UsageError(
        f"TOPIC_ARN must be the ARN of a topic, not {arguments[0]!r}."
        if arguments
        else "Missing argument 'TOPIC_ARN'.",
        ctx,
    )


def _publish(publisher: SNSPublisher, portions: Iterable[Portion]) -> int:
    """Publish all of them; return how many."""
    from change_events._event import ChangeEvent
    from change_events.exceptions import PublishError

    published, place = 0, "the first one"
    began = time.monotonic()
    with Bar("publish") as bar:
        try:
            for portion in portions:
                place = portion.start
                if portion.ids:
                    publisher.publish([ChangeEvent(id) for id in portion.ids])
                published, place = published + len(portion.ids), portion.end
                if portion.problem is not None:
                    raise Mistake(f"{portion.problem}. {_so_far(published, place)}")
                speed = published / max(0.001, time.monotonic() - began)
                bar.show(published, None, f"{published:,} ids, {speed:,.0f} a second")
        except PublishError as error:
            kind = Mistake if _is_mistake(error.__cause__) else Unfinished
            raise kind(f"{printable(error)}. {_so_far(published, place)}") from None
        except KeyboardInterrupt:
            bar.stop()
            click.echo(f"stopped. {_so_far(published, place)}", err=True)
            raise
    return published


def _is_mistake(cause: BaseException | None) -> bool:
    """Return whether the user can set right what a broadcast failed of."""
    return isinstance(cause, Exception) and is_aws(cause) and could_be_credentials(cause)


def _so_far(published: int, place: str) -> str:
    return f"{published:,} ids were published. Go on with {place}"


def _given(ids: Sequence[str]) -> Iterator[Portion]:
    """
    Cut arguments into portions.

    Raises:
        Mistake: One of them is not an id. Nothing is published then.
    """
    for id in ids:
        if problem := _problem(id):
            raise Mistake(f"{problem}. Nothing was published")
    for at in range(0, len(ids), PORTION):
        after = ids[at + PORTION : at + PORTION + 1]
        yield Portion(
            ids=ids[at : at + PORTION],
            start=f"the id {ids[at]!r}",
            end=f"the id {after[0]!r}" if after else "nothing: these were all",
        )


def _read(stream: IO[bytes]) -> Iterator[Portion]:
    """Cut lines into portions."""
    number, problem = 0, None
    while True:
        ids: list[str] = []
        start = number + 1
        for line in islice(iter(lambda: stream.readline(MAX_LINE), b""), PORTION):
            number += 1
            id, problem = _id_of(line.removeprefix(BOM_UTF8) if number == 1 else line)
            if problem is not None:
                problem = f"line {number}: {problem}"
                number -= 1
                break
            if id:
                ids.append(id)
        if number < start and problem is None:
            return
        yield Portion(ids=ids, start=_line(start), end=_line(number + 1), problem=problem)


def _line(number: int) -> str:
    return f"line {number}: tail -n +{number}"


def _id_of(line: bytes) -> tuple[str, str | None]:
    """Return the id in a line, empty if there is none; and why it can't be one."""
    if not line.endswith(b"\n") and len(line) >= MAX_LINE:
        return "", f"the line has more than {MAX_LINE} bytes"
    try:
        id = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return "", f"the line is not UTF-8: {line[:80]!r}"
    if not id.strip():
        return "", None
    if id != id.strip():
        return "", f"{id!r} has a space at an end"
    return id, _problem(id)


def _problem(id: str) -> str | None:
    try:
        checked_id(id)
    except ValueError as error:
        return printable(error)
    return None
