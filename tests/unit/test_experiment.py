"""How the worker finds out whose fault a failed look is."""

from __future__ import annotations

import math

import pytest
from hands import doubling

from change_events._consumer.breaker import HUNG
from change_events._consumer.experiment import (
    ASK_AGAIN,
    GRACE,
    KNOWN,
    PATIENCE,
    PERIOD,
    TRIED,
    Experiment,
    Failed,
)

OWN, NOT_OWN = Failed(OSError("own"), own=True), Failed(OSError("not own"), own=False)


@pytest.fixture
def experiment():
    """An experiment that knows three good ids."""
    experiment = Experiment(doubling)
    experiment.learn(["old", "between", "new"], 0.0)
    return experiment


def fail(experiment, id, now, failed=OWN, *, held=True):
    return experiment.failed(id, failed, now, held=held)


def control(experiment, now, busy=""):
    return experiment.next(now, lambda id: id != busy)


def ids(suspects):
    return [suspect.id for suspect in suspects]


# When a control look begins


def test_without_a_suspect_no_control_look_begins(experiment):
    assert experiment.next_at() == math.inf
    assert control(experiment, 1e6) is None


def test_a_control_look_begins_a_moment_after_a_failure(experiment):
    assert not fail(experiment, "p", 10.0)

    assert experiment.next_at() == 10.0 + GRACE
    assert control(experiment, 10.0 + GRACE / 2) is None
    assert control(experiment, 10.0 + GRACE) == experiment.control == "new"


def test_one_control_look_runs_at_a_time_for_all_suspects(experiment):
    fail(experiment, "p", 10.0)
    control(experiment, 11.0)
    fail(experiment, "q", 12.0)

    assert control(experiment, 20.0) is None
    assert experiment.next_at() == 11.0 + HUNG


def test_questions_begin_at_most_once_a_second(experiment):
    fail(experiment, "p", 10.0)
    control(experiment, 10.1)
    experiment.passed("new", 10.1, present=True)
    fail(experiment, "q", 10.2)

    assert experiment.next_at() == 10.1 + PERIOD


def test_an_id_under_way_is_not_a_control_if_another_one_is_good(experiment):
    fail(experiment, "p", 10.0)

    assert control(experiment, 11.0, busy="new") == "between"


def test_the_experiment_waits_while_all_good_ids_are_under_way():
    experiment = Experiment(doubling)
    experiment.learn(["good"], 0.0)
    fail(experiment, "p", 10.0)

    assert control(experiment, 11.0, busy="good") is None
    assert experiment.next_at() == 11.0 + GRACE
    assert control(experiment, 12.0) == "good"


def test_after_a_control_look_that_hangs_one_other_begins(experiment):
    fail(experiment, "p", 10.0)
    assert control(experiment, 11.0) == "new"

    assert control(experiment, 11.0 + HUNG) == "old"
    assert experiment.next_at() == 11.0 + 2 * HUNG
    assert control(experiment, 12.0 + HUNG) is None


def test_when_looks_at_all_good_ids_hang_they_are_tried_again(experiment):
    fail(experiment, "p", 0.0)
    tried = [control(experiment, 1.0 + n * HUNG) for n in range(4)]

    assert sorted(tried[:3]) == ["between", "new", "old"]
    assert tried[3] in tried[:3]


# What a control look that succeeds means


def test_a_look_that_began_after_the_failure_and_succeeds_shows_whose_fault_it_was(experiment):
    fail(experiment, "p", 10.0)
    fail(experiment, "q", 11.0)

    assert ids(experiment.passed("other", 10.5, present=True)) == ["p"]
    assert ids(experiment.passed("other", 11.5, present=True)) == ["q"]
    assert experiment.next_at() == math.inf


def test_a_control_that_is_gone_is_an_answer_but_never_a_control_again(experiment):
    fail(experiment, "p", 10.0)
    control(experiment, 10.1)

    assert ids(experiment.passed("new", 10.1, present=False)) == ["p"]
    fail(experiment, "p", 20.0)
    assert control(experiment, 20.1) == "between"


def test_a_suspect_that_failed_after_the_control_look_began_has_another_one(experiment):
    fail(experiment, "p", 10.0)
    control(experiment, 10.1)
    fail(experiment, "q", 10.2)

    assert ids(experiment.passed("new", 10.1, present=True)) == ["p"]
    assert experiment.next_at() == 10.1 + PERIOD


def test_while_others_succeed_the_next_control_look_is_put_off(experiment):
    fail(experiment, "p", 10.0)
    experiment.passed("other", 9.99, present=True)

    assert experiment.next_at() == 9.99 + GRACE


def test_an_id_that_keeps_failing_is_judged_by_its_first_failure(experiment):
    """Otherwise an id with an event each moment, each of which has a look, is never judged."""
    fail(experiment, "p", 10.0)
    fail(experiment, "p", 10.5, NOT_OWN)

    (suspect,) = experiment.passed("other", 10.2, present=True)

    assert suspect.failed is NOT_OWN


