"""Ids that the library accepts, and ids that it refuses, for tests."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import strategies as st

USABLE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=512).filter(
    lambda text: text not in {".", ".."}
)

UNUSABLE = {
    "empty": ("", "1 to 512 characters, not 0"),
    "too long": ("x" * 513, "not 513"),
    "dot": (".", "which path"),
    "dots": ("..", "which path"),
    "newline": ("a\nb", "control characters"),
    "nul": ("\x00", "control characters"),
    "delete": ("\x7f", "control characters"),
    "lone surrogate": ("\ud800", "surrogates"),
    "bytes": (b"p1", "not b'p1'"),
    "float": (1.0, "not 1.0"),
    "bool": (True, "not True"),
    "object": (SimpleNamespace(), "not namespace()"),
}
