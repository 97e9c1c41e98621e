"""The plugin as a user has it: in a separate pytest, which finds it by its entry point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pytest_examples import find_examples

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "test-your-code.md"


@pytest.fixture
def user(pytester: pytest.Pytester, monkeypatch):
    """A user's directory, without AWS or a topic in the environment."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    return pytester


def test_the_tests_of_the_howto_pass(user):
    user.makepyfile("\n\n".join(example.source for example in find_examples(HOWTO)))

    result = user.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=8)


def test_pytest_lists_the_fixtures_with_their_descriptions(user):
    result = user.runpytest_subprocess("--fixtures")

    result.stdout.fnmatch_lines(
        [
            "change_events_broadcasts -- *",
            "    The broadcasts of this process, which are recorded and not sent: *",
            "change_events_queue -- *",
            "    An SQS queue in memory that gets every broadcast of this process: *",
            "change_events_source -- *",
            "    A source in memory, empty: *",
        ]
    )


def test_a_test_without_our_fixtures_imports_nothing_further(user):
    user.makepyfile(
        """
        import sys

        OURS = ("change_events", "change_events.exceptions", "change_events.pytest_plugin")

        def test_nothing():
            prefixes = ("change_events", "boto", "urllib3")
            assert {name for name in sys.modules if name.startswith(prefixes)} == {*OURS}
        """
    )

    user.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_a_users_fixture_replaces_ours_of_the_same_name(user):
    user.makeconftest(
        """
        import pytest
        from change_events.testing import FakeQueue

        @pytest.fixture
        def change_events_queue(change_events_broadcasts):
            queue = FakeQueue(max_receive_count=3)
            change_events_broadcasts.subscribe(queue)
            return queue
        """
    )
    user.makepyfile(
        """
        from change_events import SNSPublisher, broadcasting

        def test_own(change_events_queue):
            with broadcasting(SNSPublisher.from_env("UNSET"), "p1"):
                assert change_events_queue.bodies == ['{"id": "p1"}']
        """
    )

    user.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_the_fixtures_work_together(
    change_events_broadcasts, change_events_queue, change_events_source
):
    from change_events import NullPublisher, broadcasting

    with broadcasting(NullPublisher(), "p1"):
        change_events_source["p1"] = {"id": "p1"}

    assert change_events_broadcasts.ids == ["p1"]
    assert change_events_queue.bodies == ['{"id": "p1"}']
