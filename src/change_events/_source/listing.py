"""Listings: pages of ids, or of whole entities, from the source or from any iterable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin

from change_events._event import Found, Page
from change_events._ids import checked_id
from change_events._source.endpoint import Endpoint, require_list_url
from change_events._source.entities import json_in
from change_events._source.envelopes import value_at
from change_events._source.fetcher import HTTPFetcher
from change_events._source.getter import Getter, undecided, what_of
from change_events._source.headers import checked_media_types, next_link
from change_events._source.items import ItemReader, checked_path, shown
from change_events._source.route import Route
from change_events.exceptions import ConfigurationError, FetchError, ListingError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import urllib3

    from change_events._source.certificates import ClientCert, File
    from change_events._source.entities import Entity
    from change_events._source.envelopes import EntityAt
    from change_events._source.http import Answer
    from change_events.typing import Auth, Listing

_PASSING = {401, 403, 408, 425, 429}
"""Statuses below 500 that pass: a token has expired, or the source has too much to do."""

_NEXT = {
    *("next", "nextpage", "nextpageurl", "nexturl", "nexturi", "nextlink", "nexthref"),
    *("nextcursor", "nexttoken", "nextpagetoken", "odatanextlink"),
}
"""
Keys for a next page, their letters in lower case. A listing that does not read such a key would
end with its first page, and nobody would notice.
"""

_MORE = {"more", "hasmore", "hasnext", "hasnextpage", "istruncated"}
"""Likewise, keys that are true if there are more pages, and do not say where."""

_DEEPEST = 4
"""How many objects are around such a key, at most."""


class HTTPListing:
    """
    Lists a service's entities: GETs JSON pages, one after another.

        HTTPListing("https://products.example.com/products?limit=100", entities=True)

    A page is a JSON array, or an object that has one (`items`). Its items are ids, or objects that
    have ids (`id_of`). Where the next page is, the service says in one of four ways:

    - in a header, `Link: <...>; rel="next"` (RFC 8288). That is the default.
    - in the body, as a URL: `next="links.next"`.
    - in the body, as a token: `next="meta.next_token", cursor="token"` asks for `?token=...`.
    - by the last id of the page: `cursor="after"` asks for `?after=...`, until a page is empty.

    A page is the last one if it names no other, or null or an empty text. A URL can be relative. It
    must have the scheme, host and port of `url`, because your `headers` and `auth` are sent there.

    The connections, the checks and the limits are those of `HTTPFetcher`. A status of 500 or more,
    401, 403, 408, 425, 429 and an answer that breaks off are a `FetchError`: read the page again
    later. What reading again would not change is a `ListingError`.

    Args:
        url: The first page. Put a page's size into its query.
        entities: The pages have whole entities, exactly as `HTTPFetcher` would find each of them,
            and read from where commits go, not from a cache, an index or a replica that lags.
            False: only the ids count. Of an id that a page has twice, no entity is given; and none
            at all of a page with a number that Python's float would change. These need a look.
        items: Where a page has its list: a key, or a path like `data.products`. Default: the body,
            or the only list in it.
        id_of: Where an object has its id, as in `HTTPFetcher`.
        next: Where a page names the next one: a key or a path. Default: the `Link` header.
        cursor: The parameter of the query that asks for the next page. Default: none, pages have
            URLs.
        total: Where a page says how many entities there are in all: a header, or a key or a path.
            Default: unknown.
        timeout: Seconds for a GET, as in `HTTPFetcher`.
        headers: Request headers to add, or a callable that returns them, as in `HTTPFetcher`.
        pool: A `urllib3.PoolManager` that you configured, as in `HTTPFetcher`.
        max_bytes: The longest page to accept, decoded.
        auth: What authorizes each GET, as in `HTTPFetcher`.
        entity: Where an item has its entity, as a body in `HTTPFetcher`. Default: the item.
        media_types: Media types to accept as JSON, as in `HTTPFetcher`.
        ca_file: The authorities to trust, as in `HTTPFetcher`.
        client_cert: Our certificate, as in `HTTPFetcher`.
        proxy: An HTTP proxy, as in `HTTPFetcher`.
        fetcher: An `HTTPFetcher` of the same scheme, host and port: its connections, headers and
            authorization are used, too. Then none of `headers`, `pool`, `auth`, `ca_file`,
            `client_cert` and `proxy` can be given. Default: none.

    Attributes:
        url: The URL. A backfill of another one begins at its beginning.

    Raises:
        ConfigurationError: `url` is not an http(s) URL, `headers` can't be sent, a path is not a
            path, a number is out of its range, a file can't be used, `fetcher` is of another
            origin, or two settings contradict each other.
    """

    def __init__(
        self,
        url: str,
        *,
        entities: bool = False,
        items: str | None = None,
        id_of: str | Callable[[Entity], object] = "id",
        next: str | None = None,
        cursor: str | None = None,
        total: str | None = None,
        timeout: float = 10.0,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        pool: urllib3.PoolManager | None = None,
        max_bytes: int = 10 * 1024 * 1024,
        auth: Auth | None = None,
        entity: EntityAt = None,
        media_types: Collection[str] = (),
        ca_file: File | None = None,
        client_cert: ClientCert | None = None,
        proxy: str | None = None,
        fetcher: HTTPFetcher | None = None,
    ) -> None:
        if cursor is not None and not (isinstance(cursor, str) and cursor):
            raise ConfigurationError(f"cursor= must be a parameter's name, not {cursor!r}")
        self.url = require_list_url(url)
        own = (headers, pool, auth, ca_file, client_cert, proxy)
        if fetcher is None:
            route = Route(pool, ca_file=ca_file, client_cert=client_cert, proxy=proxy)
            self._endpoint = Endpoint.of(url, route)
            self._getter = Getter(timeout, headers, max_bytes, auth)
        elif any(each is not None for each in own):
            raise ConfigurationError(
                "fetcher= brings headers, auth, certificates, a pool and a proxy: give these to "
                "the fetcher, or leave fetcher= out"
            )
        else:
            self._endpoint, getter = _access(fetcher, url)
            self._getter = getter.with_limits(timeout, max_bytes)
        self._reader = ItemReader(items, id_of, entities=entities, entity=entity)
        self._media_types = checked_media_types(media_types)
        self._next = checked_path(next, "next")
        self._parameter = cursor
        self._total = checked_path(total, "total")

    def __repr__(self) -> str:
        return f"HTTPListing({self.url!r})"

    def page(self, cursor: str | None, /) -> Page[dict[str, Any]]:
        """
        GET a page.

        Raises:
            FetchError: The answer decides nothing.
            ListingError: It is not a page; or the next one is itself, or at another origin.
        """
        target = self._target(cursor)
        what = what_of(self._endpoint, target)
        answer = self._answer(target, what)
        body, exact = _json(answer, what, self._media_types)
        items = self._reader.items(body, what)
        ids = self._reader.ids(items, what)
        return Page(
            ids=list(dict.fromkeys(ids)),
            found=self._reader.found(items, ids) if exact else None,
            cursor=self._cursor(target, answer, body, ids[-1:], what),
            total=self._count(answer, body),
        )

    def _target(self, cursor: str | None) -> str:
        if cursor is None:
            return self._endpoint.target
        try:
            if self._parameter is None:
                return self._endpoint.target_of(cursor)
            return self._endpoint.target_with(self._parameter, cursor)
        except ValueError as error:
            raise ListingError(f"{self!r} has no page at this cursor: {error}") from None

    def _answer(self, target: str, what: str) -> Answer:
        try:
            answer = self._getter.get(self._endpoint, target, None)
            if answer.status == 200 and not answer.has_malformed_headers:
                return answer
            raise undecided(what, answer, "HTTPListing(url)")
        except FetchError as error:
            if error.status is None or error.status >= 500 or error.status in _PASSING:
                raise
            raise ListingError(str(error)) from error

    def _cursor(
        self, target: str, answer: Answer, body: object, last: list[str], what: str
    ) -> str | None:
        """Return the next page's cursor; `last` has the last id of this page, if there is one."""
        cursor = self._named(answer, body, last, what)
        if cursor is None:
            return None
        if self._parameter is None:
            cursor = self._absolute(cursor, target, what)
        if self._target(cursor) == target:
            raise ListingError(
                f"{what} names itself as its next page, so the listing would never end"
            )
        return cursor

    def _named(self, answer: Answer, body: object, last: list[str], what: str) -> str | None:
        """Return what the page says about the next one: a URL, or a cursor."""
        if self._next:
            named = value_at(body, self._next)
            if named is None or named is False or named == "":
                return None
            if named is True or not isinstance(named, (str, int)):
                raise ListingError(
                    f"{what} has {shown(named)} at next={'.'.join(self._next)!r}, "
                    "which is neither a URL nor a cursor"
                )
            return str(named)
        if self._parameter is not None:
            return last[0] if last else None
        link = next_link(answer.headers.get("Link"))
        if link is None and (unread := _unread_next(body)):
            raise ListingError(f"{what} has no Link header, but {unread}")
        return link

    def _absolute(self, url: str, target: str, what: str) -> str:
        origin = self._endpoint.origin
        try:
            return origin + self._endpoint.target_of(urljoin(origin + target, url))
        except ValueError as error:
            raise ListingError(
                f"{what} names a next page elsewhere: {error}. headers= and auth= are not for "
                "another scheme, host or port. Behind a proxy, the source must know its own URL"
            ) from None

    def _count(self, answer: Answer, body: object) -> int | None:
        total = answer.headers.get(".".join(self._total), value_at(body, self._total))
        try:
            return None if isinstance(total, bool) else max(0, int(total))
        except (TypeError, ValueError, OverflowError):
            return None  # it only tells people how far a backfill is


