"""The sinks' contract fails each sink that breaks a rule, and names the rule."""

from __future__ import annotations

# Before pytester's runs, each of which forgets the modules that it imports: the second one would
# start no process, because it could not pickle a function of a module that is imported again.
import concurrent.futures.process  # noqa: F401
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ONE_WINS = "two looks with the same version were applied"

IN_MEMORY = """
    @pytest.fixture
    def sink(self, clock):
        return broken_sinks.{name}(clock=clock)
"""

IN_A_FILE = """
    @pytest.fixture
    def sink(self, open_again):
        with open_again() as sink:
            yield sink

    @pytest.fixture
    def open_again(self, tmp_path):
        return partial(broken_sinks.{name}, tmp_path / "cache.db", timeout=30)
"""

ONE_FOR_EACH = """
    @pytest.fixture
    def sink(self):
        return MemorySink()

    @pytest.fixture
    def open_again(self):
        return MemorySink
"""

NOTHING = """
    pass
"""


@pytest.fixture
def run_contract(pytester):
    """Run the contract, or one test of it, in a pytest of its own, with the subclass's body."""
    pytester.syspathinsert(Path(__file__).parent)

    def run(body, test=""):
        imports = """
            from functools import partial
            import pytest
            import broken_sinks
            from change_events import MemorySink
            from change_events.testing import SinkContract

            class TestSink(SinkContract):
        """
        pytester.makepyfile(textwrap.dedent(imports) + body)
        name = test.partition("[")[0]
        return pytester.runpytest_inprocess(
            "-rfEs", "--tb=line", "-p", "no:cacheprovider", "-k", name
        )

    return run


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("NoBumpOnUnchanged", "test_every_look_raises_the_version[found-unchanged]"),
        ("NoBumpOnGoneNeverSeen", "test_every_look_raises_the_version[-gone]"),
        ("NoBumpOnGoneTombstone", "test_every_look_raises_the_version[gone-gone]"),
        ("NoBumpOnSameEntity", "test_finding_the_same_again_raises_the_version_too"),
        ("TombstoneDropped", "test_every_look_raises_the_version[found-gone]"),
        ("RefusesAll", "test_every_look_raises_the_version[-found]"),
        ("RefusesAll", "test_of_many_threads_with_one_version_one_wins"),
        ("NoCompare", "test_a_look_with_another_version_is_refused[found-found]"),
        ("NoCompareOnGone", "test_a_look_with_another_version_is_refused[found-gone]"),
        ("NewerIsGoodEnough", "test_a_look_with_another_version_is_refused[found-found]"),
        ("WritesThenCompares", "test_a_look_that_is_refused_leaves_the_entity[found-found]"),
        ("ForgetsETagOnUnchanged", "test_the_entry_says_what_was_found[found-unchanged]"),
        ("KeepsETagOfBefore", "test_the_entry_says_what_was_found[found-found without ETag]"),
        ("IgnoresETagOfUnchanged", "test_the_entry_says_what_was_found[found-unchanged, another"),
        ("StoresNoDigest", "test_the_entry_says_what_was_found[-found]"),
        ("KeepsDigestOfBefore", "test_the_entry_says_what_was_found[found-found without ETag]"),
        ("KeepsDigestOfTheDeleted", "test_the_entry_says_what_was_found[found-gone]"),
        ("ForgetsDigestOnUnchanged", "test_the_entry_says_what_was_found[found-unchanged]"),
        ("ForgetsEntityOnUnchanged", "test_the_entity_is_what_was_found[found-unchanged]"),
        ("TakesIdsForEachOther", "test_ids_are_kept_apart"),
        ("MixesUpEntities", "test_entities_of_all_ids_can_be_read"),
        ("ListsTombstones", "test_only_what_is_present_is_listed"),
        ("CountsTombstones", "test_only_what_is_present_is_counted"),
        ("NamesTombstones", "test_ids_names_only_what_is_present"),
        ("NamesTheLastIdAgain", "test_pages_of_ids_name_each_id_once[7]"),
        ("NamesMoreThanAsked", "test_pages_of_ids_name_each_id_once[1]"),
        ("StopsAtTombstones", "test_pages_of_ids_name_each_id_once[1]"),
        ("StopsAtAnIdThatIsGone", "test_pages_go_on_after_an_id_that_is_gone_meanwhile"),
        ("KeepsTheFirstState", "test_state_is_what_was_last_set_under_the_name"),
        ("KeepsTheFirstState", "test_threads_that_set_state_at_once_lose_none"),
        ("SetsStateOverAnything", "test_state_is_not_set_over_what_another_process_has_set"),
        ("SetsStateWithoutALock", "test_threads_that_set_state_at_once_lose_none"),
        ("KeepsOneState", "test_state_is_what_was_last_set_under_the_name"),
        ("KeepsStateAmongEntities", "test_state_is_not_an_entity"),
        ("MistakesStateForAnEntry", "test_state_is_not_an_entity"),
        ("PurgesState", "test_state_is_kept_by_a_purge"),
        ("ChecksThenWrites", "test_of_many_threads_with_one_version_one_wins"),
        ("ChecksThenDeletes", "test_whatever_looks_with_one_version_find_one_wins[gone]"),
        ("ChecksThenTouches", "test_whatever_looks_with_one_version_find_one_wins[unchanged]"),
        ("PurgesTheRevived", "test_purge_keeps_what_was_found_again"),
        ("NamesOneOfAlike", "test_pages_of_one_id_keep_ids_apart"),
        ("PurgesTheYoung", "test_purge_refuses_the_young[13.9]"),
        ("PurgesWhatLives", "test_purge_forgets_tombstones_older_than_any_event"),
        ("NeverPurges", "test_purge_forgets_tombstones_older_than_any_event"),
        ("BeginsAt1", "test_no_version_comes_again_after_a_purge"),
        ("InsertsOverAnything", "test_insert_many_leaves_each_id_that_was_touched"),
        ("InsertsOverTombstones", "test_insert_many_leaves_each_id_that_was_touched"),
        ("InsertsAtMost100", "test_insert_many_stores_hundreds_of_entities_at_once"),
        ("NamesAllAsInserted", "test_insert_many_leaves_each_id_that_was_touched"),
        ("NamesNothingAsInserted", "test_insert_many_stores_each_id_that_was_never_touched"),
        ("InsertsWithoutETags", "test_insert_many_stores_each_id_that_was_never_touched"),
        ("InsertsWithoutDigests", "test_insert_many_stores_each_id_that_was_never_touched"),
        ("InsertsAtVersion0", "test_a_look_can_follow_insert_many"),
        ("InsertsAtVersion1", "test_no_version_comes_again_if_a_purge_is_followed_by_insert_many"),
        ("ChecksThenInserts", "test_of_insert_many_and_looks_at_once_one_wins"),
        ("NeedsSomethingToInsert", "test_insert_many_of_nothing_stores_nothing"),
        ("BelievesAPageThatFailed", "test_insert_many_that_raised_can_be_repeated"),
        ("ReadsTombstones", "test_get_many_returns_only_what_is_present"),
        ("ReadsAtMost100", "test_get_many_returns_hundreds_at_once"),
        ("ReadsWhatWasFirst", "test_get_many_returns_what_the_last_look_stored"),
        ("ReadsIdsWithoutSpaces", "test_get_many_keeps_ids_apart"),
        ("NeedsSomethingToRead", "test_get_many_of_nothing_returns_nothing"),
    ],
)
def test_a_sink_that_breaks_a_rule_fails_its_test(run_contract, name, rule):
    result = run_contract(IN_MEMORY.format(name=name), rule)

    result.stdout.fnmatch_lines(f"FAILED *::{rule.replace('[', '[[]')}*")


