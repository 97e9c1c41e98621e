import ast
import dataclasses
import subprocess
import sys

import psutil
import pytest

from change_events._event import DEFAULT_SETTLE
from verification.benchmarks import bearing, beside, contenders, cost, fresh, results
from verification.benchmarks.__main__ import command
from verification.benchmarks.bench import OLD, Bench, distinct, zipf
from verification.benchmarks.floor import floor
from verification.benchmarks.workloads import WORKLOADS
from verification.harness import ROOT
from verification.harness.emulators import MariaDB
from verification.harness.processes import wait_until

# Coverage would slow down what is measured.
pytestmark = pytest.mark.usefixtures("untraced")


@pytest.fixture(scope="module")
def bench():
    quickly = [
        dataclasses.replace(contender, more={"settle": 0.1, **contender.more})
        for contender in contenders.OWN
    ]
    with Bench(
        quick=True, canned=True, scale=0.1, contenders=[*quickly, contenders.TUNED]
    ) as bench:
        yield bench


@pytest.mark.parametrize("name", ["A", "B", "C", "D"])
def test_a_contest_measures_each_contender(bench, name):
    report = WORKLOADS[name](bench)

    contests = report.data if "contest" in report.data else {"contest": report.data}
    for run in (run for runs in contests.values() for of in runs.values() for run in of):
        assert run["missing"] == 0
        assert run["calls"]["ReceiveMessage"] >= run["events"] / 10
        assert run["calls"]["DeleteMessageBatch"] >= run["events"] / 10
        assert run["cpu"] > 0
        if run["contender"] == "tuned":
            assert run["gets"] == run["events"]
        assert run["wall"] > run["gets"] * 0.02 / run["threads"] / run["processes"] * 0.9
    assert all(figure.value > 0 for figure in report.figures)
    assert report.table[1][0].removesuffix(", 10 threads") == "ours"
    answers = {what for _, workload, what in results.SHORT if workload == name}
    assert answers - {figure.what for figure in report.figures} <= {"times as fast as dramatiq"}


def test_ours_has_the_defaults_so_a_fresh_event_is_held_and_looked_at_twice(bench):
    run = bench.stage().run(contenders.OURS, distinct(20), threads=10, latency=0.0)

    assert (run.gets, run.missing) == (40, 0)
    assert run.wall > DEFAULT_SETTLE


def test_an_event_older_than_the_window_needs_one_look_with_the_defaults(bench):
    run = bench.stage().run(contenders.OURS, distinct(20), threads=10, latency=0.0, age=OLD)

    assert (run.gets, run.missing) == (20, 0)


def test_the_plain_loop_makes_a_call_for_each_delete(bench):
    run = bench.stage().run(contenders.PLAIN, distinct(20), threads=1, latency=0.0)

    assert run.calls == {"ReceiveMessage": 2, "DeleteMessage": 20}
    assert (run.gets, run.missing) == (20, 0)


def test_ids_that_are_due_together_share_a_get(bench):
    run = bench.stage().run(contenders.BULK, distinct(100), threads=10, latency=0.02, age=OLD)

    assert run.gets <= 50
    assert run.missing == 0


def test_the_floor_is_the_sum_of_its_calls(bench):
    report = WORKLOADS["E"](bench)

    figures = {figure.what: figure.value for figure in report.figures}
    calls = (
        figures["receive"] / 10
        + figures["delete"] / 10
        + figures["get by urllib3"]
        + figures["upsert"]
    )
    assert figures["floor"] == pytest.approx(
        calls, rel=0.9
    )  # a median of sums is not the sum of the medians
    assert figures["ours, 10 threads, times the floor"] > 0


def test_an_event_is_a_tenth_of_two_batch_calls_a_get_and_an_upsert():
    assert (
        floor({"receive": 10.0, "delete": 20.0, "slow": 3.0, "quick": 1.0, "upsert": 4.0}, "slow")
        == 10.0
    )


def test_publishing_in_batches_takes_a_tenth_of_the_calls(bench):
    report = WORKLOADS["F"](bench)

    figures = {figure.what: figure.value for figure in report.figures}
    assert figures["100 ids at once, times fewer calls"] == 10


@pytest.mark.parametrize(
    "way",
    [way for way in fresh.WAYS if way.kind == "ours" and way.save < 0.1],
    ids=lambda way: way.name,
)
def test_freshness_is_measured_for_each_commit(bench, way):
    lags = fresh.play(bench.stage(), way, 5)

    assert len(lags) == 5
    assert min(lags) > 0


def test_held_events_miss_no_deadline(bench):
    report = WORKLOADS["H"](bench)

    assert all(figure.met for figure in report.figures)
    assert report.data["calls"]["ChangeMessageVisibilityBatch"] > 0


def test_a_redrive_looks_once_at_each_id(bench):
    report = WORKLOADS["J"](bench)

    assert all(figure.met for figure in report.figures)
    assert report.data["gets"] == report.data["number"] / 20 == 10


def test_an_audit_beside_changes_reports_nothing_falsely(bench):
    report = WORKLOADS["L"](bench)

    figures = {figure.what: figure for figure in report.figures}
    assert all(figures[what].met for what in figures if what.startswith("beside changes"))
    assert figures["beside changes, differed at first"].value > 0
    assert figures["SQLite, share of reading's speed"].value > 0
    assert figures["PostgreSQL, CPU"].value > 0


