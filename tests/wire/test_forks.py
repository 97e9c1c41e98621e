"""A child of a fork shares neither locks nor connections with its parent: real forks and calls."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent
from urllib.parse import parse_qsl

import pytest

from verification.harness.wire import Answer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

PROLOGUE = """
    import importlib.abc, os, signal, sys, threading, time
    from change_events import ChangeEvent, HTTPFetcher, MemorySink, SNSPublisher, Worker

    def in_child(job):
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # it ends even if it waits for a lock that nobody releases
            try:
                job()
            finally:
                os._exit(sys.exc_info()[0] is not None)
        return child

    def succeeded(child):
        return os.waitpid(child, 0)[1] == 0
"""


def run(script, *arguments):
    """Run a script in a process of its own, which has no thread of pytest's."""
    code = dedent(PROLOGUE) + dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],  # newer Pythons warn of threads
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_child_publishes_although_a_thread_of_its_parent_was_making_the_client(channel):
    run(
        """
        forking, importing = threading.Event(), threading.Event()

        class SlowImport(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "boto3.session" and not importing.is_set():
                    importing.set()
                    assert forking.wait(30)
                    time.sleep(0.5)  # a slow disk

        publisher = SNSPublisher(sys.argv[1])
        sys.meta_path.insert(0, SlowImport())
        maker = threading.Thread(target=publisher.publish, args=([ChangeEvent("thread")],))
        maker.start()
        assert importing.wait(30)
        os.register_at_fork(before=forking.set)
        child = in_child(lambda: publisher.publish([ChangeEvent("child")]))
        publisher.publish([ChangeEvent("parent")])
        maker.join()
        assert succeeded(child), "the child failed, or waited for ever"
        """,
        channel.topic_arn,
    )

    assert sorted(channel.ids()) == ["child", "parent", "thread"]


def test_a_child_publishes_over_a_connection_of_its_own(channel, line):
    connections = {}

    def note(asked):
        message = dict(parse_qsl(asked.body.decode())).get("Message")
        if message:
            connections[message] = asked.connection

    line.fault = note
    run(
        """
        publisher = SNSPublisher(sys.argv[1])
        publisher.publish([ChangeEvent("before")])
        assert succeeded(in_child(lambda: publisher.publish([ChangeEvent("child")])))
        publisher.publish([ChangeEvent("after")])
        """,
        channel.topic_arn,
    )

    before, child, after = (connections[f'{{"id": "{id}"}}'] for id in ("before", "child", "after"))
    assert before == after != child


def test_a_child_receives_over_connections_of_its_own(channel, line):
    connections = {"parent": set(), "child": set()}
    mine = [connections["parent"]]

    def note(asked):
        if asked.path == "/child":
            mine[0] = connections["child"]
            return Answer()
        mine[0].add(asked.connection)
        return None

    line.fault = note
    run(
        """
        import urllib3

        def drain():
            assert worker.drain() == 0

        def drain_in_child():
            urllib3.request("GET", os.environ["AWS_ENDPOINT_URL"] + "/child")
            drain()

        fetcher = HTTPFetcher("http://127.0.0.1/products/{id}")
        worker = Worker(sys.argv[1], fetcher=fetcher, sink=MemorySink(), settle=0.0, wait_time=1)
        drain()
        assert succeeded(in_child(drain_in_child))
        """,
        channel.queue_url,
    )

    assert connections["parent"]
    assert connections["child"]
    assert not connections["parent"] & connections["child"]
