"""
A cut of the random simulation, and a check of its properties.

For each property, a rule of the production code is switched off, and the simulation must notice.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import subprocess
import sys
from collections import Counter, deque
from dataclasses import replace

import psutil
import pytest

from change_events import FetchError, Found, Gone, MemorySink, SNSPublisher, SQLiteSink, Unchanged
from change_events._consumer.acknowledgements import Acknowledgements
from change_events._consumer.breaker import Breaker
from change_events._consumer.deletions import Deletions
from change_events._consumer.experiment import Experiment
from change_events._consumer.guard import Guard, _Window
from change_events._consumer.inbox import Inbox
from change_events._consumer.intake import Intake, MessageReader
from change_events._consumer.looks import Looks, _Done
from change_events._consumer.queue import batches
from change_events._operations import auditor
from change_events._operations.comparing import Findings
from change_events._operations.dead_letters import Redrive
from change_events._operations.filling import Filling
from change_events._operations.letters import Letter
from change_events._producer.renewals import Renewals
from change_events._producer.sharing import SharedCalls, _Group
from change_events.sinks import memory
from verification.harness import ROOT
from verification.harness.parallel import results
from verification.harness.processes import wait_until
from verification.proof.simulation import CHECKS, play
from verification.proof.simulation.__main__ import command
from verification.proof.simulation._chance import latency
from verification.proof.simulation._setups import FAULTS, LATENCIES, drawn

# Coverage would trace the production code, which runs here millions of times.
pytestmark = pytest.mark.usefixtures("untraced")


@pytest.mark.parametrize("seed", range(8))
def test_the_promise_holds_in_a_random_world(seed):
    played = play(seed, writes=1500)

    assert played.broken is None, "\n".join([played.broken.text, *played.broken.story])
    assert played.counts["commits"] > 0
    assert played.counts["applies"] > 0


DONE = {
    "filled",
    "stored by pages",
    "rows changed by hand",
    "audited",
    "reported as wrong",
    "repaired",
    "letters settled in place",
    "operations killed",
}


def test_the_promise_holds_beside_backfills_audits_with_repair_and_redrives():
    counts = Counter()
    for seed in range(2, 8):
        played = play(seed, writes=800, operations=True)
        assert played.broken is None, "\n".join([played.broken.text, *played.broken.story])
        counts += played.counts

    assert counts.keys() >= DONE


def test_half_of_the_worlds_have_backfills_audits_and_redrives():
    assert 40 < sum(drawn(seed).operations for seed in range(100)) < 60


@pytest.fixture(params=["sqlite", "postgres", "dynamodb"])
def database(request):
    """Where a database sink keeps its cache."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres").get_uri()
    return request.getfixturevalue("aws") if request.param == "dynamodb" else request.param


@pytest.mark.parametrize("seed", range(2))
def test_the_promise_holds_in_a_random_world_with_a_database(database, seed):
    slow = database.startswith("http")  # the emulator of DynamoDB
    played = play(seed, writes=30 if slow else 150, sink=database)

    assert played.broken is None, "\n".join([played.broken.text, *played.broken.story])
    assert played.counts["applies"] > 0


def test_a_database_that_does_not_compare_versions_is_found_out(monkeypatch):
    plain_writes(monkeypatch, SQLiteSink)

    assert any(
        play(seed, writes=800, checks={"forward"}, sink="sqlite").broken for seed in range(100, 200)
    )


def test_some_worlds_keep_their_cache_in_a_file():
    assert {drawn(seed).sink for seed in range(100)} == {"memory", "sqlite"}


def test_some_worlds_have_gets_of_many():
    assert any(play(seed, writes=300).counts["gets of many"] for seed in range(8))


@pytest.mark.parametrize("operations", [False, True])
def test_a_seed_repeats_its_world(operations):
    first, again = (play(3, writes=600, operations=operations) for _ in range(2))

    assert first.counts == again.counts


# Each of these switches one rule of the production code off.


def no_broadcast(patch):
    patch.setattr(SNSPublisher, "publish", lambda *_: None)


def no_renewal_and_no_last_broadcast(patch):
    patch.setattr(Renewals, "renew_next", lambda *_: None)
    patch.setattr(Renewals, "announce_late", lambda *_: None)


