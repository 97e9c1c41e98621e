"""The heads of answers: status lines and headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


INVALID_LINES = [
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
Invalid status lines.

`HTTP/1.7`, `0404`, `+404` and `4_04` are not among them: RFC 9112 (4) forbids them, but Python's
http.client accepts them, and a fetcher sees only the number.
"""


@st.composite
def status_lines(draw: DrawFn) -> tuple[bytes, int, bool]:
    """Draw a status line, its status (0: none), and whether a client may refuse the line."""
    kind = draw(st.integers(0, 19))
    if kind == 19:
        return draw(st.sampled_from(INVALID_LINES)), 0, True
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
