"""`change-events worker`, in one process and in several. The children are real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from change_events import Health, SQLiteSink
from change_events._cli import child, processes
from change_events._cli.processes import Processes
from change_events._consumer.health import NOT_RUNNING
from command_line import run
from conftest import signalled, wait_until
from verification.harness.processes import Process


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(processes, "TICK", 0.01)


# One process


def test_a_worker_runs_until_a_signal_and_ends_with_status_0(
    make_worker, name_app, channel, source, sink
):
    source.entities = {"p1": {"id": "p1"}}
    channel.announce("p1")
    worker = make_worker()
    sending = signalled(signal.SIGTERM, when=lambda: wait_until(lambda: sink.get("p1")))

    result = run("worker", name_app(worker))
    sending.join()

    assert (result.exit_code, result.output) == (0, "")
    assert channel.count() == {}


def test_a_drain_says_how_many_messages_it_has_acknowledged(app, channel, source, sink):
    source.entities = {"p1": {"id": "p1"}}
    channel.announce("p1", "p2")

    result = run("worker", app, "--drain")

    assert (result.exit_code, result.output) == (0, "2 messages acknowledged\n")
    assert sink.get("p1") == {"id": "p1"}


def test_a_queue_that_does_not_exist_is_a_mistake(make_worker, name_app, channel):
    result = run("worker", name_app(make_worker(channel.queue_url + "-gone")))

    assert result.exit_code == 2
    assert "can't be read" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_number_of_processes_below_1_is_a_mistake(app):
    assert run("worker", app, "--processes", "0").exit_code == 2


# A child


@pytest.fixture
def parents_end(monkeypatch):
    """The parent's end of the socket that is a child's stdin."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    monkeypatch.setattr(child, "STDIN", theirs.fileno())
    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # what a child without parent gets
    with theirs:
        with ours:
            yield ours
        for thread in threading.enumerate():
            if thread.name == "change-events-parent":
                thread.join(20)
    signal.signal(signal.SIGTERM, previous)


def test_a_child_tells_when_it_has_started_and_stops_if_its_parent_dies(
    make_worker, name_app, parents_end, free_port
):
    worker = make_worker(health_address=("127.0.0.1", free_port))
    heard = []

    def parent():
        heard.append(parents_end.recv(1))
        wait_until(lambda: worker.health().ready)
        with socket.create_connection(("127.0.0.1", free_port + 2)):
            pass
        parents_end.close()

    thread = threading.Thread(target=parent)
    thread.start()

    result = run("worker", name_app(worker), "--child", "2")
    thread.join()

    assert (result.exit_code, heard) == (0, [child.STARTED])


class NotStarted:
    """A worker that does not start."""

    def __init__(self):
        self.asked = threading.Semaphore(0)

    def health(self):
        self.asked.release()
        return NOT_RUNNING


def test_a_child_that_has_not_started_ends_if_its_parent_dies(parents_end, monkeypatch):
    """What is imported can hang."""
    monkeypatch.setattr(child, "LOOK_EVERY", 0.01)
    worker, ended = NotStarted(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())  # until the fixture's end

    child.follow_parent().worker = worker
    for _ in range(3):
        assert worker.asked.acquire(timeout=20)
    assert not ended.is_set()
    parents_end.close()

    assert ended.wait(20)


@pytest.mark.parametrize("address", [("127.0.0.1", 0), None])
def test_any_free_port_stays_any(make_worker, name_app, parents_end, address):
    worker = make_worker(health_address=address)
    sending = signalled(signal.SIGTERM, when=lambda: wait_until(lambda: worker.health().ready))

    assert run("worker", name_app(worker), "--child", "2").exit_code == 0
    sending.join()
    assert worker.health_address == address


# Several processes

CHILD = """
import os, signal, sys, time
log, go, number, *modes = sys.argv[1:]
def note(what):
    with open(log, "a") as file:
        file.write(f"{number} {what} {os.getpid()}\\n")
def came(signum, frame):
    note(signal.Signals(signum).name)
    if signum == signal.SIGTERM and "stubborn" not in modes:
        sys.exit(0)
for each in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(each, came)
note("up")
while "waiting" in modes and not os.path.exists(go):
    time.sleep(0.01)
if "unready" not in modes:
    os.write(0, b"1")
for mode in modes:
    if mode.isdigit():
        sys.exit(int(mode))
while os.read(0, 1):
    pass
"""


@pytest.fixture
def family(tmp_path, capfd):
    """Run processes that do what the modes say. They note what they do."""
    return Family(tmp_path, capfd)