def test_an_id_that_succeeds_is_no_longer_a_suspect(experiment):
    fail(experiment, "p", 10.0)

    assert experiment.passed("p", 11.0, present=True) == []
    assert experiment.next_at() == math.inf


def test_an_id_whose_early_look_was_fine_is_no_longer_a_suspect(experiment):
    fail(experiment, "p", 10.0)
    fail(experiment, "q", 10.0)

    experiment.forget("p")
    assert ids(experiment.passed("other", 11.0, present=True)) == ["q"]

    fail(experiment, "p", 12.0)
    control(experiment, 13.0)
    experiment.forget("p")
    assert experiment.next_at() == math.inf
    assert experiment.control is None


def test_suspects_that_no_control_can_judge_any_more_are_at_fault_when_a_look_succeeds():
    experiment = Experiment(doubling)
    experiment.learn(["only"], 0.0)
    fail(experiment, "p", 10.0)

    # A look at the only good id, which began before, finds it gone.
    assert ids(experiment.passed("only", 9.0, present=False)) == ["p"]
    assert experiment.next_at() == math.inf


def test_suspects_that_a_look_shows_to_be_at_fault_come_before_those_that_none_can_judge():
    experiment = Experiment(doubling)
    experiment.learn(["only"], 0.0)
    fail(experiment, "p", 10.0)
    fail(experiment, "q", 12.0)

    assert ids(experiment.passed("only", 11.0, present=False)) == ["p", "q"]


# What control looks that fail mean


def test_control_looks_at_three_good_ids_that_fail_show_an_outage(experiment):
    experiment.learn(["fourth"], 0.0)
    fail(experiment, "p", 10.0)

    outages = []
    for now in (10.1, 10.2, 10.3):
        id = control(experiment, now)
        outages.append(fail(experiment, id, now, held=False))

    assert outages == [False, False, True]


def test_controls_are_not_neighbours(experiment):
    """Ids that changed together can be broken together."""
    experiment.learn(["oldest"], 0.0)
    fail(experiment, "p", 10.0)

    tried = []
    for now in (10.1, 10.2, 10.3):
        tried.append(control(experiment, now))
        fail(experiment, tried[-1], now, held=False)

    assert tried == ["new", "oldest", "between"]


def test_a_single_good_id_that_fails_too_shows_an_outage():
    experiment = Experiment(doubling)
    experiment.learn(["only"], 0.0)
    fail(experiment, "p", 10.0)

    assert fail(experiment, control(experiment, 11.0), 11.0, held=False)


def test_good_ids_that_all_fail_for_events_of_their_own_show_an_outage():
    experiment = Experiment(doubling)
    experiment.learn(["a", "b"], 0.0)

    assert not fail(experiment, "a", 10.0)
    assert fail(experiment, "b", 10.0)


def test_a_single_good_id_that_fails_shows_nothing():
    experiment = Experiment(doubling)
    experiment.learn(["a"], 0.0)

    assert not fail(experiment, "a", 10.0)
    assert not experiment.can_tell(10.0)


def test_a_success_starts_the_count_of_failed_controls_again(experiment):
    experiment.learn(["fourth"], 0.0)
    fail(experiment, "p", 10.0)
    for now in (11.0, 11.1):
        fail(experiment, control(experiment, now), now, held=False)
    experiment.passed("other", 9.0, present=True)

    assert not fail(experiment, control(experiment, 13.0), 13.0, held=False)


def test_a_control_whose_question_is_answered_fails_like_any_other_id(experiment):
    fail(experiment, "p", 10.0)
    assert control(experiment, 10.1) == "new"
    experiment.passed("other", 10.2, present=True)

    assert not fail(experiment, "new", 11.0, held=False)
    assert experiment.next_at() == math.inf


def test_in_an_outage_no_question_is_open(experiment):
    fail(experiment, "p", 10.0)
    control(experiment, 10.1)

    experiment.call_off()

    assert experiment.control is None
    assert experiment.next_at() == math.inf
    assert experiment.passed("other", 12.0, present=True) == []


# Which ids are good


def test_an_id_that_is_at_fault_is_not_good(experiment):
    fail(experiment, "new", 10.0)
    assert ids(experiment.passed("other", 11.0, present=True)) == ["new"]

    fail(experiment, "p", 20.0)
    assert control(experiment, 21.0) == "other"
    assert [experiment.rotate(lambda id: True) for _ in range(4)] == [
        "old",
        "between",
        "other",
        "old",
    ]


