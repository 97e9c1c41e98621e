"""The sum of all worlds of a contender, and how it is shown: as a table, JSON and Markdown."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from verification.harness.docs import commit
from verification.proof.field._conditions import CONTENDERS, LATENCY_TEXT, RATES, WORKLOAD_TEXT
from verification.proof.simulation._books import LEAST, PER_DECADE

CODE = ("src", "verification/proof/simulation", "verification/proof/field")


@dataclass(slots=True)
class Sum:
    """The sum of all worlds of one contender."""

    writes: int = 0
    cpu: float = 0.0
    seeds: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)

    def add(self, part: dict[str, Any]) -> None:
        self.writes += part["writes"]
        self.cpu += part["cpu"]
        self.seeds.append(part["seed"])
        self.counts.update(part["counts"])
        self.staleness.update({int(bucket): number for bucket, number in part["staleness"].items()})

    def per_million(self, name: str, of: str | None = None) -> float:
        number: int = self.writes if of is None else self.counts[of]
        return self.counts[name] / number * 1e6 if number else 0.0

    def bound(self, of: str | None = None) -> float:
        """Return the rate per million that zero sightings exclude with 95 % (the rule of three)."""
        number: int = self.writes if of is None else self.counts[of]
        return 3e6 / number if number else float("inf")

    def longer_than(self) -> list[tuple[float, float]]:
        """Return the share of commits that were stale for longer, by seconds."""
        total = sum(self.staleness.values())
        seen = 0
        points = []
        for bucket in range(max(self.staleness, default=0) + 1):
            seen += self.staleness[bucket]
            points.append((LEAST * 10 ** (bucket / PER_DECADE), (total - seen) / total))
        return points

    def quantile(self, share: float) -> float:
        return next(
            (seconds for seconds, longer in self.longer_than() if longer <= 1 - share), float("inf")
        )


HEADER = (
    "protocol",
    "writes",
    "stale for ever",
    "stale > 1 min",
    "the same, source up",
    "stale > 5 min",
    "backward",
    "p50",
    "p99",
    "GETs",
    "publishes",
)
UNITS = (
    "",
    "",
    "per million writes",
    "",
    "",
    "",
    "per million applies",
    "seconds",
    "seconds",
    "per write",
    "per write",
)


def rows(sums: dict[str, Sum]) -> list[tuple[str, ...]]:
    return [
        (contender.text, *_cells(sums[contender.name]))
        for contender in CONTENDERS
        if contender.name in sums
    ]


def _cells(sum_: Sum) -> tuple[str, ...]:
    counts, writes = sum_.counts, max(sum_.writes, 1)
    return (
        f"{sum_.writes:,}",
        _rate(sum_.per_million("forsaken"), sum_.bound()),
        _rate(sum_.per_million("stale 60"), sum_.bound()),
        _rate(sum_.per_million("stale 60, source up"), sum_.bound()),
        _rate(sum_.per_million("stale 300"), sum_.bound()),
        _rate(sum_.per_million("backward", "applies"), sum_.bound("applies")),
        _seconds(sum_.quantile(0.5)),
        _seconds(sum_.quantile(0.99)),
        f"{counts['gets'] / writes:.2f}",
        f"{counts['publishes'] / writes:.2f}",
    )


def _rate(rate: float, bound: float) -> str:
    return rounded(rate) if rate else f"0 (< {rounded(bound)})"


def rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _seconds(seconds: float) -> str:
    return (
        "for ever"
        if seconds == float("inf")
        else f"{seconds:.1f}"
        if seconds >= 1
        else f"{seconds:.2f}"
    )


def as_text(sums: dict[str, Sum]) -> str:
    table = [HEADER, UNITS, *rows(sums)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


def conditions(factor: float) -> str:
    lines = [
        f"workload   {WORKLOAD_TEXT}",
        f"latencies  {LATENCY_TEXT}",
        f"faults     times {factor:g}; per event, unless noted:",
    ]
    lines += [
        f"           {name:26}{rate * factor:<10.2g}{reason}"
        for name, (rate, reason) in RATES.items()
    ]
    return "\n".join(lines)


def as_json(sums: dict[str, Sum], *, factor: float, world: int, seconds: float) -> str:
    content = {
        "commit": commit(),
        "python": platform.python_version(),
        "faults_times": factor,
        "faults": {name: rate * factor for name, (rate, _) in RATES.items()},
        "latencies": LATENCY_TEXT,
        "workload": WORKLOAD_TEXT,
        "writes_per_world": world,
        "seconds": round(seconds),
        "contenders": {name: _contender(sum_) for name, sum_ in sums.items()},
    }
    return json.dumps(content, indent=1) + "\n"


def _contender(sum_: Sum) -> dict[str, Any]:
    return {
        "writes": sum_.writes,
        "first_seed": min(sum_.seeds),
        "last_seed": max(sum_.seeds),
        "worlds": len(sum_.seeds),
        "cpu_microseconds_per_write": round(sum_.cpu / sum_.writes * 1e6),
        "stale_for_ever_per_million_writes": sum_.per_million("forsaken"),
        "stale_after_1_minute_per_million_writes": sum_.per_million("stale 60"),
        "stale_after_1_minute_with_the_source_up_per_million_writes": sum_.per_million(
            "stale 60, source up"
        ),
        "stale_after_5_minutes_per_million_writes": sum_.per_million("stale 300"),
        "backward_per_million_applies": sum_.per_million("backward", "applies"),
        "upper_bound_95_if_zero": {
            "per_million_writes": sum_.bound(),
            "per_million_applies": sum_.bound("applies"),
        },
        "staleness_seconds": {
            "p50": _seconds(sum_.quantile(0.5)),
            "p99": _seconds(sum_.quantile(0.99)),
        },
        "counts": dict(sorted(sum_.counts.items())),
        "staleness_histogram": {
            "comment": (
                "commits per bucket; bucket n ends at 0.001 * 10 ** (n / 20) seconds, "
                "-1 is for ever"
            ),
            "buckets": dict(sorted(sum_.staleness.items())),
        },
    }


def as_markdown(sums: dict[str, Sum]) -> str:
    head = [f"{name}<br>{unit}" if unit else name for name, unit in zip(HEADER, UNITS, strict=True)]
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows(sums)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