class Family:
    def __init__(self, path, capfd):
        self.log, self.go, self.capfd = path / "log", path / "go", capfd

    def notes(self, number, what):
        """Return the pids of the notes of a process that say this."""
        text = self.log.read_text() if self.log.exists() else ""
        notes = [line.split() for line in text.splitlines()]
        return [int(pid) for n, did, pid in notes if (n, did) == (str(number), what)]

    def wait_for(self, number, what, count=1):
        wait_until(lambda: len(self.notes(number, what)) >= count)

    def run(self, *modes, then=(), **settings):
        """Run until the steps are done, and signals have ended all; return the status."""

        def command(number):
            own = modes[min(number, len(modes) - 1)].split()
            script = [sys.executable, "-S", "-I", "-c", CHILD]
            return [*script, str(self.log), str(self.go), str(number), *own]

        given = {"count": 2, "pause": lambda failures, most: 0.0}
        several = Processes(command, **given | settings)

        def take_steps():
            try:
                for step in then:
                    step()
            except BaseException:  # the test fails of this, and not of what waits for ever
                several._signals.extend([signal.SIGTERM] * processes.KILLING_SIGNAL)
                raise

        thread = threading.Thread(target=take_steps)
        thread.start()
        try:
            return several.run()
        finally:
            thread.join()


def send(number):
    return lambda: os.kill(os.getpid(), number)


def test_the_others_start_when_the_first_one_has_started(family):
    def none_but_the_first():
        family.wait_for(0, "up")
        assert family.notes(1, "up") == []
        family.go.touch()
        family.wait_for(1, "up")

    status = family.run("waiting", "", then=[none_but_the_first, send(signal.SIGTERM)])

    assert status == 0
    assert (len(family.notes(0, "SIGTERM")), len(family.notes(1, "up"))) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_processes(family, number):
    """Each gets SIGTERM once: Ctrl-C at a terminal does not reach them by itself."""
    status = family.run("", then=[lambda: family.wait_for(1, "up"), send(number)])

    assert status == 0
    assert [len(family.notes(n, "SIGTERM")) for n in range(2)] == [1, 1]


def test_a_process_that_died_is_restarted_and_what_it_died_of_is_told(family):
    def kill():
        family.wait_for(1, "up")
        (pid,) = family.notes(1, "up")
        os.kill(pid, signal.SIGKILL)
        family.wait_for(1, "up", 2)

    assert family.run("", then=[kill, send(signal.SIGTERM)]) == 0

    first, _ = family.notes(1, "up")
    assert family.capfd.readouterr().err == (
        f"change-events: process 2 of 2 (pid {first}) was killed by SIGKILL; "
        "it starts again in 0.0 s\n"
    )
    assert len(family.notes(0, "up")) == 1


class Pauses:
    """No pauses at first, then one that does not end. It notes what it was asked for."""

    def __init__(self, number):
        self.asked, self.number, self.over = [], number, threading.Event()

    def __call__(self, failures, most):
        self.asked.append((failures, most))
        if len(self.asked) < self.number:
            return 0.0
        self.over.set()
        return 1000.0


def test_pauses_grow_while_a_process_dies_at_once(family):
    pauses = Pauses(8)

    steps = [pauses.over.wait, send(signal.SIGTERM)]
    assert family.run("", "unready 1", then=steps, pause=pauses) == 0

    assert pauses.asked == [(n, processes.MOST_PAUSE) for n in range(1, 9)]


def test_a_process_that_has_lived_for_long_starts_again_soon(family, monkeypatch):
    monkeypatch.setattr(processes, "LONG", 0.0)
    pauses = Pauses(3)

    assert family.run("", "7", then=[pauses.over.wait, send(signal.SIGTERM)], pause=pauses) == 0

    assert [failures for failures, _ in pauses.asked] == [1, 1, 1]


def test_a_process_waits_for_its_pause_and_a_stop_does_not(family):
    pauses = Pauses(1)

    assert family.run("", "7", then=[pauses.over.wait, send(signal.SIGTERM)], pause=pauses) == 0

    assert len(family.notes(1, "up")) == 1


def test_a_mistake_of_the_first_process_ends_the_command(family):
    assert family.run("unready 2") == 2

    assert family.notes(1, "up") == []
    assert "has ended with status 2; none has ever started, so this ends" in (
        family.capfd.readouterr().err
    )


@pytest.mark.parametrize(("modes", "status"), [("unready 1", 3), ("unready 70", 70)])
def test_if_no_process_ever_starts_the_command_ends(family, modes, status):
    assert family.run(modes) == status

    assert len(family.notes(0, "up")) == processes.ATTEMPTS
    assert family.notes(1, "up") == []


def test_a_mistake_that_comes_later_does_not_end_the_command(family):
    """A deployment can be under way, or SQS away."""
    pauses = Pauses(7)

    steps = [pauses.over.wait, send(signal.SIGTERM)]
    assert family.run("", "unready 2", then=steps, pause=pauses) == 0


def test_sigusr1_reaches_the_processes_that_have_started(family):
    """It would kill one that has not."""
    steps = [
        lambda: family.wait_for(1, "up"),
        send(signal.SIGUSR1),
        lambda: family.wait_for(0, "SIGUSR1"),
        send(signal.SIGTERM),
    ]

    assert family.run("", "unready", then=steps) == 0
    assert family.notes(1, "SIGUSR1") == []


