"""A mass deletion is refused, and stops the worker until an operator says `resume`."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hands import URL, Hands, message, opened, outage_log

from change_events import Entry, FetchError, Found, Gone, MassDeletionError, MemorySink, Worker
from change_events._consumer.backoff import is_own
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._consumer.look import digest
from change_events.testing import FakeSource


class PlainSink:
    """Does no more than each sink must."""

    def __init__(self, sink):
        self.entry, self.apply = sink.entry, sink.apply


@pytest.fixture
def hands():
    return opened()


@pytest.fixture
def wiped():
    """Hands that have looked at thirty of sixty cached entities. The source knows none of them."""
    hands = Hands(settle=0.0)
    hands.settled = wipe(hands)
    return hands


def wipe(hands):
    hands.intake.ask_delay()
    for n in range(60):
        assert hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    for n in range(30):
        hands.receive(message(f"p{n}", n))
    begun = [hands.next() for _ in range(30)]
    return [len(hands.look_at(id)) for id in begun]


def test_the_twentieth_deletion_in_a_row_and_all_that_follow_are_refused(wiped):
    assert wiped.settled == [1] * 19 + [0] * 11
    assert len(wiped.sink) == 60 - 19
    assert len(wiped.held()) == 11
    assert wiped.queue.hidden == []
    counts = wiped.counts()
    assert (counts["deleted"], counts["held"], counts.get("failed")) == (19, 11, None)


def test_a_refused_mass_deletion_is_logged_once_as_critical(wiped, caplog):
    (record,) = [
        record for record in caplog.get_records("setup") if record.levelno == logging.CRITICAL
    ]
    assert record.action == "mass_deletion"
    assert record.getMessage() == (
        "20 of the last 20 looks at cached entities saw them gone. Nothing more is deleted or "
        f"received. If the source is wrong, correct it, or the URL of {wiped.source!r}, and start "
        "the worker again. If the entities are meant to be gone, call Worker.resume(), send the "
        "worker SIGUSR1, or start it with allow_mass_deletion=True"
    )
    assert str(wiped.halted) == record.getMessage()


def test_of_two_looks_that_are_refused_at_once_one_logs(caplog):
    others = ["p1"]

    class Turn:
        """It is another look's turn first."""

        def acquire(self, timeout):
            if others:
                id = others.pop()
                assert deletions.refused(id, sink.entry(id))
            return True

        def release(self):
            pass

    sink = full(2)
    deletions = deletions_of(sink, Guard(min_deleted=1, max_share=0.0), one_at_a_time=Turn())

    assert deletions.refused("p0", sink.entry("p0"))
    assert [record.action for record in caplog.records] == ["mass_deletion"]


def test_a_look_that_is_refused_later_logs_nothing_more(caplog):
    sink = full(2)
    deletions = deletions_of(sink, Guard(min_deleted=1, max_share=0.0))

    refusals = [deletions.refused(id, sink.entry(id)) for id in sink.ids()]

    assert None not in refusals
    assert [record.action for record in caplog.records] == ["mass_deletion"]


def test_nothing_is_received_or_looked_at_from_a_refused_deletion_until_resume(wiped):
    wiped.receive(message("new", 99))
    assert not wiped.may_receive()
    assert (wiped.next(), wiped.next_at()) == (None, None)

    wiped.resume()

    assert wiped.changes[-1] == 1
    assert wiped.may_receive()
    looked = [id for _ in range(12) if wiped.look_at(id := wiped.next())]
    assert len(looked) == 12
    assert len(wiped.sink) == 30


def test_the_worker_is_paused_by_mass_deletion_until_resume(wiped):
    assert wiped.pauses.why == "mass deletion"

    wiped.resume()
    assert wiped.pauses.why is None


def test_a_run_that_begins_after_a_refused_mass_deletion_is_paused_from_its_start():
    guard = Guard(max_share=0.0, min_deleted=1)
    assert not guard.allows_deletion()

    hands = Hands(guard=guard)
    assert hands.pauses.why == "mass deletion"

    hands.resume()
    assert hands.pauses.why is None


def test_looks_at_ids_that_are_not_cached_do_not_count_as_deletions():
    hands = Hands(settle=0.0)
    hands.guard.found(cached=False)
    for n in range(50):
        hands.receive(message(f"p{n}", n))
        hands.look(f"p{n}")

    assert hands.counts()["never_saved"] == 50


def test_looks_that_find_an_entity_count_against_a_mass_deletion(hands):
    for n in range(60):
        hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
        if n % 2 == 0:
            hands.source[f"p{n}"] = {"id": f"p{n}"}
        hands.receive(message(f"p{n}", n))
    for _ in range(60):
        hands.look_at(hands.next())

    assert hands.counts()["deleted"] == 30


