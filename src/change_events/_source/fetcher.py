"""Read the source over HTTP, and take nothing for an answer that isn't one."""

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
from change_events._source.http import Answer, Connections, Pooled, Transport
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_URL = 8000
"""
Characters of a bulk GET's URL: RFC 9110, 4.1, recommends that everybody supports so many. Longer
only for a single id.
"""

MAX_BULK = 1000
"""Ids in a bulk GET: no more would fit into its URL."""

_ID = "%7Bid%7D"
"""What becomes of `{id}` when a URL is brought into its normal form."""

_REDIRECTS = {301, 302, 303, 307, 308}


def not_html(headers: Mapping[str, str], body: bytes) -> bool:
    """
    Believe a 404 unless it is `text/html`: that is a proxy's page or an ingress without a backend,
    not the service.
    """
    del body
    return "text/html" not in _media_types(headers)


class HTTPFetcher:
    """
    GETs JSON objects from the service that owns them. May be shared between threads.

    A 200 with a JSON object is the entity; 304 means unchanged; 410, and a 404 that `is_gone`
    believes, mean gone. Anything else decides nothing and raises `FetchError`: any other status (a
    redirect, too, as it may lead to a login page), a media type other than JSON, a body that is
    incomplete, too long, no JSON object, or has another `"id"` than was asked for.

    With `bulk_url`, a worker that has several ids due asks for them at once: `GET
    /products?id=a&id=b`. What it takes is a 200 with a JSON array of objects, each with its `"id"`,
    each as its own GET would bring it, and read after the GET began. What the array leaves out, or
    has twice, is asked for by a GET of its own, and so is all of it after any other answer: only
    such a GET can say "gone". A bulk answer brings no `ETag`s. So a look by it calls what is cached
    `updated`, changed or not, and the next GET of that entity is unconditional.

    Connections are kept, one for each thread that uses the fetcher at the same time, and with
    `bulk_url` another. Every GET asks for a fresh answer (`Cache-Control: no-cache`) and, where the
    cache holds an `ETag`, for changes only (`If-None-Match`, RFC 9110, 13.1.2).

    Args:
        url: Where an entity is, with `{id}` in its path or query. The id is percent-encoded whole.
        timeout: Seconds that a GET may take, to the last byte of the body. A source that stalls in
            mid-body can stretch it to twice that; one that trickles its headers, or whose name has
            several addresses of which none answers, further.
        headers: Request headers to add; or a callable that returns them, asked at each GET (tokens
            expire).
        is_gone: Given a 404's headers and body, says whether to believe it. Default: anything but
            `text/html`. It is not asked where a line that is no header hides others; nor is a 200
            then believed.
        pool: A `urllib3.PoolManager` of your own, for client certificates or a proxy.
        max_bytes: A longer body (decoded) is refused, that of a bulk GET, too.
        bulk_url: Where many entities are, asked for by `id=` in the query, once for each. None:
            nowhere.
        bulk_size: How many to ask for at once, at the most, 1 to 1000. Where the URL would have
            over 8,000 characters (a UUID takes 40) they take several GETs, one after another.

    Attributes:
        bulk_size: The same; 1 without `bulk_url`.

    Raises:
        ConfigurationError: `url` is no http(s) URL with `{id}` in its path or query, `bulk_url` is
            none that a query can be added to, or a number is out of its range.
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
        self._one = _Place.of(_require_template(url), pool)
        self._many = None if bulk_url is None else _Place.of(_require_bulk_url(bulk_url), pool)
        self.bulk_size = 1 if bulk_url is None else bulk_size
        self._timeout = timeout
        self._headers = headers
        self._is_gone = is_gone or not_html
        self._max_bytes = max_bytes

    def fetch(
        self, id: str, /, *, etag: str | None = None
    ) -> Found[dict[str, Any]] | Unchanged | Gone:
        """
        GET the entity.

        Args:
            id: The entity's id.
            etag: The `ETag` of what the cache holds.

        Raises:
            FetchError: The answer decides nothing.
        """
        try:
            target = self._one.target.replace(_ID, quote(checked_id(id), safe=""))
        except ValueError as error:
            raise FetchError(str(error)) from None
        answer = self._get(self._one, target, etag)
        if answer.status == 200 and not answer.hides_headers:
            return Found(entity_in(answer.headers, answer.body, id), answer.headers.get("ETag"))
        if answer.status == 304 and etag is not None:
            return Unchanged()
        if answer.status == 410 or (
            answer.status == 404
            and not answer.hides_headers
            and self._is_gone(answer.headers, answer.body)
        ):
            return Gone()
        raise _undecided(f"GET {id!r}", answer)

    def fetch_many(self, ids: Sequence[str], /) -> dict[str, Found[dict[str, Any]]]:
        """
        GET many entities at once.

        Args:
            ids: Their ids.

        Returns:
            Those that the answers hold. These decide nothing about the others.

        Raises:
            FetchError: An answer decides nothing at all.
            ConfigurationError: There is no `bulk_url`.
        """
        if self._many is None:
            raise ConfigurationError("HTTPFetcher takes many ids at once only with bulk_url=")
        found: dict[str, Found[dict[str, Any]]] = {}
        for target, asked in self._many.with_ids(ids):
            answer = self._get(self._many, target, None)
            if answer.status != 200 or answer.hides_headers:
                raise _undecided(f"GET {self._many.url}", answer)
            entities = entities_in(answer.headers, answer.body, f"GET {self._many.url}")
            found |= {id: Found(entity) for id, entity in entities.items() if id in asked}
        return found

    def _get(self, place: _Place, target: str, etag: str | None) -> Answer:
        deadline = time.monotonic() + self._timeout
        try:
            return place.transport.get(
                target, self._request_headers(etag), deadline=deadline, max_bytes=self._max_bytes
            )
        except FetchError as error:
            raise FetchError(
                f"GET {place.origin}{target:.300}: {error}", status=error.status
            ) from error

    def _request_headers(self, etag: str | None) -> dict[str, str]:
        own = self._headers() if callable(self._headers) else self._headers or {}
        headers = {
            "Accept": "application/json",
            "User-Agent": "change-events",
            **own,
            "Cache-Control": "no-cache",
        }
        if etag is not None:
            headers["If-None-Match"] = etag
        return headers


@dataclass(frozen=True, slots=True)
class _Place:
    """
    Where to GET.

    Attributes:
        origin: Scheme, host and port.
        target: Path and query.
        transport: The way there.
    """

    origin: str
    target: str
    transport: Transport

    @classmethod
    def of(cls, url: str, pool: urllib3.PoolManager | None) -> _Place:
        """Return the place of a URL."""
        try:
            parsed = parse_url(url)
        except LocationParseError as error:
            raise ConfigurationError(f"{url!r} is no URL: {error}") from error
        origin = f"{parsed.scheme}://{parsed.netloc}"
        return cls(
            origin, parsed.request_uri, Pooled(pool, origin) if pool else Connections(parsed)
        )

    @property
    def url(self) -> str:
        return self.origin + self.target

    def with_ids(self, ids: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
        """
        Yield targets that ask for all ids that can be asked for, and for which; as few as have room
        for them.
        """
        asked: set[str] = set()
        target = self.target
        for id in ids:
            try:
                one = f"id={quote(checked_id(id), safe='')}"
            except ValueError:
                continue  # its own GET says what is wrong with it
            if asked and len(self.origin) + len(target) + len("&") + len(one) > MAX_URL:
                yield target, asked
                target, asked = self.target, set()
            target += ("&" if "?" in target else "?") + one
            asked.add(id)
        if asked:
            yield target, asked


def _require_template(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            f"{url!r} is no http(s) URL; write it like https://products.example.com/products/{{id}}"
        )
    if "{id}" not in parts.path + parts.query or "{id}" in parts.netloc:
        raise ConfigurationError(
            f"{url!r} has no {{id}} in its path or query, so it can't name an entity"
        )
    if "@" in parts.netloc:
        raise ConfigurationError(
            "HTTPFetcher(url) takes no password in the URL; give an Authorization header in headers="
        )
    return url


def _require_bulk_size(size: int) -> None:
    if not isinstance(size, int) or not 1 <= size <= MAX_BULK:
        raise ConfigurationError(f"bulk_size must be an integer from 1 to {MAX_BULK}, not {size!r}")


def _require_bulk_url(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigurationError(
            "HTTPFetcher(bulk_url=) takes no password in the URL; give an Authorization header in headers="
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or "#" in url or "{id}" in url:
        raise ConfigurationError(
            f"{url!r} is no http(s) URL that ?id=a&id=b can be added to; write bulk_url like https://products.example.com/products"
        )
    return url


def entity_in(headers: Mapping[str, str], body: bytes, id: str) -> dict[str, Any]:
    """Return the entity that a 200 has brought; a `FetchError` if that is no entity, or another."""
    entity = _json_in(headers, body, f"GET {id!r}")
    if not isinstance(entity, dict):
        raise FetchError(
            f"GET {id!r} answered a JSON {type(entity).__name__}, not an object", status=200
        )
    if "id" in entity and str(entity["id"]) != id:
        raise FetchError(f"GET {id!r} answered another entity, {entity['id']!r:.80}", status=200)
    return entity


def entities_in(headers: Mapping[str, str], body: bytes, what: str) -> dict[str, dict[str, Any]]:
    """
    Return the entities that a bulk GET's 200 has brought, by id, but not two of one id; a
    `FetchError` if it is no array.
    """
    answer = _json_in(headers, body, what)
    if not isinstance(answer, list):
        raise FetchError(
            f"{what} answered a JSON {type(answer).__name__}, not an array", status=200
        )
    entities = [
        (str(each["id"]), each)
        for each in answer
        if isinstance(each, dict) and isinstance(each.get("id"), (str, int))
    ]
    times = Counter(id for id, _ in entities)
    return {id: entity for id, entity in entities if times[id] == 1}


def _json_in(headers: Mapping[str, str], body: bytes, what: str) -> Any:
    media_types = _media_types(headers)
    if not all(one == "application/json" or one.endswith("+json") for one in media_types):
        raise FetchError(
            f"{what} answered {', '.join(media_types) or 'no media type'}, not JSON", status=200
        )
    try:
        return json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{what} answered what is no JSON: {error}", status=200) from None


def _undecided(what: str, answer: Answer) -> FetchError:
    location = answer.headers.get("Location") if answer.status in _REDIRECTS else None
    return FetchError(
        f"{what} answered {answer.status}"
        + (", with a line among its headers that is none" if answer.hides_headers else "")
        + (
            f": it is at {location}. If that is right, put it into HTTPFetcher(url)"
            if location
            else ""
        ),
        status=answer.status,
        retry_after=_retry_after(answer.headers.get("Retry-After")),
    )


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else urllib3.Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date of this calendar
        return None


def _media_types(headers: Mapping[str, str]) -> list[str]:
    """
    Return the media type; or several, where a proxy has added its own to the service's (joined as
    RFC 9110, 5.3 has it).
    """
    return [
        value.partition(";")[0].strip().lower()
        for value in headers.get("Content-Type", "").split(",")
    ]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON (RFC 8259, 6)")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(
            f"{number:.20} is beyond all numbers, and SQL could not read what would be stored"
        )
    return value
