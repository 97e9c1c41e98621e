"""Read the source over HTTP, and take nothing for an answer that isn't one."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from email.errors import MissingHeaderBodySeparatorDefect
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from change_events._event import Found, Gone, Unchanged
from change_events._ids import checked_id
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KEPT_CONNECTIONS = 256
"""More than a worker has threads, so that no thread's connection is thrown away. Unused ones cost nothing."""

MAX_URL = 8000
"""Characters of a bulk GET's URL: RFC 9110, 4.1, recommends that everybody supports so many."""

MAX_BULK = 1000
"""Ids in a bulk GET: no more would fit into its URL."""

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

    With `bulk_url`, a worker that has several ids due asks for them at once: `GET /products?id=a&id=b`. What it takes is a
    200 with a JSON array of objects, each with its `"id"`, each as its own GET would bring it, and read after the GET began.
    What the array leaves out, or has twice, is asked for by a GET of its own, and so is all of it after any other answer:
    only such a GET can say "gone". A bulk answer brings no `ETag`s. So a look by it calls what is cached `updated`, changed
    or not, and the next GET of that entity is unconditional.

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
        max_bytes: A longer body (decoded) is refused, that of a bulk GET, too.
        bulk_url: Where many entities are, asked for by `id=` in the query, once for each. None: nowhere.
        bulk_size: How many to ask for at once, at the most, 1 to 1000; fewer where the URL would have over 8,000 characters.

    Attributes:
        bulk_size: The same; 1 without `bulk_url`.

    Raises:
        ConfigurationError: `url` is no http(s) URL with `{id}` in its path or query, `bulk_url` is none that a query can be
            added to, or a number is out of its range.
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
        bulk_url: str | None = None,
        bulk_size: int = 50,
    ) -> None:
        _require_template(url)
        _require_bulk(bulk_url, bulk_size)
        if timeout <= 0 or max_bytes <= 0:
            raise ConfigurationError(f"timeout and max_bytes must be positive, not {timeout} and {max_bytes}")
        self._url = url
        self._timeout = timeout
        self._headers = headers
        self._is_gone = is_gone or not_html
        self._pool = pool or urllib3.PoolManager(maxsize=KEPT_CONNECTIONS)
        self._max_bytes = max_bytes
        self._bulk_url = bulk_url
        self.bulk_size = 1 if bulk_url is None else bulk_size

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

    def fetch_many(self, ids: Sequence[str], /) -> dict[str, Found[dict[str, Any]]]:
        """
        GET many entities at once.

        Args:
            ids: Their ids, the most urgent first: those that the URL has no room for are not asked for.

        Returns:
            Those that the answer holds. It decides nothing about the others.

        Raises:
            FetchError: The answer decides nothing at all.
            ConfigurationError: There is no `bulk_url`.
        """
        if self._bulk_url is None:
            raise ConfigurationError("HTTPFetcher takes many ids at once only with bulk_url=")
        url, asked = _with_ids(self._bulk_url, ids)
        deadline = time.monotonic() + self._timeout
        response = self._get(url, self._request_headers(None), deadline)
        try:
            return self._read_many(response, asked, deadline)
        except BaseException:
            response.close()  # as above
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

    def _read_many(
        self, response: urllib3.BaseHTTPResponse, asked: set[str], deadline: float
    ) -> dict[str, Found[dict[str, Any]]]:
        status = response.status
        body = body_of(response, self._max_bytes, deadline)
        if status != 200:
            raise FetchError(f"GET {self._bulk_url} answered {status}", status=status, retry_after=_retry_after(response))
        entities = entities_in(response.headers, body, f"GET {self._bulk_url}")
        return {id: Found(entity) for id, entity in entities.items() if id in asked}


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


def _require_bulk(url: str | None, size: int) -> None:
    if not isinstance(size, int) or not 1 <= size <= MAX_BULK:
        raise ConfigurationError(f"bulk_size must be an integer from 1 to {MAX_BULK}, not {size!r}")
    if url is None:
        return
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigurationError(
            "HTTPFetcher(bulk_url=) takes no password in the URL; give an Authorization header in headers="
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or "#" in url or "{id}" in url:
        raise ConfigurationError(
            f"{url!r} is no http(s) URL that ?id=a&id=b can be added to; write bulk_url like https://products.example.com/products"
        )


def _with_ids(url: str, ids: Sequence[str]) -> tuple[str, set[str]]:
    """Return the URL that asks for the ids, and for which of them: those that can be asked for, while there is room."""
    asked: set[str] = set()
    separator = "&" if "?" in url else "?"
    for id in ids:
        try:
            longer = f"{url}{separator}id={quote(checked_id(id), safe='')}"
        except ValueError:
            continue  # its own GET says what is wrong with it
        if len(longer) > MAX_URL:
            break
        url, separator = longer, "&"
        asked.add(id)
    if not asked:
        raise FetchError("none of the ids can be asked for in bulk")
    return url, asked


def entity_in(headers: Mapping[str, str], body: bytes, id: str) -> dict[str, Any]:
    """Return the entity that a 200 has brought; a `FetchError` if that is no entity, or another."""
    entity = _json_in(headers, body, f"GET {id!r}")
    if not isinstance(entity, dict):
        raise FetchError(f"GET {id!r} answered a JSON {type(entity).__name__}, not an object", status=200)
    if "id" in entity and str(entity["id"]) != id:
        raise FetchError(f"GET {id!r} answered another entity, {entity['id']!r:.80}", status=200)
    return entity


def entities_in(headers: Mapping[str, str], body: bytes, what: str) -> dict[str, dict[str, Any]]:
    """Return the entities that a bulk GET's 200 has brought, by id, but not two of one id; a `FetchError` if it is no array."""
    answer = _json_in(headers, body, what)
    if not isinstance(answer, list):
        raise FetchError(f"{what} answered a JSON {type(answer).__name__}, not an array", status=200)
    entities = [(str(each["id"]), each) for each in answer if isinstance(each, dict) and isinstance(each.get("id"), (str, int))]
    times = Counter(id for id, _ in entities)
    return {id: entity for id, entity in entities if times[id] == 1}


def _json_in(headers: Mapping[str, str], body: bytes, what: str) -> Any:
    media_types = _media_types(headers)
    if not all(one == "application/json" or one.endswith("+json") for one in media_types):
        raise FetchError(f"{what} answered {', '.join(media_types) or 'no media type'}, not JSON", status=200)
    try:
        return json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{what} answered what is no JSON: {error}", status=200) from None


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
