"""What `--save` writes: JSON, a plot, and the page in the docs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verification.benchmarks import contenders, environments
from verification.benchmarks.bench import AGED
from verification.benchmarks.plot import draw
from verification.harness import ROOT
from verification.harness.docs import markdown_table, write_between_markers
from verification.harness.figures import Figure

if TYPE_CHECKING:
    from verification.benchmarks.contest import Report

DIRECTORY = ROOT / "verification" / "benchmarks" / "results"
RESULTS = DIRECTORY / "results.json"
PLOT = DIRECTORY / "performance.svg"

TIMES, LIMIT = "times as fast as", "latency limit"
CALLS = "calls per 1,000 events"
MANY = "ten threads and [many ids in a GET](../howto/answer-many-at-once.md)"

SHORT = [
    ("Fresh events, beside hand-tuned loops on boto3 (*tuned*)?", "A", f"{TIMES} tuned"),
    ("The same with fifty threads?", "B", f"{TIMES} tuned"),
    ("The same with few ids?", "C", f"{TIMES} tuned"),
    ("Fresh events, beside dramatiq?", "A", f"{TIMES} dramatiq"),
    ("Old events, beside *tuned*?", "A", f"{AGED}, {TIMES} tuned"),
    ("The same with fifty threads?", "B", f"{AGED}, {TIMES} tuned"),
    ("The same with few ids?", "C", f"{AGED}, {TIMES} tuned"),
    (f"The same with {MANY}?", "A", f"{AGED}, ours, bulk, {TIMES} tuned"),
    ("How close do old events come to what the source allows?", "A", f"{AGED}, of the {LIMIT}"),
    ("How many GETs does a fresh event need, in a burst?", "A", "GETs an event"),
    ("How many GETs does an old event need?", "A", f"{AGED}, GETs an event"),
    ("How many calls to SQS do 1,000 events need?", "D", f"{CALLS}, ours, 10 threads"),
]
"""The short answer: questions, each with the workload and the figure that answer it."""

ANCHORS = {
    "A": "a-different-ids",
    "B": "b-fifty-threads-and-two-processes",
    "C": "c-a-backlog-of-few-ids",
    "D": "d-calls-to-sqs",
}
"""Where the page shows these workloads."""


def machine() -> dict[str, Any]:
    """Describe this machine, without anything that identifies it."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if cpuinfo.exists()
        else None
    )
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions(names: set[str]) -> dict[str, dict[str, str]]:
    """Return the versions of the contenders' packages, by contender."""
    found = {}
    for each in contenders.ALL:
        with contextlib.suppress(environments.EnvironmentUnavailableError):  # it did not run
            if each.name in names:
                found[each.name] = environments.versions(each.environment)
    return found


def save(reports: dict[str, Report], taken: dict[str, Any]) -> list[Path]:
    """
    Write results, plot and page. Workloads that were not run keep their results.

    Args:
        reports: The reports, by workload.
        taken: How they were measured.
    """
    DIRECTORY.mkdir(exist_ok=True)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, report in reports.items():
        kept[name] = {
            **taken,
            "figures": [{**asdict(figure), "met": figure.met} for figure in report.figures],
            "table": report.table,
            "notes": report.notes,
            "data": report.data,
        }
        write_between_markers(name, as_markdown(report, taken), page="performance.md")
    write_between_markers("contenders", _contenders(taken), page="performance.md")
    write_between_markers("short", short(kept), page="performance.md")
    RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")
    draw(kept, PLOT)
    return [RESULTS, PLOT, ROOT / "docs" / "explanation" / "performance.md"]


def as_markdown(report: Report, taken: dict[str, Any]) -> str:
    """Return a report in Markdown."""
    rows = [
        [figure.what, str(figure), figure.goal, figure.verdict(met="met", missed="**missed**")]
        for figure in report.figures
    ]
    parts = [markdown_table(report.table)] if report.table else []
    parts += [markdown_table([["", "measured", "goal", ""], *rows])] if rows else []
    where = taken["machine"]
    quick = ", a quick run" if taken["quick"] else ""
    part = "" if taken["scale"] == 1 else f", {taken['scale']:g} of the events"
    parts += [
        *report.notes,
        f"{where['cpu']}, {where['cores']} cores, Python {where['python']}{quick}{part}.",
    ]
    return "\n\n".join(parts) + "\n"


def short(results: dict[str, Any]) -> str:
    """Return the short answer in Markdown, from the results of all workloads that were run."""
    rows = [["question", "answer", "measured in"]]
    for question, name, what in SHORT:
        for found in results.get(name, {}).get("figures", []):
            if found["what"] == what:
                unit = "times as fast" if TIMES in what else "of it" if LIMIT in what else ""
                answer = str(Figure(what, found["value"], unit))
                rows.append([question, answer, f"[{name}](#{ANCHORS[name]})"])
    return markdown_table(rows) + "\n"


def _contenders(taken: dict[str, Any]) -> str:
    rows = [["contender", "how it does it", "versions"]]
    for each in contenders.ALL:
        if each.name in taken["versions"]:
            found = ", ".join(
                f"{name} {version}" for name, version in taken["versions"][each.name].items()
            )
            rows.append([each.name, each.about, found])
    return markdown_table(rows) + "\n"
