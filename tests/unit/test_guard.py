"""What counts as a mass deletion."""

from __future__ import annotations

import json
import random
from collections import deque
from functools import partial
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from change_events._consumer.guard import Guard


def see(guard, *, gone=0, found=0):
    """Count looks: first `found` entities, then `gone` deletions; return how many are allowed."""
    for _ in range(found):
        guard.found(cached=True)
    return sum(guard.allows_deletion() for _ in range(gone))


def test_a_source_that_answers_gone_to_everything_costs_nineteen_entities():
    guard = Guard()

    assert see(guard, gone=1000) == 19
    assert guard.tripped


def test_a_source_that_loses_everything_after_many_finds_costs_fifty_entities():
    guard = Guard()

    assert see(guard, found=200, gone=1000) == 50
    assert guard.tripped
    assert str(guard) == "100 of the last 100 looks at cached entities saw them gone"


def test_deletions_of_every_second_entity_are_allowed():
    guard = Guard()
    for _ in range(200):
        assert see(guard, found=1, gone=1) == 1

    assert not guard.tripped


def test_a_tripped_guard_refuses_every_deletion_and_no_find():
    guard = Guard()
    see(guard, gone=20)

    assert see(guard, found=100, gone=1) == 0
    assert guard.tripped


def test_resume_at_an_empty_cache_allows_no_mass_deletion_later():
    guard = Guard()
    for number in range(20):
        guard.allows_unknown(f"p{number}")
    guard.resume()

    assert see(guard, gone=100) == 19


def test_resume_allows_a_mass_deletion_until_it_is_over():
    guard = Guard()
    see(guard, gone=20)

    guard.resume()
    assert not guard.tripped
    assert see(guard, gone=500) == 500  # the operator means it
    assert see(guard, found=50, gone=1) == 1

    assert see(guard, found=50, gone=500) == 50  # another one
    assert guard.tripped


def test_resume_allows_the_next_mass_deletion_too():
    guard = Guard()
    for _ in range(2):
        see(guard, found=100, gone=100)
        assert guard.tripped
        guard.resume()

    assert see(guard, gone=100) == 100
    guard.resume()  # nothing was refused
    assert see(guard, gone=100) == 100


def test_resume_has_no_effect_if_no_deletion_was_refused():
    guard = Guard()
    guard.resume()

    assert see(guard, gone=100) == 19


@pytest.mark.parametrize(
    ("max_share", "min_deleted", "deleted"),
    [(1.0, 1, 100), (0.0, 1, 0), (0.0, 3, 2), (0.5, 100, 99), (0.25, 5, 16), (0.26, 5, 17)],
)
def test_both_thresholds_can_be_set(max_share, min_deleted, deleted):
    guard = Guard(max_share=max_share, min_deleted=min_deleted)

    assert see(guard, found=50, gone=100) == deleted


@given(
    st.lists(st.sampled_from([True, True, False, "resume"]), max_size=400),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(1, 30),
)
def test_too_many_deletions_are_allowed_only_after_a_resume(looks, max_share, min_deleted):
    guard = Guard(max_share=max_share, min_deleted=min_deleted)
    last = deque(maxlen=100)
    resumed = False
    for look in looks:
        if look == "resume":
            resumed = resumed or guard.tripped
            guard.resume()
            assert not guard.tripped
            continue
        last.append(look)
        too_many = sum(last) >= min_deleted and sum(last) / len(last) > max_share
        was_tripped = guard.tripped
        if not look:
            guard.found(cached=True)
            assert guard.tripped == was_tripped, "what is found is never refused"
            continue
        allowed = guard.allows_deletion()
        if allowed:
            assert resumed or not too_many
            assert not was_tripped
        else:
            assert was_tripped or too_many


# A small cache


def test_a_small_cache_is_guarded_by_its_share():
    guard = Guard()

    allowed = [guard.allows_deletion(left) for left in range(10, 0, -1)]

    assert allowed == [True] * 5 + [False] * 5
    assert str(guard) == "10 of the last 10 looks at cached entities saw them gone"


def test_four_deletions_in_a_row_are_allowed_even_if_nothing_is_left():
    guard = Guard()

    assert all(guard.allows_deletion(left) for left in (4, 3, 2, 1))


def test_a_large_cache_is_not_guarded_by_its_share():
    guard = Guard()

    assert sum(guard.allows_deletion(left) for left in range(100, 50, -1)) == 19


