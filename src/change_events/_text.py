"""Text of others, for a log or an error: it must not look like a line of ours."""

from __future__ import annotations

MAX_LENGTH = 1000


def printable(value: object, most: int = MAX_LENGTH) -> str:
    r"""
    Return what comes from outside as one line of printable text.

    A character that does not print (a line's end, a control character, a terminal's escape, a
    change of the direction of writing, a lone surrogate) becomes its escape in Python: `\n`,
    `\x1b`. Never raises, because nothing may fail only because it is logged.

    Args:
        value: An error, text, or anything else. An error without a text is shown by its type.
        most: The most characters of `value` to show.
    """
    try:
        text = str(value)
    except Exception:  # an error's own `__str__` can fail
        text = ""
    if type(value) is KeyError:  # its text is only the key
        text = f"KeyError: {text}"
    if not text and not isinstance(value, str):
        text = type(value).__name__
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def with_type(error: BaseException) -> str:
    """Return an error as `printable` does, but always with its type, as a traceback ends."""
    name, text = type(error).__name__, printable(error)
    return text if text == name or text.startswith(f"{name}: ") else f"{name}: {text}"
