"""What RedisSink does when a real Redis has lost what it had acknowledged."""

from __future__ import annotations

import logging
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from change_events import (
    AlreadyRunningError,
    Backfill,
    ConfigurationError,
    Entry,
    Found,
    Gone,
    HTTPFetcher,
    MemorySink,
    Page,
    RedisSink,
)
from change_events._operations import own_backfill
from conftest import running, wait_until

FOUND = Found({"n": 1}, '"one"', "d1")
NEWER = Found({"n": 2}, '"two"', "d2")


@pytest.fixture
def server(make_redis):
    """A Redis of the test's own, which can be stopped."""
    with make_redis() as server:
        yield server


@pytest.fixture
def sink(server):
    with RedisSink(server.url) as sink:
        yield sink


def flush(server):
    with server.client as client:
        client.flushall()


def snapshot(server):
    with server.client as client:
        client.save()


def restart(server):
    """Start again from the last snapshot."""
    server.kill()
    server.start()


def look(sink, change, id="p1"):
    assert sink.apply(id, change, if_version=sink.entry(id).version)


def losses(caplog):
    return [each.why for each in caplog.records if getattr(each, "action", None) == "lost"]


# What was read before a loss


@pytest.mark.parametrize("noticed", [False, True], ids=["first to notice", "noticed before"])
def test_a_look_that_began_before_a_flush_stores_nothing(sink, server, noticed):
    look(sink, FOUND)
    before, untouched = sink.entry("p1"), sink.entry("p2")
    flush(server)
    if noticed:
        sink.epoch()

    assert not sink.apply("p2", FOUND, if_version=untouched.version)
    assert not sink.apply("p1", FOUND, if_version=before.version)
    assert sink.entry("p1") == sink.entry("p2") == untouched == Entry()
    look(sink, NEWER, "p2")
    assert not sink.apply("p2", FOUND, if_version=untouched.version)
    assert sink.get("p2") == {"n": 2}


@pytest.mark.parametrize("history", [[], [FOUND], [FOUND, Gone()]], ids=["new", "found", "gone"])
def test_a_look_that_began_before_a_restart_from_a_snapshot_stores_nothing(sink, server, history):
    for change in history:
        look(sink, change)
    snapshot(server)
    before = sink.entry("p1")
    look(sink, NEWER)
    later = sink.entry("p1")
    restart(server)

    assert sink.entry("p1") == before
    for read in (before, later):
        assert not sink.apply("p1", FOUND, if_version=read.version)
    assert sink.entry("p1") == before
    look(sink, NEWER)
    assert sink.entry("p1").version not in {before.version, later.version}


def test_a_page_that_was_read_before_a_loss_is_not_stored(sink, server):
    flush(server)

    assert sink.insert_many({f"p{n}": FOUND for n in range(250)}) == set()
    assert len(sink) == 0
    assert sink.insert_many({"p1": FOUND}) == {"p1"}


def test_a_page_that_was_read_before_a_loss_that_others_noticed_is_not_stored(sink, server):
    before = sink.epoch()
    flush(server)
    assert sink.epoch() != before

    assert sink.insert_many({"p1": FOUND}, epoch=before) == set()
    assert sink.insert_many({"p1": FOUND}, epoch=sink.epoch()) == {"p1"}


def test_a_version_without_an_epoch_is_of_the_current_one(sink):
    assert sink.apply("p1", FOUND, if_version=0)
    assert sink.apply("p1", NEWER, if_version=int(sink.entry("p1").version))


# Noticing a loss


def test_a_flush_is_noticed_once(sink, server, caplog):
    before = sink.epoch()
    assert sink.since_loss is None
    flush(server)

    after = sink.epoch()
    assert after != before
    assert sink.epoch() == after
    assert losses(caplog) == ["empty"]
    assert 0 <= sink.since_loss < 60
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith("the cache entities can have lost entities: all of it is gone")


@pytest.mark.parametrize("saved", [True, False], ids=["from a snapshot", "from nothing"])
def test_a_restart_is_noticed(sink, server, saved, caplog):
    before = sink.epoch()
    if saved:
        snapshot(server)
    restart(server)

    assert sink.epoch() != before
    assert losses(caplog) == ["restarted" if saved else "empty"]


def test_a_restart_counts_even_if_the_append_only_file_has_all(make_redis, caplog):
    with (
        make_redis(appendonly="yes", appendfsync="always") as server,
        RedisSink(server.url) as sink,
    ):
        look(sink, FOUND)
        restart(server)

        sink.epoch()
        assert losses(caplog) == ["restarted"]
        assert sink.get("p1") == FOUND.value


