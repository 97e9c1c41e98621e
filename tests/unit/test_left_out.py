"""A worker looks again at what its backfill has left out."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from types import SimpleNamespace

import pytest

from change_events import FetchError, MassDeletionError, MemorySink
from change_events._operations import own_backfill
from change_events._operations.filled import LEFT_SIZE, MOST_LEFT, forget_left, ids_left, that_fit
from change_events._operations.own_backfill import OwnBackfill

# What is kept


@pytest.mark.parametrize(
    ("ids", "number"),
    [
        ([f"p{n}" for n in range(MOST_LEFT + 1)], MOST_LEFT),
        (["p" * 512] * 500, LEFT_SIZE // 516),
        (["\N{CJK UNIFIED IDEOGRAPH-4E00}" * 512] * 100, LEFT_SIZE // (6 * 512 + 4)),
    ],
)
def test_no_more_ids_are_kept_than_an_item_of_dynamodb_has_room_for(ids, number):
    kept = that_fit(ids)

    assert kept == ids[:number]
    assert len(json.dumps(kept)) <= LEFT_SIZE


@pytest.fixture
def sink():
    sink = MemorySink()
    sink.set_state("backfill", json.dumps({"epoch": None, "left": ["p1", "p2"]}), if_state=None)
    return sink


def test_what_is_cached_now_is_no_longer_left(sink):
    forget_left(sink, {"p1"}, None)

    assert ids_left(sink) == (["p2"], None)


def test_what_was_looked_at_before_a_loss_is_still_left(sink):
    forget_left(sink, {"p1"}, "an epoch before the loss")

    assert ids_left(sink) == (["p1", "p2"], None)


# Looks


class Looks:
    """Looks by hand that end as the test says, beside no event."""

    def __init__(self, result):
        self.result = result
        self.looked = []
        self.changes = 0
        self.consumer = contextlib.nullcontext(self)

    def begin_aside(self, now, waited):
        return 0.0

    def changed(self):
        self.changes += 1

    def look_by_hand(self, id):
        self.looked.append(id)
        if self.result is not None:
            raise self.result


def look_again(sink, looks):
    settings = SimpleNamespace(backfill=["p1", "p2"], sink=sink)
    return OwnBackfill(settings)._look_again(looks, threading.Event())


def test_once_all_are_cached_it_never_looks_again(sink):
    assert look_again(sink, looks := Looks(None)) == math.inf

    assert sorted(looks.looked) == ["p1", "p2"]
    assert ids_left(sink)[0] == []


def test_a_source_that_asks_for_a_pause_gets_one_look(sink):
    error = FetchError("GET answered 429", status=429, retry_after=60.0)

    assert look_again(sink, looks := Looks(error)) == 60.0

    assert len(looks.looked) == 1
    assert ids_left(sink)[0] == ["p1", "p2"]


def test_a_broken_entity_does_not_keep_the_others_waiting(sink):
    error = FetchError("GET answered 500", status=500)

    assert look_again(sink, looks := Looks(error)) == 0.0

    assert sorted(looks.looked) == ["p1", "p2"]


def test_a_mass_deletion_wakes_the_worker(sink):
    assert look_again(sink, looks := Looks(MassDeletionError("gone"))) == 0.0

    assert looks.changes == 2


def test_slow_looks_do_not_keep_it_from_watching_the_sink(sink, monkeypatch):
    monkeypatch.setattr(own_backfill, "WATCH", 0.0)

    assert look_again(sink, looks := Looks(None)) == 0.0

    assert len(looks.looked) == 1
    assert len(ids_left(sink)[0]) == 1


def test_after_a_loss_what_the_new_backfill_has_left_out_is_looked_at(monkeypatch):
    class Forgetful(MemorySink):
        def epoch(self):
            return "an epoch"

    monkeypatch.setattr(own_backfill, "WATCH", 0.001)
    own = OwnBackfill(SimpleNamespace(backfill=["p1"], sink=Forgetful()))
    stopping, known, looked = threading.Event(), [True, True, False, True, True], []

    def learn():
        own.known = known.pop(0)
        if not known:
            stopping.set()

    def look_again(looks, stopping):
        looked.append(len(known))
        return math.inf

    monkeypatch.setattr(own, "_learn", learn)
    monkeypatch.setattr(own, "_fill", lambda looks, stopping: None)
    monkeypatch.setattr(own, "_look_again", look_again)

    own.work(None, stopping)

    assert looked == [4, 2]  # at first, and after the loss
