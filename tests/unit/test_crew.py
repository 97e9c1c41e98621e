"""The threads of a run: when they begin to work, and what becomes of one that dies."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from change_events._consumer.crew import Crew, Threads


class Few(Threads):
    """Real threads, until there are no more."""

    def __init__(self, number, error):
        self.left = number
        self.error = error
        self.started = []

    def start(self, role, target):
        if not self.left:
            raise self.error
        self.left -= 1
        self.started.append(super().start(role, target))
        return self.started[-1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            RuntimeError("can't start new thread"),
            (
                "the worker can't have its 3 threads, and has not started: can't start new thread. "
                "Let the process have more threads, or give the worker a smaller threads="
            ),
        ),
        (KeyboardInterrupt("now"), "now"),
    ],
)
def test_if_a_thread_can_not_start_those_that_did_have_ended_without_any_work(error, text):
    worked = []
    threads = Few(2, error)
    crew = Crew(threads, on_death=worked.append)

    with pytest.raises(type(error)) as caught:
        crew.start({"a": [lambda: worked.append("a")], "b": [lambda: worked.append("b")] * 2})

    assert str(caught.value) == text
    assert [thread.is_alive() for thread in threads.started] == [False, False]
    assert worked == []
    assert (crew.working, crew.death) == (False, None)


def test_no_thread_works_before_all_have_started():
    worked = []
    crew = Crew(Few(9, None), on_death=worked.append)

    class Roles(dict):
        def items(self):
            yield from super().items()
            worked.append("all have started")

    crew.start(Roles(a=[lambda: worked.append("work")], b=[lambda: worked.append("work")]))
    for role in ("a", "b"):
        crew.join(role)

    assert worked == ["all have started", "work", "work"]
    assert (crew.working, crew.death) == (True, None)


def test_a_join_lasts_no_longer_than_its_timeout():
    end = threading.Event()
    threads = Few(1, None)
    crew = Crew(threads, on_death=print)
    crew.start({"a": [lambda: end.wait(10)]})

    crew.join("a", 0.0)

    assert threads.started[0].is_alive()
    end.set()
    crew.join("a")


def test_a_thread_that_dies_is_logged_with_its_error_and_told(caplog):
    told = []
    crew = Crew(Threads(), on_death=told.append)

    crew.start({"look": [lambda: sys.exit("bug")]})
    crew.join("look")

    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.CRITICAL, "the look thread died")
    assert (record.action, record.role, record.exc_info[1]) == ("die", "look", *told)
    assert isinstance(told[0], SystemExit)
    assert crew.death is told[0]


def test_the_first_thread_that_dies_is_kept_in_mind():
    told = []
    one_has_died = threading.Event()

    def tell(error):
        told.append(error)
        one_has_died.set()

    def die_later():
        assert one_has_died.wait(20)
        sys.exit("later")

    crew = Crew(Threads(), on_death=tell)
    crew.start({"look": [die_later, lambda: sys.exit("first")]})
    crew.join("look")

    assert [str(error) for error in told] == ["first", "later"]
    assert crew.death is told[0]


def test_what_runs_aside_has_a_thread_and_its_error_is_a_warning(caplog):
    threads = Few(1, RuntimeError("can't start new thread"))
    crew = Crew(threads, on_death=print)

    for _ in range(2):  # for the second there is no thread left, which is no error
        crew.start_aside("resume", lambda: 1 / 0)
    threads.started[0].join(10)

    (record,) = caplog.records
    assert record.name == "change_events"
    assert (record.levelno, record.action) == (logging.WARNING, "resume")
    assert record.getMessage() == "the sink has not kept what resume() said: division by zero"
    assert threads.started[0].name == "change-events-resume"


def test_a_thread_can_start_later_up_to_a_number_and_is_joined(caplog):
    worked = []
    crew = Crew(Few(3, None), on_death=print)
    crew.add("look", lambda: worked.append("too soon"), most=9)
    crew.start({"look": [lambda: worked.append("first")]})

    for number in range(4):
        crew.add("look", lambda number=number: worked.append(number), most=3)
    crew.join("look")

    assert sorted(worked, key=str) == [0, 1, "first"]
    assert not caplog.records


def test_a_thread_that_can_not_start_later_is_one_warning(caplog):
    threads = Few(1, RuntimeError("can't start new thread"))
    crew = Crew(threads, on_death=print)
    crew.start({"look": [lambda: None]})

    for _ in range(3):
        crew.add("look", lambda: None, most=9)

    (record,) = caplog.records
    assert (record.levelno, record.action) == (logging.WARNING, "limp")
    assert record.getMessage() == ("the worker goes on with 1 look threads: can't start new thread")


def test_after_a_minute_one_more_thread_is_asked_for_again(caplog):
    threads, now, worked = Few(1, RuntimeError("can't start new thread")), [0.0], []
    threads.clock = lambda: now[0]
    crew = Crew(threads, on_death=print)
    crew.start({"look": [lambda: None]})
    crew.add("look", lambda: worked.append("too soon"), most=9)
    threads.left = 9

    for now[0] in (59.0, 60.0):
        crew.add("look", lambda: worked.append(now[0]), most=2)
    crew.join("look")

    assert worked == [60.0]
    assert len(caplog.records) == 1


def test_a_thread_that_started_later_and_dies_is_told():
    told = []
    crew = Crew(Threads(), on_death=told.append)
    crew.start({"look": [lambda: None]})

    crew.add("look", lambda: sys.exit("bug"), most=2)
    crew.join("look")

    assert [str(error) for error in told] == ["bug"]
