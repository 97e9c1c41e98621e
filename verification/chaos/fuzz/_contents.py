"""The contents of answers: entities, other JSON, and what is almost JSON; types and codings."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from verification.chaos.fuzz._ids import integers

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


@dataclass(frozen=True)
class Content:
    """
    The content of a body.

    Attributes:
        text: Its bytes.
        value: Its JSON value; None for `null` and for what is not JSON.
        html: It is a page of HTML.
    """

    text: bytes
    value: Any = None
    html: bool = False


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
    """Return the JSON value by RFC 8259; None if it is not JSON, or a float changes a number."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def unchanged(number: str) -> float:
        value = float(number)
        printed = [Decimal(repr(value)), Decimal(f"{value:.17g}"), Decimal(value)]
        if Decimal(number) not in printed:
            refuse(number)
        return value

    try:
        return json.loads(text, parse_constant=refuse, parse_float=unchanged)
    except (ValueError, ArithmeticError, RecursionError):
        return None


@st.composite
def entities(draw: DrawFn, id: str) -> Content:
    """Draw the requested entity, in one of several spellings."""
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
    """Draw JSON that is not the requested entity."""
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
    """Draw what is almost the entity, or nothing like it."""
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
                for number in (
                    *(b"NaN", b"-Infinity", b"1e999", b"-1e400", b"1e-999", b"1e" + b"9" * 30),
                    *(b"0.10000000000000001", b"0.1000000000000000055", b"9007199254740993.0"),
                    *(b"1.10", b"1E+3", b"9007199254740993", b"5e-324", b"1.23e-323", b"-0.0"),
                )
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
    """Draw the values of Content-Type: usually one value that fits the content."""
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
    """Draw headers of a content coding, the coded body, and whether it must be decoded."""
    if draw(st.integers(0, 3)):
        return [], text, True
    squeezed = gzip.compress(text, mtime=0)
    cut = squeezed[: draw(st.integers(0, len(squeezed)))]
    return draw(
        st.sampled_from(
            [
                ([b"Content-Encoding: gzip"], squeezed, True),
                ([b"Content-Encoding: GZIP"], squeezed, True),
                ([b"Content-Encoding: x-gzip"], squeezed, True),
                ([b"Content-Encoding: deflate"], zlib.compress(text), False),
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
