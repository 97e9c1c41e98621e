"""
The seams: what a publisher, a fetcher, a sink and metrics must do to take part. Any object that
fits will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from change_events._event import ChangeEvent, Entry, Found, Gone, Page, Unchanged

T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class Publisher(Protocol):
    """
    Announces changes. Called before every save, from any thread.

    If where it sends events, or what it adds to them, depends on context variables, it needs an
    attribute `reads_context` that is True. Otherwise a save inside another save of the same id is
    not broadcast by itself.
    """

    def publish(self, events: Sequence[ChangeEvent], /) -> None:
        """
        Broadcast the events; return once *all* of them are accepted.

        Raises:
            PublishError: At least one was not accepted. The save will not run.
        """
        ...


class Fetcher(Protocol[T_co]):
    """Reads the source. Called from many threads at once."""

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[T_co] | Unchanged | Gone:
        """
        Read the entity's latest state from the source.

        Args:
            id: The entity's id.
            etag: The `ETag` of the cached entity, if the source sent one. Without it, the answer
                must not be `Unchanged`. A look that settles an event gives none, because an `ETag`
                can miss a change, unless the fetcher has an attribute `trust_etags` that is true.

        Raises:
            FetchError: The answer decides nothing (an outage, say). The worker looks again later.
        """
        ...


class AsyncFetcher(Protocol[T_co]):
    """A `Fetcher` whose methods are coroutine functions: `from_async` lets a worker use it."""

    async def fetch(self, id: str, /, *, etag: str | None = None) -> Found[T_co] | Unchanged | Gone:
        """Read the entity's latest state, as `Fetcher.fetch` says."""
        ...


@runtime_checkable
class BulkFetcher(Fetcher[T_co], Protocol[T_co]):
    """
    Reads many entities at once, too: one call for up to `bulk_size` ids that are due.

    It can only say that an entity was found. An id that its answer lacks is undecided, neither gone
    nor failed: the worker looks at it alone, with `fetch`. A bulk answer never deletes anything.
    """

    @property
    def bulk_size(self) -> int:
        """The most ids of one call; with 1 the worker uses `fetch` only."""
        ...

    def fetch_many(self, ids: Sequence[str], /) -> Mapping[str, Found[T_co]]:
        """
        Read the latest state of as many of these entities as possible.

        Read each after the call began, as with `fetch`: not from a cache, nor from a replica that
        lags.

        Args:
            ids: Ids of entities, all different.

        Returns:
            What was found, by id. The worker ignores ids that it did not ask for.

        Raises:
            FetchError: The answer decides nothing at all. The worker looks at each id alone.
        """
        ...


class Auth(Protocol):
    """
    Authorizes the GETs of an `HTTPFetcher` or an `HTTPListing`. Called from many threads at once.
    `ClientCredentials` and `SigV4` are two. One of your own, for a token in a file that something
    else renews:

        class TokenInFile:
            def authorize(self, method, url, headers, /, *, timeout):
                return {"Authorization": f"Bearer {Path('/run/token').read_text().strip()}"}

            def renew(self, refused, /):
                return self.authorize("GET", "", {}, timeout=0) != refused
    """

    def authorize(
        self, method: str, url: str, headers: Mapping[str, str], /, *, timeout: float
    ) -> Mapping[str, str]:
        """
        Return the headers to add to a request. They replace others of the same name, but not
        `Accept-Encoding`, `Cache-Control` and `If-None-Match`.

        Args:
            method: The request's method: `GET`.
            url: Its URL, exactly as it is sent.
            headers: Its headers, without `Host`, unless the user gave one.
            timeout: The seconds that are left for the whole GET. Return, or raise, by then.

        Raises:
            Exception: The request can't be authorized. It is not sent, and the look fails like one
                without an answer. Only a `FetchError` has its text shown: others can quote a
                secret.
        """
        ...

    def renew(self, refused: Mapping[str, str], /) -> bool:
        """
        Hear that the source has answered 401. Called once for each GET.

        Other threads can have renewed since: compare.

        Args:
            refused: What `authorize` returned for the request.

        Returns:
            True: send the request again, with what `authorize` returns now.
        """
        ...


class Listing(Protocol[T_co]):
    """
    Names all entities of a source, page by page. `HTTPListing` is one. So is any iterable of ids,
    or of pairs of an id and an entity, if it has the same order each time; a file, for example:

        listing = Path("ids.txt").read_text().splitlines()

    Write one of your own where a page can be found by a cursor. A query:

        class Products:
            def page(self, cursor):
                rows = connection.execute(
                    "SELECT id, body FROM products WHERE id > %s ORDER BY id LIMIT 100",
                    [cursor or ""],
                ).fetchall()
                found = {id: Found(body) for id, body in rows}
                return Page(list(found), found, cursor=rows[-1][0] if rows else None)

    A scan of a DynamoDB table:

        class Products:
            def page(self, cursor):
                start = {"ExclusiveStartKey": json.loads(cursor)} if cursor else {}
                answer = client.scan(TableName="products", ConsistentRead=True, **start)
                last = answer.get("LastEvaluatedKey")
                ids = [item["id"]["S"] for item in answer["Items"]]
                return Page(ids, None, cursor=json.dumps(last) if last else None)
    """

    def page(self, cursor: str | None, /) -> Page[T_co]:
        """
        Read a page.

        An entity in `Page.found` must equal what the fetcher would find, and be read after the call
        began, from where commits go: not from a cache, nor from a replica that lags.

        Args:
            cursor: The `cursor` of the page before, perhaps from another process; None: read the
                first page.

        Raises:
            FetchError: The answer decides nothing (an outage, say). Read the page again later.
            ListingError: The page can't be read, and reading it again would not help.
        """
        ...


