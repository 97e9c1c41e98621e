"""Answers to a GET."""

from __future__ import annotations

import gzip
import json
import re
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from change_events import FetchError, Found, HTTPFetcher, SQLiteSink
from change_events._consumer.look import look
from verification.chaos.figures import Figure, exactly, none
from verification.chaos.fuzz._bodies import integers
from verification.chaos.fuzz._draw import Surprises, for_each
from verification.chaos.wire import Raw, RawServer
from verification.proof._parallel import Progress

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


@dataclass(frozen=True)
class Content:
    """
    What a body says.

    Attributes:
        value: The JSON that it is; None: it is none, or null.
        html: It looks like a page, and should be called one.
    """

    text: bytes
    value: Any = None
    html: bool = False


@dataclass(frozen=True)
class Framed:
    """
    A body on its way.

    Attributes:
        whole: By its own account it arrives as it was meant.
        odd: A client may refuse it all the same.
        keep: The connection may be kept.
    """

    headers: list[bytes]
    text: bytes
    whole: bool = True
    odd: bool = False
    keep: bool = False


@dataclass(frozen=True)
class OddAnswer:
    """
    An answer, and what it may do. It is whole if its framing says so; whether its coding can be
    read is not asked of a 404.

    Attributes:
        deletes: It may delete.
        value: What it may store; None: nothing.
        right: Nothing about it is odd: what it may do, it must.
    """

    id: str
    raw: Raw
    deletes: bool
    value: dict[str, Any] | None
    right: bool


ASKED_FOR = ["p1", "7", "-7", "a/b", "\u00e9", "x" * 100]

JSON_TYPES = [b"application/json"] * 6 + [
    *(
        b"Application/JSON ; charset=utf-8",
        b"application/hal+json",
        b"application/problem+json",
        b"application/json;charset=utf-16",
    ),
    *(
        b'application/json; charset="latin-1"',
        b"application/json; charset=",
        b"application/vnd.api+json;x=y",
    ),
]

HTML_TYPES = [
    b"text/html",
    b"text/html; charset=utf-8",
    b"TEXT/HTML",
    b"text/html;",
    b"Text/Html ;charset=x",
]

OTHER_TYPES = [
    *(
        b"text/plain",
        b"text/json",
        b"application/javascript",
        b"application/jsonp",
        b"json",
        b"",
        b";",
        b"/",
        b"application/json5",
    ),
    *(
        b"application/octet-stream",
        b"application/xml",
        b"multipart/mixed; boundary=x",
        b"\xff\xfe",
        b"*/*",
        b"application",
    ),
]


def strict(text: bytes) -> Any:
    """
    Return the JSON that bytes are, by RFC 8259; None if they are none. An infinite number is none.
    """

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def finite(number: str) -> float:
        if abs(value := float(number)) == float("inf"):
            refuse(number)
        return value

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError):
        return None


