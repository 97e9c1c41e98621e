"""Read the source over HTTP, and accept only answers that decide something."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import parse_url

from change_events._event import Found, Gone, Unchanged
from change_events._ids import checked_id
from change_events._source.http import Answer, KeepAliveTransport, PoolTransport, Transport
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_URL = 8000
"""The most characters in a URL of several ids. RFC 9110, 4.1, recommends to support so many."""

MAX_BULK = 1000
"""The most ids in a bulk GET. More would not fit into its URL."""

_ID = "%7Bid%7D"
"""`{id}` in a normalized URL."""

_REDIRECTS = {301, 302, 303, 307, 308}


def is_not_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Believe a 404 unless it is `text/html`: from a proxy, or an ingress without a backend."""
    del body
    return "text/html" not in _media_types(headers)


class HTTPFetcher:
    """
    GETs JSON objects from the service that owns them. Threads can share one fetcher.

    A 200 with a JSON object is the entity. 304 means unchanged. 410 means gone, and so does a 404
    that `is_gone` believes. Every other answer decides nothing and raises `FetchError`: another
    status (a redirect, too: it can lead to a login page), a media type other than JSON, or a body
    that is incomplete, too long, not a JSON object, or has another `"id"` than the one asked for.

    With `bulk_url`, a worker that has several ids due asks for them at once: `GET
    /products?id=a&id=b`. The service must answer 200 with a JSON array of objects. Each needs its
    `"id"`, must equal what its own GET would return, and must be read after the GET began. An id
    that the array lacks or has twice gets a GET of its own. After any other answer every id does.
    Only such a GET can say "gone". A bulk answer has no `ETag`s, so its looks report what
    is cached as `updated`, changed or not, and the next GET of that entity is unconditional.

    The fetcher keeps a connection for each thread that uses it at the same time; with `bulk_url`,
    two. Every GET asks for a fresh answer (`Cache-Control: no-cache`), and for changes only if the
    cache has an `ETag` (`If-None-Match`, RFC 9110, 13.1.2).

    Args:
        url: An entity's URL, with `{id}` in its path or query. The whole id is percent-encoded.
        timeout: Seconds for a GET, to the last byte. Not a hard limit: a source that stalls in
            mid-body can double it. A source that trickles its headers, or has several addresses
            that do not answer, can exceed even that.
        headers: Request headers to add; or a callable that returns them, called for each GET
            (tokens expire).
        is_gone: Given a 404's headers and body, returns whether to believe it. Default: believe all
            but `text/html`. If one header is malformed and others are lost with it, neither a 404
            nor a 200 is believed, and `is_gone` is not called.
        pool: A `urllib3.PoolManager` that you configured, for client certificates or a proxy.
        max_bytes: The longest body to accept, decoded; of a bulk GET, too.
        bulk_url: Where to GET many entities; each id is added to the query as `id=`. Default: GET
            each entity alone.
        bulk_size: The most ids to ask for at once, 1 to 1000. If their URL would have over 8,000
            characters (a UUID adds 40), several GETs follow one another.

    Attributes:
        bulk_size: The same; 1 without `bulk_url`.

    Raises:
        ConfigurationError: `url` is not an http(s) URL with `{id}` in its path or query, `bulk_url`
            is not one that a query can be added to, or a number is out of its range.
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
        _require_bulk_size(bulk_size)
        if timeout <= 0 or max_bytes <= 0:
            raise ConfigurationError(
                f"timeout and max_bytes must be positive, not {timeout} and {max_bytes}"
            )
        self._single = _Endpoint.of(_require_template(url), pool)
        self._bulk = None if bulk_url is None else _Endpoint.of(_require_bulk_url(bulk_url), pool)
        self.bulk_size = 1 if bulk_url is None else bulk_size
        self._timeout = timeout
        self._headers = headers
        self._is_gone = is_gone or is_not_html
        self._max_bytes = max_bytes

    def fetch(
        self, id: str, /, *, etag: str | None = None
    ) -> Found[dict[str, Any]] | Unchanged | Gone:
        """
        GET the entity, or learn that it still has the `ETag`.

        Raises:
            FetchError: The answer decides nothing.
        """
        try:
            target = self._single.target.replace(_ID, quote(checked_id(id), safe=""))
        except ValueError as error:
            raise FetchError(str(error)) from None
        answer = self._get(self._single, target, etag)
        if answer.status == 200 and not answer.has_malformed_headers:
            return Found(entity_in(answer.headers, answer.body, id), answer.headers.get("ETag"))
        if answer.status == 304 and etag is not None:
            return Unchanged()
        if answer.status == 410 or (
            answer.status == 404
            and not answer.has_malformed_headers
            and self._is_gone(answer.headers, answer.body)
        ):
            return Gone()
        raise _undecided(f"GET {id!r}", answer)

    def fetch_many(self, ids: Sequence[str], /) -> dict[str, Found[dict[str, Any]]]:
        """
        GET many entities at once. The answers decide nothing about ids that they lack.

        Raises:
            FetchError: An answer decides nothing at all.
            ConfigurationError: The fetcher has no `bulk_url`.
        """
        if self._bulk is None:
            raise ConfigurationError("HTTPFetcher needs bulk_url= to GET many ids at once")
        found: dict[str, Found[dict[str, Any]]] = {}
        for target, asked in self._bulk.targets(ids):
            answer = self._get(self._bulk, target, None)
            if answer.status != 200 or answer.has_malformed_headers:
                raise _undecided(f"GET {self._bulk.url}", answer)
            entities = entities_in(answer.headers, answer.body, f"GET {self._bulk.url}")
            found |= {id: Found(entity) for id, entity in entities.items() if id in asked}
        return found

    def _get(self, endpoint: _Endpoint, target: str, etag: str | None) -> Answer:
        deadline = time.monotonic() + self._timeout
        try:
            return endpoint.transport.get(
                target, self._request_headers(etag), deadline=deadline, max_bytes=self._max_bytes
            )
        except FetchError as error:
            raise FetchError(
                f"GET {endpoint.origin}{target:.300}: {error}", status=error.status
            ) from error

    def _request_headers(self, etag: str | None) -> dict[str, str]:
        own = self._headers() if callable(self._headers) else self._headers or {}
        headers = {"Accept": "application/json", "User-Agent": "change-events", **own}
        headers["Cache-Control"] = "no-cache"
        return headers if etag is None else headers | {"If-None-Match": etag}


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A URL: its origin (scheme, host, port), its target (path and query), and its connections."""

    origin: str
    target: str
    transport: Transport

    @classmethod
    def of(cls, url: str, pool: urllib3.PoolManager | None) -> _Endpoint:
        try:
            parsed = parse_url(url)
        except LocationParseError as error:
            raise ConfigurationError(f"{url!r} is not a URL: {error}") from error
        origin = f"{parsed.scheme}://{parsed.netloc}"
        transport = PoolTransport(pool, origin) if pool else KeepAliveTransport(parsed)
        return cls(origin, parsed.request_uri, transport)

    @property
    def url(self) -> str:
        return self.origin + self.target

    def targets(self, ids: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
        """Yield as few targets as the ids fit into, each with its ids. Leave out invalid ids."""
        asked: set[str] = set()
        target = self.target
        for id in ids:
            try:
                parameter = f"id={quote(checked_id(id), safe='')}"
            except ValueError:
                continue  # the GET of this id alone says what is wrong with it
            if asked and len(self.origin) + len(target) + len("&") + len(parameter) > MAX_URL:
                yield target, asked
                target, asked = self.target, set()
            target += ("&" if "?" in target else "?") + parameter
            asked.add(id)
        if asked:
            yield target, asked


def _require_template(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            f"{url!r} is not an http(s) URL; "
            "write it like https://products.example.com/products/{id}"
        )
    if "{id}" not in parts.path + parts.query or "{id}" in parts.netloc:
        raise ConfigurationError(
            f"{url!r} has no {{id}} in its path or query, so it can't name an entity"
        )
    _require_no_password(parts.netloc, "url")
    return url


def _require_bulk_url(url: str) -> str:
    parts = urlsplit(url)
    _require_no_password(parts.netloc, "bulk_url=")
    if parts.scheme not in {"http", "https"} or not parts.hostname or "#" in url or "{id}" in url:
        raise ConfigurationError(
            f"{url!r} is not an http(s) URL that ?id=a&id=b can be added to; "
            "write bulk_url like https://products.example.com/products"
        )
    return url


def _require_no_password(netloc: str, setting: str) -> None:
    if "@" in netloc:
        raise ConfigurationError(
            f"HTTPFetcher({setting}) must not have a password in the URL; "
            "give an Authorization header in headers="
        )


def _require_bulk_size(size: int) -> None:
    if not isinstance(size, int) or not 1 <= size <= MAX_BULK:
        raise ConfigurationError(f"bulk_size must be an integer from 1 to {MAX_BULK}, not {size!r}")


def entity_in(headers: Mapping[str, str], body: bytes, id: str) -> dict[str, Any]:
    """
    Return the entity in a 200.

    Raises:
        FetchError: The body is not an entity, or another one.
    """
    entity = _json_in(headers, body, f"GET {id!r}")
    if not isinstance(entity, dict):
        kind = type(entity).__name__
        raise FetchError(f"GET {id!r} answered a JSON {kind}, not an object", status=200)
    if "id" in entity and str(entity["id"]) != id:
        raise FetchError(f"GET {id!r} answered another entity, {entity['id']!r:.80}", status=200)
    return entity


def entities_in(headers: Mapping[str, str], body: bytes, what: str) -> dict[str, dict[str, Any]]:
    """
    Return the entities in a bulk GET's 200, by id. Ids that occur twice are left out.

    Raises:
        FetchError: The body is not an array.
    """
    answer = _json_in(headers, body, what)
    if not isinstance(answer, list):
        kind = type(answer).__name__
        raise FetchError(f"{what} answered a JSON {kind}, not an array", status=200)
    entities = [
        (str(each["id"]), each)
        for each in answer
        if isinstance(each, dict) and isinstance(each.get("id"), (str, int))
    ]
    times = Counter(id for id, _ in entities)
    return {id: entity for id, entity in entities if times[id] == 1}


def _json_in(headers: Mapping[str, str], body: bytes, what: str) -> Any:
    types = _media_types(headers)
    if not all(each == "application/json" or each.endswith("+json") for each in types):
        what_came = ", ".join(types) or "no media type"
        raise FetchError(f"{what} answered {what_came}, not JSON", status=200)
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_finite_float)
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{what} answered invalid JSON: {error}", status=200) from None


def _media_types(headers: Mapping[str, str]) -> list[str]:
    """Return the media types: several if a proxy added its own (joined, RFC 9110, 5.3)."""
    values = headers.get("Content-Type", "").split(",")
    return [value.partition(";")[0].strip().lower() for value in values]


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON (RFC 8259, 6)")


def _finite_float(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number:.20} is too large for a float, and SQL could not read it")
    return value


def _undecided(what: str, answer: Answer) -> FetchError:
    text = f"{what} answered {answer.status}"
    if answer.has_malformed_headers:
        text += ", with a malformed header"
    location = answer.headers.get("Location") if answer.status in _REDIRECTS else None
    if location:
        text += f": it is at {location}. If that is right, put it into HTTPFetcher(url)"
    retry_after = _retry_after(answer.headers.get("Retry-After"))
    return FetchError(text, status=answer.status, retry_after=retry_after)


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else urllib3.Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date of this calendar
        return None