class AsyncListing(Protocol[T_co]):
    """A `Listing` whose `page` is a coroutine function: `from_async` lets a worker use it."""

    async def page(self, cursor: str | None, /) -> Page[T_co]:
        """Read a page, as `Listing.page` says."""
        ...


class Sink(Protocol[T_contra]):
    """
    The local cache. Called from many threads at once, and for one id from several processes.

    The protocol rests on two rules. The version grows with *every* successful `apply`, also when
    nothing else changes. And it survives a delete (a tombstone), so that a look that began before
    the delete can't bring the entity back. A sink that forgets old tombstones must never use their
    versions again.

    `change_events.testing.SinkContract` tests a sink for all this.
    """

    def entry(self, id: str, /) -> Entry:
        """Return the id's entry; `Entry()` if no `apply` has succeeded for it."""
        ...

    def apply(
        self, id: str, change: Found[T_contra] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        This is atomic: compare the version, write, raise the version.

        Args:
            id: The entity's id.
            change: What the look found. `Found` stores the value, the `etag` and the `digest`.
                `Unchanged` keeps the entity and its digest, and its `etag` unless it brings
                another. `Gone` leaves a tombstone. All three bump the version.
            if_version: The version read *before* the look's GET.

        Returns:
            False if the entry's version has changed since; nothing is written.
        """
        ...


class AsyncSink(Protocol[T_contra]):
    """
    A `Sink` whose methods are coroutine functions: `from_async` lets a worker use it. It can also
    have those of an `EnumerableSink`, a `StatefulSink`, a `BulkSink` and a `ReadableSink`.
    """

    async def entry(self, id: str, /) -> Entry:
        """Return the id's entry, as `Sink.entry` says."""
        ...

    async def apply(
        self, id: str, change: Found[T_contra] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """Store what a look found, as `Sink.apply` says."""
        ...


@runtime_checkable
class EnumerableSink(Protocol):
    """
    A sink that can name what it holds.

    Without this a worker knows no good id until it has found one, so it recognises an outage later;
    and it protects a small cache from a wrong URL no better than a large one: up to 19 entities can
    be deleted before it stops.
    """

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """
        Return ids of cached entities (no tombstones), a page at a time, in the sink's own order.

        Args:
            after: The last id of the page before; None: begin with the first.
            limit: The most ids to return, 1 or more.

        Returns:
            One id or more; none only if no more follow.
        """
        ...


@runtime_checkable
class StatefulSink(Protocol):
    """A sink that keeps a few texts beside the entities, for as long as it keeps the entities."""

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, by any process; None: none was."""
        ...

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name, durably; or return False and store nothing if `state` would
        no longer return `if_state`.
        """
        ...


@runtime_checkable
class ForgetfulSink(Protocol):
    """
    A sink that can lose what it has stored, and notices that: one in a server's memory, say. A
    backfill begins again then.

    If it also has a `since_loss`, the seconds since it noticed a loss, or None, a worker's health
    shows that.
    """

    def epoch(self) -> str:
        """
        Return the name of the time in which the sink has lost nothing, as far as it can notice:
        another one once it can have lost something, and never an earlier one again. It is the same
        in all processes, and is called every few seconds.

        `apply` must return False for a version that `entry` returned in an earlier epoch. The
        `insert_many` of such a sink gets `epoch=...`, and must store nothing if that one is over.
        """
        ...


@runtime_checkable
class BulkSink(Protocol[T_contra]):
    """
    A sink that can store many new entities at once: a page of a listing, in a backfill. Without
    this a backfill calls `apply` for each of them.
    """

    def insert_many(self, found: Mapping[str, Found[T_contra]], /) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched (version 0); return their ids.

        For each id this is `apply(id, found[id], if_version=0)`, and the result has those that
        would return True. All other entries, tombstones too, stay as they are. One transaction for
        all is best, because it is fast; but each id alone must be atomic.

        Args:
            found: What a listing said, by id. If it is empty, so is the result.

        Returns:
            Ids that this call has stored, durably, and no others. An id that may or may not be
            stored (an answer was lost) is left out, or the call raises.

        Raises:
            Exception: Some of the entities can be stored, or none. The caller repeats the call, or
                looks at each id.
        """
        ...


@runtime_checkable
class ReadableSink(Protocol[T_co]):
    """
    A sink that can return many entities at once: those of a page of a listing, in an audit. Without
    this an audit calls `get(id)` for each of them.
    """

    def get_many(self, ids: Sequence[str], /) -> Mapping[str, T_co]:
        """
        Return those of these entities that are cached, by id. Read them after the call began, from
        where commits go: not from a replica that lags.

        Args:
            ids: Ids of entities, all different, in any number.

        Raises:
            ConfigurationError: The sink can't read what it has stored. An audit then compares
                digests.
        """
        ...


class Metrics(Protocol):
    """
    Receives measurements. Called from many threads, some within the work that is measured: be
    quick, don't wait. It can call the worker. What it raises is logged once.

    A worker's counts and gauges come from a thread of their own, each second and at the end of a
    run, added up; durations come as they are measured.

    `change_events.metrics` has two implementations. `METRICS` there lists the names and labels of
    each method. The name is positional, so a label can have any name.
    """

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add the value to a counter."""
        ...

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        ...

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...
