"""Acknowledgements share calls of ten, are tried again, and none is lost or made twice."""

from __future__ import annotations

import pytest
from hands import opened


@pytest.fixture
def hands():
    return opened()


# One call


def test_delete_counts_the_deleted_messages_and_returns_the_others(hands):
    assert hands.acknowledgements.delete(["h1", "h2", "h3"]) == ["h3"]

    assert hands.queue.deleted == [["h1", "h2", "h3"]]
    assert hands.counts() == {"acknowledged": 2, "ack_failures": 1}


@pytest.mark.parametrize(
    ("deleted", "counts"), [(3, {"acknowledged": 3}), (1, {"acknowledged": 1, "ack_failures": 2})]
)
def test_each_message_that_is_not_deleted_counts_as_a_failure(hands, deleted, counts):
    """That includes one that SQS has refused for good, so that it is not tried again."""
    hands.queue.delete = lambda handles: (deleted, [])

    assert hands.acknowledgements.delete(["h1", "h2", "h3"]) == []
    assert hands.counts() == counts


def test_delete_returns_every_message_if_sqs_does_not_answer(hands, caplog):
    hands.queue.broken = True

    assert hands.acknowledgements.delete(["h1", "h2"]) == ["h1", "h2"]
    assert hands.counts() == {"ack_failures": 2}
    assert "reset" in caplog.text
