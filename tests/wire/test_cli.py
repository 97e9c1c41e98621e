"""The command `change-events`: how it is run, what it says about mistakes, and how it ends."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from rich.console import Console

import change_events.__main__ as entry
from change_events import AlreadyRunningError, ConfigurationError, FetchError
from change_events._cli import app as app_module
from change_events._cli import problems
from change_events._cli.group import COMMANDS, Group, group
from change_events._cli.interrupts import stopping
from change_events._cli.progress import Bar
from command_line import run

# How it is run


def test_the_command_lists_its_subcommands_and_exit_statuses():
    result = run("--help")

    assert result.exit_code == 0
    for name in (*COMMANDS, "Exit statuses:", "130"):
        assert name in result.output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_of_every_command_has_an_example(option):
    for name in COMMANDS:
        shown = run(name, option).output

        assert f"change-events {name}" in shown.partition("\n")[2] or name == "dead-letters"


def test_the_version_is_printed(monkeypatch):
    monkeypatch.setenv("CHANGE_EVENTS_VERSION", "a deployment's own")

    result = run("--version")

    assert result.output.startswith("change-events 0.")
    assert (run("--help").exit_code, result.exit_code) == (0, 0)


def test_an_unknown_command_is_a_mistake():
    result = run("bakfill")

    assert result.exit_code == 2
    assert "No such command 'bakfill'" in result.stderr


def test_python_runs_the_module():
    ran = subprocess.run(
        [sys.executable, "-m", "change_events", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.startswith("change-events 0.")


def test_a_command_imports_only_what_it_needs():
    script = (
        "import sys; from change_events._cli.group import group; "
        "group(['publish', 'nonsense'], standalone_mode=False, prog_name='x')"
    )
    script = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {script}"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    imported = set(ran.stdout.split())

    assert "change_events._cli.publish" in imported
    assert not imported & {"psycopg", "sqlite3", "change_events._worker", "urllib3", "boto3"}


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # an import of it fails

    with pytest.raises(SystemExit) as exit_:
        entry.main()

    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", entry.MISSING + "\n")
    assert "pip install 'change-events[cli]'" in printed.err


def test_a_process_without_the_extra_ends_with_status_2():
    script = (
        "import runpy, sys; sys.modules['click'] = sys.modules['rich'] = None; "
        "sys.argv[1:] = ['status', 'shop:worker']; "
        "runpy.run_module('change_events', run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", entry.MISSING + "\n")


def test_the_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["change-events", "--version"])

    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(entry.__file__, run_name="__main__")

    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("change-events 0.")


def test_the_command_works_without_a_stdout(monkeypatch):
    """A process can be started with it closed."""
    monkeypatch.setattr(sys, "argv", ["change-events", "--version"])
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(SystemExit) as exit_:
        entry.main()

    assert exit_.value.code == 0


# APP


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)

    yield write
    for name in written:  # and no module of ours: there would be two of its classes
        sys.modules.pop(name, None)


WORKER = """
from change_events import HTTPFetcher, MemorySink, Worker
worker = Worker(
    "https://sqs.eu-west-1.amazonaws.com/123456789012/q",
    fetcher=HTTPFetcher("https://products.example.com/{id}"),
    sink=MemorySink(),
)
other = 3
"""


def test_a_worker_in_the_current_directory_is_found(write):
    write("here_cache", WORKER)

    result = run("status", "here_cache:worker")

    assert result.exit_code == 0, result.output
    assert "MemorySink" in result.output


def test_the_environment_names_app(write, monkeypatch):
    write("here_cache", WORKER)
    monkeypatch.setenv("CHANGE_EVENTS_APP", "here_cache:worker")

    assert "MemorySink" in run("status").output


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("here_cache", "APP must be module:attribute, like shop.cache:worker, not 'here_cache'"),
        (":worker", "APP must be module:attribute"),
        ("here_cache:", "APP must be module:attribute"),
        ("nowhere_cache:worker", "there is no module 'nowhere_cache', neither in "),
        ("nowhere.cache:worker", "there is no module 'nowhere', neither in "),
        ("here_cache.inner:worker", "there is no module 'here_cache.inner'"),
        ("broken_cache:worker", "ZeroDivisionError: division by zero (broken_cache.py, line 3)"),
        ("needy_cache:worker", "No module named 'no_such_package' (needy_cache.py, line 1)"),
        (
            "running_cache:worker",
            "running_cache runs a worker when it is imported: call run() below",
        ),
        ("leaving_cache:worker", "leaving_cache can't be imported: SystemExit: 0"),
        (
            "wrong_cache:worker",
            "wrong_cache can't be imported: ConfigurationError: 'q' is not a queue's URL",
        ),
        ("here_cache:wroker", "has no 'wroker'; did you mean here_cache:worker?"),
        ("empty_cache:runs", "has no 'runs'; did you mean empty_cache:run?"),
        ("empty_cache:zzz", "empty_cache has no 'zzz'\n"),
        ("here_cache:other", "here_cache:other must be a change_events.Worker, and is an int"),
        ("empty_cache:run", "must be a change_events.Worker, and is a function"),
        ("here_cache:Worker", "must be a change_events.Worker, and is the class Worker"),
    ],
)
def test_what_is_wrong_with_app_is_said_in_a_sentence(write, app, says):
    write("here_cache", WORKER)
    write("broken_cache", "\n\n1 / 0")
    write("needy_cache", "import no_such_package")
    write("running_cache", WORKER + "worker.run()")
    write("leaving_cache", "raise SystemExit(0)")
    write("wrong_cache", WORKER.replace("https://sqs.eu-west-1.amazonaws.com/123456789012/q", "q"))
    write("empty_cache", "def run(): ...")

    result = run("status", app)

    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_while_app_is_imported_ends_the_command(write):
    write("slow_cache", "raise KeyboardInterrupt")

    assert run("status", "slow_cache:worker").exit_code == 130


@pytest.mark.parametrize("sink", ["MemorySink()", 'SQLiteSink(":memory:")'])
@pytest.mark.parametrize("command", ["backfill", "audit", "look", "resume"])
def test_a_cache_in_the_memory_of_another_process_is_refused(write, command, sink):
    """The command would fill, check or look at an empty one of its own."""
    text = WORKER.replace("MemorySink()", sink).replace("MemorySink, ", "MemorySink, SQLiteSink, ")
    write("here_cache", text)
    ids = ["p1"] if command == "look" else []

    result = run(command, "here_cache:worker", *ids)

    assert result.exit_code == 2
    assert "the cache of here_cache:worker is in memory" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_app_prints_is_not_among_the_results(write):
    write("loud_cache", WORKER + "print('loaded')")

    result = run("status", "loud_cache:worker", "--json")

    assert json.loads(result.stdout)["processes"] == []
    assert result.stderr == "loaded\n"


def test_app_and_ids_are_told_apart(write, monkeypatch):
    """With a variable, an id must not be read as APP, nor APP as an id."""
    text = WORKER.replace("https://products.example.com", "http://127.0.0.1:1")
    write("here_cache", text.replace("MemorySink", "SQLiteSink").replace("()", "('cache.db')"))
    assert "Missing argument 'APP'" in run("look").stderr
    assert "Missing argument 'ID'" in run("look", "here_cache:worker").stderr
    assert "APP must be module:attribute" in run("look", "p1", "p2").stderr
    monkeypatch.setenv("CHANGE_EVENTS_APP", "here_cache:worker")

    assert run("look", "p1").stdout.startswith("p1: the look failed")
    assert run("look", "here_cache:worker", "p1").stdout.startswith("p1: the look failed")
    assert "'product:a' is APP, because" in run("look", "product:a").stderr
    assert "Missing argument 'ID'" in run("look").stderr


# Logs


@contextmanager
def bare_logging():
    """Let logging be as in a new process: pytest has handlers of its own."""
    library, root = logging.getLogger("change_events"), logging.getLogger()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "handlers", [])
        patch.setattr(library, "handlers", [])
        yield library
    library.setLevel(logging.NOTSET)


def test_the_librarys_warnings_are_shown_on_stderr(capsys):
    with bare_logging() as library:
        app_module.show_logs(logging.WARNING)
        app_module.show_logs(logging.WARNING)  # twice changes nothing
        library.warning("the source is down")
        library.info("all is well")

    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.endswith(f"{os.getpid()} WARNING the source is down")


def test_a_record_that_cannot_be_shown_does_not_end_the_command(capsys):
    with bare_logging() as library:
        app_module.show_logs(logging.WARNING)
        library.warning("%d", "text")

    assert "--- Logging error ---" in capsys.readouterr().err


def test_an_app_that_sets_up_logging_is_left_alone(capsys):
    with bare_logging() as library:
        logging.getLogger().addHandler(logging.NullHandler())
        app_module.show_logs(logging.INFO)
        library.warning("the source is down")
        assert library.level == logging.NOTSET

    assert capsys.readouterr().err == ""


# Errors and interrupts


def raising(error):
    """A group with a command that raises an error."""

    @click.command()
    def command():
        raise error

    class Only(Group):
        def get_command(self, ctx, cmd_name):
            return command

    return Only("change-events")


def invoke(error):
    from click.testing import CliRunner

    return CliRunner().invoke(raising(error), ["it"])


class OperationalError(Exception):
    __module__ = "psycopg.errors"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigurationError("settle must be"), 2, "settle must be"),
        (FetchError("GET x answered 503"), 3, "GET x answered 503"),
        (AlreadyRunningError("another backfill"), 3, "another backfill"),
        (NoCredentialsError(), 2, "AWS: Unable to locate credentials"),
        (EndpointConnectionError(endpoint_url="http://x"), 3, "AWS: Could not connect"),
        (OperationalError("no route"), 3, "the sink's database: no route"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "[Errno 28] No space left on device"),
    ],
)
def test_errors_that_are_no_bugs_are_one_line(error, status, says):
    result = invoke(error)

    assert result.exit_code == status
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {says}")


def test_a_bug_shows_its_traceback_and_asks_for_an_issue():
    result = invoke(ZeroDivisionError("a bug"))

    assert result.exit_code == 70
    assert result.stderr.startswith("Traceback")
    assert "ZeroDivisionError: a bug" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("This is a bug: please open an issue")


def test_a_reader_that_has_read_enough_is_not_a_bug():
    """`change-events ... | head`"""
    result = invoke(BrokenPipeError(errno.EPIPE, "Broken pipe"))

    assert (result.exit_code, result.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_behind_stdout_is_told_in_a_sentence():
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "change_events", "template", "topic"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ran.stderr.startswith("Error: [Errno 28] No space left on device")
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 3


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (problems.Terminated(), 143)]
)
def test_an_interrupt_is_the_exit_status_that_a_shell_expects(error, status):
    result = invoke(error)

    assert (result.exit_code, result.stderr) == (status, "")


def test_sigterm_ends_a_command_like_ctrl_c():
    ctx = click.Context(group)
    ended = []

    def work():
        with problems.explained(ctx):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            finally:
                ended.append("cleaned up")

    with pytest.raises(click.exceptions.Exit) as exit_:
        work()

    assert exit_.value.exit_code == 143
    assert ended == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_app_for_sigterm_is_kept(monkeypatch):
    theirs = []
    previous = signal.signal(signal.SIGTERM, lambda *_: theirs.append(1))
    try:
        with problems.explained(click.Context(group)):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, previous)

    assert theirs == [1]


def test_an_operation_is_stopped_by_the_first_signal_and_interrupted_by_the_second():
    stops = []

    def work():
        with stopping(lambda: stops.append(1), then="More is left."):
            signal.raise_signal(signal.SIGTERM)
            assert stops == [1]
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(problems.Terminated):
        work()


def test_an_operation_that_is_done_although_a_signal_came_is_done(capsys):
    with stopping(lambda: None, then="More is left."):
        signal.raise_signal(signal.SIGINT)

    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_that_no_signal_caused_stays_an_error(capsys):
    def work():
        with stopping(lambda: None, then="More is left."):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        work()
    assert capsys.readouterr().err == ""


# Progress


def test_a_terminal_shows_a_bar():
    shown = io.StringIO()
    with Bar("backfill", console=Console(file=shown, force_terminal=True, width=100)) as bar:
        bar.show(5, 10, "5 of 10 ids\x1b[31m [bold]")

    assert "backfill" in shown.getvalue()
    assert "5 of 10 ids\\x1b[31m [bold]" in shown.getvalue()


def test_elsewhere_a_line_is_shown_every_few_seconds(capsys):
    now = [0.0]
    with Bar("audit", clock=lambda: now[0]) as bar:
        for second in range(12):
            now[0] = float(second)
            bar.show(second, None, f"{second} ids")

    assert capsys.readouterr().err == "audit: 5 ids\naudit: 10 ids\n"


# Completion


def test_a_shell_completes_the_commands(monkeypatch):
    monkeypatch.setenv("_CHANGE_EVENTS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "change-events ba")
    monkeypatch.setenv("COMP_CWORD", "1")

    assert run().output == "plain,backfill\n"
