"""What a request says in its headers, and what an answer says in its own."""

from __future__ import annotations

import re
from collections.abc import Collection, ItemsView, Mapping

import urllib3
from urllib3.exceptions import HTTPError

from change_events.exceptions import ConfigurationError

NO_HEADERS: Mapping[str, str] = {}

MAX_ETAG = 1024
"""The longest `ETag` in characters that is kept. A longer one would grow every request and row."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, 5.1 and 5.6.2)."""

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""A header's value (RFC 9110, 5.5)."""

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
"""A media type without parameters (RFC 6838, 4.2)."""

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
"""RFC 9110, 8.8.3."""

_LINK = re.compile(
    r'<([^<>]*)>((?:\s*;\s*[^\s=;,"<>]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?)*)'
)
"""A link: its target, and its parameters (RFC 8288, 3)."""

_PARAMETER = re.compile(r';\s*([^\s=;,"<>]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?')
"""A parameter of a link: its name, and its value, quoted or not."""


def request_headers(given: object, etag: str | None, added: object = NO_HEADERS) -> dict[str, str]:
    """
    Return the headers of a GET: those of `headers=`, and those that `auth=` has added. But those
    that say how to answer are our own.

    A GET that names no `ETag` says `no-cache`, so that no cache on the way answers it. One that
    does says `max-age=0`, because some frameworks (Express) never answer 304 to `no-cache`. A cache
    can answer `max-age=0` from what it has stored within the same second (RFC 9111, 4.2.3 and
    5.2.1.1).

    Raises:
        ValueError: A given header can't be sent. The error never quotes a value: it can be a token.
    """
    every = [
        ("Accept", "application/json"),
        ("User-Agent", "change-events"),
        *_checked(given, "headers="),
        *_checked(added, "auth="),
        ("Accept-Encoding", "gzip"),
        ("Cache-Control", "no-cache" if etag is None else "max-age=0"),
        ("If-None-Match", etag or ""),
    ]
    by_name = {name.lower(): (name, value) for name, value in every}  # the last one counts
    if etag is None:
        del by_name["if-none-match"]
    return dict(by_name.values())


def _checked(given: object, setting: str) -> ItemsView[str, str]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{setting} must give a mapping, not {type(given).__name__}")
    for name, value in given.items():
        _require_header(name, value, setting)
    return given.items()


def _require_header(name: object, value: object, setting: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        # Only its beginning: somebody may have put the value into the name.
        begins = _NAME.match(name) if isinstance(name, str) else None
        shown = f"begins with {begins[0]!r:.40}" if begins else f"is of type {type(name).__name__}"
        raise ValueError(f"{setting} has a name that is not a header's: it {shown}")
    if not isinstance(value, str):
        raise ValueError(
            f"{setting} must give text as the value of {name!r:.80}, not {type(value).__name__}"
        )
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"{setting} gives {name!r:.80} a value that no header can have: it has a line break, "
            "another control character, or a character outside of Latin-1"
        )


def valid_etag(value: str | None) -> str | None:
    """Return the `ETag` if it is one (RFC 9110, 8.8.3) of at most 1,024 characters, else None."""
    if value is None or len(value) > MAX_ETAG or not _ETAG.fullmatch(value):
        return None
    return value


def media_types(headers: Mapping[str, str]) -> list[str]:
    """Return the media types: several if a proxy added its own (joined, RFC 9110, 5.3)."""
    values = headers.get("Content-Type", "").split(",")
    return [value.partition(";")[0].strip().lower() for value in values]


def checked_media_types(given: Collection[str]) -> frozenset[str]:
    """
    Return media types in lower case.

    Raises:
        ConfigurationError: One is not of the form `type/subtype`, or it is not a collection.
    """
    if (
        isinstance(given, Collection)
        and not isinstance(given, str)
        and all(isinstance(each, str) and _MEDIA_TYPE.fullmatch(each) for each in given)
    ):
        return frozenset(map(str.lower, given))
    raise ConfigurationError(
        f"media_types= must be a collection of names like ['text/plain'], not {given!r:.200}"
    )


def next_link(value: str | None) -> str | None:
    """Return where a `Link` header says that the next page is (RFC 8288, 3); None: nowhere."""
    for link in _LINK.finditer(value or ""):
        parameters: dict[str, str] = {}
        for each in _PARAMETER.finditer(link[2]):
            parameters.setdefault(each[1].lower(), each[2] or each[3] or "")  # the first one counts
        # With an anchor, it is the next page of something else.
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:
            return link[1].strip()
    return None


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a `Retry-After` asks to wait (RFC 9110, 10.2.3)."""
    try:
        return None if value is None else urllib3.Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date of this calendar
        return None