@st.composite
def entities(draw: DrawFn, id: str) -> Content:
    """The entity that was asked for, in one of several spellings."""
    value: dict[str, Any] = draw(
        st.dictionaries(
            st.sampled_from(["name", "price", "\u00fc", "", "ID"]), finite_values, max_size=3
        )
    )
    value = {"n": draw(st.integers())} | value
    number = id.removeprefix("-").isdecimal() and draw(st.booleans())
    value |= draw(st.sampled_from([{"id": int(id) if number else id}] * 4 + [{}]))
    encoding = draw(
        st.sampled_from(["ascii"] * 4 + ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    )
    text = json.dumps(
        value, ensure_ascii=encoding == "ascii", indent=draw(st.sampled_from([None, None, 1]))
    )
    return Content(text.encode(encoding, "surrogatepass"), value)


finite_values: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | integers
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@st.composite
def others_entities(draw: DrawFn, id: str) -> Content:
    """JSON, but not the entity."""
    other = draw(
        st.one_of(
            st.sampled_from(
                [
                    "p2",
                    id + " ",
                    id.upper() + "x",
                    "",
                    None,
                    True,
                    7.5,
                    [id],
                    {"id": id},
                    f'"{id}"',
                    8,
                    id + "\x00",
                ]
            ).map(lambda other: {"id": other}),
            st.sampled_from([[{"id": id}], id, 7, None, True, 1.5, [], ""]),
        )
    )
    return Content(json.dumps(other).encode(), other)


@st.composite
def broken(draw: DrawFn, id: str) -> Content:
    """Almost the entity, or nothing like it."""
    text = draw(entities(id)).text
    at = draw(st.integers(0, len(text) - 1))
    quoted_id = json.dumps(id).encode()
    damaged = st.sampled_from(
        [
            text[:at],
            text[at:],
            text[:at] + draw(st.binary(max_size=3)) + text[at + 1 :],
            text + draw(st.sampled_from([b"x", b"}", text, b"\x00", b" ", b"\n\n"])),
            *(
                b'{"id": ' + quoted_id + b', "x": ' + number + b"}"
                for number in (b"NaN", b"-Infinity", b"1e999", b"-1e400", b"1e-999")
            ),
            b'{"id": ' + quoted_id + b', "x": 1' + b"0" * 5000 + b"}",
            b'{"id": ' + quoted_id + b', "x": 1' + b"0" * 4000 + b"}",
            b'{"id": ' + quoted_id + b', "x": ' + b"[" * 100_000,
            b'{"id": ' + quoted_id + b', "x": ' + b"[" * 100 + b"]" * 100 + b"}",
            b'{"id": "p2", "id": ' + quoted_id + b"}",
            b'{"id": ' + quoted_id + b', "id": "p2"}',
            b'{"id": ' + quoted_id + b', "x": "\\ud800"}',
            b'{"id": ' + quoted_id + b', "x": "\xed\xa0\x80"}',
            b'{"id": ' + quoted_id + b', "x": "\xff"}',
            b'{"id": ' + quoted_id + b', "x": "\x00"}',
        ]
    )
    made = draw(st.one_of(damaged, damaged, st.binary(max_size=50), st.just(b"")))
    return Content(made, strict(made))


page = st.sampled_from(
    [
        b"<html><h1>404 Not Found</h1></html>",
        b"<!doctype html>\n<p>Sign in",
        b"<h1>default backend - 404</h1>",
    ]
).map(lambda text: Content(text, html=True))


@st.composite
def typed(draw: DrawFn, content: Content) -> list[bytes]:
    """The values of Content-Type, most often one that fits."""
    fitting = st.sampled_from(HTML_TYPES if content.html else JSON_TYPES)
    any_type = st.sampled_from(JSON_TYPES + HTML_TYPES + OTHER_TYPES)
    few = st.lists(any_type, max_size=3).flatmap(
        lambda types: st.sampled_from([types, [b", ".join(types)]])
    )
    return draw(
        st.one_of(*[fitting.map(lambda one: [one])] * 5, any_type.map(lambda one: [one]), few)
    )


@st.composite
def coded(draw: DrawFn, text: bytes) -> tuple[list[bytes], bytes, bool]:
    """Headers, the body under them, and whether it can be read."""
    if draw(st.integers(0, 3)):
        return [], text, True
    squeezed = gzip.compress(text, mtime=0)
    cut = squeezed[: draw(st.integers(0, len(squeezed)))]
    return draw(
        st.sampled_from(
            [
                ([b"Content-Encoding: gzip"], squeezed, True),
                ([b"Content-Encoding: GZIP"], squeezed, True),
                ([b"Content-Encoding: deflate"], zlib.compress(text), True),
                ([b"Content-Encoding: gzip"], text, False),
                ([b"Content-Encoding: gzip"], cut, False),
                ([b"Content-Encoding: gzip"], squeezed + b"x", False),
                ([b"Content-Encoding: gzip, gzip"], squeezed, False),
                ([b"Content-Encoding: deflate"], text, False),
                ([b"Content-Encoding: " + b"gzip, " * 20 + b"gzip"], squeezed, False),
                ([b"Content-Encoding: nonsense"], text, False),
                ([b"Content-Encoding: br"], text, False),
                ([b"Content-Encoding: zstd"], text, False),
                ([], squeezed, False),
            ]
        )
    )


@st.composite
def framed(draw: DrawFn, text: bytes) -> Framed:
    """
    The body with its length, of one kind or another, or in chunks; or with less of it than that
    says.
    """
    length = b"Content-Length: %d" % len(text)
    way = draw(st.integers(0, 11))
    if way < 5:
        return Framed([length], text, keep=draw(st.booleans()))
    if way == 5:
        return Framed([], text)
    if way == 6:
        more = draw(st.integers(1, 10) | st.just(10**20))
        return Framed([b"Content-Length: %d" % (len(text) + more)], text, whole=False)
    if way == 7:
        return draw(odd_lengths(text))
    chunks = draw(chunked(text))
    both = draw(st.sampled_from([[]] * 3 + [[length], [b"Content-Length: 1"]]))
    return Framed(
        [*both, b"Transfer-Encoding: " + draw(st.sampled_from([b"chunked", b"Chunked"]))], *chunks
    )


@st.composite
def odd_lengths(draw: DrawFn, text: bytes) -> Framed:
    """
    A length that is none leaves the end to the connection's; of two that differ neither is
    believed.
    """
    number = b"%d" % len(text)
    odd = [b"", b"x", b"-1", number + b".0", b"0x" + number, number + b" " + number, b"\xb2"]
    same = [b"+" + number, b"0" + number, number + b", " + number]
    value = draw(st.sampled_from(odd + same + [number + b", 1" + number]))
    return Framed(
        [b"Content-Length: " + value],
        text,
        whole="," not in value.decode("latin-1") or value in same,
        odd=True,
    )


@st.composite
def chunked(draw: DrawFn, text: bytes) -> tuple[bytes, bool, bool]:
    """The chunks, whether they are all there, and whether they are odd."""
    at = draw(st.integers(0, len(text)))
    extension = draw(st.sampled_from([b"", b"", b";x=y", b";"]))
    pieces = [
        b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
        for piece in (text[:at], text[at:])
        if piece
    ]
    trailer = draw(st.sampled_from([b"", b"", b"X-Trailer: 1\r\n", b"Content-Type: text/html\r\n"]))
    whole = b"".join(pieces) + b"0\r\n" + trailer + b"\r\n"
    if draw(st.integers(0, 2)):
        return whole, True, False
    cut = draw(
        st.integers(0, len(b"".join(pieces)))
    )  # so that the last chunk, the empty one, is missing
    nonsense = [
        b"x\r\n",
        b"-1\r\n",
        b"fffffffff\r\n",
        b"\r\n",
        b"\xff\r\n",
        b"1" * 70_000,
        b"",
        b"5\n",
    ]
    return (
        draw(
            st.sampled_from([whole[:cut], b"".join(pieces[:1]) + draw(st.sampled_from(nonsense))])
        ),
        False,
        True,
    )


STATUS_LINES = [
    *(
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 OK",
        b"HTTP/1.1 2OO OK",
        b"HTTP/1.1 -404 No",
        b"HTTP/1.1 99999 x",
        b"404",
        b"410 Gone",
    ),
    *(
        b"HTTP/2 404 Not Found",
        b"HTTP/3.0 410",
        b"ICY 404 x",
        b"http/1.1 404 x",
        b"HTTP 404",
        b"HTTP/1.1404",
        b"HTTP/1.1 4.04 x",
    ),
    *(
        b"HTTP/1.1 0x194 x",
        b"HTTP/1.1 404x",
        b"HTTP/1.1 \xb2\xb2\xb2 x",
        b"<html>404</html>",
        b"\x16\x03\x01\x02",
        b"x" * 70_000,
        b"\x00",
    ),
]
"""
None of them is an answer. There are others that Python's http.client reads more kindly than RFC
9112 (4): `HTTP/1.7`, `0404`, `+404`, `4_04`. A fetcher sees the number only, so they are not tried.
"""


@st.composite
def status_lines(draw: DrawFn) -> tuple[bytes, int, bool]:
    """A line, the status that it says, 0 for none; and whether a client may refuse it."""
    kind = draw(st.integers(0, 19))
    if kind == 19:
        return draw(st.sampled_from(STATUS_LINES)), 0, True
    status = (
        draw(st.integers(100, 599))
        if kind >= 17
        else draw(st.sampled_from([200] * 9 + [404] * 5 + [410] * 2 + [304]))
    )
    reason = draw(st.sampled_from([b" OK", b"", b" ", b" Not Found", b" 200 OK", b" \xff"]))
    return (
        draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0"])) + b" %d%s" % (status, reason),
        status,
        status == 100,
    )


ODD_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20).map(
    lambda text: text.encode("latin-1")
)