@pytest.mark.parametrize(
    ("body", "rule", "reason"),
    [
        (
            IN_A_FILE.format(name="LocksThreadsOnly"),
            "test_of_many_processes_with_one_version_one_wins",
            ONE_WINS,
        ),
        (ONE_FOR_EACH, "test_of_many_processes_with_one_version_one_wins", ONE_WINS),
        (ONE_FOR_EACH, "test_the_storage_is_one_however_often_it_is_opened", "assert Entry("),
        (ONE_FOR_EACH, "test_state_is_one_however_often_the_storage_is_opened", "assert None == "),
        (
            ONE_FOR_EACH,
            "test_of_insert_many_and_looks_at_once_one_wins_however_often_the_storage_is_opened",
            "an id was stored twice, or never",
        ),
    ],
    ids=[
        "only threads are locked out",
        "one cache for each process",
        "one cache for each handle",
        "one state for each handle",
        "one page for each handle",
    ],
)
def test_a_sink_that_is_wrong_only_when_shared_fails(run_contract, body, rule, reason):
    result = run_contract(body, rule)

    result.stdout.fnmatch_lines([f"E *{reason}*", f"FAILED *::{rule}*"])


def test_what_a_contender_raises_is_shown_and_no_other_waits_for_it(run_contract):
    result = run_contract(IN_A_FILE.format(name="FailsOnce"), "test_of_many")

    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_of_many_threads_with_one_version_one_wins*",
            "FAILED *::test_of_many_processes_with_one_version_one_wins*",
        ]
    )
    reasons = [line for line in result.outlines if line.startswith("E ") and "Error: " in line]
    assert {line.split(": ", 1)[1] for line in reasons} == {"the disk is full"}


def test_for_the_smallest_sink_only_tests_of_missing_methods_are_skipped(run_contract):
    result = run_contract(IN_MEMORY.format(name="Plain"))

    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed", "skipped"}
    assert outcomes["passed"] > 60
    result.stdout.fnmatch_lines_random(
        [
            "*no get()*",
            "*no items()*",
            "*no len()*",
            "*no purge()*",
            "*no ids()*",
            "*no set_state()*",
            "*no insert_many()*",
            "*no get_many()*",
            "*the fixture 'open_again' is missing*",
        ]
    )


def test_tests_that_need_old_entries_are_skipped_for_a_sink_without_the_clock(run_contract):
    result = run_contract(IN_MEMORY.format(name="OwnClock"))

    assert result.parseoutcomes()["skipped"] == 9
    result.stdout.fnmatch_lines("*does not ask the fixture 'clock' for the time*")


def test_a_contract_without_a_sink_fixture_says_what_is_missing(run_contract):
    result = run_contract(NOTHING)

    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines("*TestSink needs a fixture named 'sink'*")