def no_renewal_of_a_cancelled_save(patch):
    end = Renewals.end
    patch.setattr(Renewals, "end", lambda self, save, goes_on: end(self, save, goes_on=False))


def confirmation_of_a_failed_save(patch):
    from change_events import broadcasting

    end = broadcasting._end
    patch.setattr(
        broadcasting,
        "_end",
        lambda self, returned, goes_on: end(self, returned=True, goes_on=goes_on),
    )


def plain_writes(patch, sink=MemorySink):
    apply = sink.apply
    patch.setattr(
        sink,
        "apply",
        lambda self, id, change, if_version: apply(
            self, id, change, if_version=self.entry(id).version
        ),
    )


def no_version_for_what_is_unchanged(patch):
    apply = MemorySink.apply

    def lazy(self, id, change, if_version):
        if isinstance(change, Unchanged) and self.entry(id).version == if_version:
            return True
        return apply(self, id, change, if_version=if_version)

    patch.setattr(MemorySink, "apply", lazy)


def no_tombstone(patch):
    apply = MemorySink.apply

    def forgetful(self, id, change, if_version):
        applied = apply(self, id, change, if_version=if_version)
        if applied and isinstance(change, Gone):
            self._rows[id] = memory._UNTOUCHED
        return applied

    patch.setattr(MemorySink, "apply", forgetful)


def version_read_after_the_get(patch):
    def look(self, id, entry):
        fetcher, sink = self.settings.fetcher, self.settings.sink
        if self._begin_get([id]) is None:
            return None
        change = fetcher.fetch(id)
        entry = sink.entry(id)
        sink.apply(id, change, if_version=entry.version)
        return _Done(entry, change)

    patch.setattr(Looks, "_look", look)


def with_answers(patch, changed):
    """Let looks see every answer of the source changed."""

    class Changed:
        def __init__(self, fetcher):
            self._fetcher = fetcher

        def fetch(self, id, etag=None):
            return changed(lambda: self._fetcher.fetch(id, etag=etag))

        def fetch_many(self, ids):
            return self._fetcher.fetch_many(ids)

    init = Looks.__init__
    patch.setattr(
        Looks,
        "__init__",
        lambda self, *, settings, **rest: init(
            self, settings=replace(settings, fetcher=Changed(settings.fetcher)), **rest
        ),
    )


def an_error_means_gone(patch):
    def hasty(fetch):
        try:
            return fetch()
        except FetchError:
            return Gone()

    with_answers(patch, hasty)


def a_state_of_its_own(patch):
    def inventive(fetch):
        change = fetch()
        return Found(change.value + 1000, change.etag) if isinstance(change, Found) else change

    with_answers(patch, inventive)


def unless_it_fails(read_together):
    def read(self, ids):
        try:
            return read_together(self, ids)
        except Exception:
            return {}, set()

    return read


def what_is_left_out_is_gone(patch):
    def read_together(self, ids):
        entries = {id: self.settings.sink.entry(id) for id in ids}
        if self._begin_get(ids) is None:
            return None
        answer = self.settings.fetcher.fetch_many(ids)
        return {id: _Done(entry, answer.get(id, Gone())) for id, entry in entries.items()}, set()

    patch.setattr(Looks, "_read_together", unless_it_fails(read_together))


def versions_read_after_the_get_of_many(patch):
    def read_together(self, ids):
        if self._begin_get(ids) is None:
            return None
        answer = self.settings.fetcher.fetch_many(ids)
        sink = self.settings.sink
        return {id: _Done(sink.entry(id), answer[id]) for id in ids if id in answer}, set()

    patch.setattr(Looks, "_read_together", unless_it_fails(read_together))


def acknowledge(part, events):
    """Acknowledge at once."""
    for batch in batches([event.receipt_handle for event in events]):
        part.visibility.queue.delete(batch)


def what_is_left_out_is_settled(patch):
    def look_alone(self, ids):
        with self.consumer as desk:
            settled = [event for id in ids for event in desk.inbox.settle(id)]
        acknowledge(self, settled)

    patch.setattr(Looks, "_look_alone", look_alone)


def the_early_look_settles(patch):
    held = MessageReader._held

    def impatient(self, *arguments):
        event = held(self, *arguments)
        event.hold = 0.0
        return event

    patch.setattr(MessageReader, "_held", impatient)