def test_staleness_is_measured_beside_both_kinds_of_backfill(bench):
    report = WORKLOADS["M"](bench)

    assert [row[0] for row in report.table[1:]] == ["without a backfill", *beside.BESIDE]
    assert all(pages > 0 for pages in report.data["pages"].values())
    assert all(
        len(lags) == 20 for rounds in report.data["milliseconds"].values() for lags in rounds
    )


def test_each_sink_is_measured(bench):
    report = WORKLOADS["N"](bench)

    names = [row[0] for row in report.table[1:]]
    assert {name.partition(",")[0] for name in names} >= {
        "MemorySink",
        "SQLiteSink",
        "PostgresSink",
        "DynamoDBSink",
        "SQLAlchemySink",
    }
    assert {len(row) for row in report.table} == {7}
    assert all(figure > 0 for rounds in report.data.values() for of in rounds for figure in of)
    assert ("SQLAlchemySink, MariaDB" in names) == (MariaDB.program is not None)


def test_two_workers_share_a_backlog(bench):
    report = WORKLOADS["O"](bench)

    assert [row[0] for row in report.table[1:]] == ["few ids", "different ids"]
    assert all(figure.met for figure in report.figures if figure.what.endswith("events"))
    assert all(len(each) == 2 for of in report.data["acknowledged"].values() for each in of)


def test_the_bill_multiplies_requests_by_the_consumers():
    one, twelve = cost.bill(100, 1, cost.Assumptions()), cost.bill(100, 12, cost.Assumptions())

    assert one.publishes == twelve.publishes == 100 * 86_400 * 30
    assert twelve.requests == 12 * one.requests
    assert one.dollars == pytest.approx(one.publishes / 1e6 * 0.50 + one.requests / 1e6 * 0.40)


def test_zipf_draws_the_first_id_twice_as_often_as_the_second():
    ids = zipf(20_000)

    assert len(set(ids)) == 200
    assert 1.8 < ids.count("p0") / ids.count("p1") < 2.5


@pytest.mark.parametrize(
    "make", [contenders.change_event, contenders.dramatiq_message, contenders.celery_message]
)
def test_messages_of_different_ids_differ(make):
    assert make("p1", "products") != make("p2", "products")


def test_every_module_can_be_parsed_even_for_another_environment():
    for path in (ROOT / "verification" / "benchmarks").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), path.name)


def test_save_writes_results_and_a_plot(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "PLOT", tmp_path / "performance.svg")
    pages = {}
    monkeypatch.setattr(
        results,
        "write_between_markers",
        lambda name, text, page: pages.update({name: (page, text)}),
    )
    taken = {
        "machine": results.machine(),
        "versions": results.versions({"ours"}),
        "quick": True,
        "scale": 0.1,
    }

    results.save({name: WORKLOADS[name](bench) for name in ("A", "I")}, taken)

    assert pages.keys() == {"A", "I", "contenders", "short"}
    assert "times as fast as tuned" in pages["A"][1]
    assert "| [A](#a-different-ids) |" in pages["short"][1]
    assert "</svg>" in (tmp_path / "performance.svg").read_text(encoding="utf-8")
    assert str(ROOT) not in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_the_page_has_markers_for_every_workload():
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")

    for name in [*WORKLOADS, "contenders", "short"]:
        assert f"<!-- {name}: start -->" in page
        assert f"<!-- {name}: end -->" in page


def test_the_help_lists_the_workloads(capsys):
    with pytest.raises(SystemExit, match="0"):
        command(["--help"])

    printed = capsys.readouterr().out
    assert "A: 5,000 events of as many ids" in printed


def test_an_interrupted_run_leaves_no_process():
    # A shell starts a background job with SIGINT ignored.
    command = "trap '' INT; exec \"$0\" -m verification.benchmarks A --quick"
    process = subprocess.Popen(
        ["sh", "-c", command, sys.executable],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children = []
    try:
        wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 3, 60)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(2)
        printed, _ = process.communicate(timeout=30)
    finally:
        process.kill()

    assert process.returncode == 130
    assert "interrupted" in printed
    assert not [child for child in children if child.is_running()]


def test_a_source_that_serves_a_few_at_once_lets_the_rest_wait_and_measures_its_foreground(bench):
    stage = bench.stage()
    run = stage.run(
        contenders.TUNED, distinct(80), threads=10, latency=0.02, servers=2, foreground=30
    )

    assert run.missing == 0
    assert run.wall > 80 * 0.02 / 2 * 0.9
    wait_until(lambda: stage.tell(stage.source, "foreground").get("foreground", 0) > 10)
    assert stage.tell(stage.source, "foreground")["p99"] >= 0.02


def test_the_limit_is_compared_with_fixed_numbers_and_loops(bench, monkeypatch):
    monkeypatch.setattr(bearing, "PERCENT", (30,))
    monkeypatch.setattr(bearing, "LATENCIES", (0.005,))
    monkeypatch.setattr(bearing, "ALONE", 1.0)
    monkeypatch.setattr(bearing, "SLOW", (1.0, 1.0, 2.0))

    report = WORKLOADS["P"](bench)

    who = [row["who"] for row in report.data]
    assert who == ["ours", "64 fixed", "ours", "tuned", "ours, at the end"]
    assert all(row["events/s"] > 0 for row in report.data)
    assert {figure.what for figure in report.figures} == {
        "5 ms, of the best fixed number",
        "8 at once, 30 % foreground, ours, of the free capacity",
        "8 at once, 30 % foreground, ours, p99 times alone",
        "8 at once, 30 % foreground, tuned, p99 times alone",
        "seconds until 0.9 of the capacity again",
    }
