"""Ids and JSON values, usual and odd."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

AWKWARD = (
    "./\\%?#;:@&=+~ 2eE'\"<>{}|^`\t\n\r\x00\x7f\x85\u00a0\u0301\u202e\u2028\ufeff"
    "\uff0e\uff0f\u00e9\U0001f600\ud83d\ude00"
)
"""Characters that paths, URLs, headers or encodings treat in a special way."""

AWKWARD_IDS = [
    *(
        ".",
        "..",
        "...",
        "./",
        "../",
        "/",
        "//",
        "//elsewhere/",
        "/..",
        "%",
        "%2",
        "%zz",
        "%2e",
        "%2e%2e",
        "%252e%252e",
        "..%2f",
    ),
    *(
        "../../admin",
        "a/../b",
        "\\..\\x",
        "..;/admin",
        "?a=b",
        "#",
        "a#b",
        "a?b#c",
        "http://elsewhere/",
        "@elsewhere/",
        "{id}",
    ),
    *(
        "x HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
        "\r\n",
        "a\nb",
        "a\x00b",
        "\x00",
        " ",
        "\u00a0",
        "\u2028",
        "e\u0301",
        "\u00e9",
        "",
    ),
    *(
        "\ud800",
        "\udc00x",
        "\ud83d\ude00",
        "\uff0e\uff0e\uff0fadmin",
        "\u202egnp.1p",
        "null",
        "0",
        "-0",
        "00",
        "1e5",
        "nan",
    ),
    *(
        "x" * 512,
        "x" * 513,
        "\u00e9" * 512,
        "\U0001f600" * 512,
        "\U0001f600" * 513,
        "." * 512,
        "/" * 512,
        "%" * 512,
    ),
]


def usable(id: str) -> bool:
    """Return whether text can be an id, independently of `change_events._ids`."""
    return (
        1 <= len(id) <= 512
        and id not in {".", ".."}
        and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", id)
    )


odd_pieces = st.one_of(
    st.sampled_from(AWKWARD_IDS),
    st.text(st.sampled_from(AWKWARD), max_size=12),
    st.text(st.characters(), max_size=20),
    st.text(
        st.characters(categories=["Cs", "Cc", "Cf", "Co", "Mn", "Zs"]) | st.sampled_from("aZ%/."),
        max_size=6,
    ),
)

usable_pieces = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30) | st.text(
    st.sampled_from([letter for letter in AWKWARD if usable(letter + "x")]), max_size=12
)

ids = st.one_of(
    odd_pieces,
    # Around a number, because hypothesis likes to repeat earlier examples.
    *[st.builds("{}{}{}".format, usable_pieces, st.integers(0, 10**6), usable_pieces)] * 3,
)

integers = st.one_of(
    st.integers(),
    st.integers(-(10**520), 10**520),
    st.sampled_from([10**511, 10**512, -(10**510), -(10**511)]),
)

values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | ids,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(ids | st.sampled_from(["id", "Type", "Message"]), inner, max_size=3)
    ),
    max_leaves=5,
)