def test_a_refused_deletion_ends_an_outage(wiped, caplog):
    wiped.resume()
    wiped.source.fail()
    while not wiped.desk.breaker.open:
        wiped.now = wiped.next_at()
        wiped.look_at(wiped.next())
    wiped.source.recover()
    wiped.guard.__init__(min_deleted=1)
    wiped.sink.set_state("guard", "", if_state=wiped.sink.state("guard"))
    wiped.now = wiped.next_at()
    wiped.look_at(wiped.next())

    assert wiped.next_at() is None  # refused
    assert [record.over for record in outage_log(caplog)] == [False, True]
    wiped.resume()
    assert wiped.next_at() == wiped.now
    assert wiped.may_receive()


# What is kept


def test_after_a_restart_no_deletion_is_believed_while_the_source_is_wrong(wiped):
    later = Hands(sink=wiped.sink, settle=0.0)
    assert later.may_receive()

    later.receive(message("p50", 99))
    assert later.look("p50") == []

    assert later.pauses.why == "mass deletion"
    assert len(wiped.sink) == 60 - 19


def test_after_a_restart_with_the_right_source_the_worker_goes_on(wiped):
    later = Hands(sink=wiped.sink, settle=0.0)
    for number in range(40):
        id = f"p{30 + number % 20}"
        later.source[id] = {"id": id}
        later.receive(message(id, number))
        assert len(later.look(id)) == 1

    later.receive(message("p55", 99))
    assert len(later.look("p55")) == 1
    assert wiped.sink.get("p55") is None


def test_without_a_sink_that_keeps_state_a_later_process_counts_from_zero(wiped):
    hands = Hands(sink=PlainSink(wiped.sink), settle=0.0)

    hands.receive(message("p50", 99))
    assert len(hands.look("p50")) == 1


def asked(sink, ids):
    """Ask a guard whether these ids may be deleted, and delete none."""
    deletions = Deletions(Guard(), sink, "source", lock=threading.Lock())
    return [deletions.refused(id, sink.entry(id)) is None for id in ids]


def test_a_deletion_that_is_asked_for_again_counts_once():
    assert all(asked(full(30), ["p1"] * 1000))


def test_an_entity_that_came_back_counts_again():
    sink = full(60)
    deletions = deletions_of(sink)
    allowed = 0
    for _ in range(30):
        if deletions.refused("p1", sink.entry("p1")) is None:
            allowed += 1
            sink.apply("p1", Gone(), if_version=sink.entry("p1").version)
            sink.apply("p1", Found({}), if_version=sink.entry("p1").version)

    assert allowed == 19


def test_an_id_whose_deletion_is_asked_for_again_is_still_there():
    ids = ["p1", "p2", "p3", "p4", "p5", "p5"]

    assert asked(full(10), ids) == [True] * 6
    assert asked(full(9), ids) == [True] * 4 + [False] * 2


def test_a_cache_is_as_large_as_all_pages_of_its_ids():
    assert all(asked(full(41), [f"p{n}" for n in range(10)]))


def full(number):
    sink = MemorySink()
    for n in range(number):
        assert sink.apply(f"p{n}", Found({}), if_version=0)
    return sink


def test_looks_by_hand_count_each_by_its_own_id():
    deletions = deletions_of(full(2), guard := Guard())
    for id in ("p0", "p1", "p1"):
        deletions.require(id, Entry(version=7, present=True))
    assert guard.gone == 2

    deletions.found(cached=True)

    assert str(guard).startswith("2 of the last 3 looks")


def test_a_drain_ends_with_what_a_look_by_hand_was_refused(hands):
    for n in range(30):
        hands.sink.apply(f"p{n}", Found({}), if_version=0)

    def delete_all():
        for id in hands.sink.ids():
            hands.looks.look_by_hand(id)

    with pytest.raises(MassDeletionError) as caught:
        delete_all()

    assert hands.halted is caught.value


def test_early_looks_that_find_what_is_cached_count_against_a_mass_deletion(hands):
    entity = {"id": "p1"}
    hands.source["p1"] = entity
    hands.sink.apply("p1", Found(entity, digest=digest(entity)), if_version=0)
    hands.receive(message())
    hands.look()

    assert hands.counts()["too_early"] == 1
    assert str(hands.guard).startswith("0 of the last 1 looks")


def test_processes_that_delete_at_the_same_moment_delete_no_more_than_one():
    sink = full(100)
    processes = [Deletions(Guard(), sink, "source", lock=threading.Lock()) for _ in range(10)]
    meet = threading.Barrier(len(processes))

    def ask(process):
        meet.wait()
        first = 10 * processes.index(process)
        return [process.refused(id, sink.entry(id)) for id in sink.ids()[first : first + 10]]

    with ThreadPoolExecutor(len(processes)) as pool:
        refusals = [each for some in pool.map(ask, processes) for each in some]

    assert refusals.count(None) == 19


def deletions_of(sink, guard=None, **settings):
    return Deletions(guard or Guard(), sink, "source", lock=threading.Lock(), **settings)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (False, RuntimeError, "has refused to store the guard's state 3 times"),
        (None, TypeError, r"MemorySink.set_state\(\) must return True or False, not None"),
    ],
)
def test_a_sink_that_never_stores_is_told_of(monkeypatch, answer, error, says):
    monkeypatch.setattr("change_events._consumer.deletions.ATTEMPTS", 3)
    sink = full(1)
    sink.set_state = lambda *_, **__: answer

    with pytest.raises(error, match=says):
        deletions_of(sink).refused("p0", sink.entry("p0"))


def test_processes_that_share_a_small_cache_delete_half_of_it_though_none_has_deleted_yet():
    sink = full(10)
    processes = [deletions_of(sink) for _ in range(10)]

    refusals = [each.refused(f"p{n}", sink.entry(f"p{n}")) for n, each in enumerate(processes)]

    assert refusals.count(None) <= 5


def share(deletions, *meanwhile):
    """Share what is known, and let this happen between two times."""
    steps = iter(meanwhile)

    def pause(seconds):
        step = next(steps, None)
        if step is not None:
            step()
        return step is None

    deletions.share(pause)


def test_what_a_resume_allows_ends_with_what_is_found_though_nothing_more_is_deleted():
    sink, guard = full(200), Guard()
    worker = deletions_of(sink, guard)
    for n in range(20):
        worker.refused(f"p{n}", sink.entry(f"p{n}"))
    guard.resume()

    def find():
        for _ in range(100):
            guard.found(cached=True)

    share(worker, find)

    later = deletions_of(sink)
    assert [later.refused(id, sink.entry(id)) for id in sink.ids()].count(None) == 50


def test_a_worker_that_refuses_goes_on_once_another_one_was_told_to():
    sink = full(100)
    guards = Guard(), Guard()
    one, other = (deletions_of(sink, guard) for guard in guards)
    for n in range(20):
        one.refused(f"p{n}", sink.entry(f"p{n}"))
    other.refused("p99", sink.entry("p99"))
    assert [guard.tripped for guard in guards] == [True, True]

    def resume():
        guards[1].resume()
        other.keep()

    share(one)
    assert guards[0].tripped
    share(one, resume)
    assert not guards[0].tripped


class Noting(MemorySink):
    """Notes how often its state is read and stored; it can refuse to store any."""

    def __init__(self):
        super().__init__()
        self.reads, self.writes, self.is_broken = 0, 0, False

    def state(self, name):
        self.reads += 1
        return super().state(name)

    def set_state(self, name, text, *, if_state):
        self.writes += 1
        if self.is_broken:
            raise OSError("no space left on device")
        return super().set_state(name, text, if_state=if_state)


def test_what_others_have_counted_is_learned_once():
    sink, guard = Noting(), Guard()
    for n in range(10):
        sink.apply(f"p{n}", Found({}), if_version=0)
    other = deletions_of(sink)
    for n in range(4):
        other.refused(f"p{n}", sink.entry(f"p{n}"))
    deletions = deletions_of(sink, guard)
    before = sink.reads
    for _ in range(3):
        deletions.learn()

    assert sink.reads - before == 1
    assert guard.few  # four deletions: from now on, the size of the cache matters


@pytest.mark.parametrize("on", [True, False])
def test_without_a_guard_or_without_state_nothing_is_learned_or_kept(on, caplog):
    sink, plain = Noting(), PlainSink(full(1))
    deletions = deletions_of(plain if on else sink, Guard(on=on))
    deletions.learn()
    deletions.keep()

    assert (sink.reads, sink.writes) == (0, 0)
    assert caplog.records == []


def test_what_is_new_is_kept_once_there_is_so_much_of_it():
    sink, guard = Noting(), Guard()
    deletions = deletions_of(sink, guard)
    guard.found(cached=True)
    deletions.keep(at_least=2)
    assert sink.writes == 0

    guard.found(cached=True)
    deletions.keep(at_least=2)
    assert sink.writes == 1


def test_one_look_is_shared_once_a_minute_and_a_sink_that_refuses_it_is_asked_again():
    sink, guard, waits = Noting(), Guard(), []
    sink.is_broken = True
    guard.found(cached=True)

    def pause(seconds):
        waits.append(seconds)
        sink.is_broken = False
        return len(waits) == 2

    deletions_of(sink, guard).share(pause)

    assert waits == [60.0, 60.0]
    assert sink.writes == 2  # and once it is stored, no more
    assert guard.unkept == 0


@pytest.mark.parametrize("guard", [Guard(on=False), Guard()])
def test_nothing_is_shared_without_a_guard_or_without_state(guard):
    def fail(*_):
        raise AssertionError

    deletions_of(full(1) if not guard.on else PlainSink(full(1)), guard).share(fail)


def test_a_sink_that_hangs_when_a_worker_starts_keeps_no_deletion_waiting():
    sink, gate, hangs = full(60), threading.Event(), threading.Event()
    state = sink.state

    def hang(name):
        sink.state = state
        hangs.set()
        assert gate.wait(20)
        return state(name)

    sink.state = hang
    deletions = deletions_of(sink)
    thread = threading.Thread(target=deletions.learn)
    thread.start()
    assert hangs.wait(20)

    assert [deletions.refused(f"p{n}", sink.entry(f"p{n}")) for n in range(19)].count(None) == 19
    gate.set()
    thread.join()
    assert deletions.refused("p20", sink.entry("p20")) is not None


def test_what_a_worker_reads_at_its_start_is_forgotten_if_it_has_read_something_newer():
    sink, guard, gate, hangs = full(60), Guard(), threading.Event(), threading.Event()
    assert deletions_of(sink).refused("p0", sink.entry("p0")) is None
    state = sink.state

    def read_and_hang(name):
        sink.state = state
        text = state(name)
        hangs.set()
        assert gate.wait(20)
        return text

    sink.state = read_and_hang
    deletions = deletions_of(sink, guard)
    thread = threading.Thread(target=deletions.learn)
    thread.start()
    assert hangs.wait(20)
    for n in range(1, 10):
        assert deletions.refused(f"p{n}", sink.entry(f"p{n}")) is None
    gate.set()
    thread.join()

    assert guard.few  # it knows of ten deletions, not of one


def test_a_look_waits_for_half_a_minute_while_the_sink_keeps_another_one_waiting(monkeypatch):
    monkeypatch.setattr("change_events._consumer.deletions.PATIENCE", 0.01)
    sink, turn = full(1), threading.Lock()
    deletions = deletions_of(sink, one_at_a_time=turn)

    with turn, pytest.raises(FetchError, match="waiting for the state 'guard'") as caught:
        deletions.refused("p0", sink.entry("p0"))

    assert not is_own(caught.value)
    assert deletions.refused("p0", sink.entry("p0")) is None


def test_after_a_restart_a_cache_that_has_entities_is_not_empty(caplog):
    sink = full(60)
    wiped = deletions_of(sink)
    for n in range(20):
        wiped.refused(f"p{n}", sink.entry(f"p{n}"))
    later = Hands(sink=sink, settle=0.0)
    later.looks.deletions.learn()
    for n in range(30):
        later.receive(message(f"never saved {n}", n))
        later.look(f"never saved {n}")

    assert later.counts()["never_saved"] == 30


def test_a_worker_that_could_not_learn_what_was_deleted_learns_it_later():
    sink, guard = full(60), Guard()
    wiped = deletions_of(sink)
    for n in range(20):
        wiped.refused(f"p{n}", sink.entry(f"p{n}"))
    state = sink.state
    sink.state = lambda _: 1 / 0

    def recover():
        sink.state = state

    def find():
        for _ in range(60):
            guard.found(cached=True)

    later = deletions_of(sink, guard)
    share(later, recover, find)

    assert later.refused("p50", sink.entry("p50")) is None


class Counted(MemorySink):
    """Notes what it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __len__(self):
        self.asked.append("len")
        return super().__len__()

    def ids(self, *, after=None, limit=1000):
        self.asked.append(limit)
        raise PermissionError("no Scan")


def test_a_sink_is_not_asked_for_its_size_and_can_refuse_to_name_its_ids(caplog):
    sink = Counted()
    hands = Hands(sink=sink, settle=0.0)
    for n in range(30):
        sink.apply(f"p{n}", Found({}), if_version=0)
        hands.receive(message(f"p{n}", n))
    settled = [len(hands.look_at(id)) for id in [hands.next() for _ in range(30)]]

    assert settled == [1] * 19 + [0] * 11  # as if the cache were large
    assert set(sink.asked) <= set(range(1, 41))  # a page, and never the length
    assert [record.action for record in caplog.records].count("ids") == 1


def test_a_sink_that_can_not_name_its_ids_is_not_asked_for_them(caplog):
    sink = full(30)
    deletions = deletions_of(PlainSink(sink))

    assert [deletions.refused(id, sink.entry(id)) for id in sink.ids()].count(None) == 19
    assert "ids" not in {record.action for record in caplog.records}


def test_a_small_cache_loses_at_most_half_of_its_entities():
    hands = Hands(settle=0.0)
    for n in range(10):
        hands.sink.apply(f"p{n}", Found({}), if_version=0)
        hands.receive(message(f"p{n}", n))
    for _ in range(10):
        if id := hands.next():
            hands.look_at(id)

    assert len(hands.sink) == 5
    assert hands.halted is not None


@pytest.mark.parametrize("found", [0, 10, 1000])
def test_a_small_cache_loses_at_most_half_of_its_entities_whatever_was_found_before(found):
    sink, guard = full(19), Guard()
    for _ in range(found):
        guard.found(cached=True)
    deletions = deletions_of(sink, guard)
    for id in sink.ids():
        if deletions.refused(id, sink.entry(id)) is None:
            sink.apply(id, Gone(), if_version=sink.entry(id).version)

    assert len(sink) == 10


def test_a_small_cache_whose_entities_come_and_go_is_not_stopped():
    sink, guard = full(10), Guard()
    deletions = deletions_of(sink, guard)
    for n in range(200):
        id = f"p{n % 10}"
        if n % 4:
            guard.found(cached=True)
        else:
            assert deletions.refused(id, sink.entry(id)) is None
            sink.apply(id, Gone(), if_version=sink.entry(id).version)
            sink.apply(id, Found({}), if_version=sink.entry(id).version)


# An empty cache


def test_a_small_cache_loses_at_most_half_although_deletions_are_allowed_before_others_are_stored():
    sink = MemorySink()
    for n in range(19):
        assert sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    deletions = Deletions(Guard(), sink, "source", lock=threading.Lock())

    refusals = [deletions.refused(id, sink.entry(id)) for id in sink.ids()]

    assert refusals.count(None) == 9


def test_an_empty_cache_warns_after_three_unknown_ids_and_believes_nothing_after_twenty(caplog):
    hands = Hands(settle=0.0)
    for n in range(30):
        hands.receive(message(f"p{n}", n))
        if id := hands.next():
            hands.look_at(id)

    warning, refusal = [record for record in caplog.records if record.levelno > logging.INFO]
    assert (warning.action, warning.ids, warning.levelno) == ("unknown", 3, logging.WARNING)
    assert repr(hands.source) in warning.getMessage()
    assert refusal.action == "mass_deletion"
    assert hands.counts()["never_saved"] == 19
    assert len(hands.held()) == 11


def test_a_cache_that_has_entities_is_not_empty_though_this_worker_has_found_none(caplog):
    hands = Hands(settle=0.0)
    hands.sink.apply("cached", Found({}), if_version=0)
    for n in range(30):
        hands.receive(message(f"p{n}", n))
        hands.look(f"p{n}")

    assert hands.counts()["never_saved"] == 30
    assert caplog.records == []


def test_a_tombstone_is_neither_deleted_nor_unknown():
    hands = Hands(settle=0.0)
    hands.sink.apply("p1", Gone(), if_version=0)
    hands.receive(message())
    hands.look()

    assert hands.guard.is_new
    assert hands.counts()["unchanged"] == 1


# Going on


def test_resume_does_not_wait_for_the_sink_and_logs_what_it_raises(wiped, caplog):
    wiped.sink.set_state = lambda *_, **__: 1 / 0

    wiped.resume()

    assert wiped.may_receive()
    assert "the sink has not kept what resume() said: division by zero" in caplog.text


def test_resume_goes_on_without_a_thread_to_store_it(wiped):
    def full(role, target):
        raise RuntimeError("can't start new thread")

    wiped.threads.start = full

    wiped.resume()

    assert wiped.may_receive()


def test_resume_with_a_sink_that_keeps_no_state_only_goes_on():
    sink = MemorySink()

    hands = Hands(sink=PlainSink(sink), settle=0.0, guard=Guard(max_share=0.0, min_deleted=1))
    sink.apply("p1", Found({}), if_version=0)
    hands.receive(message("p1", 1))
    assert hands.look("p1") == []

    hands.resume()

    assert hands.may_receive()


def test_a_worker_that_has_refused_nothing_stores_nothing_on_resume():
    sink = MemorySink()

    Worker(URL, fetcher=FakeSource(), sink=sink).resume()

    assert sink.state("guard") is None
