"""A desk, and what a worker's threads do with it."""

from __future__ import annotations

from hands import URL, doubling, held

from change_events import MemorySink
from change_events._consumer.backoff import Backoff
from change_events._consumer.desk import Desk
from change_events._consumer.experiment import Failed
from change_events._consumer.guard import Guard
from change_events._consumer.limit import Limit
from change_events._consumer.settings import Settings
from change_events.testing import FakeSource


def make_desk(
    *,
    early_look=True,
    guard=None,
    per_second=None,
    prefetch=10,
    batch_size=3,
    bulk_size=1,
    limit=None,
):
    fetcher = FakeSource()
    if bulk_size > 1:
        fetcher.bulk_size, fetcher.fetch_many = bulk_size, lambda ids: {}
    settings = Settings(
        URL,
        fetcher=fetcher,
        sink=MemorySink(),
        early_look=early_look,
        prefetch=prefetch,
        batch_size=batch_size,
        threads=2,
        max_gets_per_second=per_second,
    )
    limit = limit or Limit.fixed()
    return Desk(settings, guard or Guard(), backoff=Backoff(doubling), limit=limit)


def receive(desk, *ids, now=0.0, hold=0.0, received=None):
    """Receive an event of each id. `received`: how many messages came, if not one for each."""
    assert desk.receiving.begin(now)
    events = [held(id, f"{number} at {now}", now, hold) for number, id in enumerate(ids)]
    desk.end_receive(events, now, received=len(ids) if received is None else received)
    return events


def get(desk, now, id):
    """Return the id that is due next, whose GET begins now, or this one, whose GET has begun."""
    if id is None:
        (id,) = desk.next(now)
        assert desk.begin_get([id], now) is not None
    else:
        desk.inbox.freeze(id, now)
    return id


def succeed(desk, now, id=None, *, found=True):
    """Look at the id that is due next, or at a reserved one, with success."""
    id = get(desk, now, id)
    return desk.succeeded(id, now, started=now, found=found, cached=found)


def fail(desk, now, id=None, *, retry_after=0.0, own=True, limited=False):
    """Look at the id that is due next, or at a reserved one, in vain."""
    id = get(desk, now, id)
    return desk.failed(id, now, Failed(OSError(id), own, retry_after, limited))


def bring_down(desk, now=0.0):
    """Let looks at five ids fail. The last failure, which is returned, shows an outage."""
    for id in "abcde":
        receive(desk, id, now=now)
        failure = fail(desk, now, id=desk.next(now)[0])
    assert desk.breaker.open
    return failure


def resume(desk, now):
    """Go on after a refused deletion, as a consumer does."""
    desk.guard.resume()
    desk.release(now)