def test_the_size_of_the_cache_is_asked_for_only_when_it_matters():
    guard = Guard()
    few = []
    for _ in range(21):
        few.append(guard.few)
        guard.allows_deletion()

    assert few == [0] * 4 + [40] * 15 + [0] * 2


# An empty cache


def test_a_source_that_does_not_know_twenty_ids_of_an_empty_cache_is_not_believed():
    guard = Guard()

    assert sum(guard.allows_unknown(f"p{number}") for number in range(30)) == 19
    assert guard.tripped
    assert str(guard) == "the cache is empty, and the source does not know any of 30 ids"


def test_many_looks_at_one_id_of_an_empty_cache_count_as_one():
    guard = Guard()

    assert all(guard.allows_unknown("p1") for _ in range(100))
    assert guard.unknown == 1


@pytest.mark.parametrize("known", ["found", "deleted", "warm", "resumed"])
def test_a_source_that_has_known_an_id_is_believed(known):
    guard = Guard()
    if known == "found":
        guard.found(cached=False)
    elif known == "deleted":
        guard.allows_deletion()
    elif known == "warm":
        guard.allows_unknown("p0", is_warm=True)
    else:
        see_unknown(guard)
        assert guard.tripped
        guard.resume()

    assert all(guard.allows_unknown(f"p{number}") for number in range(100))


def see_unknown(guard):
    for number in range(20):
        guard.allows_unknown(f"p{number}")


def test_while_deletions_are_refused_an_unknown_id_is_not_believed_either():
    guard = Guard()
    see(guard, gone=20)

    assert not guard.allows_unknown("p1")


def test_at_least_three_ids_must_be_unknown_before_a_source_is_not_believed():
    guard = Guard(min_deleted=1)

    assert [guard.allows_unknown(id) for id in "abc"] == [True, True, False]


def test_the_log_is_warned_once_after_three_unknown_ids():
    guard = Guard()
    warnings = []
    for number in range(6):
        guard.allows_unknown(f"p{number}")
        warnings.append(guard.warns())

    assert warnings == [False, False, True, False, False, False]


def test_a_guard_that_is_off_refuses_nothing():
    guard = Guard(on=False)
    see_unknown(guard)

    assert see(guard, gone=100) == 100
    assert not guard.tripped
    assert not guard.warns()


# What is kept


INFINITE = '{"believes": false, "gone": "0", "at": [Infinity]}'


def stored(guard):
    """Return what is stored of what the guard knows."""
    text = guard.dump()
    guard.dumped()
    return text


def again(guard, **settings):
    """Return the guard of a process that starts later."""
    later = Guard(**settings)
    later.load(stored(guard))
    return later


def test_after_a_restart_the_first_deletion_is_refused_if_the_source_is_still_wrong():
    guard = Guard()
    see(guard, gone=20)

    later = again(guard)
    assert not later.tripped
    assert see(later, gone=10) == 0


def test_after_a_restart_a_source_that_is_right_again_is_believed_soon():
    guard = Guard()
    see(guard, gone=20)

    later = again(guard)
    assert see(later, found=25, gone=1) == 1


def test_entities_that_came_back_count_again_when_they_are_gone():
    guard = Guard()
    for version in (1, 4):
        allowed = [guard.allows_deletion(entry=(f"p{n}", version)) for n in range(19)]
        assert all(allowed) is (version == 1)


def test_a_deletion_that_is_tried_again_counts_once():
    guard = Guard()

    assert all(guard.allows_deletion(entry=("p1", 1)) for _ in range(1000))
    assert sum(guard.allows_deletion(entry=(f"q{n}", 1)) for n in range(200)) == 18


def test_processes_that_share_a_cache_count_together():
    guards, kept = (Guard(), Guard()), ""
    allowed = 0
    for number in range(30):
        guard = guards[number % 2]
        guard.load(kept)
        allowed += guard.allows_deletion()
        kept = stored(guard)

    assert allowed == 19


@pytest.mark.parametrize("kept", ["", "other"])
def test_what_could_not_be_stored_is_told_again(kept):
    guard, other, later = Guard(), Guard(), Guard()
    see(guard, gone=10)
    guard.dump()
    see(guard, found=5)
    if kept:
        see(other, gone=1)
        guard.load(other.dump())

    later.load(guard.dump())
    assert str(later).startswith("11 of the last 16 looks" if kept else "10 of the last 15 looks")
    see(guard, found=1)
    guard.dumped()
    assert guard.unkept == 1