def _access(fetcher: HTTPFetcher, url: str) -> tuple[Endpoint, Getter]:
    if not isinstance(fetcher, HTTPFetcher):
        raise ConfigurationError(f"fetcher= must be an HTTPFetcher, not {fetcher!r:.200}")
    try:
        return fetcher.access_to(url)
    except ValueError as error:
        raise ConfigurationError(
            f"fetcher= must be of the listing's scheme, host and port: {error}"
        ) from None


def _json(answer: Answer, what: str, also: Collection[str]) -> tuple[Any, bool]:
    """Return the JSON in a page, and whether all its numbers are exact."""
    try:
        return json_in(answer.headers, answer.body, what, also=also), True
    except FetchError:
        # If it is for a number, the fetcher's look at that entity says so.
        try:
            return json_in(answer.headers, answer.body, what, exact=False, also=also), False
        except FetchError as error:
            raise ListingError(str(error)) from error


def _unread_next(body: object) -> str | None:
    """Return what a page says about a next one, and what to do about it; None: it says nothing."""
    keys = list(_keys(body))
    for path, name, value in keys:
        if value and name in _NEXT:
            return (
                f"names a next page at {path!r}: say next={path!r}; and also cursor=, the "
                "parameter that it is for, if it is not a URL"
            )
    for path, name, value in keys:
        if (value is True and name in _MORE) or (value is False and name == "last"):
            return (
                f"says at {path!r} that there are more: say how to ask for them, with next= or "
                "cursor=, or write a listing of your own"
            )
    return None


