"""A cut of the exhaustive walk: all schedules of one save and one fault, and of two saves without a fault, on two workers."""

from __future__ import annotations

import pytest

from change_events import MemorySink, Outcome
from change_events import _consumer as consumer_module
from change_events._inbox import Inbox
from proof import explore as explorer
from proof.explore import FAULTS, History, World, explore
from proof.programs import Setup

EARLY = Setup()
ONCE = Setup(early_look=False)
DELAYED = Setup(delay=2)
CONFIRMED = Setup(confirm=True)


@pytest.mark.parametrize("setup", [EARLY, ONCE, DELAYED], ids=["early", "once", "delayed"])
@pytest.mark.parametrize("put", [True, False], ids=["put", "delete"])
@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_no_schedule_of_a_save_and_a_fault_breaks_the_promise(setup, present, put):
    result = explore(World(setup, History(present, (put,)), faults=FAULTS, failing=False))

    assert result.violation is None
    assert result.schedules > 500


@pytest.mark.parametrize("setup", [ONCE, DELAYED], ids=["once", "delayed"])
@pytest.mark.parametrize("puts", [(True, True), (True, False)], ids=["put put", "put delete"])
def test_no_schedule_of_two_saves_breaks_the_promise(setup, puts):
    result = explore(World(setup, History(True, puts), faults=(), failing=False))

    assert result.violation is None
    assert result.schedules > 1000


def test_no_schedule_of_a_confirmed_save_breaks_the_promise():
    result = explore(World(CONFIRMED, History(True, (True,)), faults=("duplicate delivery",), failing=False))

    assert result.violation is None
    assert result.schedules > 1000


# The explorer can fail: production rules switched off


def shortest(**settings):
    settings = {"faults": (), "failing": False, "symmetric": False} | settings
    # Nothing of what the sound code did may be remembered.
    explorer._automaton.cache_clear()
    explorer._applied.cache_clear()
    result = explore(World(EARLY, History(True, (True,)), **settings), with_schedule=True)
    explorer._automaton.cache_clear()
    explorer._applied.cache_clear()
    return result


def test_an_acknowledgement_without_a_look_that_settles_is_found(monkeypatch):
    def settle_at_once(self, id):
        group = self._groups[id]
        for event in group.events.values():
            event.hold = 0.0
        return settle(self, id)

    settle = Inbox.settle
    monkeypatch.setattr(Inbox, "settle", settle_at_once)

    result = shortest()

    assert result.violation == "a1 was acknowledged without a look that settles it"
    assert [who for who, _ in result.schedule] == ["a", *["worker 1"] * 4]


def test_a_cache_that_goes_back_is_found(monkeypatch):
    def apply_anyhow(self, id, change, /, *, if_version):
        return apply(self, id, change, if_version=self.entry(id).version)

    apply = MemorySink.apply
    monkeypatch.setattr(MemorySink, "apply", apply_anyhow)

    result = shortest(faults=("duplicate delivery",))

    assert result.violation == "the cache goes back from commit 1 to commit 0"


def test_a_look_that_deletes_on_weak_evidence_is_found(monkeypatch):
    def careless(id, *, fetcher, sink, on_get):
        from change_events import FetchError, Gone

        entry = sink.entry(id)
        on_get()
        try:
            change = fetcher.fetch(id, etag=entry.etag)
        except FetchError:
            change = Gone()
        sink.apply(id, change, if_version=entry.version)
        return Outcome.UPDATED

    monkeypatch.setattr(consumer_module, "look", careless)

    result = shortest(faults=("source answers 503",))

    assert result.violation in {"the answer 503 deletes", "the cache goes back from commit 0 to commit -1"}