@pytest.mark.parametrize("stored", [True, False])
def test_a_resume_that_could_not_be_stored_is_not_undone(stored):
    guard = Guard()
    see(guard, gone=20)
    before = guard.dump()
    guard.resume()
    guard.dump()
    if stored:
        guard.dumped()

    guard.load(before)

    assert (see(guard, gone=100) == 100) is not stored


def test_a_resume_while_something_older_is_stored_is_not_undone():
    guard = Guard()
    see(guard, gone=20)
    before = guard.dump()
    guard.resume()
    guard.dumped()

    guard.load(before)

    assert see(guard, gone=100) == 100


@pytest.mark.parametrize("processes", [2, 5])
def test_what_other_processes_have_found_hides_no_deletion(processes):
    guards = [Guard() for _ in range(processes)]
    for guard in guards:
        see(guard, found=200)
    allowed, kept = 0, ""
    for guard in guards:
        for _ in range(60):
            guard.load(kept)
            allowed += guard.allows_deletion()
            kept = stored(guard)

    assert allowed == 50


@pytest.mark.parametrize(
    ("found", "min_deleted", "deleted"), [(4, 20, 50), (100, 20, 50), (100, 60, 59)]
)
def test_other_processes_with_the_right_url_do_not_hide_one_with_a_wrong_one(
    found, min_deleted, deleted
):
    right, wrong, kept = Guard(), Guard(min_deleted=min_deleted), ""
    allowed = 0
    for _ in range(300):
        see(right, found=found)
        right.load(kept)
        kept = stored(right)
        wrong.load(kept)
        allowed += wrong.allows_deletion()
        kept = stored(wrong)

    assert allowed == deleted


def test_deletions_that_could_not_be_stored_count_all_the_same():
    guard, other, kept = Guard(), Guard(), ""
    see(guard, found=100)
    see(other, found=100)
    for number in range(60):
        guard.load(kept)
        allowed = guard.allows_deletion(entry=(f"p{number}", 1))
        guard.dump()
        assert allowed == (number < 50)
        see(other, found=2)
        other.load(kept)
        kept = stored(other)


def test_what_a_resume_has_allowed_here_counts_no_more_when_another_process_has_ended_it():
    guard, other = Guard(), Guard()
    see(guard, gone=20)
    guard.resume()
    see(guard, gone=60)
    stored(guard)
    see(other, found=100)
    guard.load(stored(other))

    assert see(guard, gone=100) == 50


def test_what_is_found_after_others_were_heard_counts_as_later():
    guard, other = Guard(), Guard()
    see(other, gone=100)
    guard.load(other.dump())
    see(guard, found=50)

    assert see(guard, gone=10) == 10


@pytest.mark.parametrize("ahead", [0.0, 86_400.0], ids=["clocks agree", "one is a day ahead"])
def test_processes_that_share_a_small_cache_do_not_take_usual_deletions_for_a_mass_deletion(ahead):
    chance, now = random.Random(1), 0.0
    clocks = [lambda: now, lambda: now, lambda: now + ahead]
    guards, kept = [Guard(clock=clock) for clock in clocks], ""
    cached = set(range(20))
    for version in range(2000):
        now += 0.1
        id, guard = chance.randrange(20), chance.choice(guards)
        if chance.random() < 0.15 and id in cached:
            guard.load(kept)
            assert guard.allows_deletion(len(cached), entry=(str(id), version))
            kept = stored(guard)
            cached.remove(id)
        else:
            guard.found(cached=id in cached)
            cached.add(id)


def test_looks_are_stored_with_their_times_in_milliseconds_and_each_is_later_than_the_last():
    guard = Guard(clock=lambda: 7.5)
    see(guard, found=1, gone=1)

    assert json.loads(guard.dump()) == {"believes": False, "gone": "01", "at": [7500, 1]}


def test_deletions_can_be_allowed_before_one_is_refused():
    guard = Guard()
    guard.allow()

    assert see(guard, gone=100) == 100


def test_a_process_whose_clock_is_late_is_noticed():
    right, wrong = Guard(clock=lambda: 1e6), Guard(clock=lambda: 0.0)
    see(right, found=100)
    wrong.load(stored(right))

    allowed = sum(wrong.allows_deletion(20 - n, entry=(f"p{n}", 1)) for n in range(20))
    assert allowed == 10


