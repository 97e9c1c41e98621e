"""The spans of a worker's looks: their links, their parents, and what came of them."""

from __future__ import annotations

import uuid

import pytest
from hands import message, opened, with_catalogue
from opentelemetry.trace import StatusCode

from change_events import FetchError
from spans import Spans, is_child, links


@pytest.fixture
def spans():
    return Spans()


def carrying(number, id="p1"):
    """Return a message from a trace of its own, whose span has the number."""
    return message(id, number, traceparent=f"00-{uuid.uuid4().hex}-{number:016x}-01")


def look_at(hands, *ids):
    """Let a look run, as a worker's thread does; return the message ids that it settles."""
    with hands.consumer as desk:
        due = desk.next(hands.now)
    assert due == list(ids)
    return [event.message_id for settled in hands.looks.look(due) for event in settled]


def test_a_look_has_a_link_for_each_event_and_a_trace_of_its_own_if_there_are_several(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(carrying(1), carrying(2), message(number=3))

    assert look_at(hands, "p1") == ["m1", "m2", "m3"]

    look = spans.one("process q")
    assert links(look) == [(1, "m1"), (2, "m2")]
    assert look.parent is None
    assert look.attributes["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in look.attributes


def test_an_event_that_arrives_after_the_look_has_begun_gets_its_link_at_the_end(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(carrying(1))
    entry = hands.sink.entry

    def late(id, /):
        if not hands.queue.messages and len(hands.held()) == 1:
            hands.receive(carrying(2), message(number=3))
        return entry(id)

    hands.sink.entry = late

    assert look_at(hands, "p1") == ["m1", "m2", "m3"]
    assert links(spans.one("process")) == [(1, "m1"), (2, "m2")]


def test_early_looks_have_links_too_and_settle_nothing(spans):
    hands = opened(traces=spans.traces, settle=5.0)
    hands.receive(carrying(7))

    assert look_at(hands, "p1") == []
    hands.source["p1"] = {"id": "p1"}
    hands.now += 1
    assert look_at(hands, "p1") == []
    hands.now += 6
    assert look_at(hands, "p1") == ["m7"]

    looks = spans.named("process")
    assert [links(look) for look in looks] == [[(7, "m7")]] * 3
    assert [look.attributes["change_events.outcome"] for look in looks] == [
        "too_early",
        "created",
        "unchanged",
    ]
    assert [look.attributes.get("change_events.settled") for look in looks] == [None, None, 1]


@pytest.mark.parametrize("bad", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_an_event_with_a_malformed_trace_context_is_an_event_like_any_other(bad, spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(message(traceparent=bad, tracestate="\x00"))

    assert look_at(hands, "p1") == ["m1"]

    assert hands.counts().get("malformed") is None
    assert spans.one("process").links == ()


def test_a_look_in_a_trace_that_is_not_sampled_is_not_sampled(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(message(traceparent=f"00-{uuid.uuid4().hex}-{7:016x}-00"))

    assert look_at(hands, "p1") == ["m1"]

    assert spans.all() == []


def test_a_look_that_fails_ends_its_span_with_the_error(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(carrying(1))

    def fetch(id, /, *, etag=None):
        raise FetchError("it answered 503", status=503)

    hands.source.fetch = fetch
    assert look_at(hands, "p1") == []

    look = spans.one("process")
    assert look.attributes["change_events.outcome"] == "failed"
    assert look.attributes["error.type"] == "FetchError"
    assert (look.status.status_code, look.status.description) == (
        StatusCode.ERROR,
        "it answered 503",
    )


def test_a_look_that_dies_ends_its_span_with_the_error(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(carrying(1))

    def fetch(id, /, *, etag=None):
        raise KeyboardInterrupt

    hands.source.fetch = fetch
    with pytest.raises(KeyboardInterrupt):
        look_at(hands, "p1")

    assert spans.one("process").attributes["error.type"] == "KeyboardInterrupt"


def test_a_refused_deletion_is_an_error_of_its_look(spans):
    hands = opened(traces=spans.traces, settle=0.0, min_deleted=1)
    number = 0
    while not hands.guard.tripped:
        number += 1
        hands.receive(carrying(number, f"p{number}"))
        look_at(hands, f"p{number}")

    refused = spans.named("process")[-1]
    assert refused.attributes["change_events.outcome"] == "refused"
    assert refused.status.status_code is StatusCode.ERROR


def test_a_look_that_is_put_off_says_so(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(carrying(1))
    with hands.consumer as desk:
        due = desk.next(hands.now)
    hands.consumer.stop()

    assert list(hands.looks.look(due)) == []

    assert spans.one("process").attributes["change_events.outcome"] == "put_off"
    assert "gets" not in hands.counts()


def test_a_bulk_get_has_one_span_with_the_links_of_all_its_events(spans):
    hands = with_catalogue("p1", "p2", traces=spans.traces, settle=0.0)
    hands.receive(carrying(8, "p1"), carrying(9, "p2"))

    assert look_at(hands, "p1", "p2") == ["m0", "m8", "m1", "m9"]

    look = spans.one("process q")
    assert links(look) == [(8, "m8"), (9, "m9")]
    assert look.attributes["messaging.batch.message_count"] == 4
    assert look.attributes["change_events.settled"] == 4
    assert not {"change_events.id", "change_events.outcome"} & look.attributes.keys()


def test_a_bulk_get_that_fails_ends_its_span_with_the_error(spans):
    hands = with_catalogue("p1", "p2", traces=spans.traces, settle=0.0)
    hands.source.error = FetchError("it answered 500")

    assert look_at(hands, "p1", "p2") == []

    assert spans.one("process").status.description == "it answered 500"


def test_a_workers_looks_are_in_no_span_around_its_start(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.receive(message())

    with spans.span("lifespan"):  # threads can inherit it
        look_at(hands, "p1")

    assert spans.one("process").parent is None


def test_a_look_by_hand_within_a_look_leaves_the_outer_one_as_it_was(spans):
    hands = opened(traces=spans.traces, settle=0.0)
    hands.source["p1"], hands.source["p2"] = {"id": "p1"}, {"id": "p2"}
    hands.receive(carrying(1))
    entry = hands.sink.entry

    def nested(id, /):
        if id == "p1" and not spans.named("look"):
            hands.looks.look_by_hand("p2")
        return entry(id)

    hands.sink.entry = nested
    look_at(hands, "p1")

    assert is_child(spans.one("look"), spans.one("process"))
    assert spans.one("process").attributes["change_events.settled"] == 1