def test_a_second_signal_is_passed_on_and_a_third_one_kills(family):
    """The second one waits until both have noted the first: two that are pending become one."""
    steps = [
        lambda: family.wait_for(1, "up"),
        send(signal.SIGTERM),
        lambda: family.wait_for(0, "SIGTERM"),
        lambda: family.wait_for(1, "SIGTERM"),
        send(signal.SIGTERM),
        lambda: family.wait_for(0, "SIGTERM", 2),
        lambda: family.wait_for(1, "SIGTERM", 2),
        send(signal.SIGTERM),
    ]

    assert family.run("stubborn", then=steps) == 3
    assert family.capfd.readouterr().err.count("was killed by SIGKILL") == 2


def test_a_drain_ends_when_all_processes_have(family):
    assert family.run("0", count=3, once=True) == 0
    assert [len(family.notes(n, "up")) for n in range(3)] == [1, 1, 1]


def test_a_drain_that_fails_in_a_process_fails(family):
    assert family.run("0", "3", once=True) == 3
    assert "process 2 of 2" in family.capfd.readouterr().err


def test_a_drain_whose_first_process_cannot_start_ends(family):
    assert family.run("unready 2", once=True) == 2
    assert family.notes(1, "up") == []


def test_a_process_that_cannot_be_made_is_tried_again(family, monkeypatch):
    real, tries = subprocess.Popen, []

    def popen(*args, **settings):
        tries.append(1)
        if len(tries) == 1:
            raise OSError("Resource temporarily unavailable")
        return real(*args, **settings)

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    steps = [lambda: family.wait_for(1, "up"), send(signal.SIGTERM)]

    assert family.run("", then=steps) == 0
    assert "can't be started: Resource temporarily unavailable; it starts again" in (
        family.capfd.readouterr().err
    )


def test_an_error_of_the_parent_leaves_no_process(family):
    def pause(number, most):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        family.run("", "7", pause=pause)

    (pid,) = family.notes(0, "up")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_handlers_of_signals_are_put_back(family):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]

    family.run("unready 2")

    assert before == [
        signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    ]


def test_a_signal_without_a_name_is_told_by_its_number():
    assert processes._how(-(signal.SIGRTMIN + 1)) == (f"was killed by signal {signal.SIGRTMIN + 1}")


def test_without_unix_sockets_there_is_one_process(monkeypatch, app):
    monkeypatch.delattr(socket, "AF_UNIX")

    result = run("worker", app, "--processes", "2")

    assert result.exit_code == 2
    assert "--processes needs Linux, macOS or another Unix" in result.stderr


# The whole of it

APP = """
import os
from change_events import HTTPFetcher, SQLiteSink, Worker
worker = Worker(
    os.environ["QUEUE_URL"],
    fetcher=HTTPFetcher(os.environ["SOURCE_URL"] + "/products/{id}"),
    sink=SQLiteSink("cache.db"),
    settle=0.0,
    wait_time=1,
)
"""


@contextmanager
def command(path, *arguments, **environment):
    """Run the command in a process, with the path as its current directory."""
    path_of_code = os.pathsep.join(sys.path)
    shell = f"cd {path} && exec {sys.executable} -m change_events {' '.join(arguments)}"
    process = Process(path / "log", "/bin/sh", "-c", shell, PYTHONPATH=path_of_code, **environment)
    try:
        yield process
    finally:
        process.close()


def children_of(pid):
    listed = subprocess.run(
        ["/bin/ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, check=False
    )
    return [int(each) for each in listed.stdout.split()]


def test_several_processes_work_and_end_with_their_parent(tmp_path, channel, source, untraced):
    """Also if the parent is killed, without a chance to tell them."""
    source.entities = {f"p{n}": {"id": f"p{n}"} for n in range(2)}
    (tmp_path / "shop_app.py").write_text(APP)
    environment = {"QUEUE_URL": channel.queue_url, "SOURCE_URL": source.url}
    arguments = ["worker", "shop_app:worker", "--processes", "2"]
    with (
        command(tmp_path, *arguments, **environment) as parent,
        SQLiteSink(tmp_path / "cache.db") as sink,
    ):
        wait_until(lambda: parent.text().count("started") == 2, 60)
        first, second = children_of(parent.pid)
        channel.announce("p0")
        wait_until(lambda: sink.get("p0"))
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: f"(pid {first}) was killed by SIGKILL" in parent.text())

        parent.send(signal.SIGKILL)
        parent.wait()

        def alive(pid):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
            return True

        wait_until(lambda: not alive(second), 60)
        assert "stopped" in parent.text()  # in good order


def test_an_app_that_cannot_be_imported_is_told_once(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    result = run("worker", "no_such:worker", "--processes", "8")

    assert result.exit_code == 2
    assert capfd.readouterr().err.count("there is no module 'no_such'") == 1


@pytest.mark.parametrize(
    ("health", "has_started"),
    [
        (NOT_RUNNING, False),
        (Health(alive=True, ready=False, paused="starting"), False),
        (Health(alive=True, ready=True, paused=None), True),
    ],
)
def test_a_worker_that_still_starts_has_not_started(health, has_started):
    following = child.Following(0, SimpleNamespace(health=lambda: health))

    assert following._has_started() is has_started