def test_an_eviction_is_noticed(sink, server, caplog):
    look(sink, FOUND)
    look(sink, Gone(), "p2")
    before = sink.epoch()
    with server.client as client:
        client.config_set("maxmemory-policy", "volatile-random")  # only tombstones can expire
        client.config_set("maxmemory", 1)
        wait_until(lambda: client.info("stats")["evicted_keys"])
        client.config_set("maxmemory", 0)

    assert (sink.entry("p1").present, sink.entry("p2")) == (True, Entry())
    assert sink.epoch() != before
    assert losses(caplog) == ["evicted"]
    (record,) = caplog.records
    assert "set maxmemory-policy noeviction" in record.message


def test_evicted_keys_of_earlier_times_do_not_count(server, caplog):
    with server.client as client:
        for _ in range(2):
            client.config_set("maxmemory-policy", "allkeys-random")
            client.set("other", "x")
            client.config_set("maxmemory", 1)
            wait_until(lambda: client.dbsize() == 0)
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
        with RedisSink(server.url) as sink:
            before = sink.epoch()
            client.config_resetstat()
            assert sink.epoch() == before
            assert client.hget("{entities}:epoch", "evicted") == b"0"
    assert losses(caplog) == []


def test_a_failover_is_noticed_and_looks_from_before_store_nothing(make_redis, caplog):
    with (
        make_redis() as primary,
        make_redis() as replica,
        primary.client as client,
        replica.client as other,
        RedisSink(client) as sink,
    ):
        other.replicaof("127.0.0.1", str(primary.port))
        wait_until(lambda: other.info("replication")["master_link_status"] == "up")
        sink.epoch()
        look(sink, FOUND)
        wait_until(lambda: other.zcard("{entities}:ids") == 1)
        before = sink.entry("p1")
        primary.kill()
        other.replicaof("NO", "ONE")
        client.connection_pool = other.connection_pool  # as if its name led there now

        assert sink.entry("p1") == before
        assert not sink.apply("p1", NEWER, if_version=before.version)
        assert losses(caplog) == ["restarted"]
        look(sink, NEWER)


def test_a_first_replica_is_no_loss(make_redis, caplog):
    with (
        make_redis() as primary,
        make_redis() as replica,
        replica.client as other,
        RedisSink(primary.url) as sink,
    ):
        before, read = sink.epoch(), sink.entry("p1")
        other.replicaof("127.0.0.1", str(primary.port))
        wait_until(lambda: other.hget("{entities}:epoch", "epoch") == before.encode())

        assert sink.insert_many({"p1": FOUND}) == set()  # it says so once, and is asked again
        assert sink.apply("p1", FOUND, if_version=read.version)
        assert sink.epoch() == before
    assert losses(caplog) == []


def test_a_primary_that_was_a_replica_meanwhile_is_another_one(make_redis, caplog):
    with (
        make_redis() as one,
        make_redis() as two,
        one.client as first,
        two.client as second,
        RedisSink(one.url) as sink,
    ):
        look(sink, FOUND)
        second.replicaof("127.0.0.1", str(one.port))
        wait_until(lambda: second.zcard("{entities}:ids") == 1)
        second.replicaof("NO", "ONE")
        sink.epoch()
        look(sink, NEWER)  # which the other one does not have
        first.replicaof("127.0.0.1", str(two.port))
        wait_until(lambda: first.info("replication")["master_link_status"] == "up")
        first.replicaof("NO", "ONE")

        assert sink.get("p1") == FOUND.value
        assert not sink.apply("p1", NEWER, if_version=sink.entry("p1").version)
        assert losses(caplog) == ["restarted"]


def test_each_process_notices_by_itself_and_agrees_with_the_others(sink, server, caplog):
    with RedisSink(server.url) as other:
        assert other.epoch() == sink.epoch()
        read = other.entry("p1")
        flush(server)
        look_again = sink.entry("p1")
        assert not sink.apply("p1", FOUND, if_version=look_again.version)
        look(sink, NEWER)

        assert not other.apply("p1", FOUND, if_version=read.version)
        assert other.epoch() == sink.epoch()
        assert sink.get("p1") == {"n": 2}
    assert losses(caplog) == ["empty", "empty"]


def test_a_process_that_starts_after_a_restart_says_so_and_later_ones_do_not(server, caplog):
    with RedisSink(server.url) as sink:
        look(sink, FOUND)
    snapshot(server)
    restart(server)
    for _ in range(2):
        with RedisSink(server.url) as sink:
            assert sink.get("p1") == FOUND.value

    assert losses(caplog) == ["restarted"]


