"""Read the source over HTTP, and accept only answers that decide something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from change_events._event import Found, Gone, Unchanged
from change_events._ids import checked_id
from change_events._source.endpoint import ID, Endpoint, require_bulk_url, require_template
from change_events._source.entities import EntityReader
from change_events._source.getter import Getter, undecided, what_of
from change_events._source.headers import media_types, valid_etag
from change_events._source.route import Route
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import urllib3

    from change_events._source.certificates import ClientCert, File
    from change_events._source.entities import IdOf
    from change_events._source.envelopes import EntityAt
    from change_events._source.http import Answer
    from change_events.typing import Auth

MAX_BULK = 1000
"""The most ids in a bulk GET. More would not fit into its URL."""

UNBELIEVED = "a 404 as text/html is not believed; see is_gone="


def is_not_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Believe a 404 unless it is `text/html`: from a proxy, or an ingress without a backend."""
    del body
    return "text/html" not in media_types(headers)


class HTTPFetcher:
    """
    GETs JSON objects from the service that owns them. Threads can share one fetcher.

    A 200 with a JSON object that has the id asked for is the entity. 304 means unchanged. 410 means
    gone, and so does a 404 that `is_gone` believes. Every other answer decides nothing and raises
    `FetchError`: another status (a redirect, too: it can lead to a login page), a media type other
    than JSON, a content coding other than gzip, or a body that is incomplete, too long, not a JSON
    object, or not that of the entity asked for. A number that Python's float would change is
    refused, too: the cache would differ from the source. Integers of any size are exact.

    With `bulk_url`, a worker that has several ids due asks for them at once: `GET
    /products?id=a&id=b`. The service must answer 200 with a JSON array of objects (at `entity`).
    Each needs its id, must equal what its own GET would return, and must be read after the GET
    began. An id that the array lacks or has twice gets a GET of its own. After any other answer
    every id does. Only such a GET can say "gone". A bulk answer has no `ETag`s.

    The fetcher keeps a connection for each thread that uses it at the same time; with `bulk_url`,
    two. A connection is not used again after 30 seconds without use, or five minutes after it was
    opened. If a kept connection does not answer, all of them are closed, and the GET is sent again
    on a new one.

    Every GET asks for a fresh answer (`Cache-Control`), for gzip, and, if the look gives an `ETag`,
    for changes only (`If-None-Match`, RFC 9110, 13.1.2). `headers` can't change these three. An
    `ETag` that is not of RFC 9110's form, or has more than 1,024 characters, is ignored.

    Args:
        url: An entity's URL, with `{id}` in its path or query. The whole id is percent-encoded.
        timeout: Seconds for a GET, from the connection to the last byte, with what `auth` needs. If
            a kept connection does not answer, a new one has as many again, so a GET can last twice
            that. What is not limited: a DNS lookup, your own `headers`, `is_gone` and `auth`,
            credentials of AWS, and some waits in a `pool` of yours (headers that trickle, several
            addresses that do not answer, a body that stalls on a connection that is not kept).
        headers: Request headers to add; or a callable that returns them, called for each GET
            (tokens expire). If it raises, the GET fails like one without an answer.
        is_gone: Given a 404's headers and body, returns whether to believe it. Default: believe all
            but `text/html`. If one header is malformed and others are lost with it, neither a 404
            nor a 200 is believed, and `is_gone` is not called.
        pool: A `urllib3.PoolManager` that you configured, for what no setting here does. It keeps
            its own connections for as long as it likes.
        max_bytes: The longest body to accept, decoded; of a bulk GET, too.
        bulk_url: Where to GET many entities; each id is added to the query as `id=`. Default: GET
            each entity alone.
        bulk_size: The most ids to ask for at once, 1 to 1000. If their URL would have over 8,000
            characters (a UUID adds 40), several GETs follow one another.
        id_of: Where an entity has its id, text or an integer: a key, or a path like `data.id`; or a
            callable that returns the id of an entity. It must equal the id asked for. None: accept
            any JSON object; not with `bulk_url`.
        trust_etags: Let a look that settles an event be answered by 304, too. True only if each
            `ETag` is a version or a hash of the content. (nginx makes them of seconds and size: two
            saves within a second, and bodies of equal length, have the same one.)
        auth: What authorizes each GET: `ClientCredentials`, `SigV4`, or an `Auth` of your own. It
            can renew what it gave after a 401; then the GET is sent again, once. Whatever fails in
            it is an outage of the source. With it, `bulk_url` must have the scheme, host and port
            of `url`.
        entity: Where a 200 has its entity: a key, or a path like `data.product`; or a callable that
            returns it. A bulk answer has its array there. Default: the body is the entity. `id_of`
            then begins at the entity, and what is around it is not stored.
        media_types: Media types of a 200 to accept as JSON beside `application/json` and all that
            end with `+json`. No check of the body is left out.
        ca_file: A PEM file with the authorities to trust, instead of the system's.
        client_cert: A PEM file with our certificate and its key, or a pair of files. The key must
            not be encrypted. Both this and `ca_file` are read again when they have changed.
        proxy: An HTTP proxy, such as `http://user:password@proxy.example.com:3128`. TLS goes
            through it (CONNECT). Default: none; the environment is not read. If the proxy fails,
            that is an outage of the source.

    Attributes:
        bulk_size: The same; 1 without `bulk_url`.
        timeout: The same.
        trust_etags: The same.

    Raises:
        ConfigurationError: `url` is not an http(s) URL with `{id}` in its path or query, `bulk_url`
            is not one that a query can be added to, `headers` can't be sent, `id_of` or `entity` is
            not a path, a number is out of its range, a file can't be used, or two settings
            contradict each other.
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
        id_of: IdOf = "id",
        trust_etags: bool = False,
        auth: Auth | None = None,
        entity: EntityAt = None,
        media_types: Collection[str] = (),
        ca_file: File | None = None,
        client_cert: ClientCert | None = None,
        proxy: str | None = None,
    ) -> None:
        _require_bulk_size(bulk_size)
        if bulk_url is not None and id_of is None:
            raise ConfigurationError("bulk_url= needs id_of=, to know which entity is which")
        self._url = url
        route = Route(pool, ca_file=ca_file, client_cert=client_cert, proxy=proxy)
        self._single = Endpoint.of(require_template(url), route)
        self._bulk = None if bulk_url is None else Endpoint.of(require_bulk_url(bulk_url), route)
        if bulk_url is not None and auth is not None:
            _require_same_origin(self._single, bulk_url)
        self.bulk_size = 1 if bulk_url is None else bulk_size
        self.timeout = timeout
        self.trust_etags = trust_etags
        self._getter = Getter(timeout, headers, max_bytes, auth)
        self._is_gone = is_gone
        self._reader = EntityReader(id_of, entity, media_types)

    def __repr__(self) -> str:
        return f"HTTPFetcher({self._url!r})"

    def access_to(self, url: str) -> tuple[Endpoint, Getter]:
        """
        Return what GETs another URL of the same origin as this one is asked. For `HTTPListing`.

        Raises:
            ValueError: It is not a URL of this origin.
        """
        return self._single.beside(url), self._getter

    def fetch(
        self, id: str, /, *, etag: str | None = None
    ) -> Found[dict[str, Any]] | Unchanged | Gone:
        """
        GET the entity, or learn that it still has the `ETag`.

        Raises:
            FetchError: The answer decides nothing.
        """
        target = self._target(id)
        etag = valid_etag(etag)
        what = what_of(self._single, target)
        answer = self._getter.get(self._single, target, etag)
        if answer.status == 200 and not answer.has_malformed_headers:
            entity = self._reader.entity(answer.headers, answer.body, id, what)
            return Found(entity, valid_etag(answer.headers.get("ETag")))
        if answer.status == 304 and etag is not None:
            return Unchanged()
        if answer.status == 410 or (
            answer.status == 404
            and not answer.has_malformed_headers
            and self._believes(answer, what)
        ):
            return Gone()
        unbelieved = "is_gone= does not believe it" if self._is_gone else UNBELIEVED
        raise undecided(what, answer, "HTTPFetcher(url)", unbelieved)

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
            what = what_of(self._bulk, target)
            answer = self._getter.get(self._bulk, target, None)
            if answer.status != 200 or answer.has_malformed_headers:
                raise undecided(what, answer, "HTTPFetcher(bulk_url=)")
            entities = self._reader.entities(answer.headers, answer.body, what)
            found |= {id: Found(entity) for id, entity in entities.items() if id in asked}
        return found

    def answer(self, id: str, /) -> Answer:
        """
        GET the entity's URL, and return the answer whatever it says: for tools that show it.

        Raises:
            FetchError: There is none, or an incomplete one.
        """
        return self._getter.get(self._single, self._target(id), None)

    def _target(self, id: str) -> str:
        try:
            return self._single.target.replace(ID, quote(checked_id(id), safe=""))
        except ValueError as error:
            raise FetchError(str(error)) from None

    def _believes(self, answer: Answer, what: str) -> bool:
        try:
            return (self._is_gone or is_not_html)(answer.headers, answer.body)
        except Exception as error:  # the user's own code
            # Only the type: the text can quote the body.
            raise FetchError(
                f"{what} answered {answer.status}, and is_gone= raised {type(error).__name__}",
                status=answer.status,
            ) from error


def _require_bulk_size(size: int) -> None:
    if not isinstance(size, int) or not 1 <= size <= MAX_BULK:
        raise ConfigurationError(f"bulk_size must be an integer from 1 to {MAX_BULK}, not {size!r}")


def _require_same_origin(endpoint: Endpoint, bulk_url: str) -> None:
    try:
        endpoint.target_of(bulk_url)
    except ValueError as error:
        raise ConfigurationError(
            f"with auth=, bulk_url= must have the scheme, host and port of the url: {error}"
        ) from None
