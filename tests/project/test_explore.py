"""
A cut of the exhaustive walk, and all mutants.

The cut has all schedules of one save and one fault; of two saves of an entity that is there, the
first one a put; and of a put and one more save that raises: for some set-ups each, on two workers.
Each mutant is a rule that the promise rests on, switched off in the production code; the walk must
find a violation.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from change_events import ChangeEvent
from change_events._consumer import inbox
from verification.harness import ROOT
from verification.harness.docs import EXPLANATION
from verification.proof import exhaustive
from verification.proof.effects import ID, SETTLE, Message, Setup, Violation
from verification.proof.exhaustive import (
    BACKFILL,
    BACKFILL_SAMPLE,
    BULK,
    BULK_DELAYED,
    LATE,
    PAIRS,
    RAISES,
    SLOW_RENEWAL,
    TROUBLE,
    Walk,
    Walked,
)
from verification.proof.explore import FAULTS, History, World, explore, shortest_violation
from verification.proof.explore._automaton import automaton
from verification.proof.filler import Filler
from verification.proof.mutants import MUTANTS
from verification.proof.spec import Spec
from verification.proof.worker import Worker

# Coverage would trace the production code, which runs here millions of times.
pytestmark = pytest.mark.usefixtures("untraced")

EARLY = Setup()
ONCE = Setup(early_look=False)
DELAYED = Setup(delay=SETTLE)
CONFIRMED = Setup(confirm=True)
SLOW_POLL = Setup(slow_poll=True, early_look=False)
TROUBLE_ONCE = replace(TROUBLE, early_look=False)


@pytest.mark.parametrize(
    "setup",
    [EARLY, ONCE, DELAYED, CONFIRMED, BULK, BULK_DELAYED],
    ids=["early", "once", "delayed", "confirmed", "bulk", "bulk, delayed"],
)
@pytest.mark.parametrize("put", [True, False], ids=["put", "delete"])
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_no_schedule_of_a_save_and_a_fault_breaks_the_promise(setup, present, put):
    result = explore(World(setup, History(present, (put,)), faults=FAULTS, failing=False))

    assert result.violation is None
    assert result.schedules > 100


@pytest.mark.parametrize(
    "setup", [EARLY, ONCE, DELAYED, BULK], ids=["early", "once", "delayed", "bulk"]
)
@pytest.mark.parametrize("puts", [(True, True), (True, False)], ids=["put put", "put delete"])
def test_no_schedule_of_two_saves_breaks_the_promise(setup, puts):
    result = explore(World(setup, History(True, puts), faults=(), failing=False))

    assert result.violation is None
    assert result.schedules > 1000


@pytest.mark.parametrize(
    "setup",
    [ONCE, DELAYED, CONFIRMED, LATE, BULK_DELAYED],
    ids=["once", "delayed", "confirmed", "late", "bulk, delayed"],
)
def test_no_schedule_of_a_save_and_one_that_raises_breaks_the_promise(setup):
    result = explore(World(setup, History(True, (True,)), faults=(), failing=setup is not LATE))

    assert result.violation is None
    assert result.schedules > 100


@pytest.mark.parametrize("fault", ["save is cancelled", "publisher freezes"])
def test_no_schedule_of_a_save_that_is_cancelled_or_stands_still_breaks_the_promise(fault):
    result = explore(World(LATE, History(True, (True,)), faults=(fault,), failing=False))

    assert result.violation is None
    assert result.schedules > 1000


@pytest.mark.parametrize(
    ("setup", "faults"),
    [(EARLY, ()), (CONFIRMED, ()), (BULK, ()), (BULK_DELAYED, FAULTS)],
    ids=["early", "confirmed", "bulk", "bulk, delayed, with faults"],
)
def test_merging_equal_states_changes_only_their_number(setup, faults):
    history = History(True, (True,))

    alike, apart = (
        explore(World(setup, history, faults=faults, alike=alike)) for alike in (True, False)
    )

    assert alike.violation is apart.violation is None
    assert alike.states < apart.states


@pytest.mark.parametrize(
    ("setup", "faults"),
    [
        (EARLY, ("worker crashes", "visibility expires")),
        (CONFIRMED, ("worker crashes",)),
        (BULK, ()),
        (PAIRS, FAULTS),
        (TROUBLE_ONCE, FAULTS),
        (Setup(reverts=True), ()),
        (BACKFILL, ("left out of a page", "sink fails")),
    ],
    ids=["early", "confirmed", "bulk", "pairs", "trouble", "reverts", "backfill"],
)
def test_a_walk_that_looks_nothing_up_finds_the_same(setup, faults):
    found = exhaustive.computed_each_time(setup, faults)

    assert found is not None
    assert found.violation is None


@pytest.mark.parametrize(
    "setup", [EARLY, CONFIRMED, TROUBLE_ONCE], ids=["early", "confirmed", "trouble"]
)
def test_what_was_looked_up_in_one_history_is_true_in_another(setup):
    automaton.cache_clear()
    explore(World(setup, History(True, ()), faults=FAULTS, failing=True))

    assert exhaustive.computed_each_time(setup, ("worker crashes",)) is not None


def test_a_walk_that_takes_different_situations_for_one_is_found_out(monkeypatch):
    automaton.cache_clear()
    whole = Worker.state
    monkeypatch.setattr(Worker, "state", lambda worker: (*whole(worker)[:2], *whole(worker)[3:]))

    try:
        assert exhaustive.computed_each_time(ONCE) is None
    finally:
        automaton.cache_clear()


def test_a_worker_whose_last_look_failed_is_in_a_situation_of_its_own(monkeypatch):
    monkeypatch.setattr(inbox, "SLACK", 0.0)  # as in a walk
    with closing(Worker(ONCE)) as failed, closing(Worker(ONCE)) as fresh:
        for worker in (failed, fresh):
            worker.receive((Message('{"id": "p1"}', ()),), ("",))
            worker.tick()
            worker.tick()
        for answer in (None, (0, False, None, None), (503, -1)):
            failed.go_on("look", answer)
        for worker in (failed, fresh):
            worker.tick()

        assert failed.ready_in() == fresh.ready_in() == {"poll": 0, "look": 0}
        assert failed.state() != fresh.state()


def test_the_comparison_is_printed_and_a_difference_makes_it_fail(capsys, monkeypatch):
    monkeypatch.setattr(exhaustive, "COMPUTED", {"one look": (ONCE, ())})
    assert exhaustive.compare()
    assert re.search(r"one look +the same \d+ states by \d+ schedules\n", capsys.readouterr().out)

    monkeypatch.setattr(exhaustive, "computed_each_time", lambda *_: None)
    assert not exhaustive.compare()
    assert re.search(r"one look +DIFFERENT\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "setup",
    [SLOW_POLL, PAIRS, TROUBLE_ONCE, Setup(delay=1), Setup(reverts=True, early_look=False)],
    ids=["slow polls", "pairs", "trouble", "short delay", "reverts"],
)
def test_no_schedule_of_two_saves_and_a_fault_breaks_the_promise(setup):
    result = explore(
        World(setup, History(True, (True, True)), faults=("visibility expires",), failing=False)
    )

    assert result.violation is None
    assert result.schedules > 1000


@pytest.mark.parametrize(
    ("setup", "faults"),
    [(SLOW_RENEWAL, ()), (RAISES, ("SNS refuses",))],
    ids=["slow renewal", "late, raises"],
)
def test_no_schedule_of_a_renewal_that_takes_time_or_a_save_that_raises_breaks_the_promise(
    setup, faults
):
    result = explore(World(setup, History(True, (True,)), faults=faults, failing=False))

    assert result.violation is None
    assert result.schedules > 1000


@pytest.mark.parametrize("cached", [False, True], ids=["not cached", "long cached"])
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_no_schedule_of_a_backfill_a_save_and_a_fault_breaks_the_promise(present, cached):
    history = History(present, (True,), cached)

    result = explore(World(BACKFILL, history, faults=FAULTS, workers=1, failing=False))

    assert result.violation is None
    assert result.schedules > 1000


def test_merging_equal_states_of_a_backfill_changes_only_their_number():
    history, faults = History(True, (True,), cached=True), ("backfill crashes",)

    alike, apart = (
        explore(World(BACKFILL, history, faults=faults, workers=1, failing=False, alike=alike))
        for alike in (True, False)
    )

    assert alike.violation is apart.violation is None
    assert alike.states < apart.states


def answered(filler, answers):
    """Give a backfill's threads these answers, by what they want; return what each wanted."""
    wanted = []
    for name, answer in answers:
        ((actor, effect),) = (
            (actor, effect) for actor, effect in filler.wants.items() if effect[0] == name
        )
        wanted.append(effect)
        filler.go_on(actor, answer)
    return wanted


