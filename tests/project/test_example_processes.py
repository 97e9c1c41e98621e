"""The example's services as processes, the downstream's cache, and the demo."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from change_events import Audit, HTTPFetcher, MemorySink, SQLiteSink, Worker, refresh
from change_events.testing import FakeSource
from demo_parts.changes import Saved, plan
from demo_parts.evidence import staleness
from demo_parts.processes import ChildError, Children
from demo_parts.story import found
from product_service.downstream import OutcomeLog, create_app
from source_apps import serving_asgi

EXAMPLES = Path(__file__).parents[2] / "examples"


# The downstream


def test_the_summary_is_answered_from_the_cache(source, channel, tmp_path):
    for id, host, month in (
        ("a", "one.example", "2026-01"),
        ("b", "one.example", "2026-01"),
        ("c", "two.example", "2026-02"),
    ):
        source.entities[id] = {
            "id": id,
            "imageURL": f"https://{host}/{id}.png",
            "lastModified": f"{month}-03T04:05:06+00:00",
        }
    source.entities["gone"] = None
    looked: queue.SimpleQueue[str] = queue.SimpleQueue()
    cache = str(tmp_path / "cache.db")
    with SQLiteSink(cache) as sink:
        worker = Worker(
            channel.queue_url,
            fetcher=HTTPFetcher(f"{source.url}/products/{{id}}"),
            sink=sink,
            settle=0,
            wait_time=1,
            on_outcome=lambda id, _: looked.put(id),
        )
        app = create_app(worker, cache)
        with serving_asgi(app) as url, urllib3.PoolManager(timeout=10) as http:
            channel.announce("a", "b", "c", "gone")
            assert {looked.get(timeout=10) for _ in range(4)} == {"a", "b", "c", "gone"}
            summary = http.request("GET", f"{url}/summary").json()
            stats = http.request("GET", f"{url}/stats").json()

    assert summary == [
        {"host": "one.example", "month": "2026-01", "products": 2},
        {"host": "two.example", "month": "2026-02", "products": 1},
    ]
    assert (stats["created"], stats["never_saved"]) == (3, 1)


def test_the_outcome_log_has_what_each_look_did(source, channel, tmp_path):
    source.entities["a"] = {"id": "a", "lastModified": "2026-01-01"}
    log = tmp_path / "looks.jsonl"
    with SQLiteSink(tmp_path / "cache.db") as sink:
        fetcher = HTTPFetcher(f"{source.url}/products/{{id}}")
        write = OutcomeLog(log, sink).write
        worker = Worker(
            channel.queue_url, fetcher=fetcher, sink=sink, settle=0, wait_time=1, on_outcome=write
        )
        before = time.time()
        for id in "a", "b":
            channel.announce(id)
            worker.drain()

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(before < line.pop("time") < time.time() for line in lines)
    assert lines == [
        {"id": "a", "outcome": "created", "lastModified": "2026-01-01"},
        {"id": "b", "outcome": "never_saved", "lastModified": None},
    ]


# Processes


@pytest.fixture
def service_processes(aws: str, tmp_path: Path) -> Iterator[Children]:
    children = Children(tmp_path, path=EXAMPLES)
    yield children
    children.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_both_services_stop_cleanly(service_processes, channel, tmp_path, number):
    products = service_processes.start(
        "products", "product_service", "--port", "0", "--create-table"
    )
    cache = str(tmp_path / "cache.db")
    options = [
        "--queue-url",
        channel.queue_url,
        "--source",
        "http://127.0.0.1:1",
        "--cache",
        cache,
        "--port",
        "0",
    ]
    downstream = service_processes.start("downstream", "product_service.downstream", *options)
    children = products, downstream
    for child in children:
        assert child.url()
    for child in children:
        child._process.send_signal(number)

    assert [child._process.wait(10) for child in children] == [0, 0]
    assert not list(tmp_path.glob("*-wal"))  # the cache was closed
    assert "Traceback" not in "".join(log.read_text() for log in tmp_path.glob("*.log"))


def test_a_downstream_ends_with_the_reason_when_its_worker_cant_start(service_processes, tmp_path):
    options = [
        "--queue-url",
        "http://127.0.0.1:1/1/nowhere",
        "--source",
        "http://127.0.0.1:1",
        "--port",
        "0",
    ]
    options += ["--cache", str(tmp_path / "cache.db")]
    downstream = service_processes.start("downstream", "product_service.downstream", *options)

    assert downstream._process.wait(20) == 3  # uvicorn's, if a lifespan does not begin
    assert "the queue http://127.0.0.1:1/1/nowhere can't be read" in str(downstream.failure())


def test_a_downstream_with_an_unusable_cache_ends_with_the_reason(service_processes, tmp_path):
    options = [
        "--queue-url",
        "nowhere",
        "--source",
        "here",
        "--cache",
        str(tmp_path / "no" / "cache.db"),
    ]
    downstream = service_processes.start("downstream", "product_service.downstream", *options)

    with pytest.raises(
        ChildError, match=r"ended with status 1; its last output:\n.*can't be used"
    ) as caught:
        downstream.url()

    assert "Traceback" not in str(caught.value)


def test_a_child_that_does_not_start_is_reported_with_its_last_output(service_processes):
    child = service_processes.start("nothing", "no_such_module")

    with pytest.raises(
        ChildError,
        match=r"nothing ended with status 1; its last output:\n.*No module named no_such_module",
    ):
        child.url()
    assert service_processes.failure() is not None


def test_no_child_starts_after_all_were_stopped(service_processes):
    service_processes.stop()

    with pytest.raises(ChildError, match="stopped"):
        service_processes.start("late", "http.server")


# The evidence


def test_the_same_seed_draws_the_same_changes():
    assert plan(1, 50, slowest=1.0) == plan(1, 50, slowest=1.0)
    assert plan(1, 50, slowest=1.0) != plan(2, 50, slowest=1.0)


def at(second: float) -> str:
    return f"1970-01-01T00:00:{second:09.6f}+00:00"


def write_looks(path: Path, *looks: tuple[float, str, str | None]) -> Path:
    lines = [
        json.dumps({"time": time, "id": id, "outcome": "", "lastModified": version})
        for time, id, version in looks
    ]
    path.write_text("\n".join(lines))
    return path


def test_a_cache_is_stale_until_a_look_finds_the_commit_or_something_newer(tmp_path):
    saved = [Saved("a", at(1), deleted=False), Saved("a", at(2), deleted=False)]
    log = write_looks(
        tmp_path / "log", (0.5, "a", None), (1.5, "b", at(9)), (4, "a", at(2)), (5, "a", at(2))
    )

    found = staleness(saved, log)

    assert (found.p50, found.p99) == pytest.approx((2.5, 2.99))


def test_a_deletion_is_in_the_cache_once_a_look_has_found_nothing(tmp_path):
    saved = [Saved("a", at(1), deleted=False), Saved("a", at(2), deleted=True)]
    log = write_looks(tmp_path / "log", (0.5, "a", None), (2.25, "a", at(1)), (2.5, "a", None))

    found = staleness(saved, log)

    assert (found.p50, found.p99) == pytest.approx((0.875, 1.2425))


def test_an_audit_that_finds_something_is_shown_whole():
    source = FakeSource({"a": {"id": "a"}})
    cache: MemorySink[Any] = MemorySink()

    assert "1 missing" in found(Audit(["a"], fetcher=source, sink=cache, min_age=0).run())
    refresh("a", fetcher=source, sink=cache)
    clean = Audit(["a"], fetcher=source, sink=cache).run()
    assert found(clean) == "1 compared, 0 missing, 0 extra, 0 different"


# The demo


def run_demo(*options: str, mark: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / "demo.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DEMO_MARK": mark},
    )


def marked_processes(mark: str) -> list[str]:
    """Return the command lines of the process with this mark and of its descendants."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"DEMO_MARK={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # the process has just ended, or another user has it
            continue
    return found


def test_the_demo_begins_with_products_and_ends_with_a_clean_audit_of_both_caches():
    with run_demo("--changes", "60", "--settle", "2", "--seed", "1") as demo:
        output, _ = demo.communicate(timeout=100)

    lines = output.splitlines()
    assert demo.returncode == 0, output
    assert lines[0] == "seed 1: --seed 1 draws the same changes again"
    assert re.fullmatch(
        r"Both caches equal the source: \d+ products, the same ids, the same bodies\.", lines[-1]
    )
    assert "it has 30 products, announced before anybody had a queue" in output
    assert "filled from the list of products, beside the changes" in output
    audits = re.findall(
        r"^ok  audit of '(.*)': \d+ compared, 0 missing, 0 extra, 0 different$",
        output,
        re.MULTILINE,
    )
    assert audits == ["early look", "one look"]
    for measure in (
        "events",
        "GETs",
        "created",
        "updated",
        "unchanged",
        "deleted",
        "never saved",
        "staleness p50",
        "staleness p99",
    ):
        assert re.search(rf"^ +{measure} ", output, re.MULTILINE)


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(),
    reason="needs /proc to find the processes that are left",
)
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "an emulator"), (signal.SIGTERM, "of 250 changes")],
    ids=["Ctrl-C while it starts", "SIGTERM while it works"],
)
def test_a_stopped_demo_leaves_nothing_running(number, moment):
    mark = uuid.uuid4().hex
    with run_demo(mark=mark) as demo:
        assert demo.stdout is not None
        before = ""
        while moment not in before:
            before += demo.stdout.readline()
        assert len(marked_processes(mark)) > 1
        demo.send_signal(number)
        after, _ = demo.communicate(timeout=30)

    assert demo.returncode == 130
    assert after.splitlines()[-1] == "stopped"
    assert "Traceback" not in after
    assert marked_processes(mark) == []