DATES = st.sampled_from(
    [
        *(
            b"7",
            b"-7",
            b"1.5",
            b"soon",
            b"",
            b"9" * 400,
            b"9" * 5000,
            b"Thu, 01 Jan 1970 00:00:00 GMT",
            b"Thu, 01 Jan 99999 00:00:00 GMT",
        ),
        *(
            b"Thu, 99 Jan 1970 99:99:99 GMT",
            b"0",
            b"Thu",
            b"Thu, ",
            b", , , , ,",
            b"1 Jan 2000 1.2.3.4 +0800",
            b"Thu, 01 Jan 2030 00:00:00 +99999999",
        ),
    ]
)

TARGETS = st.sampled_from(
    [
        b"/login",
        b"p2",
        b"http://localhost:1/p1",
        b"https://127.0.0.1/p1",
        b"http://[half",
        b"",
        b"//",
        b"\xff",
        b"{id}",
        b"/" * 60_000,
    ]
)

GOOD_HEADERS: SearchStrategy[list[bytes]] = st.lists(
    st.one_of(
        ODD_TEXT.map(lambda text: b"ETag: " + text),
        st.sampled_from(
            [
                b'ETag: "7"',
                b'ETag: W/"7"',
                b"ETag: \xff",
                b"ETag: ",
                b"ETag:\t x",
                b"Set-Cookie: a=b",
                b"Connection: close",
            ]
        ),
        DATES.map(lambda value: b"Retry-After: " + value),
        ODD_TEXT.map(lambda value: b"Retry-After: " + value),
        TARGETS.map(lambda value: b"Location: " + value),
        ODD_TEXT.map(lambda value: b"X-Odd: " + value),
    ),
    max_size=3,
)

