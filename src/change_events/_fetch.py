"""Read the source over HTTP, and take nothing for an answer that isn't one."""

from __future__ import annotations

import json
import math
import time
from email.errors import MissingHeaderBodySeparatorDefect
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from change_events._event import Found, Gone, Unchanged
from change_events._ids import checked_id
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEPT_CONNECTIONS = 256
"""More than a worker has threads, so that no thread's connection is thrown away. Unused ones cost nothing."""

_CHUNK = 64 * 1024


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
        _require_template(url)
        if timeout <= 0 or max_bytes <= 0:
            raise ConfigurationError(f"timeout and max_bytes must be positive, not {timeout} and {max_bytes}")
        self._url = url
        self._timeout = timeout
        self._headers = headers
        self._is_gone = is_gone or not_html
        self._pool = pool or urllib3.PoolManager(maxsize=KEPT_CONNECTIONS)
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
            url = self._url.replace("{id}", quote(checked_id(id), safe=""))
        except ValueError as error:
            raise FetchError(str(error)) from None
        deadline = time.monotonic() + self._timeout
        response = self._get(url, self._request_headers(etag), deadline)
        try:
            return self._read(response, id, etag, deadline)
        except BaseException:
            response.close()  # half-read: the connection can't be used again
            raise

    def _request_headers(self, etag: str | None) -> dict[str, str]:
        own = self._headers() if callable(self._headers) else self._headers or {}
        headers = {"Accept": "application/json", **own, "Cache-Control": "no-cache"}
        if etag is not None:
            headers["If-None-Match"] = etag
        return headers

    def _get(self, url: str, headers: dict[str, str], deadline: float) -> urllib3.BaseHTTPResponse:
        try:
            try:
                return self._send(url, headers, deadline)
            except ProtocolError:  # a kept connection that the source has just closed; a GET may be repeated (RFC 9110, 9.2.2)
                return self._send(url, headers, deadline)
        except HTTPError as error:
            raise FetchError(f"GET {url}: {error}") from error

    def _send(self, url: str, headers: dict[str, str], deadline: float) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            "GET",
            url,
            headers=headers,
            timeout=max(deadline - time.monotonic(), 0.001),
            retries=False,
            redirect=False,
            preload_content=False,
        )

    def _read(
        self, response: urllib3.BaseHTTPResponse, id: str, etag: str | None, deadline: float
    ) -> Found[dict[str, Any]] | Unchanged | Gone:
        status = response.status
        body = body_of(response, self._max_bytes, deadline)
        if status == 200:
            return Found(entity_in(response.headers, body, id), response.headers.get("ETag"))
        if status == 304 and etag is not None:
            return Unchanged()
        if status == 410 or (status == 404 and _has_all_headers(response) and self._is_gone(response.headers, body)):
            return Gone()
        location = response.get_redirect_location()
        raise FetchError(
            f"GET {id!r} answered {status}"
            + (f": it is at {location}. If that is right, put it into HTTPFetcher(url)" if location else ""),
            status=status,
            retry_after=_retry_after(response),
        )


def body_of(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """Read a body to its end; a `FetchError` if it is longer, breaks off, or is not there by the (monotonic) deadline."""
    chunks, size = [], 0
    try:
        # Not read(n): it waits for n bytes, so that a trickle would outlast any timeout.
        while chunk := response.read1(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise FetchError(f"the body is longer than {max_bytes} bytes", status=response.status)
            if time.monotonic() > deadline:
                raise FetchError("the body took longer than the timeout")
    except HTTPError as error:
        raise FetchError(f"the body broke off: {error}") from error
    return b"".join(chunks)


def _require_template(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"{url!r} is no http(s) URL; write it like https://products.example.com/products/{{id}}")
    if "{id}" not in parts.path + parts.query or "{id}" in parts.netloc:
        raise ConfigurationError(f"{url!r} has no {{id}} in its path or query, so it can't name an entity")
    if "@" in parts.netloc:
        raise ConfigurationError("HTTPFetcher(url) takes no password in the URL; give an Authorization header in headers=")


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


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    try:
        return urllib3.Retry().get_retry_after(response)
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date of this calendar
        return None


def _media_types(headers: Mapping[str, str]) -> list[str]:
    """Return the media type; or several, where a proxy has added its own to the service's (joined as RFC 9110, 5.3 has it)."""
    return [value.partition(";")[0].strip().lower() for value in headers.get("Content-Type", "").split(",")]


def _has_all_headers(response: urllib3.BaseHTTPResponse) -> bool:
    """Return False if a line that is no header hides those behind it: the media type and the length, maybe."""
    # urllib3 logs that and goes on, so that only the message which http.client has read knows of it.
    message = getattr(getattr(response, "_original_response", None), "msg", None)
    return not any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in getattr(message, "defects", ()))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON (RFC 8259, 6)")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number:.20} is beyond all numbers, and SQL could not read what would be stored")
    return value