def _keys(body: object, within: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, str, Any]]:
    """Yield the keys in objects: the path, the letters in lower case, and the value of each."""
    if isinstance(body, dict) and depth:
        for key, value in body.items():
            yield within + key, "".join(filter(str.isalpha, key.lower())), value
        for key, value in body.items():
            yield from _keys(value, f"{within}{key}.", depth - 1)


def listing_of(source: object, page_size: int = 100) -> Listing[Any]:
    """
    Return a listing: the object itself if it has a method `page`, or pages of an iterable.

    Raises:
        ConfigurationError: It is neither.
    """
    if hasattr(source, "page") and not isinstance(source, type):
        return cast("Listing[Any]", source)
    if isinstance(source, (str, bytes, Mapping, type)) or not isinstance(source, Iterable):
        raise ConfigurationError(
            "a listing is an HTTPListing, an object with page(cursor), or an iterable of ids or of "
            "pairs (id, entity), like mapping.items(); not "
            + (f"the class {source.__name__}" if isinstance(source, type) else shown(source))
        )
    return _Pages(source, page_size)


class _Pages:
    """
    Pages of an iterable of ids, or of pairs of an id and an entity. A cursor is the number of items
    before its page.
    """

    def __init__(self, source: Iterable[object], size: int) -> None:
        # The order of a set is another in another process, and a cursor would lead elsewhere.
        self._source = sorted(source, key=str) if isinstance(source, (set, frozenset)) else source
        self._size = size
        self._once = isinstance(source, Iterator) or hasattr(source, "fetchone")
        self._begun = False
        self._items: Iterator[object] = iter(())
        self._position: int | None = None

    def __repr__(self) -> str:
        return "the listing"

    def page(self, cursor: str | None, /) -> Page[Any]:
        """
        See `Listing`. Begin again with the iterable if the page is not the next one.

        Raises:
            ConfigurationError: The iterable can't begin again.
            ListingError: It has something else than ids and pairs.
            Exception: The iterable raised it.
        """
        start = _position(cursor)
        if start != self._position:
            self._begin(start)
        # A generator that raises has ended: without this, the next page would look like the end.
        self._position = None
        page = [
            _pair(item, number)
            for number, item in enumerate(islice(self._items, self._size), start)
        ]
        self._position = start + len(page)
        entities = {id: found for id, found in page if found is not None}
        return Page(
            ids=list(dict.fromkeys(id for id, _ in page)),
            found=entities or None,
            cursor=str(self._position) if len(page) == self._size else None,
            total=len(self._source) if isinstance(self._source, Sized) else None,
        )

    def _begin(self, start: int) -> None:
        if self._once and self._begun:
            raise ConfigurationError(
                f"the listing is a {type(self._source).__name__}, which can be read only once, and "
                "it has to begin again. Give a list, or an object with page(cursor)"
            )
        self._begun = True
        self._items = iter(self._source)
        for _ in islice(self._items, start):
            pass


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit()):
        raise ListingError(f"the cursor {cursor!r:.80} is another listing's")
    return int(cursor)


def _pair(item: object, number: int) -> tuple[str, Found[Any] | None]:
    """Return an item's id, and its entity if it has one."""
    id, found = item, None
    if isinstance(item, tuple) and len(item) == 2:
        id, entity = item
        found = entity if isinstance(entity, Found) else Found(entity)
    try:
        return checked_id(id), found
    except ValueError as error:
        reason = error if isinstance(id, str) else f"it has {shown(id)}"  # it can be an entity
        raise ListingError(
            f"item {number} of the listing is neither an id nor a pair (id, entity): {reason}"
        ) from None
