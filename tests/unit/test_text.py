from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from change_events._text import MAX_LENGTH, printable, with_type


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("answered 503: 'p1' is \"not\" there", "answered 503: 'p1' is \"not\" there"),
        ("Übergröße 日本 \\n", "Übergröße 日本 \\n"),
        ("1\n2026-05-02 ERROR all is lost", "1\\n2026-05-02 ERROR all is lost"),
        ("\x1b[2J\x07\r\t\0\x9b", "\\x1b[2J\\x07\\r\\t\\x00\\x9b"),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),  # writes from right to left
        ("a\u2028b\x85c", "a\\u2028b\\x85c"),  # ends of lines, for some
        ("\ud800", "\\ud800"),
    ],
)
def test_text_is_shown_as_one_line_that_prints(text, shown):
    assert printable(text) == shown
    assert printable(ValueError(text)) == (shown or "ValueError")


@given(st.text(st.characters()))
def test_any_text_prints(text):
    shown = printable(text)

    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert shown == text or not text.isprintable()


def test_long_text_is_cut_before_it_is_escaped():
    assert printable("x" * MAX_LENGTH) == "x" * MAX_LENGTH
    assert printable("x" * 1_000_000) == "x" * MAX_LENGTH + "... (1000000 characters)"
    assert printable("\0" * 9, 2) == "\\x00\\x00... (9 characters)"


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("error", [TimeoutError(), UnspeakableError()])
def test_an_error_without_a_text_is_shown_by_its_type(error):
    assert printable(error) == type(error).__name__


def test_a_key_error_is_more_than_its_key():
    assert printable(KeyError("name")) == "KeyError: 'name'"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\nb"), "ValueError: a\\nb"),
        (KeyError("name"), "KeyError: 'name'"),
        (TimeoutError(), "TimeoutError"),
        (UnspeakableError(), "UnspeakableError"),
    ],
)
def test_an_error_can_be_shown_with_its_type(error, text):
    assert with_type(error) == text


def test_other_values_are_shown_as_python_shows_them():
    assert printable(None) == "None"
    assert printable({"a": "\n"}) == "{'a': '\\n'}"