def an_event_joins_a_get_under_way(patch):
    settle = Inbox.settle

    def joined(self, id):
        group = self._groups[id]
        group.frozen = list(group.events.values())
        group.get_started = max(group.get_started, *(event.due for event in group.frozen))
        return settle(self, id)

    patch.setattr(Inbox, "settle", joined)


def acknowledged_on_receipt(patch):
    read = MessageReader.read

    def hasty(self, messages, *, delay):
        events, undecided = read(self, messages, delay=delay)
        received.extend(events)
        return events, undecided

    receive = Intake.receive

    def receive_and_acknowledge(self, *, wait):
        number = receive(self, wait=wait)
        events, received[:] = received.copy(), []
        acknowledge(self, events)
        return number

    received = []
    patch.setattr(MessageReader, "read", hasty)
    patch.setattr(Intake, "receive", receive_and_acknowledge)


def a_failed_look_is_forgotten(patch):
    def failed(self, id, error):
        with self.consumer as desk:
            desk.inbox.freeze(id, self.clock() + 1e6)
            events = desk.inbox.settle(id)
        acknowledge(self, events)

    patch.setattr(Looks, "_failed", failed)


def every_failure_is_the_ids_own(patch):
    failed = Experiment.failed
    patch.setattr(Experiment, "failed", lambda *given, held: failed(*given, held=held) and None)
    patch.setattr(Experiment, "can_tell", lambda *_: False)
    patch.setattr(Breaker, "count", lambda *_, own: False)


def no_guard(patch):
    patch.setattr(Guard, "allows_deletion", lambda *_, **__: True)


def the_guard_forgets_at_each_start(patch):
    patch.setattr(Deletions, "_with_state", lambda _, ask: ask())
    patch.setattr(Deletions, "learn", lambda _: None)


def what_was_found_hides_what_others_have_deleted(patch):
    load = _Window.load

    def later(self, stored):
        stored = list(stored)
        load(self, stored)
        self._all = deque([*stored, *self._own], maxlen=100)

    patch.setattr(_Window, "load", later)
    no_look_of_its_own_counts(patch)


def no_look_of_its_own_counts(patch):
    init = Guard.__init__

    def forgetful(self, **settings):
        init(self, **settings)
        self._mine = deque(maxlen=0)

    patch.setattr(Guard, "__init__", forgetful)


def an_id_counts_once_however_often_it_is_deleted(patch):
    allows = Guard.allows_deletion
    patch.setattr(
        Guard,
        "allows_deletion",
        lambda self, left, entry: allows(self, left, entry=(entry[0], 0)),
    )


def nothing_is_acknowledged(patch):
    patch.setattr(Acknowledgements, "delete", lambda *_: [])


def a_page_is_stored_at_a_version_read_after_it(patch):
    def store(self, page):
        return {
            id
            for id, each in (page.found or {}).items()
            if self._sink.apply(id, each, if_version=self._sink.entry(id).version)
        }

    patch.setattr(Filling, "_store", store)


def the_cursor_is_saved_before_its_page_is_stored(patch):
    store = Filling._store

    def hasty(self, page):
        self._save(
            phase="unlisted" if page.cursor is None else "listing",
            cursor=page.cursor,
            pages=self._kept.values["pages"] + 1,
        )
        return store(self, page)

    patch.setattr(Filling, "_store", hasty)


def what_is_not_listed_is_deleted_without_a_look(patch):
    look = Filling._look

    def hasty(self, ids):
        if self._kept.values["phase"] == "listing":
            look(self, ids)
            return
        for id in ids:
            self._sink.apply(id, Gone(), if_version=self._sink.entry(id).version)

    patch.setattr(Filling, "_look", hasty)


def an_audit_without_its_second_reading(patch):
    judge = Findings.judge
    patch.setattr(Findings, "judge", lambda self, id, first, _: judge(self, id, first, first))


def a_repair_trusts_the_digest(patch):
    look = auditor.guarded_look

    def trusting(id, *, force, **rest):
        return look(id, **rest)

    patch.setattr(auditor, "guarded_look", trusting)


def a_letter_is_deleted_before_its_look(patch):
    settle = Redrive._settle

    def hasty(self, letters, stop):
        self.hand.settle([each.message_id for each in letters], flush=True)
        settle(self, letters, stop)

    patch.setattr(Redrive, "_settle", hasty)