BAD_HEADERS = st.sampled_from(
    [
        [b"X: " + b"x" * 70_000],
        [b"X-%d: x" % number for number in range(120)],
        [b"no header at all"],
        [b"X Y: z"],
        [b": nameless"],
        [b"\x00: x"],
        [b"\xff: x"],
        [b"X : y"],
        [b" folded"],
        [b"ETag: a\r\n b"],
        [b"ETag: a\rb"],
        [b"X: a\x0bb\x85c\x1cd"],
        [b"Connection: keep-alive, close, upgrade"],
    ]
)


PARTS = ["line", "content", "type", "coding", "framing", "headers", "first", "reset"]


@st.composite
def odd_answers(draw: DrawFn) -> OddAnswer:
    """Answers that are right, or almost: in one part, or in any number of them."""
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
    said = [one.strip().lower() for value in types for one in re.split(b"[,;]", value)]
    return OddAnswer(
        id,
        # Not where a client may wait for more: after a 100, and where a broken header hides the
        # length.
        Raw(raw, keep=body.keep and not reset and not bad and status != 100, reset=reset),
        deletes=status == 410 or (status == 404 and body.whole and b"text/html" not in said),
        value=_entity(content.value, id) if status == 200 and body.whole and _json(said) else None,
        right=not (odd or bad or reset or body.odd or first in ODD_FIRST)
        and body.whole
        and readable
        and len(types) == 1
        and b"," not in types[0],
    )


ODD_FIRST = [
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"\r\n",
    b"x",
    b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
]
"""What no client has to expect before an answer. Whatever comes behind it must not count as one."""

FIRST = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", *ODD_FIRST])


def _entity(value: Any, id: str) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and str(value.get("id", id)) == id else None


def _json(said: list[bytes]) -> bool:
    return any(one == b"application/json" or one.endswith(b"+json") for one in said)


def fuzz_answers(seed: int, examples: int) -> list[Figure]:
    """Answer the GETs of a fetcher, and look at what becomes of its sink."""
    said: Counter[str] = Counter()
    surprises = Surprises()
    answering: list[OddAnswer] = []
    progress = Progress(examples, "answers")

    with RawServer(lambda _: answering[-1].raw) as source, SQLiteSink(":memory:") as sink:
        fetcher = HTTPFetcher(source.url + "/products/{id}", timeout=5.0)

        def use(answer: OddAnswer) -> None:
            answering[:] = [answer]
            outcome = _looked_at(answer, fetcher, sink, surprises)
            said[outcome] += 1
            progress.add(1)

        for_each(odd_answers(), use, seed=seed, examples=examples)
    return [
        exactly("answers", said.total(), examples),
        Figure("of them stored", said["updated"], at_least=examples // 20),
        Figure("of them deleted", said["deleted"], at_least=examples // 50),
        Figure("of them unchanged, by 304 or by ETag", said["unchanged"]),
        Figure("of them refused", said["refused"], at_least=examples // 5),
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
    """Look, with an entity cached before; return what came of it."""
    id, before = answer.id, {"id": answer.id, "before": True}
    entry = sink.entry(id)
    # With the ETag that an earlier answer has left, as long as there is one.
    sink.apply(id, Found(before, entry.etag or '"1"'), if_version=entry.version)
    started = time.monotonic()
    try:
        outcome = look(id, fetcher=fetcher, sink=sink, on_get=lambda: None).value
    except FetchError:
        outcome = "refused"
    except Exception as error:  # whatever else comes out is what this looks for
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
