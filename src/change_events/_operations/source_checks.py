"""The doctor's checks of the cache, the source, its list, and the clock."""

from __future__ import annotations

import contextlib
import random
import re
import uuid
from typing import TYPE_CHECKING, Any

from change_events._event import Found, Gone
from change_events._operations.checkup import (
    Case,
    Finding,
    SkippedError,
    ok,
    problem,
    warning,
)
from change_events._operations.sides import bodies_of
from change_events._source.fetcher import HTTPFetcher
from change_events._source.listing import HTTPListing, listing_of
from change_events._text import printable
from change_events.exceptions import FetchError
from change_events.typing import EnumerableSink, StatefulSink

if TYPE_CHECKING:
    from change_events.typing import Fetcher, Sink

STATE = "doctor"
"""The name under which the doctor stores a state. Nothing else reads it."""

SKEW = 60.0
"""Seconds. AWS refuses a request whose signature is five minutes off."""

TRIED = 3
"""Ids to try: one can have been deleted a moment ago."""

_NGINX = re.compile(r'(?:W/)?"[4-7][0-9a-f]{7}-[0-9a-f]+"')
"""What nginx makes of a file: its time in seconds and its size, both in hex."""

_HASH = re.compile(r'"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f-]{36})"', re.IGNORECASE)


def cache(case: Case) -> Finding:
    """Read an entry, and entities as an audit does; ask the sink for a few ids."""
    sink = _sink(case)
    name = type(sink).__name__
    sink.entry(case.known_id or STATE)
    bodies_of(sink)  # in DynamoDB it needs a permission of its own
    if not isinstance(sink, EnumerableSink):
        return warning(
            f"{name} can't name its ids",
            "An outage is recognised later, and a small cache is less protected from a wrong URL. "
            "Give it ids(): see EnumerableSink.",
        )
    case.names += sink.ids(limit=TRIED)
    if not case.names:
        return ok(f"{name}, empty so far")
    return ok(f"{name}, has {case.names[0]!r:.80}, for example")


def server(case: Case) -> Finding:
    """Ask a sink that can examine its server what is wrong with it."""
    sink = _sink(case)
    examine = getattr(sink, "examine", None)
    if examine is None:
        raise SkippedError(f"{type(sink).__name__} says nothing about it")
    seen, wrong = examine()
    if not wrong:
        return ok(seen)
    return warning(
        f"{seen}: {'; '.join(each for each, _ in wrong)}", " ".join(advice for _, advice in wrong)
    )


def state(case: Case) -> Finding:
    """Store a state under a name that nothing else uses, and read it."""
    sink = _sink(case)
    if not isinstance(sink, StatefulSink):
        return warning(
            f"{type(sink).__name__} keeps none",
            "No backfill and no audit beside a worker; refused deletions are counted by each "
            "process alone, and forgotten at a restart. Give it state(): see StatefulSink.",
        )
    probe = uuid.uuid4().hex
    if not sink.set_state(STATE, probe, if_state=sink.state(STATE)):
        raise SkippedError("somebody else has changed it at the same time; call again")
    read = sink.state(STATE)
    sink.set_state(STATE, "", if_state=probe)  # a sink can't remove a state
    if read != probe:
        return problem(
            "what was stored is not what is read",
            "The sink reads a replica, or its set_state() does not store. Run SinkContract on it.",
        )
    return ok("stored and read")


def listing(case: Case) -> Finding:
    """Read the first page of the list, and look for its first id in the source."""
    if case.listing is None:
        raise SkippedError("no listing was given")
    try:
        page = listing_of(case.listing).page(None)
    except FetchError as error:
        return problem(printable(error), _advice(error))
    if not page.ids:
        return warning("its first page is empty", "Is it the list of the same entities?")
    case.names += page.ids[:TRIED]
    total = "" if page.total is None else f" of {page.total:,}"
    seen = f"{len(page.ids):,}{total} ids on its first page, like {page.ids[0]!r:.80}"
    if isinstance(_fetcher(case).fetch(page.ids[0]), Gone):
        return problem(
            f"{seen}, which the source does not know",
            "A backfill would look at ids of something else. Correct the listing's URL or id_of=.",
        )
    # Pages have round sizes. Where nobody has said how to ask for the next one, a list ends early.
    if isinstance(case.listing, HTTPListing) and not page.cursor and len(page.ids) % 10 == 0:
        return warning(
            f"{seen}, and no next page",
            "If the source has more, a backfill misses the rest: say where a page names the next "
            "one, with next= or cursor= of HTTPListing.",
        )
    return ok(seen)


def known_id(case: Case) -> Finding:
    """Look for an id in the source that it should know."""
    fetcher = _fetcher(case)
    names = [case.known_id] if case.known_id else list(dict.fromkeys(case.names))[:TRIED]
    if not names:
        raise SkippedError("no id is known: name one with --id")
    case.names = names
    for id in names:
        try:
            answer = fetcher.fetch(id)
        except FetchError as error:
            return problem(printable(error), _advice(error))
        if isinstance(answer, Found):
            case.answered, case.etag = True, answer.etag
            return ok(f"knows {id!r:.80}")
    return problem(
        f"does not know {', '.join(map(repr, names)):.200}",
        "The URL is wrong, or another environment's. A worker would delete what it has.",
    )