def every_look_settles_a_letter(patch):
    of = Letter.of

    def hasty(message, event, *, settle, received):
        letter = of(message, event, settle=settle, received=received)
        return replace(letter, due=received, old_from=-math.inf)

    patch.setattr(Letter, "of", hasty)


def a_save_goes_on_before_its_shared_call_is_over(patch):
    def hasty(self, messages):
        own = _Group(self._new_lock)
        with own.under_way:
            group, position = self._joined(own, messages)
            if group is own:
                self._lead(own)
        whys = group.whys or [None] * len(group.messages)
        return whys[position : position + len(messages)]

    patch.setattr(SharedCalls, "_sent_with_others", hasty)


def a_save_takes_the_answer_for_another_in_its_shared_call(patch):
    joined = SharedCalls._joined
    patch.setattr(SharedCalls, "_joined", lambda *each: (joined(*each)[0], 0))


USUAL = {"writes": 800, "sink": "memory", "operations": False, "shares_calls": False}
USUAL |= {"finds_limit": False}  # the seeds were found with as many GETs as there are threads

SHARING = {"shares_calls": True, "services": 1, "rate": 300.0, "faults": FAULTS}

LIKELY = {
    "guarded": {
        "writes": 1000,
        "guard": True,
        "workers": 3,
        "ids": 300,
        "zipf": 0.6,
        "rate": 150.0,
        "many": 0.0,
        "threads": 10,
        "settle": 1.0,
        "worker_settle": 1.0,
        "early_look": True,
        "queue_delay": 0.0,
        "faults": FAULTS,
    },
    "patient": {
        "writes": 300,
        "ids": 300,
        "rate": 10.0,
        "faults": replace(FAULTS, outages_per_second=1 / 3, cache_outages_per_second=1 / 3),
    },
    "versions_read_after_the_get_of_many": {
        "bulk": 50,
        "workers": 3,
        "threads": 10,
        "ids": 30,
        "rate": 300.0,
    },
    "a_save_goes_on_before_its_shared_call_is_over": SHARING,
    "a_save_takes_the_answer_for_another_in_its_shared_call": SHARING,
    "quiet": {"writes": 60},  # it shows only after hours of virtual time
    "a_page_is_stored_at_a_version_read_after_it": {
        "operations": True,
        "writes": 1000,
        "ids": 300,
        "zipf": 0.6,
        "rate": 150.0,
        "early_look": True,
        "unique_states": True,
        "guard": False,
        "workers": 3,
        "threads": 10,
    },
    "the_cursor_is_saved_before_its_page_is_stored": {
        "operations": True,
        "writes": 300,
        "ids": 300,
        "rate": 10.0,
        "latencies": replace(LATENCIES, sink=latency(0.3)),
        "guard": False,
    },
    "what_is_not_listed_is_deleted_without_a_look": {"operations": True},
    "an_audit_without_its_second_reading": {"operations": True},
    "a_repair_trusts_the_digest": {"operations": True},
    "a_letter_is_deleted_before_its_look": {"operations": True},
    "every_look_settles_a_letter": {
        "operations": True,
        "writes": 600,
        "ids": 30,
        "rate": 10.0,
        "settle": 12.0,
        "queue_delay": 0.0,
        "guard": False,
        "faults": replace(FAULTS, undelivered=0.2),
    },
}
"""Worlds in which a property, or a rule that is switched off, is soon missed."""

