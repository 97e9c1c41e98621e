from __future__ import annotations

import threading

import pytest

from change_events._operations.pool import Pool


def test_a_call_that_was_cancelled_before_it_began_does_not_run():
    gate, ran = threading.Event(), []
    pool = Pool(1, "test")
    first = pool.submit(gate.wait, 30)
    second = pool.submit(ran.append, "second")
    assert second.cancel()
    gate.set()
    pool.submit(ran.append, "third").result(30)
    assert first.result() is True
    assert ran == ["third"]


def test_what_a_call_raises_is_its_result():
    pool = Pool(2, "test")
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(30)
    with pytest.raises(SystemExit):
        pool.submit(exit).result(30)


def test_a_pool_that_is_closed_cancels_what_has_not_begun_and_ends_its_threads():
    gate = threading.Event()
    pool = Pool(1, "closed")
    pool.submit(gate.wait, 30)
    waiting = pool.submit(print)
    pool.close()
    assert waiting.cancelled()
    (thread,) = (each for each in threading.enumerate() if each.name == "change-events-closed-1")
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
