"""What counts as a mass deletion."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from change_events._consumer.guard import Guard


def see(guard, *, gone=0, found=0):
    """Count looks: first `found` entities, then `gone` deletions; return how many are allowed."""
    assert all(guard.allows(gone=False) for _ in range(found))
    return sum(guard.allows(gone=True) for _ in range(gone))


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
        allowed = guard.allows(gone=look)
        assert allowed or look, "what is found is never refused"
        if look and allowed:
            assert resumed or not too_many
            assert not was_tripped
        if look and not allowed:
            assert was_tripped or too_many
