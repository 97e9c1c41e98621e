"""The framing of answers: lengths and chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn


@dataclass(frozen=True)
class Framed:
    """
    A body with its framing.

    Attributes:
        headers: The headers of the framing.
        text: The bytes that are sent.
        whole: By its framing, the body is complete.
        odd: A client may refuse it even so.
        keep: The connection can be kept.
    """

    headers: list[bytes]
    text: bytes
    whole: bool = True
    odd: bool = False
    keep: bool = False


@st.composite
def framed(draw: DrawFn, text: bytes) -> Framed:
    """Draw a framing: a length, chunks, neither, or a length that is too large."""
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
    Draw a framing with an odd length.

    With an invalid length, the body ends with the connection, or the answer is unusable (RFC 9112,
    6.3). Two different lengths make it unusable, too.
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
    """Draw chunks, whether they are complete, and whether they are odd."""
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
    cut = draw(st.integers(0, len(b"".join(pieces))))  # always without the last, empty chunk
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
