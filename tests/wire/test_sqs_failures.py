"""When calls of SQS fail: receiving, acknowledging, changing visibility."""

from __future__ import annotations

import logging
import time

import pytest

from change_events._consumer import acknowledgements, intake
from conftest import failing, running
from verification.harness.wire import Answer, sqs_error


@pytest.fixture
def pauses(monkeypatch):
    """After how many failures the worker paused, pause by pause. Each pause is 0.4 seconds."""
    wanted = []

    def pause(failures, most):
        wanted.append(failures)
        return 0.4

    for module in (intake, acknowledgements):
        monkeypatch.setattr(module, "pause_after", pause)
    return wanted


def test_receives_that_fail_are_tried_again_after_growing_pauses(
    channel, source, make_worker, outcomes, caplog, pauses
):
    client, left = failing(
        "ReceiveMessage",
        ConnectionError("reset"),
        ConnectionError("reset"),
        {},
        ConnectionError("reset"),
    )
    channel.announce("p1")
    started = time.monotonic()

    with running(make_worker(client=client)):
        outcomes.wait_for(("p1", "never_saved"))

    assert left == []
    assert caplog.text.count("receive failed") == 3
    assert pauses == [1, 2, 1]  # one that succeeds in between ends the count
    assert time.monotonic() - started >= 1.2


def test_a_drain_raises_after_four_receives_that_failed(channel, make_worker, pauses):
    client, _ = failing("ReceiveMessage", *[ConnectionError("reset")] * 10)

    with pytest.raises(ConnectionError, match="reset"):
        make_worker(client=client).drain()

    assert pauses == [1, 2, 3]


def test_acknowledgements_that_fail_are_tried_again(channel, source, make_worker, pauses):
    retriable = {
        "Successful": [],
        "Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError"}],
    }
    client, left = failing("DeleteMessageBatch", ConnectionError("reset"), retriable)
    channel.announce("p1")

    worker = make_worker(client=client)
    assert worker.drain() == 1

    assert left == []
    assert pauses == [1, 2]
    assert channel.count() == {}


def test_acknowledgements_that_keep_failing_are_given_up_and_the_message_comes_back(
    channel, source, make_worker
):
    client, _ = failing("DeleteMessageBatch", *[ConnectionError("reset")] * 3)
    channel.announce("p1")

    assert make_worker(client=client).drain() == 0
    assert channel.count() == {"held": 1}


def test_a_receipt_handle_that_has_expired_is_not_tried_again(channel, source, make_worker):
    expired = {
        "Successful": [],
        "Failed": [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}],
    }
    client, left = failing("DeleteMessageBatch", expired, ConnectionError("asked again"))
    channel.announce("p1")

    assert make_worker(client=client).drain() == 0
    assert len(left) == 1


def test_a_denied_change_of_visibility_is_an_error_that_names_the_permission(
    channel, source, make_worker, line, caplog
):
    line.fault = lambda asked: (
        sqs_error(403, "AccessDeniedException")
        if asked.headers.get("X-Amz-Target", "").endswith(".ChangeMessageVisibilityBatch")
        else None
    )
    source.answer = lambda id: Answer(503)
    channel.announce("p1")

    make_worker().drain()

    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.action == "change_visibility"
    assert "must allow sqs:ChangeMessageVisibility" in error.getMessage()


def test_visibility_that_can_not_be_changed_is_logged(channel, source, make_worker, caplog):
    client, _ = failing("ChangeMessageVisibilityBatch", ConnectionError("reset"))
    source.answer = lambda id: Answer(503)
    channel.announce("p1")

    make_worker(client=client).drain()

    assert "changing visibility failed: reset" in caplog.text