def test_what_was_found_hides_no_deletion_however_often_the_state_has_changed_meanwhile():
    clock = partial(next, count())
    guard, other = Guard(clock=clock), Guard(clock=clock)
    see(guard, found=100)
    for gone in (50, 1):
        other = again(other, clock=clock)
        assert see(other, gone=gone) == (0 if gone == 1 else 19)
        guard.load(stored(other))

    assert str(guard).startswith("51 of the last 100 looks")


def test_what_was_found_hides_no_deletion_after_the_state_was_lost():
    clock = partial(next, count())
    guard, other = Guard(clock=clock), Guard(clock=clock)
    see(guard, found=50)
    stored(guard)
    see(guard, found=100)
    see(other, gone=10)

    guard.load(other.dump())

    assert str(guard).startswith("10 of the last 100 looks")


def test_no_more_is_remembered_than_counts():
    guard = Guard()
    for _ in range(3):
        see(guard, found=150)
        assert guard.unkept == 100
        guard.dump()
        guard.dumped()
    see(guard, found=150)
    guard.dump()  # it is not stored
    see(guard, found=150)
    guard.load(Guard().dump())

    assert guard.unkept == 100


def test_a_state_that_was_lost_counts_anew():
    guard, other = Guard(), Guard()
    see(guard, found=50)
    stored(guard)
    see(other, gone=10)

    guard.load(other.dump())

    assert str(guard).startswith("10 of the last 10 looks")


def test_what_was_found_since_counts_beside_what_others_have_counted():
    one, other = Guard(), Guard()
    see(one, gone=10)
    see(other, found=5)
    other.load(one.dump())

    assert str(other).startswith("10 of the last 15 looks")


def test_after_a_resume_that_is_kept_the_next_mass_deletion_is_refused():
    guard, kept = Guard(), ""

    def delete():
        nonlocal kept
        guard.load(kept)
        allowed = guard.allows_deletion()
        kept = stored(guard)
        return allowed

    assert sum(delete() for _ in range(25)) == 19
    guard.resume()
    kept = stored(guard)
    assert sum(delete() for _ in range(25)) == 25
    see(guard, found=100)

    assert sum(delete() for _ in range(100)) == 50
    assert guard.tripped


def test_a_look_that_begins_before_a_resume_is_kept_does_not_undo_it():
    guard = Guard()
    see(guard, gone=20)
    kept = guard.dump()
    guard.resume()

    guard.load(kept)

    assert see(guard, gone=200) == 200


def test_a_resume_counts_for_a_process_that_has_found_much_before():
    resumed, other = Guard(), Guard()
    see(resumed, gone=20)
    resumed.resume()
    see(other, found=100)
    other.load(resumed.dump())

    assert see(other, gone=200) == 200


def test_a_refusal_stands_until_another_process_believes():
    guard, watching, believing = Guard(), Guard(), Guard()
    see(guard, gone=20)
    see(believing, gone=20)
    believing.resume()

    guard.load(watching.dump())
    assert guard.tripped
    guard.load(believing.dump())
    assert not guard.tripped


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"believes": 0, "gone": ""}', INFINITE, "[" * 100_000),
        '{"believes": true, "gone": "01", "at": [1]}',
    ],
)
def test_a_text_that_is_not_a_guards_changes_nothing(text):
    guard = Guard()
    see(guard, gone=20)
    guard.load(text)

    assert guard.tripped
    assert str(guard).startswith("20 of")


def test_a_guard_that_has_counted_nothing_is_new():
    guard = Guard()
    assert guard.is_new

    guard.allows_unknown("p1")
    assert not guard.is_new


def test_what_others_have_deleted_before_a_first_look_here_counts_as_later():
    guard, other = Guard(), Guard()
    see(guard, found=100)
    see(other, gone=1)
    guard.load(stored(other))

    assert str(guard) == "1 of the last 100 looks at cached entities saw them gone"


def test_a_resume_that_began_and_ended_elsewhere_before_anything_was_stored_here_is_over():
    guard, other = Guard(), Guard()
    see(other, gone=20)
    other.resume()
    guard.load(stored(other))
    see(other, found=60)
    guard.load(stored(other))

    assert see(guard, gone=100) == 50


def test_a_resume_that_another_process_has_ended_is_over():
    guard, other = Guard(), Guard()
    see(guard, gone=20)
    guard.resume()
    stored(guard)

    see(other, found=60)
    guard.load(other.dump())

    assert see(guard, gone=100) == 50