def test_an_empty_server_is_no_loss_for_a_process_that_starts(server, caplog):
    RedisSink(server.url).close()

    assert losses(caplog) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(make_redis, policy):
    with (
        make_redis(**{"maxmemory-policy": policy}) as server,
        pytest.raises(
            ConfigurationError,
            match=f"can't be used: its maxmemory-policy is '{policy}', and must be noeviction: it "
            "would delete entities and tombstones when its memory is full, and nothing would bring "
            "them back$",
        ),
    ):
        RedisSink(server.url)


class Losses(RuleBasedStateMachine):
    """
    Looks at one entity, some of which begin before a loss and end after it. What is stored never
    becomes older, but by a loss itself; and then no look stores what it read before.
    """

    server = None

    @initialize()
    def start(self):
        flush(self.server)
        self.sinks = [RedisSink(self.server.url) for _ in range(2)]
        self.source, self.past = 0, 0
        self.saved = None
        self.looks = []

    @rule()
    def change(self):
        self.source += 1

    @rule(number=st.integers(0, 1))
    def begin(self, number):
        entry = self.sinks[number].entry("p1")
        self.looks.append((self.sinks[number], entry.version, self.past, self.source))

    @precondition(lambda self: getattr(self, "looks", None))
    @rule(data=st.data())
    def end(self, data):
        at = data.draw(st.integers(0, len(self.looks) - 1))
        sink, version, past, n = self.looks.pop(at)
        stored = (sink.get("p1") or {"n": -1})["n"]
        if sink.apply("p1", Found({"n": n}), if_version=version):
            assert past == self.past, "a look from before a loss was stored"
            assert n >= stored

    @rule()
    def lose_all(self):
        flush(self.server)
        self.past += 1

    @rule()
    def save(self):
        snapshot(self.server)
        self.saved = True

    @precondition(lambda self: getattr(self, "saved", None))
    @rule()
    def go_back(self):
        restart(self.server)
        self.past += 1
        self.saved = None

    @rule(number=st.integers(0, 1))
    def notice(self, number):
        self.sinks[number].epoch()

    def teardown(self):
        for sink in getattr(self, "sinks", []):
            sink.close()


def test_no_loss_lets_a_look_from_before_it_win(server):
    run_state_machine_as_test(
        type("Losses", (Losses,), {"server": server}),
        settings=settings(max_examples=25, stateful_step_count=20),
    )


# Backfills


@pytest.fixture
def products(source):
    source.entities |= {f"p{n}": {"id": f"p{n}", "n": n} for n in range(20)}
    return source.entities


class MappingFetcher:
    def __init__(self, entities):
        self._entities = entities

    def fetch(self, id, *, etag=None):
        value = self._entities.get(id)
        return Gone() if value is None else Found(dict(value))


def fetcher_of(source):
    return HTTPFetcher(source.url + "/products/{id}")


def test_a_page_is_looked_at_if_a_forgetful_sink_can_not_store_it_at_once():
    class Forgetful:
        def __init__(self):
            self.inner = MemorySink()
            self.entry, self.ids, self.state = self.inner.entry, self.inner.ids, self.inner.state
            self.set_state = self.inner.set_state
            self.past, self.seen = 0, []

        def apply(self, id, change, *, if_version):
            self.seen.append(change if id == "p0" else None)
            return self.inner.apply(id, change, if_version=if_version)

        def epoch(self):
            return f"epoch {self.past}"

    class Shown:
        def page(self, cursor):
            sink.past += cursor is None and not sink.past
            return Page(["p0", "p1"], {id: Found({"id": id}) for id in ("p0", "p1")}, None)

    sink = Forgetful()
    Backfill(Shown(), fetcher=MappingFetcher({"p1": {"id": "p1"}}), sink=sink).run()

    assert set(sink.seen) == {None, Gone()}


@pytest.mark.parametrize("way", ["page", "look in bulk"])
def test_a_backfill_brings_no_entity_back_that_was_deleted_before_a_loss(
    way, sink, server, source, products, monkeypatch
):
    """Its tombstone is lost, and that was noticed, when the backfill stores what it read."""
    calls, seen = [], []

    def lose():
        if not calls:
            calls.append(products.pop("p0"))
            look(sink, Gone(), "p0")
            flush(server)
            sink.epoch()

    class Shown:
        def page(self, cursor):
            found = {id: Found(dict(value)) for id, value in products.items()}
            if way != "look in bulk":
                lose()
            return Page(list(found), None if way == "look in bulk" else found, None)

    class Fetcher(MappingFetcher):
        if way == "look in bulk":

            def fetch_many(self, ids):
                found = {id: self.fetch(id) for id in ids}
                lose()
                return found

            bulk_size = 100

    write = sink._write

    def watched(*arguments):
        written = write(*arguments)
        seen.append(sink.get("p0"))
        return written

    monkeypatch.setattr(sink, "_write", watched)
    Backfill(Shown(), fetcher=Fetcher(products), sink=sink).run()

    assert seen
    assert not any(seen)
    assert dict(sink.items()) == products


