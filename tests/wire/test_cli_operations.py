"""`change-events look`, `backfill`, `audit`, `status` and `resume`, on real sockets and caches."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from change_events import HTTPFetcher, HTTPListing, MemorySink, SQLiteSink
from change_events._cli import status
from change_events._event import Entry, Found
from change_events._operations import audit as audit_module
from change_events._operations.pages import with_digest
from change_events._operations.state import Owner
from change_events.testing import FakeSource
from command_line import run
from conftest import running, signalled, wait_until
from verification.harness.wire import Answer, Server


def products(*numbers):
    return {f"p{n}": {"id": f"p{n}", "price": n} for n in numbers}


class Plain:
    """A sink that can do the least: no state, no ids, and nothing to read."""

    def __init__(self):
        self.applied = []

    def entry(self, id):
        return Entry()

    def apply(self, id, change, *, if_version):
        self.applied.append((id, change))
        return True


# look


def test_a_look_shows_what_it_changes_and_stores_it(app, source, sink):
    sink.apply("p1", Found({"id": "p1", "price": 1}), if_version=0)
    source.entities = {"p1": {"id": "p1", "price": 2}, "p2": {"id": "p2"}}

    result = run("look", app, "p1", "p2", "p3")

    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "--- cache",
        "+++ source",
        "@@ -1,4 +1,4 @@",
        " {",
        '   "id": "p1",',
        '-  "price": 1',
        '+  "price": 2',
        " }",
        "p1: updated",
        "--- cache",
        "+++ source",
        "@@ -1 +1,3 @@",
        "-(absent)",
        "+{",
        '+  "id": "p2"',
        "+}",
        "p2: created",
        "p3: never_saved, gone at the source",
    ]
    assert sink.get("p1") == {"id": "p1", "price": 2}
    assert sink.get("p2") == {"id": "p2"}


def test_an_entity_that_is_gone_is_deleted(app, source, sink):
    sink.apply("p1", Found({"id": "p1"}), if_version=0)
    source.entities = {"p1": None}

    result = run("look", app, "p1")

    assert result.output.endswith("+(absent)\np1: deleted, gone at the source\n")
    assert sink.get("p1") is None


def test_a_look_that_fails_is_status_1_and_the_others_are_done(app, source, sink):
    source.entities = products(1, 2)
    source.answer = lambda id: Answer(500) if id == "p1" else None

    result = run("look", app, "p1", "p2")

    assert result.exit_code == 1
    assert "p1: the look failed: GET " in result.output
    assert "answered 500" in result.output
    assert sink.get("p1") is None
    assert sink.get("p2") is not None


def test_an_id_that_cannot_be_one_is_a_failed_look(app):
    result = run("look", app, "..")

    assert result.exit_code == 1
    assert "an id can't be '..'" in result.output


def test_a_row_that_was_changed_by_hand_is_pointed_out(make_worker, name_app, source, tmp_path):
    with SQLiteSink(tmp_path / "cache.db") as sink:
        app = name_app(make_worker(sink=sink))
        source.entities = products(1)
        run("look", app, "p1")
        with sqlite3.connect(tmp_path / "cache.db") as connection:
            connection.execute('UPDATE entities SET body = \'{"id": "p1"}\'')
        connection.close()

        result = run("look", app, "p1")

    assert result.exit_code == 0
    assert "p1: unchanged" in result.output
    assert "changed it by hand" in result.output


def test_what_a_worker_stores_meanwhile_is_not_called_a_change_by_hand(app, source, sink):
    """Its look can come between the command's reading of the cache and the command's own look."""
    new = {"id": "p1", "price": 2}
    sink.apply("p1", Found({"id": "p1", "price": 1}), if_version=0)
    source.entities = {"p1": new}

    def answer(id):
        if sink.get("p1") != new:
            sink.apply("p1", with_digest(Found(new)), if_version=sink.entry("p1").version)

    source.answer = answer

    result = run("look", app, "p1")

    assert '+  "price": 2' in result.output
    assert "p1: unchanged" in result.output
    assert "by hand" not in result.output


SHOP = """
import os
from change_events import HTTPFetcher, SQLiteSink, Worker
fetcher = HTTPFetcher(os.environ["SOURCE_URL"] + "/products/{id}")
worker = Worker(os.environ["QUEUE_URL"], fetcher=fetcher, sink=SQLiteSink("cache.db"))
"""


def in_a_shell(line, tmp_path, channel, source, stdout=subprocess.PIPE, **environment):
    """Run a command line of a shell that has the command, and a worker as APP."""
    (tmp_path / "shop_app.py").write_text(SHOP)
    given = {"SOURCE_URL": source.url, "QUEUE_URL": channel.queue_url}
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHON": sys.executable}
    return subprocess.run(
        ["/bin/sh", "-c", line.replace("change-events", '"$PYTHON" -m change_events')],
        cwd=tmp_path,
        env={**os.environ, **paths, **given, "CHANGE_EVENTS_APP": "shop_app:worker", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


@pytest.mark.parametrize(("value", "has_color"), [("1", False), ("", True)])
def test_a_terminal_has_colors_unless_somebody_wants_none(
    tmp_path, channel, source, value, has_color
):
    source.entities = {"p1": {"id": "p1"}}
    ours, terminal = os.openpty()

    ran = in_a_shell("change-events look p1", tmp_path, channel, source, terminal, NO_COLOR=value)

    os.close(terminal)
    text = os.read(ours, 10_000)
    os.close(ours)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"p1: created" in text
    assert (b"\x1b[" in text) == has_color


def test_a_terminal_that_lacks_a_character_shows_its_escape(tmp_path, channel, source):
    source.entities = {"p1": {"id": "p1", "name": "5 €"}}

    ran = in_a_shell("change-events look p1", tmp_path, channel, source, PYTHONIOENCODING="latin-1")

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b'"name": "5 \\u20ac"' in ran.stdout
    assert b"p1: created" in ran.stdout


def test_a_closed_stdout_does_not_matter(tmp_path, channel, source):
    ran = in_a_shell("change-events status >&-", tmp_path, channel, source)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_looks_are_json(app, source):
    source.entities = {"p1": {"id": "p1"}}
    source.answer = lambda id: Answer(500) if id == "p2" else None

    first, second = json.loads(run("look", app, "p1", "p2", "--json").stdout)

    assert first == {
        "id": "p1",
        "outcome": "created",
        "error": None,
        "gone": False,
        "diff": '--- cache\n+++ source\n@@ -1 +1,3 @@\n-(absent)\n+{\n+  "id": "p1"\n+}',
        "hint": None,
    }
    assert (second["outcome"], second["diff"]) == (None, None)
    assert "answered 500" in second["error"]


def test_a_sink_that_returns_nothing_has_no_diff(make_worker, name_app, source):
    sink = Plain()
    source.entities = products(1)

    result = run("look", name_app(make_worker(sink=sink)), "p1")

    assert result.output == "p1: created\n"
    assert [id for id, _ in sink.applied] == ["p1"]


def test_a_terminals_escapes_in_an_entity_are_shown_as_text(app, source):
    source.entities = {"p1": {"id": "p1", "name": "\x1b[31m\u202e"}}

    output = run("look", app, "p1").output

    assert "\\u001b[31m" in output
    assert "\u202e" not in output


# backfill


def test_a_backfill_fills_the_cache(app, source, sink, list_products):
    source.entities = products(1, 2, 3)

    result = run("backfill", app, "--listing", list_products, "--entities", "--rate", "1000")

    assert result.exit_code == 0
    assert "3 ids listed on 1 pages\n3 entities stored from these pages" in result.output
    assert dict(sink.items()) == source.entities


def test_a_backfill_reports_json(app, source, list_products):
    source.entities = products(1)

    result = run("backfill", app, "--listing", list_products, "--json")

    assert json.loads(result.stdout) == {
        "pages": 1,
        "listed": 1,
        "stored": 0,
        "outcomes": {"created": 1},
        "unlisted": 0,
        "failed": 0,
        "failed_ids": {},
    }


def test_the_options_of_a_listing_are_those_of_http_listing(app, source, sink, monkeypatch):
    source.entities = {"p1": {"id": "p1"}, "p2": {"id": "p2"}}
    asked = []

    def answer(id):
        if not id.startswith("products"):
            return None
        asked.append(id)
        last = "token=t2" in id
        page = {"data": {"list": [{"key": "p2" if last else "p1"}]}, "count": 2}
        return Answer(200, json.dumps(page | {"meta": {"token": None if last else "t2"}}).encode())

    source.answer = answer
    monkeypatch.setenv("CHANGE_EVENTS_LISTING", f"{source.url}/products")
    monkeypatch.setenv("CHANGE_EVENTS_LISTING_ITEMS", "data.list")

    result = run(
        "backfill",
        app,
        *("--id-of", "key", "--next", "meta.token", "--cursor", "token", "--total", "count"),
    )

    assert result.exit_code == 0, result.output
    assert asked == ["products", "products?token=t2"]
    assert dict(sink.items()) == source.entities


@pytest.mark.parametrize(("threads", "at_once"), [(64, 10), (3, 3)])
@pytest.mark.parametrize("command", ["backfill", "audit --min-age 0"])
def test_an_operation_sends_ten_gets_at_once_at_most(
    make_worker, name_app, source, command, threads, at_once
):
    source.entities = products(*range(40))
    app = name_app(make_worker(threads=threads, backfill=list(source.entities)))
    source.gate.clear()
    name, *options = command.split()
    operation = threading.Thread(target=run, args=(name, app, *options))
    operation.start()
    try:
        wait_until(lambda: len(source.asked) == at_once)
        time.sleep(0.3)
        assert len(source.asked) == at_once
    finally:
        source.gate.set()
        operation.join()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_listing_is_sent_the_fetchers_headers_if_it_is_at_the_same_origin(
    make_worker, name_app, sink, elsewhere
):
    tokens = []

    def respond(asked):
        if asked.path.startswith("/p1"):
            return Answer(200, b'{"id": "p1"}')
        tokens.append(asked.headers.get("Authorization"))
        return Answer(200, b'[{"product": {"id": "p1"}}]')

    with Server(respond) as source, Server(respond) as other:
        fetcher = HTTPFetcher(f"{source.url}/{{id}}", headers={"Authorization": "Bearer t"})

        result = run(
            "backfill",
            name_app(make_worker(fetcher=fetcher)),
            *("--listing", f"{(other if elsewhere else source).url}/list"),
            *("--entity", "product", "--entities"),
        )

    assert result.exit_code == 0, result.output
    assert tokens == [None if elsewhere else "Bearer t"]
    assert dict(sink.items()) == {"p1": {"id": "p1"}}


def test_a_fetcher_of_ones_own_has_nothing_to_ask_a_listing_with(make_worker, name_app, sink):
    listed = FakeSource({"p1": {"id": "p1"}})
    with Server(lambda asked: Answer(200, b'["p1"]')) as elsewhere:
        app = name_app(make_worker(fetcher=listed))

        result = run("backfill", app, "--listing", f"{elsewhere.url}/list")

    assert result.exit_code == 0, result.output
    assert dict(sink.items()) == listed


def test_the_workers_own_listing_is_the_default(make_worker, name_app, source, sink, list_products):
    source.entities = products(1)
    listing = HTTPListing(list_products)

    result = run("backfill", name_app(make_worker(backfill=listing)))

    assert result.exit_code == 0
    assert dict(sink.items()) == source.entities


def test_an_entity_that_can_not_be_shown_is_status_1(app, source, sink, list_products):
    source.entities = products(1, 2)
    listed = source.answer
    source.answer = lambda id: Answer(500) if id == "p1" else listed(id)
    sink.apply("p2", Found(source.entities["p2"]), if_version=0)

    result = run("backfill", app, "--listing", list_products)

    assert result.exit_code == 1
    assert "1 could not be looked at:\n  p1: GET " in result.output


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (b"<html>log in</html>", "answered JSON that can't be stored"),
        (b'{"id": "p1"}', "list"),
        (b"[1.5]", "id"),
    ],
    ids=["HTML", "an entity", "numbers"],
)
def test_a_listing_that_is_none_changes_nothing(app, source, sink, page, says):
    source.answer = lambda id: Answer(200, page) if id == "products" else None
    sink.apply("p1", Found({"id": "p1"}), if_version=0)

    result = run("backfill", app, "--listing", f"{source.url}/products")

    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert dict(sink.items()) == {"p1": {"id": "p1"}}


def test_a_listing_that_loops_is_refused(app, source):
    def answer(id):
        if not id.startswith("products"):
            return None
        other = "b" if id.endswith("a") else "a"
        return Answer(200, json.dumps({"list": ["p1"], "next": f"/products?{other}"}).encode())

    source.answer = answer
    source.entities = products(1)

    result = run("backfill", app, "--listing", f"{source.url}/products", "--next", "next")

    assert result.exit_code == 2
    assert "loops" in result.stderr


def test_a_listing_of_another_type_is_refused_and_nothing_is_stored(app, source, sink):
    users = json.dumps([{"id": f"u{n}"} for n in range(5)]).encode()
    source.answer = lambda id: Answer(200, users) if id == "products" else None

    result = run("backfill", app, "--listing", f"{source.url}/products", "--entities")

    assert result.exit_code == 2
    assert "Does it list entities of another type?" in result.stderr
    assert dict(sink.items()) == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listing", "ftp://x"], "ftp://x"),
        ([], "there is no listing: give --listing URL, or make the worker with backfill="),
        (["--next", "next"], "--next needs --listing, too"),
        (["--id-of", "key"], "--id-of needs --listing, too"),
        (["--listing", "http://x/", "--rate", "0"], ": 0.0 is not in the range 0.01"),
        (["--listing", "http://x/", "--rate", "fast"], "Invalid value for '--rate'"),
        (["--set-rate", "0"], "Invalid value for '--set-rate'"),
        (["--pause", "--resume"], "Give one of --pause, --resume and --set-rate."),
    ],
)
def test_a_mistake_in_a_backfill_is_told_and_nothing_is_asked(app, source, arguments, says):
    result = run("backfill", app, *arguments)

    assert result.exit_code == 2
    assert says in result.stderr
    assert source.asked == []


@pytest.mark.parametrize("command", ["backfill", "status", "resume"])
def test_a_sink_without_state_is_told(make_worker, name_app, source, command, list_products):
    app = name_app(make_worker(sink=Plain()))
    options = ["--listing", list_products] if command == "backfill" else []

    result = run(command, app, *options)

    if command == "status":
        assert result.exit_code == 0
        assert "the sink keeps none" in result.output
    else:
        assert result.exit_code == 2
        assert "keeps no state" in result.stderr
        assert ("SIGUSR1" in result.stderr) == (command == "resume")
    assert source.asked == []


def test_a_command_in_a_thread_can_not_be_interrupted_and_runs(app, source, sink, list_products):
    """Only the main thread gets signals."""
    source.entities = products(1)
    thread = threading.Thread(target=run, args=("backfill", app, "--listing", list_products))
    thread.start()
    thread.join(20)

    assert dict(sink.items()) == source.entities


def test_a_second_backfill_is_told_who_runs(app, source, sink, list_products):
    source.entities = products(1)
    source.gate.clear()
    first = threading.Thread(target=run, args=("backfill", app, "--listing", list_products))
    first.start()
    assert source.arrived.acquire(timeout=20)

    result = run("backfill", app, "--listing", list_products)

    assert result.exit_code == 3
    assert f"another backfill works on this cache: {_here()}" in result.stderr
    source.gate.set()
    first.join(20)
    assert dict(sink.items()) == source.entities


def test_who_has_worked_elsewhere_is_told_before_the_wait(
    app, source, list_products, sink, monkeypatch
):
    """Only a minute without a word tells that a process of another machine was killed."""
    monkeypatch.setattr("change_events._operations.state.LEASE", 0.0)
    owner = {"host": "elsewhere\x1b", "pid": 5, "token": "t"}
    sink.set_state("backfill", json.dumps({"owner": owner}), if_state=None)

    result = run("backfill", app, "--listing", list_products)

    assert result.exit_code == 0
    assert result.stderr.startswith("process 5 on elsewhere\\x1b fills this cache, or was killed")
    assert json.loads(sink.state("backfill"))["phase"] == "done"


def _here():
    return str(Owner.me())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_backfill_that_is_stopped_says_that_the_next_one_goes_on(
    app, source, sink, number, status
):
    """It goes on with the second page: the first one is not asked for again."""
    asked = []

    def answer(id):
        if not id.startswith("products"):
            return None
        asked.append(id)
        if id.endswith("after=p1"):
            assert second_page.wait(20)
        ids = ["p1"] if id == "products" else ["p2"] if id.endswith("p1") else []
        return Answer(200, json.dumps(ids).encode())

    second_page = threading.Event()
    source.answer = answer
    source.entities = products(1, 2)
    arguments = ["backfill", app, "--listing", f"{source.url}/products", "--cursor", "after"]

    def first_page_is_done():
        return json.loads(sink.state("backfill") or "{}").get("pages") == 1

    sending = signalled(number, when=lambda: wait_until(first_page_is_done))

    result = run(*arguments)
    sending.join()

    assert result.exit_code == status
    assert result.stderr.splitlines()[-1] == (
        "stopped. What was done is kept: the next run goes on there."
    )
    assert sink.get("p2") is None
    second_page.set()
    before = len(asked)
    assert run(*arguments).exit_code == 0
    assert "products" not in asked[before:]
    assert dict(sink.items()) == source.entities


def test_a_backfill_of_another_listing_begins_at_its_beginning(app, source, sink):
    """It must not go on at a cursor of the one that was stopped."""
    second_page = threading.Event()
    asked = []

    def answer(id):
        if "?" not in id and id not in {"old", "new"}:
            return None
        asked.append(id)
        if id == "old?after=p1":
            assert second_page.wait(20)
        return Answer(200, json.dumps({"old": ["p1"], "new": ["p2"]}.get(id, [])).encode())

    def first_page_is_done():
        return json.loads(sink.state("backfill") or "{}").get("pages") == 1

    source.answer = answer
    source.entities = products(1, 2)
    sending = signalled(signal.SIGINT, when=lambda: wait_until(first_page_is_done))
    options = ["--cursor", "after", "--listing"]
    assert run("backfill", app, *options, f"{source.url}/old").exit_code == 130
    sending.join()
    second_page.set()

    assert run("backfill", app, *options, f"{source.url}/new").exit_code == 0
    assert [each for each in asked if each.startswith("new")] == ["new", "new?after=p2"]
    assert dict(sink.items()) == source.entities


def test_a_backfill_in_another_process_is_paused_slowed_and_resumed(app, source, sink):
    assert run("backfill", app, "--pause").output.startswith("paused")
    assert json.loads(sink.state("backfill control")) == {"paused": True}
    assert "paused" in run("status", app).output
    assert run("backfill", app, "--set-rate", "10").output.startswith("at most 10 GETs a second")
    assert "at most 10 GETs a second" in run("status", app).output
    assert run("backfill", app, "--resume").output == "resumed\n"
    assert json.loads(sink.state("backfill control")) == {"paused": False, "rate": 10.0}
    assert json.loads(run("backfill", app, "--resume", "--json").stdout) == {"said": "resumed"}
    assert source.asked == []


@pytest.mark.parametrize(
    "kept",
    [
        {"owner": {"host": 1, "pid": [], "token": {}}},
        {"owner": "somebody", "phase": "listing"},
        {"phase": "listing", "listing": "{url}", "cursor": None, "listed": 5},
        {"phase": ["done"]},
    ],
)
def test_a_backfill_whose_state_cannot_be_used_begins_at_the_first_page(
    app, source, sink, list_products, kept
):
    """Another version of the library can have kept other things."""
    source.entities = products(1, 2)
    text = json.dumps(kept).replace("{url}", list_products)
    sink.set_state("backfill", text, if_state=None)
    sink.set_state("backfill control", '{"rate": "fast", "paused": 1}', if_state=None)

    result = run("backfill", app, "--listing", list_products)

    assert result.exit_code == 0, result.output
    assert "2 ids listed on 1 pages" in result.output
    assert dict(sink.items()) == source.entities


# audit


def test_a_clean_cache_is_status_0(app, source, list_products):
    source.entities = products(1, 2)
    run("backfill", app, "--listing", list_products)

    result = run("audit", app, "--listing", list_products)

    assert result.exit_code == 0
    assert "2 compared by their bodies (all ids): 0 missing, 0 extra, 0 different" in result.output


def test_a_stale_cache_is_status_1_and_stays_as_it_is(app, source, sink, list_products):
    source.entities = products(1, 2)

    result = run("audit", app, "--listing", list_products, "--min-age", "0", "--sample", "10")

    assert result.exit_code == 1
    assert "missing: p1, p2" in result.output
    assert dict(sink.items()) == {}


def test_an_audit_waits_for_as_long_as_the_workers_own(
    make_worker, name_app, source, list_products, monkeypatch
):
    """A queue can be allowed to be behind for longer than a minute."""
    asked = []
    monkeypatch.setattr(audit_module, "Audit", lambda *_, **given: asked.append(given) or 1 / 0)

    for settings in ({"audit_min_age": 300.0}, {"settle": 5.0}):
        run("audit", name_app(make_worker(**settings)), "--listing", list_products)

    assert [each["min_age"] for each in asked] == [300.0, 65.0]


def test_a_stale_cache_that_is_repaired_is_status_0(app, source, sink, list_products):
    source.entities = products(1, 2)

    result = run("audit", app, "--listing", list_products, "--min-age", "0", "--repair")

    assert result.exit_code == 0
    assert "missing: p1, p2" in result.output
    assert result.output.endswith("2 ids repaired (2 created)\n")
    assert dict(sink.items()) == source.entities


def test_an_audit_is_json(app, source, list_products):
    source.entities = products(1)
    arguments = ["audit", app, "--listing", list_products, "--min-age", "0", "--json"]

    stale = json.loads(run(*arguments, "--repair").stdout)
    clean = json.loads(run(*arguments).stdout)

    assert (stale["stale"], stale["missing_ids"]) == (1, ["p1"])
    assert stale["repaired"] == {"outcomes": {"created": 1}, "failed_ids": {}}
    assert (clean["stale"], clean["clean"], clean["repaired"]) == (0, True, None)


def test_a_repair_that_would_delete_too_much_shows_the_report_and_is_status_3(
    app, source, sink, list_products
):
    for n in range(30):
        sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    arguments = ["audit", app, "--listing", list_products, "--min-age", "0", "--repair"]

    refused = run(*arguments)
    left = len(sink)
    allowed = run(*arguments, "--allow-mass-deletion")

    assert refused.exit_code == 3
    assert "30 extra" in refused.stdout
    assert "saw them gone" in refused.stderr
    assert refused.stderr.endswith("The command for that is `change-events resume`\n")
    assert left > 0
    assert allowed.exit_code == 0
    assert len(sink) == 0


def test_an_audit_that_is_stopped_says_so(app, source, sink, list_products):
    source.entities = products(1)
    waiting = signalled(signal.SIGINT, when=lambda: wait_until(lambda: "products" in source.ids()))

    result = run("audit", app, "--listing", list_products)
    waiting.join()

    assert result.exit_code == 130
    assert result.stderr == "stopped. Nothing was changed.\n"
    assert sink.state("audit") is None


# status


def test_status_shows_health_and_the_sinks_state(
    make_worker, name_app, source, list_products, free_port
):
    source.entities = products(1)
    worker = make_worker(health_address=("0.0.0.0", free_port))
    app = name_app(worker)
    run("backfill", app, "--listing", list_products)
    run("audit", app, "--listing", list_products, "--min-age", "0")
    with running(worker):
        wait_until(lambda: worker.health().ready)
        result = run("status", app)

    assert result.exit_code == 0
    lines = dict(line.strip().split(None, 1) for line in result.output.splitlines() if line.strip())
    assert lines.keys() == {"queue", "sink", "health", "backfill", "audit", "guard"}
    assert lines["health"].startswith(f"127.0.0.1:{free_port}: alive yes, ready yes, last poll ")
    assert lines["backfill"] == "complete: 1 ids listed, 0 stored"
    assert re.sub(r"\d+ seconds", "n seconds", lines["audit"]) == (
        "n seconds ago: 1 compared, 0 stale, 0 undecided; last clean: n seconds ago"
    )
    assert lines["guard"] == "0 of the last 0 looks saw a cached entity gone"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_table(make_worker, channel, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "200")

    status._print(make_worker(), [], None)

    assert f"  queue    {channel.queue_url}  " in terminal.getvalue()


def test_a_process_that_does_not_answer_is_status_1(make_worker, name_app, free_port):
    app = name_app(make_worker(health_address=("127.0.0.1", free_port)))

    result = run("status", app, "--processes", "2")

    assert result.exit_code == 1
    assert f"127.0.0.1:{free_port}: does not answer: nothing listens there" in result.output
    assert f"127.0.0.1:{free_port + 1}: does not answer" in result.output


def test_another_program_at_the_address_is_not_the_worker(make_worker, name_app, source):
    host, port = source.url.removeprefix("http://").split(":")
    source.answer = lambda id: Answer(200, b"[]")

    result = run("status", name_app(make_worker(health_address=(host, int(port)))))

    assert result.exit_code == 1
    assert "does not answer: another program answers" in result.output


def test_status_is_json(make_worker, name_app, free_port, sink):
    worker = make_worker(health_address=("127.0.0.1", free_port))
    app = name_app(worker)
    with running(worker):
        wait_until(lambda: worker.health().ready)
        told = json.loads(run("status", app, "--json").stdout)

    (process,) = told.pop("processes")
    assert (process["address"], process["health"]["ready"]) == (f"127.0.0.1:{free_port}", True)
    assert told == {"backfill": None, "audit": None, "worker_audit": None, "guard": None}


def test_the_state_of_a_backfill_is_told(app, sink):
    state = {"phase": "listing", "listed": 1200, "stored": 1000, "total": 5000, "failed": 2}
    owner = {"host": "worker-1", "pid": 17, "token": "t"}

    def shown(**more):
        sink.set_state("backfill", json.dumps(state | more), if_state=sink.state("backfill"))
        (line,) = [each for each in run("status", app).output.splitlines() if "backfill" in each]
        return line.split(None, 1)[1].strip()

    assert shown() == (
        "listing: 1,200 of 5,000 ids listed, 1,000 stored, 2 failed; nobody works on it"
    )
    assert shown(owner=owner).endswith("2 failed; process 17 on worker-1")


def test_a_workers_own_audit_is_told(make_worker, name_app, sink, monkeypatch):
    monkeypatch.setattr("change_events._cli.status.time.time", lambda: 1e9)
    app = name_app(make_worker(audit_per_minute=10))

    def shown(state):
        sink.set_state("worker audit", json.dumps(state), if_state=sink.state("worker audit"))
        (line,) = [each for each in run("status", app).output.splitlines() if "own audit" in each]
        return line.removeprefix("own audit").strip()

    state = {"stale": {"p1": {"kind": "missing"}}, "compared": 1200, "last_clean": None}
    assert shown({}) == "not begun"
    assert shown(state) == "1 stale; 1,200 compared in this pass; last clean pass: never"
    assert shown(state | {"last_clean": 1e9 - 300}).endswith("last clean pass: 5 minutes ago")


@pytest.mark.parametrize("name", ["backfill", "audit", "worker audit"])
def test_a_state_that_cannot_be_read_is_told(app, sink, name):
    sink.set_state(name, '{"phase": "listing", "ended": "yesterday"}', if_state=None)

    result = run("status", app)

    assert result.exit_code == 0
    assert result.output.count("can't be read: another version has stored it") == 1


def test_times_are_told_in_a_unit_that_people_use(app, sink, monkeypatch):
    def shown(seconds):
        state = {"ended": 1e9 - seconds, "compared": 1, "stale": 0, "undecided": 0}
        sink.set_state("audit", json.dumps(state), if_state=sink.state("audit"))
        return run("status", app).output

    monkeypatch.setattr("change_events._cli.status.time.time", lambda: 1e9)

    assert "3 days ago" in shown(3 * 86_400)
    assert "5 hours ago" in shown(5 * 3600)
    assert "5 minutes ago" in shown(300)
    assert "last clean: never" in shown(-5)


class Away(MemorySink):
    def state(self, name):
        raise OSError("no route")


def test_a_sink_that_does_not_answer_is_status_3(make_worker, name_app):
    result = run("status", name_app(make_worker(sink=Away())))

    assert result.exit_code == 3
    assert "does not answer: no route" in result.stderr


def test_a_guard_that_is_off_is_told(make_worker, name_app):
    app = name_app(make_worker(allow_mass_deletion=True))

    assert "off: allow_mass_deletion=True" in run("status", app).output


# resume


def test_resume_reaches_a_running_worker_through_the_sinks_state(
    make_worker, name_app, source, sink, channel, monkeypatch
):
    monkeypatch.setattr("change_events._consumer.deletions.KEEP_EVERY", 0.05)
    for n in range(40):
        sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    worker = make_worker()
    app = name_app(worker)
    channel.announce(*[f"p{n}" for n in range(40)])
    with running(worker):
        wait_until(lambda: worker.health().paused == "mass deletion")
        result = run("resume", app)
        wait_until(lambda: len(sink) == 0)

    assert result.exit_code == 0
    assert result.output.startswith("resumed: deletions are believed")
    assert "allowed by resume" in run("status", app).output


def test_resume_changes_nothing_if_nothing_was_refused(app, sink):
    sink.apply("p1", Found({"id": "p1"}), if_version=0)
    before = sink.state("guard")

    result = run("resume", app)

    assert result.exit_code == 1
    assert result.output.startswith("nothing was refused")
    assert sink.state("guard") == before


def test_resume_of_an_empty_cache_asks_the_endpoint(
    make_worker, name_app, source, sink, channel, free_port
):
    """No state says that a worker of an empty cache refuses to believe the source."""
    worker = make_worker(health_address=("127.0.0.1", free_port), min_deleted=3)
    app = name_app(worker)
    channel.announce("p1", "p2", "p3", "p4")
    with running(worker):
        wait_until(lambda: worker.health().paused == "mass deletion")
        result = run("resume", app, "--json")

    assert json.loads(result.stdout) == {"resumed": True, "gone": 0}


def test_resume_can_be_forced(app, sink):
    assert json.loads(run("resume", app, "--json").stdout) == {"resumed": False, "gone": 0}
    assert run("resume", app, "--force").exit_code == 0
    assert json.loads(sink.state("guard"))["believes"] is True


def test_a_worker_that_refuses_nothing_needs_no_resume(make_worker, name_app):
    result = run("resume", name_app(make_worker(allow_mass_deletion=True)))

    assert result.exit_code == 2
    assert "allow_mass_deletion=True" in result.stderr


def test_an_audit_that_could_not_compare_an_id_is_status_1(app, source, list_products):
    source.entities = products(1, 2)
    run("backfill", app, "--listing", list_products)
    answer = source.answer
    source.answer = lambda id: Answer(500) if id == "p2" else answer(id)

    result = run("audit", app, "--listing", list_products, "--min-age", "0")

    assert "1 could not be compared" in result.stdout
    assert result.exit_code == 1
