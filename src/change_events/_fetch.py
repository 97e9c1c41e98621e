"""Read the source over HTTP, and take nothing for an answer that isn't one."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

from change_events._event import Found, Gone, Unchanged
from change_events._http import Answer, Connections, Pooled, Transport
from change_events._ids import checked_id
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REDIRECTS = {301, 302, 303, 307, 308}


def not_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Believe a 404 unless it is `text/html`: that is a proxy's page or an ingress without a backend, not the service."""
    del body
    return "text/html" not in _media_types(headers)


class HTTPFetcher:
    """
    GETs JSON objects from the service that owns them. May be shared between threads.

    A 200 with a JSON object is the entity; 304 means unchanged; 410, and a 404 that `is_gone` believes, mean gone. Anything
    else decides nothing and raises `FetchError`: any other status (a redirect, too, as it may lead to a login page), a media
    type other than JSON, a body that is incomplete, too long, no JSON object, or has another `"id"` than was asked for.

    Connections are kept, one for each thread that uses the fetcher at the same time. Every GET asks for a fresh answer
    (`Cache-Control: no-cache`) and, where the cache holds an `ETag`, for changes only (`If-None-Match`, RFC 9110, 13.1.2).

    Args:
        url: Where an entity is, with `{id}` in its path or query. The id is percent-encoded whole.
        timeout: Seconds that a GET may take, to the last byte of the body. A source that stalls in mid-body can stretch it
            to twice that, and one that trickles its headers further.
        headers: Request headers to add; or a callable that returns them, asked at each GET (tokens expire).
        is_gone: Given a 404's headers and body, says whether to believe it. Default: anything but `text/html`. It is not asked
            where a line that is no header hides others.
        pool: A `urllib3.PoolManager` of your own, for client certificates or a proxy.
        max_bytes: A longer body (decoded) is refused.

    Raises:
        ConfigurationError: `url` is no http(s) URL with `{id}` in its path or query, or a number is not positive.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        is_gone: Callable[[Mapping[str, str], bytes], bool] | None = None,
        pool: urllib3.PoolManager | None = None,
        max_bytes: int = 10 * 1024 * 1024,
    ) -> None:
        parsed = _parsed(url)
        if timeout <= 0 or max_bytes <= 0:
            raise ConfigurationError(f"timeout and max_bytes must be positive, not {timeout} and {max_bytes}")
        self._origin = f"{parsed.scheme}://{parsed.netloc}"
        self._target = parsed.request_uri.replace("%7Bid%7D", "{id}")
        self._timeout = timeout
        self._headers = headers
        self._is_gone = is_gone or not_html
        self._transport: Transport = Pooled(pool, self._origin) if pool else Connections(parsed)
        self._max_bytes = max_bytes

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[dict[str, Any]] | Unchanged | Gone:
        """
        GET the entity.

        Args:
            id: The entity's id.
            etag: The `ETag` of what the cache holds.

        Raises:
            FetchError: The answer decides nothing.
        """
        try:
            target = self._target.replace("{id}", quote(checked_id(id), safe=""))
        except ValueError as error:
            raise FetchError(str(error)) from None
        answer = self._get(target, self._request_headers(etag))
        if answer.status == 200:
            return Found(entity_in(answer.headers, answer.body, id), answer.headers.get("ETag"))
        if answer.status == 304 and etag is not None:
            return Unchanged()
        if answer.status == 410 or (
            answer.status == 404 and not answer.hides_headers and self._is_gone(answer.headers, answer.body)
        ):
            return Gone()
        raise _undecided(id, answer)

    def _request_headers(self, etag: str | None) -> dict[str, str]:
        own = self._headers() if callable(self._headers) else self._headers or {}
        headers = {"Accept": "application/json", "User-Agent": "change-events", **own, "Cache-Control": "no-cache"}
        if etag is not None:
            headers["If-None-Match"] = etag
        return headers

    def _get(self, target: str, headers: dict[str, str]) -> Answer:
        deadline = time.monotonic() + self._timeout
        try:
            return self._transport.get(target, headers, deadline=deadline, max_bytes=self._max_bytes)
        except FetchError as error:
            raise FetchError(f"GET {self._origin}{target}: {error}", status=error.status) from error


def _parsed(url: str) -> urllib3.util.Url:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"{url!r} is no http(s) URL; write it like https://products.example.com/products/{{id}}")
    if "{id}" not in parts.path + parts.query or "{id}" in parts.netloc:
        raise ConfigurationError(f"{url!r} has no {{id}} in its path or query, so it can't name an entity")
    if "@" in parts.netloc:
        raise ConfigurationError("HTTPFetcher(url) takes no password in the URL; give an Authorization header in headers=")
    try:
        return urllib3.util.parse_url(url)
    except LocationParseError as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}") from error


def entity_in(headers: Mapping[str, str], body: bytes, id: str) -> dict[str, Any]:
    """Return the entity that a 200 has brought; a `FetchError` if that is no entity, or another."""
    media_types = _media_types(headers)
    if not all(one == "application/json" or one.endswith("+json") for one in media_types):
        raise FetchError(f"GET {id!r} answered {', '.join(media_types) or 'no media type'}, not JSON", status=200)
    try:
        entity = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FetchError(f"GET {id!r} answered what is no JSON: {error}", status=200) from None
    if not isinstance(entity, dict):
        raise FetchError(f"GET {id!r} answered a JSON {type(entity).__name__}, not an object", status=200)
    if "id" in entity and str(entity["id"]) != id:
        raise FetchError(f"GET {id!r} answered another entity, {entity['id']!r:.80}", status=200)
    return entity


def _undecided(id: str, answer: Answer) -> FetchError:
    location = answer.headers.get("Location") if answer.status in _REDIRECTS else None
    return FetchError(
        f"GET {id!r} answered {answer.status}"
        + (f": it is at {location}. If that is right, put it into HTTPFetcher(url)" if location else ""),
        status=answer.status,
        retry_after=_retry_after(answer.headers.get("Retry-After")),
    )


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else urllib3.Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date of this calendar
        return None


def _media_types(headers: Mapping[str, str]) -> list[str]:
    """Return the media type; or several, where a proxy has added its own to the service's (joined as RFC 9110, 5.3 has it)."""
    return [value.partition(";")[0].strip().lower() for value in headers.get("Content-Type", "").split(",")]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON (RFC 8259, 6)")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number:.20} is beyond all numbers, and SQL could not read what would be stored")
    return value