def _advice(error: FetchError) -> str:
    if error.status is None:
        return "Is there a way from here to the source: DNS, a security group, a proxy?"
    if error.status in {401, 403}:
        return (
            "Send a token that is allowed to read: HTTPFetcher(auth=) renews it, headers= does not."
        )
    return "Correct the URL or the source. The page 'When it goes wrong' lists such answers."


def unknown_id(case: Case) -> Finding:
    """Look for an id that nobody has, of the form of those that are known."""
    id = stranger(case.names[0] if case.names else None)
    try:
        answer = _fetcher(case).fetch(id)
    except FetchError as error:
        if error.status in {None, 401, 403}:
            return problem(printable(error), _advice(error))
        if error.status in {400, 422}:
            return warning(
                printable(error),
                "The source refuses the id itself, so this says nothing about deletions. Name an "
                "id of the usual form with --id.",
            )
        return problem(
            printable(error),
            "A deletion would decide nothing, and stay in the cache. Let the source answer 404 as "
            "JSON, or 410; or say which 404 to believe: HTTPFetcher(is_gone=). In the source's own "
            "tests, change_events.testing.SourceContract checks this and more.",
        )
    if isinstance(answer, Found):
        return problem(
            f"{id!r}, which nobody has, is found",
            "The source answers 200 to everything: the cache would fill with what is not there. "
            "Correct the URL, and set id_of=.",
        )
    if not case.answered:
        return warning(
            f"{id!r} is gone, and no id is known that is not",
            "A wrong URL answers like that, too. Name an id that exists with --id.",
        )
    return ok("one that nobody has is gone")


def etag(case: Case) -> Finding:
    """Judge by its form whether the `ETag` can miss a change."""
    fetcher = _fetcher(case)
    if not case.answered:
        raise SkippedError("no entity was found")
    trusted = bool(getattr(fetcher, "trust_etags", False))
    if case.etag is None:
        return ok("none: each look transfers the whole entity")
    shown = f"{case.etag:.80}"
    if trusted and _NGINX.fullmatch(case.etag):
        return problem(
            f"{shown}, a file's time and size",
            "Two saves within a second can have the same one. Leave out trust_etags=True.",
        )
    if trusted and case.etag.startswith("W/"):
        return warning(
            f"{shown}, weak",
            "Two states can have the same one, unless it is a hash. Make sure that it is, or leave "
            "out trust_etags=True.",
        )
    if not trusted and _HASH.fullmatch(case.etag):
        return ok(
            f"{shown}, which looks like a hash",
            "If it is a hash of the content, trust_etags=True saves the transfer of what has not "
            "changed.",
        )
    return ok(f"{shown}, relied on" if trusted else f"{shown}, not relied on")


def clock(case: Case) -> Finding:
    """Compare this computer's clock with those of SQS and of the source."""
    if isinstance(case.fetcher, HTTPFetcher):
        with contextlib.suppress(FetchError):  # another check says so
            answer = case.fetcher.answer(case.names[0] if case.names else STATE)
            case.compare_clock("the source", answer.headers.get("Date"))
    if not case.offsets:
        raise SkippedError("nobody told the time")
    whose, offset = max(case.offsets.items(), key=lambda each: abs(each[1]))
    if abs(offset) > SKEW:
        return warning(
            f"{abs(offset):,.0f} s {'behind' if offset > 0 else 'ahead of'} that of {whose}",
            "The protocol compares no clocks, but AWS refuses signatures that are five minutes "
            "off, and tokens expire at the wrong time. Run an NTP client.",
        )
    return ok(f"within {max(1.0, abs(offset)):.0f} s of {' and '.join(case.offsets)}")


def stranger(known: str | None) -> str:
    """
    Return an id that nobody has, of the form of a known one: a number, or a long random part
    behind the same beginning (a UUID, a ULID, `prod_9KJ2...`). Otherwise a UUID.
    """
    if known is not None and known.isascii() and known.isdigit():
        # Not more than a database's 32 bits, if the known one is that small: the source would fail.
        digits = len(known)
        return str(random.randint(2_000_000_000, 2**31 - 1) if digits < 11 else _digits(digits))  # noqa: S311  # not a secret
    tail = re.search(r"[0-9A-Za-z]{12,}\Z", known or "")
    if tail is None:
        return str(uuid.uuid4())
    hexadecimal = re.fullmatch(r"[0-9a-fA-F]+", tail[0]) is not None
    return (known or "")[: tail.start()] + "".join(_like(each, hexadecimal) for each in tail[0])


def _digits(number: int) -> str:
    return "9" + "".join(random.choice("0123456789") for _ in range(number - 1))  # noqa: S311


def _like(character: str, hexadecimal: bool) -> str:  # noqa: FBT001  # private
    if character.isdigit():
        return random.choice("0123456789")  # noqa: S311
    letter = random.choice("abcdef" if hexadecimal else "abcdefghjkmnpqrstvwxyz")  # noqa: S311
    return letter.upper() if character.isupper() else letter


def _sink(case: Case) -> Sink[Any]:
    if case.sink is None:
        raise SkippedError("no sink was given")
    return case.sink


def _fetcher(case: Case) -> Fetcher[Any]:
    if case.fetcher is None:
        raise SkippedError("no fetcher was given: name the source with --url")
    return case.fetcher