CAUGHT = [
    ("announced", no_broadcast, 223),
    ("announced", no_renewal_and_no_last_broadcast, 2),
    ("announced", a_save_goes_on_before_its_shared_call_is_over, 223),
    ("announced", a_save_takes_the_answer_for_another_in_its_shared_call, 0),
    ("forward", plain_writes, 16),
    ("forward", version_read_after_the_get, 116),
    ("committed", a_state_of_its_own, 0),
    ("version", no_version_for_what_is_unchanged, 223),
    ("version", no_tombstone, 0),
    ("evidence", an_error_means_gone, 4),
    ("evidence", what_is_left_out_is_gone, 121),
    ("forward", versions_read_after_the_get_of_many, 116),
    ("look", what_is_left_out_is_settled, 13),
    ("look", the_early_look_settles, 223),
    ("look", an_event_joins_a_get_under_way, 223),
    ("look", acknowledged_on_receipt, 223),
    ("look", a_failed_look_is_forgotten, 223),
    ("announced", no_renewal_of_a_cancelled_save, 333),
    ("pending", confirmation_of_a_failed_save, 61),
    ("pending", no_renewal_and_no_last_broadcast, 88),
    ("pending", acknowledged_on_receipt, 223),
    ("pending", the_early_look_settles, 6),
    ("patient", every_failure_is_the_ids_own, 223),
    ("guarded", no_guard, 0),
    ("guarded", the_guard_forgets_at_each_start, 28),
    ("guarded", what_was_found_hides_what_others_have_deleted, 0),
    ("guarded", an_id_counts_once_however_often_it_is_deleted, 16),
    ("forward", a_page_is_stored_at_a_version_read_after_it, 37),
    ("filled", the_cursor_is_saved_before_its_page_is_stored, 317),
    ("evidence", what_is_not_listed_is_deleted_without_a_look, 100),
    ("audited", an_audit_without_its_second_reading, 101),
    ("audited", a_repair_trusts_the_digest, 2),
    ("look", a_letter_is_deleted_before_its_look, 9),
    ("pending", a_letter_is_deleted_before_its_look, 122),
    ("look", every_look_settles_a_letter, 111),
    ("quiet", nothing_is_acknowledged, 115),
    ("equal", no_broadcast, 122),
    ("equal", acknowledged_on_receipt, 122),
]
"""Properties, rules that are switched off, and seeds of worlds in which that shows early."""


def test_no_property_is_missed_while_workers_find_their_limit():
    broken = [
        played.broken
        for seed in range(6)
        if (played := play(seed, **USUAL | {"finds_limit": True}))
    ]

    assert broken == [None] * 6


@pytest.mark.parametrize(
    ("check", "mutation", "seed"),
    [pytest.param(*each, id=f"{each[0]}-{each[1].__name__}") for each in CAUGHT],
)
def test_a_rule_that_is_switched_off_breaks_a_property(monkeypatch, check, mutation, seed):
    mutation(monkeypatch)
    setup = USUAL | LIKELY.get(check, {}) | LIKELY.get(mutation.__name__, {})

    broken = next(
        (
            played.broken
            for each in (seed, *range(200))
            if (played := play(each, checks={check}, **setup)).broken
        ),
        None,
    )

    assert broken is not None
    assert broken.check == check
    assert any("VIOLATION" in line for line in broken.story)


def test_every_property_has_a_rule_that_breaks_it():
    assert {check for check, _, _ in CAUGHT} == CHECKS.keys()


def test_the_command_prints_the_result_of_a_world(capsys):
    assert command(["--seed", "1", "--world", "300", "--trace", "p0"]) == 0

    printed = capsys.readouterr().out
    assert "300 writes, no violation" in printed
    assert "APPLIED" in printed


def test_the_command_prints_the_story_of_a_violation(capsys, monkeypatch):
    the_early_look_settles(monkeypatch)

    assert command(["--writes", "60000", "--world", "600", "--processes", "1"]) == 1

    printed = capsys.readouterr().out
    assert "VIOLATION of 'look'" in printed
    assert "again: python -m verification.proof.simulation --seed" in printed


def test_the_help_lists_every_property(capsys):
    with contextlib.suppress(SystemExit):
        command(["--help"])

    printed = capsys.readouterr().out
    assert all(check in printed for check in CHECKS)


def test_a_run_that_is_ended_leaves_no_process():
    command = [sys.executable, "-m", "verification.proof.simulation", "--world", "500"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = []
    try:
        wait_until(lambda: len(psutil.Process(run.pid).children(recursive=True)) >= 2, 60)
        children = psutil.Process(run.pid).children(recursive=True)
        run.terminate()
        status = run.wait(60)
        left = psutil.wait_procs(children, timeout=10)[1]
    finally:
        run.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    assert status == 130
    assert left == []


def test_ctrl_c_while_processes_start_ends_them(monkeypatch):
    start = multiprocessing.context.SpawnProcess.start

    def start_and_interrupt(process):
        start(process)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start_and_interrupt)

    with pytest.raises(KeyboardInterrupt):
        next(results(abs, [-1, -2], processes=2))

    assert multiprocessing.active_children() == []
