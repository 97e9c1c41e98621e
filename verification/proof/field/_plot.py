"""The plot: how long the cache does not show a commit, and how often it never does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verification.harness.plots import INK, plot
from verification.proof.field._results import rounded

if TYPE_CHECKING:
    from pathlib import Path

    from verification.proof.field._results import Sum

COLOURS = {
    "payload after": ("#d4351c", "-"),
    "payload before": ("#d4351c", "--"),
    "id, 1 thread": ("#d98a00", ":"),
    "id, 3 workers": ("#d98a00", "-"),
    "id, delay, 1 thread": ("#b07cc6", ":"),
    "id, delay, 3 workers": ("#b07cc6", "-"),
    "ours, delay": ("#2f9e6e", "--"),
    "ours, early look": ("#2f9e6e", "-"),
    "ours, confirm": ("#3b8fd9", "-"),
}
LEAST_SHARE = 1e-6
LONGEST = 4e3
"""The longest staleness that is shown, in seconds."""

LEAST_RATE = 0.1
"""The rate per million where the bars begin."""


def draw(sums: dict[str, Sum], path: Path) -> None:
    """Draw the plot."""
    with plot(path, 1, 2, salt="field", figsize=(11, 4.4), width_ratios=[1.5, 1]) as (
        distribution,
        bars,
    ):
        _distribution(distribution, sums)
        _bars(bars, sums)


def _distribution(axes: Any, sums: dict[str, Sum]) -> None:
    for name, sum_ in sums.items():
        points = [(seconds, max(share, LEAST_SHARE / 10)) for seconds, share in sum_.longer_than()]
        points.append((LONGEST, points[-1][1]))  # what is stale now stays stale for ever
        colour, line = COLOURS[name]
        axes.plot(*zip(*points, strict=True), line, color=colour, label=name, linewidth=1.6)
    axes.set(xscale="log", yscale="log", xlim=(5e-3, LONGEST), ylim=(LEAST_SHARE, 1.3))
    axes.set_xlabel("seconds since the commit")
    axes.set_ylabel("share of commits that the cache does not show yet")
    axes.set_title("Staleness", loc="left")
    axes.grid(visible=True)
    axes.legend(frameon=False, labelcolor=INK, loc="lower left", fontsize=8)


def _bars(axes: Any, sums: dict[str, Sum]) -> None:
    names = list(sums)
    most = max(max(sum_.per_million("forsaken"), sum_.bound()) for sum_ in sums.values())
    for position, name in enumerate(names):
        rate, bound, colour = (
            sums[name].per_million("forsaken"),
            sums[name].bound(),
            COLOURS[name][0],
        )
        if rate:
            axes.barh(position, rate, color=colour, left=0)
            axes.text(rate * 1.2, position, rounded(rate), va="center", fontsize=8)
        else:
            axes.barh(position, bound, facecolor="none", edgecolor=colour, linestyle="--", left=0)
            axes.text(
                bound * 1.2,
                position,
                f"0 (< {rounded(bound)})",
                va="center",
                fontsize=8,
                color=colour,
                weight="bold",
            )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xscale="log", xlim=(LEAST_RATE, most * 12))
    axes.set_xlabel("per million writes; dashed: none seen, 95 % bound")
    axes.set_title("Stale for ever", loc="left")
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