def test_a_backfill_that_dies_before_it_keeps_its_place_reads_the_page_again():
    with closing(Filler(BACKFILL)) as filler:
        answered(filler, [("save", None), ("page", (200, 0)), ("insert", True)])

        filler.crash()

        assert filler.wants == {"listing-1": ("page",)}


def test_a_backfill_that_dies_after_that_does_not():
    with closing(Filler(BACKFILL)) as filler:
        answered(filler, [("save", None), ("page", (200, 0)), ("insert", True), ("save", None)])

        filler.crash()

        assert answered(filler, [("save", None)]) == [("save", "unlisted", 3)]


def test_a_page_is_read_again_if_its_sample_changed_meanwhile():
    with closing(Filler(BACKFILL_SAMPLE)) as filler:
        answered(filler, [("page", (200, 0)), ("get", (200, 1))])

        again = answered(
            filler, [("save", None), ("page", (200, 1)), ("get", (200, 1)), ("insert", True)]
        )

        assert again[-1] == ("insert", "Found", 1, None)


def test_a_look_settles_no_message_that_came_after_its_get_under_the_name_of_another():
    spec = Spec(SETTLE)
    spec.received("1", ChangeEvent(ID), 0, age=0)
    spec.get(SETTLE)
    spec.keep(set())
    spec.received("1", ChangeEvent(ID), SETTLE, age=0)
    spec.applied()

    with pytest.raises(Violation):
        spec.acknowledged(["1"])


def test_the_table_has_a_row_for_each_setup_and_counts_violations(capsys):
    walks = (Walk("queue delay", DELAYED, 1, fault=True), Walk("late saves", LATE, 1))

    assert exhaustive.main(walks, processes=1)

    printed = capsys.readouterr().out
    assert re.search(r"queue delay +1 - +one +4 +\d+ +[\d,]+ +\d+ +[\d.]+ 0\n", printed)
    assert re.search(r"[\d,]+ states, 0 violations", printed)


def test_the_page_has_a_row_for_each_walk_of_make_prove():
    page = (EXPLANATION / "correctness.md").read_text(encoding="utf-8")
    rows = page.partition(exhaustive.HEAD)[2].partition("\n\n")[0].splitlines()[1:]
    walked = [
        exhaustive.line(Walked(walk, len(walk.histories()), 0, 0, 0, 0.0, ()))
        for walk in exhaustive.WALKS
        if not walk.long
    ]

    columns = slice(exhaustive.HEAD.index("histories") + len("histories"))
    assert [row[columns] for row in rows] == [row[columns] for row in walked]


def test_a_violation_is_printed_with_its_shortest_schedule(capsys, monkeypatch):
    def careless(world, state):
        if state.commits and not state.queue:
            raise Violation("it was saved, and no event is left")

    monkeypatch.setattr(World, "check", careless)

    assert not exhaustive.main([Walk("one look", ONCE, 1)], processes=1)

    assert (
        "it was saved, and no event is left\n      a         broadcast: accepted\n"
        in capsys.readouterr().out
    )


def test_a_sound_world_has_no_shortest_violation():
    result = shortest_violation(World(ONCE, History(True, (True,)), failing=False, alike=False))

    assert result.violation is None
    assert result.schedule == ()
    assert result.states > 100


@pytest.mark.timeout(600)
def test_the_walk_catches_each_mutant_and_prints_its_shortest_schedule():
    # One test, because each process that runs one of several would walk all mutants.
    command = [sys.executable, "-m", "verification.proof.mutants"]
    mutants = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )

    steps = {mutant.name: len(schedule_in(mutants.stdout, mutant.name)) for mutant in MUTANTS}
    assert {name: number for name, number in steps.items() if number < 4} == {}
    assert f"{len(MUTANTS)} of {len(MUTANTS)} caught" in mutants.stdout
    assert mutants.returncode == 0, mutants.stderr


def schedule_in(printed, name):
    """Return the steps that lead to a mutant's violation; nothing if it was not caught."""
    _, _, report = printed.partition(f". {name}\n")
    violation, *steps, _ = report.partition("\n\n")[0].splitlines() or ["NOT CAUGHT", ""]
    return [] if violation.strip() == "NOT CAUGHT" else steps
