"""Answers to a GET."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from change_events import FetchError, Found, HTTPFetcher, SQLiteSink
from change_events._consumer.look import look
from verification.chaos.fuzz._contents import (
    HTML_TYPES,
    JSON_TYPES,
    broken,
    coded,
    entities,
    others_entities,
    page,
    typed,
)
from verification.chaos.fuzz._draw import Surprises, for_each
from verification.chaos.fuzz._framing import Framed, framed
from verification.chaos.fuzz._heads import BAD_HEADERS, GOOD_HEADERS, status_lines
from verification.harness.figures import Figure, exactly, none
from verification.harness.progress import Progress
from verification.harness.wire import Raw, RawServer

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn


@dataclass(frozen=True)
class OddAnswer:
    """
    An answer, and what a look may do with it.

    It is complete if its framing says so. The content coding of a 404 does not matter.

    Attributes:
        id: The id that is asked for.
        raw: The answer.
        deletes: A look may delete the entity.
        value: What a look may store; None: nothing.
        right: Nothing is odd, so a look must do what it may.
    """

    id: str
    raw: Raw
    deletes: bool
    value: dict[str, Any] | None
    right: bool


ASKED_FOR = ["p1", "7", "-7", "a/b", "\u00e9", "x" * 100]


PARTS = ["line", "content", "type", "coding", "framing", "headers", "first", "reset"]


@st.composite
def odd_answers(draw: DrawFn) -> OddAnswer:
    """Draw an answer that is right, or odd in one part or in several."""
    odd_parts = draw(st.sampled_from([{part} for part in PARTS] * 2 + [set(PARTS)] * 3 + [set()]))
    id = draw(st.sampled_from(ASKED_FOR))
    plain_line = st.sampled_from(
        [(b"HTTP/1.1 %d x" % status, status, False) for status in (200, 200, 200, 404, 404, 410)]
    )
    line, status, odd = draw(status_lines() if "line" in odd_parts else plain_line)
    any_content = st.one_of(entities(id), others_entities(id), broken(id), broken(id), page)
    content = draw(any_content if "content" in odd_parts else entities(id))
    types = (
        draw(typed(content))
        if "type" in odd_parts
        else [draw(st.sampled_from(HTML_TYPES if content.html else JSON_TYPES))]
    )
    codings, text, readable = (
        draw(coded(content.text)) if "coding" in odd_parts else ([], content.text, True)
    )
    body = (
        draw(framed(text))
        if "framing" in odd_parts
        else Framed([b"Content-Length: %d" % len(text)], text, keep=True)
    )
    bad = draw(BAD_HEADERS) if "headers" in odd_parts and draw(st.booleans()) else []
    headers = [
        *body.headers,
        *(b"Content-Type: " + one for one in types),
        *codings,
        *draw(GOOD_HEADERS),
    ]
    headers = draw(st.permutations(headers))
    at = draw(st.integers(0, len(headers)))
    headers[at:at] = bad
    first = draw(FIRST) if "first" in odd_parts else b""
    reset = "reset" in odd_parts and draw(st.booleans())
    raw = first + b"\r\n".join([line, *headers, b"", b""]) + body.text
    media_types = [one.strip().lower() for value in types for one in re.split(b"[,;]", value)]
    return OddAnswer(
        id,
        # The connection is closed where a client can wait for more: after an interim answer, and
        # where a malformed header hides the length.
        Raw(raw, keep=body.keep and not reset and not bad and status >= 200, reset=reset),
        deletes=status == 410 or (status == 404 and body.whole and b"text/html" not in media_types),
        value=_entity(content.value, id)
        if status == 200 and body.whole and _is_json(media_types)
        else None,
        right=not (odd or bad or reset or body.odd or first in ODD_FIRST)
        and body.whole
        and readable
        and len(types) == 1
        and b"," not in types[0],
    )


INTERIM = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"]

ODD_FIRST = [
    b"\r\n",
    b"x",
    b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
]
"""Bytes that no client must expect before an answer. What follows must not count as an answer."""

FIRST = st.sampled_from([b"", *INTERIM, *ODD_FIRST])


def _entity(value: Any, id: str) -> dict[str, Any] | None:
    named = isinstance(value, dict) and type(value.get("id")) in {str, int}
    return value if named and str(value["id"]) == id else None


def _is_json(media_types: list[bytes]) -> bool:
    return any(one == b"application/json" or one.endswith(b"+json") for one in media_types)


def fuzz_answers(seed: int, examples: int) -> list[Figure]:
    """Answer the GETs of a fetcher, and check what the looks do to its sink."""
    outcomes: Counter[str] = Counter()
    surprises = Surprises()
    answering: list[OddAnswer] = []
    progress = Progress(examples, "answers")

    with RawServer(lambda _: answering[-1].raw) as source, SQLiteSink(":memory:") as sink:
        fetcher = HTTPFetcher(source.url + "/products/{id}", timeout=5.0)

        def use(answer: OddAnswer) -> None:
            answering[:] = [answer]
            outcome = _looked_at(answer, fetcher, sink, surprises)
            outcomes[outcome] += 1
            progress.add(1)

        for_each(odd_answers(), use, seed=seed, examples=examples)
    return [
        exactly("answers", outcomes.total(), examples),
        Figure("of them stored", outcomes["updated"], at_least=examples // 20),
        Figure("of them deleted", outcomes["deleted"], at_least=examples // 50),
        Figure("of them unchanged, by 304 or by ETag", outcomes["unchanged"]),
        Figure("of them refused", outcomes["refused"], at_least=examples // 5),
        *none(
            crashes=surprises["crash"],
            wrong_deletions=surprises["wrong deletion"],
            wrong_overwrites=surprises["wrong overwrite"],
            right_answers_refused=surprises["right answer refused"],
        ),
    ]


def _looked_at(
    answer: OddAnswer, fetcher: HTTPFetcher, sink: SQLiteSink, surprises: Surprises
) -> str:
    """Look while an older state is cached; return the outcome."""
    id, before = answer.id, {"id": answer.id, "before": True}
    entry = sink.entry(id)
    # The ETag of an earlier answer stays, if there is one.
    sink.apply(id, Found(before, entry.etag or '"1"'), if_version=entry.version)
    started = time.monotonic()
    try:
        done = look(id, fetcher=fetcher, sink=sink).outcome
        outcome = "too early" if done is None else done.value
    except FetchError:
        outcome = "refused"
    except Exception as error:  # any other error is what this fuzzer searches
        surprises.see("crash", error, answer)
        outcome = "crash"
    if time.monotonic() - started > 2.0:
        surprises.see("slow", answer)
    after = sink.get(id)
    if after is None:
        if not answer.deletes:
            surprises.see("wrong deletion", answer)
    elif after not in (before, answer.value):
        surprises.see("wrong overwrite", after, answer)
    elif answer.right and after == before and (answer.deletes or answer.value is not None):
        surprises.see("right answer refused", answer)
    return outcome