@pytest.mark.parametrize("last", [100, 101, 102])
def test_good_ids_are_remembered_from_long_ago_and_from_now(last):
    experiment = Experiment(doubling)
    for number in range(last):
        experiment.passed(str(number), float(number), present=True)

    good = [experiment.rotate(lambda id: True) for _ in range(KNOWN)]

    assert good[: KNOWN // 2] == [str(number) for number in range(KNOWN // 2)]
    assert good[KNOWN // 2 :] == [str(number) for number in range(last - KNOWN // 2, last)]


def test_good_ids_are_chosen_in_turn(experiment):
    def is_free(id):
        return id != "between"

    assert [experiment.rotate(is_free) for _ in range(3)] == ["old", "new", "old"]
    assert experiment.knows_ids(is_free)
    assert not experiment.knows_ids(lambda id: False)
    assert experiment.rotate(lambda id: False) is None


def test_without_a_suspect_no_control_look_is_ever_due():
    experiment = Experiment(doubling)
    experiment.passed("p", 0.0, present=True)

    assert experiment.next(math.inf, lambda _: True) is None


def test_the_sink_is_asked_for_good_ids_if_only_the_failing_ones_are_known():
    experiment = Experiment(doubling)
    fail(experiment, "q", 10.0)
    assert experiment.wants_ids("p", 10.0) == TRIED + 2

    fail(experiment, "p", 10.0)
    experiment.learn(["p", "q"], 10.0)
    assert experiment.wants_ids("p", 10.0 + ASK_AGAIN - 1) == 0
    assert experiment.wants_ids("p", 10.0 + ASK_AGAIN) > 0

    experiment.learn(["r"], 100.0)
    assert experiment.wants_ids("p", 1000.0) == 0


# What becomes of an id that is at fault


def verdicts(experiment, failed, *times):
    pauses = []
    for now in times:
        fail(experiment, "p", now, failed)
        (suspect,) = experiment.passed("other", now, present=True)
        pauses.append(experiment.hold(suspect, now))
    return pauses


def test_events_of_an_id_that_fails_by_itself_are_not_held(experiment):
    assert verdicts(experiment, OWN, 10.0) == [None]


def test_an_id_that_is_stuck_is_held_with_growing_pauses_for_an_hour(experiment):
    times = (10.0, 20.0, 30.0, 10.0 + PATIENCE, 11.0 + PATIENCE)

    assert verdicts(experiment, NOT_OWN, *times) == [2.0, 4.0, 8.0, None, 2.0]


def test_an_id_that_was_stuck_and_succeeded_begins_again(experiment):
    assert verdicts(experiment, NOT_OWN, 10.0, 20.0) == [2.0, 4.0]
    experiment.passed("p", 25.0, present=True)

    assert verdicts(experiment, NOT_OWN, 30.0) == [2.0]


def test_an_id_that_was_handed_back_begins_again(experiment):
    verdicts(experiment, NOT_OWN, 10.0)
    experiment.forget("p")

    assert verdicts(experiment, NOT_OWN, 30.0) == [2.0]


def test_an_id_that_is_stuck_is_left_alone_for_as_long_as_the_source_asks(experiment):
    assert verdicts(experiment, Failed(OSError(), False, 60.0), 10.0) == [60.0]


def test_without_patience_nothing_is_held():
    experiment = Experiment(doubling, patience=0.0)
    experiment.learn(["good"], 0.0)

    assert verdicts(experiment, NOT_OWN, 10.0) == [None]


def test_the_sink_is_asked_again_as_soon_as_what_it_has_named_is_used_up():
    experiment = Experiment(doubling)
    experiment.learn(["a"], 0.0)
    fail(experiment, "a", 1.0)

    assert experiment.wants_ids("b", 1.0) == TRIED + 2


def test_an_id_that_fails_is_not_good_for_itself():
    experiment = Experiment(doubling)
    experiment.learn(["a"], 0.0)

    assert experiment.wants_ids("b", 1.0) == 0
    assert experiment.wants_ids("a", 1.0) == TRIED + 1


def test_the_sink_is_asked_once_until_it_has_answered():
    experiment = Experiment(doubling)
    assert experiment.wants_ids("a", 1.0) > 0
    assert experiment.wants_ids("a", 1.0 + 2 * ASK_AGAIN) == 0

    experiment.learn([], 200.0)
    assert experiment.wants_ids("a", 199.0 + ASK_AGAIN) == 0
    assert experiment.wants_ids("a", 200.0 + ASK_AGAIN) > 0


def test_while_the_sink_is_asked_for_good_ids_it_can_still_be_told_what_is_wrong():
    experiment = Experiment(doubling)
    experiment.wants_ids("a", 1.0)
    fail(experiment, "b", 2.0)
    assert experiment.can_tell(0.9 + HUNG)
    assert not experiment.cannot_end(0.9 + HUNG)
    assert experiment.cannot_end(1.0 + HUNG)

    experiment.learn([], 3.0)
    assert experiment.cannot_end(3.0)


def test_without_a_suspect_there_is_nothing_to_end():
    assert not Experiment(doubling).cannot_end(1.0)
