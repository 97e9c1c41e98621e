"""For how many ids a bulk GET asks."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from change_events._consumer.bulk import AGAIN, ANSWERS, FIRST, SLOW, BulkSize


def asked(seconds, *, most=1000, answers=40, size=None):
    """Answer full bulk GETs of `n` ids in `seconds(n)`; return the sizes that were asked for."""
    size = size or BulkSize()
    sizes = []
    for _ in range(answers):
        ids = size.ask(most)
        sizes.append(ids)
        size.answered(ids, seconds(ids))
    return list(dict.fromkeys(sizes))


def test_it_grows_up_to_what_the_fetcher_allows_while_an_answer_takes_no_longer():
    assert asked(lambda ids: 0.02, most=50) == [10, 20, 40, 50]


def test_a_fetcher_that_allows_few_ids_is_asked_for_as_many():
    assert asked(lambda ids: 0.02, most=4) == [4]


def test_it_stops_growing_when_an_id_takes_about_as_long_as_before():
    assert asked(lambda ids: 0.02 + 0.005 * ids) == [10, 20, 40]


def test_a_first_size_that_is_too_much_is_not_soon_tried_again():
    size = BulkSize()
    size.failed(size.ask(50))

    assert asked(lambda ids: 0.02, size=size, answers=AGAIN) == [5]


def test_half_of_an_odd_size_that_was_too_much_can_double():
    size = BulkSize()
    asked(lambda ids: 0.02, size=size, most=11, answers=ANSWERS)
    size.failed(size.ask(11))

    assert asked(lambda ids: 0.02, size=size, most=11) == [5, 10]


def test_it_goes_back_to_the_size_before_if_an_id_takes_longer():
    def overloaded(ids):
        return 0.02 if ids <= 20 else 0.2

    size = BulkSize()

    assert asked(overloaded, size=size) == [10, 20, 40]
    assert size.size == 20


def test_a_size_is_judged_by_several_answers():
    size = BulkSize()
    size.ask(50)
    for _ in range(ANSWERS - 1):
        size.answered(FIRST, 0.02)
    assert size.size == FIRST

    size.answered(FIRST, 0.02)

    assert size.size == 2 * FIRST


def test_all_answers_to_a_size_count():
    size = BulkSize()
    for seconds in (0.9, 0.02, 0.02, 0.02, *[0.4] * ANSWERS):
        size.answered(size.ask(50), seconds)

    assert size.size == 2 * 2 * FIRST  # 24 ms an id at first, then 20


def test_an_answer_within_a_second_is_not_slow():
    size = BulkSize()

    size.answered(size.ask(50), SLOW)

    assert size.size == FIRST


def test_an_answer_for_fewer_ids_says_nothing():
    size = BulkSize()
    size.ask(50)

    for _ in range(20):
        size.answered(FIRST - 1, 0.02)

    assert size.size == FIRST


def test_a_slow_answer_halves_it():
    size = BulkSize()
    asked(lambda ids: 0.02, size=size, answers=3 * ANSWERS)
    assert size.size == 80

    size.answered(3, SLOW + 0.1)

    assert size.size == 40


@pytest.mark.parametrize(("failures", "ids"), [(1, 25), (2, 12), (4, 3), (9, 2)])
def test_each_failure_halves_it_and_two_ids_are_the_least(failures, ids):
    size = BulkSize()
    asked(lambda ids: 0.02, size=size, most=50)

    for _ in range(failures):
        size.failed(size.ask(50))

    assert size.ask(50) == ids


def test_after_failures_of_any_size_it_grows_again():
    size = BulkSize()
    asked(lambda ids: 0.02, size=size, most=50)
    size.failed(50)
    size.failed(25)

    assert asked(lambda ids: 0.02, size=size, most=50) == [12, 24, 48, 50]


def test_two_ids_are_never_too_much():
    size = BulkSize()
    size.failed(10)
    size.failed(5)
    asked(lambda ids: 0.02, size=size, answers=ANSWERS - 1)
    assert size.size == 2

    size.failed(2)

    assert asked(lambda ids: 0.02, size=size, most=8) == [2, 4, 8]


def test_after_one_failure_it_grows_again_after_a_while():
    size = BulkSize()
    asked(lambda ids: 0.02, size=size, most=50)
    size.failed(50)

    assert asked(lambda ids: 0.02, size=size, most=50, answers=2 * AGAIN) == [25]
    assert asked(lambda ids: 0.02, size=size, most=50) == [25, 50]


@pytest.mark.parametrize("seconds", [None, SLOW + 0.1])
def test_a_size_that_is_too_much_is_seldom_tried_again(seconds):
    size, tried = BulkSize(), 0
    for _ in range(2000):
        ids = size.ask(1000)
        if ids > 50:
            tried += 1
        if ids > 50 and seconds is None:
            size.failed(ids)
        else:
            size.answered(ids, seconds if ids > 50 else 0.02)

    assert size.size == 40
    assert tried <= 4


def test_what_was_too_much_is_tried_again_and_then_larger_sizes_too():
    size = BulkSize()
    asked(lambda ids: 0.02 if ids <= 50 else 2.0, size=size, answers=1000)
    assert size.size == 40

    asked(lambda ids: 0.02, size=size, answers=1000)

    assert size.size == 1280


def test_bulk_gets_that_began_together_halve_it_once():
    size = BulkSize()
    asked(lambda ids: 0.02, size=size, answers=3 * ANSWERS)
    assert size.size == 80

    size.failed(80)
    size.failed(80)
    size.answered(80, SLOW + 0.1)

    assert size.size == 40


def test_a_size_that_was_judged_is_judged_again_after_a_while():
    size = BulkSize()
    asked(lambda ids: 0.02 + 0.005 * ids, size=size)
    assert size.size == 40

    asked(lambda ids: 0.02, size=size, answers=20)
    assert size.size == 40

    asked(lambda ids: 0.02, size=size, answers=AGAIN, most=80)

    assert size.size == 80


def test_a_size_is_judged_again_after_a_hundred_answers():
    size = BulkSize()
    asked(lambda ids: 0.02 + 0.01 * ids, size=size, answers=AGAIN + 2 * ANSWERS - 1)
    assert size.size == 20

    size.answered(20, 0.22)

    assert size.size == 40


class BulkMachine(RuleBasedStateMachine):
    """Whatever is answered, in whatever order."""

    def __init__(self):
        super().__init__()
        self.size, self.most = BulkSize(), 50

    @rule(most=st.integers(1, 1000))
    def ask(self, most):
        self.most = most
        assert 1 <= self.size.ask(most) <= most

    @rule(ids=st.integers(2, 1000), took=st.floats(0, 2 * SLOW))
    def answer(self, ids, took):
        before, ids = self.size.size, min(ids, self.size.ask(self.most))
        self.size.answered(ids, took)
        assert self.size.size <= 2 * before
        if self.size.size > before:
            assert ids == before
        if took > SLOW:
            assert self.size.size <= max(2, before // 2)

    @rule()
    def fail(self):
        before = self.size.ask(self.most)
        self.size.failed(before)
        assert self.size.size <= max(2, before // 2)

    @invariant()
    def it_is_in_its_range(self):
        assert 2 <= self.size.size <= 2000


TestBulkMachine = BulkMachine.TestCase
