"""What is said when an extra is not installed."""

from __future__ import annotations

from change_events.exceptions import ConfigurationError


def missing_extra(what: str, extra: str, error: ImportError) -> ConfigurationError:
    """
    Return the error to raise.

    Args:
        what: A need in words, such as `PostgresSink needs psycopg`.
        extra: The extra's name.
        error: What the import has raised.
    """
    return ConfigurationError(f"{what} ({error}): pip install 'change-events[{extra}]'")
