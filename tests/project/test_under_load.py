"""The command that runs the tests again and again beside busy loops."""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest

from verification.harness import under_load
from verification.harness.commands import status_of


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a test file with the command; return its status and what it prints."""

    def run(code):
        (tmp_path / "test_some.py").write_text(code)
        quick = [sys.executable, "-m", "pytest", "-q", f"--rootdir={tmp_path}", "-c", os.devnull]
        monkeypatch.setattr(under_load, "TESTS", quick)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take a second to import
        given = ["--times", "2", "--busy", "1", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["under_load", *given])
        return under_load.main(), capsys.readouterr().out

    return run


def test_each_failure_is_printed_with_its_reason(run):
    status, printed = run("def test_it():\n    assert 1 == 2\n")

    assert status == 1
    assert printed.count("test_some.py::test_it - assert 1 == 2") == 2
    assert printed.endswith("2 times beside 1 busy loops: 2 with a failure\n")


def test_runs_without_a_failure_are_status_0_and_leave_no_busy_loop(run):
    status, printed = run("def test_it():\n    pass\n")

    assert status == 0
    assert printed.endswith("2 times beside 1 busy loops: 0 with a failure\n")
    assert not [child for child in psutil.Process().children() if "getppid" in str(child.cmdline())]


def test_a_command_leaves_signals_to_those_who_had_them():
    signals = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in signals]

    assert status_of(lambda: 7) == 7
    assert [signal.getsignal(number) for number in signals] == before