@pytest.mark.parametrize("loss", ["flush", "restart"])
def test_a_worker_fills_its_cache_again_after_a_loss(
    loss, sink, server, source, products, make_worker, list_products, monkeypatch, caplog
):
    monkeypatch.setattr(own_backfill, "WATCH", 0.1)
    caplog.set_level(logging.INFO, "change_events")
    worker = make_worker(sink=sink, backfill=sorted(products))
    with running(worker):
        wait_until(lambda: worker.health().synced)
        assert (len(sink), worker.health().since_loss) == (20, None)
        snapshot(server)
        products["p0"] = {"id": "p0", "n": 100}  # acknowledged, and then lost
        worker.refresh("p0")
        if loss == "flush":
            flush(server)
        else:
            restart(server)

        wait_until(lambda: (sink.get("p0") or {}).get("n") == 100 and worker.health().synced)
        assert dict(sink.items()) == products
        assert worker.synced
        assert worker.health().since_loss < 60
    assert losses(caplog) == ["empty" if loss == "flush" else "restarted"]
    assert [getattr(each, "action", None) for each in caplog.records].count("filled") == 2


def test_a_worker_that_starts_after_a_loss_fills_its_cache_from_the_beginning(
    server, source, products, make_worker
):
    for _ in range(2):
        with RedisSink(server.url) as sink:
            worker = make_worker(sink=sink, backfill=sorted(products))
            assert not worker.synced
            with running(worker):
                wait_until(lambda: worker.health().synced)  # noqa: B023  # in this turn
            assert dict(sink.items()) == products
        snapshot(server)
        products["p1"] = {"id": "p1", "n": 100}
        restart(server)


class Pages:
    """A listing of twenty pages, one id each. Something happens before the page is read."""

    def __init__(self, before):
        self.asked = []
        self._before = dict(before)

    def page(self, cursor):
        at = int(cursor or 0)
        self.asked.append(at)
        self._before.pop(at, lambda: None)()
        return Page([f"p{at}"], None, cursor=None if at == 19 else str(at + 1))


@pytest.mark.parametrize("loss", ["flush", "restart", "restart at the end"])
def test_a_backfill_begins_again_if_the_cache_loses_something_meanwhile(
    loss, sink, server, source, products, caplog
):
    lose = flush if loss == "flush" else restart
    at = 19 if loss.endswith("end") else 7
    listing = Pages({4: partial(snapshot, server), at: partial(lose, server)})
    report = Backfill(listing, fetcher=fetcher_of(source), sink=sink).run()

    assert listing.asked[at + 1 :][-20:] == [*range(20)]
    assert (report.listed, report.failed) == (20, 0)
    assert dict(sink.items()) == products
    assert [r.getMessage() for r in caplog.records if r.action == "backfill"] == [
        "the backfill begins again, because the sink can have lost entities"
    ]


def test_a_backfill_that_was_stopped_goes_on_unless_something_was_lost(
    sink, server, source, products
):
    first = Pages({})
    backfill = Backfill(first, fetcher=fetcher_of(source), sink=sink)
    first._before[7] = backfill.stop
    with pytest.raises(RuntimeError, match="stopped"):
        backfill.run()
    snapshot(server)

    goes_on = Pages({})
    backfill = Backfill(goes_on, fetcher=fetcher_of(source), sink=sink)
    goes_on._before[9] = backfill.stop
    with pytest.raises(RuntimeError, match="stopped"):
        backfill.run()
    assert goes_on.asked[0] > 0

    restart(server)
    again = Pages({})
    Backfill(again, fetcher=fetcher_of(source), sink=sink).run()
    assert again.asked == [*range(20)]


def test_another_backfill_is_still_an_error(sink, source, products):
    def run_another():
        with pytest.raises(AlreadyRunningError):
            Backfill(Pages({}), fetcher=fetcher_of(source), sink=sink).run()

    listing = Pages({3: run_another})
    assert Backfill(listing, fetcher=fetcher_of(source), sink=sink).run().listed == 20


def test_a_sink_that_loses_nothing_has_no_epoch(source, products, make_worker):
    sink = MemorySink()
    worker = make_worker(sink=sink, backfill=sorted(products))
    with running(worker):
        wait_until(lambda: worker.health().synced)
        assert worker.health().since_loss is None
    assert dict(sink.items()) == products
