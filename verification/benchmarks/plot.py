"""The plot: how fast, and how cheap."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from verification.benchmarks.bench import AGED
from verification.benchmarks.floor import floor
from verification.harness.plots import INK, plot

if TYPE_CHECKING:
    from pathlib import Path

OURS, OTHERS = "#2f9e6e", "#b07cc6"

TITLES = {
    "A": "A: events of different ids\n10 threads, GET 20 ms",
    "B": "B: the same\n50 threads",
    "C": "C: events of 200 ids\n10 threads, GET 20 ms",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw events per second and CPU per event of each contest."""
    # Results of an older version have no "contest".
    contests = [name for name in TITLES if "contest" in results.get(name, {}).get("data", {})]
    if not contests:
        return
    size = (4.6 * len(contests), 6.2)
    with plot(path, 2, len(contests), salt="bench", figsize=size, squeeze=False) as axes:
        for column, name in enumerate(contests):
            runs = _runs(results, name)
            axes[0][column].set_title(TITLES[name], fontsize=9)
            _bars(axes[0][column], runs, lambda run: run["events"] / run["wall"], "{:,.0f}")
            axes[0][column].set_xlabel("events a second")
            _bars(axes[1][column], runs, lambda run: run["cpu"] / run["events"] * 1e3, "{:.2f}")
            axes[1][column].set_xlabel("ms of CPU an event")
            if "E" in results and name != "C":  # with shared looks, contenders get below the floor
                _floor(axes[1][column], results["E"]["data"]["floors"])


def _runs(results: dict[str, Any], name: str) -> dict[str, Any]:
    data: dict[str, dict[str, Any]] = results[name]["data"]
    return {
        **data["contest"],
        **{f"{who}, {AGED}": of for who, of in data[AGED].items() if who != "tuned"},
    }


def _bars(axes: Any, runs: dict[str, list[dict[str, Any]]], value: Any, form: str) -> None:
    values = {name: [value(run) for run in of] for name, of in runs.items()}
    medians = [statistics.median(of) for of in values.values()]
    below = [median - min(of) for median, of in zip(medians, values.values(), strict=True)]
    above = [max(of) - median for median, of in zip(medians, values.values(), strict=True)]
    colours = [OURS if name.startswith("ours") else OTHERS for name in values]
    places = range(len(values))
    axes.barh(places, medians, color=colours, height=0.65)
    axes.errorbar(
        medians, places, xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1, capsize=2
    )
    most = max(median + more for median, more in zip(medians, above, strict=True))
    for place, median, more in zip(places, medians, above, strict=True):
        axes.text(median + more + most * 0.02, place, form.format(median), va="center", fontsize=8)
    axes.set_xlim(0, most * 1.22)
    axes.set_ylim(len(values) - 0.4, -0.9)  # the first one on top, below the floor's name
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks(places, list(values))
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _floor(axes: Any, floors: list[dict[str, float]]) -> None:
    least = statistics.median(floor(costs, "get_by_urllib3") for costs in floors)
    axes.axvline(least, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        "floor",
        (least, 1),
        (2, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )
