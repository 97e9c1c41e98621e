"""How our plots look, on a page that is light or dark."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INK = "#7d8590"
"""Readable on white and on black, as a page may be either."""


@contextmanager
def plot(path: Path, *grid: int, salt: str, **settings: Any) -> Iterator[Any]:
    """
    Make a plot of so many rows and columns: yields its axes, and writes it as SVG, the same to the
    byte for the same figures.

    Args:
        path: Where to write it.
        grid: Rows and columns.
        salt: What the names within the SVG are made of.
        settings: Of `matplotlib.pyplot.subplots`.
    """
    import matplotlib as mpl  # not above: it takes a second

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style: Any = {  # matplotlib names every key in its type
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 9,
        "grid.alpha": 0.25,
        "grid.color": INK,
        "svg.hashsalt": salt,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(*grid, layout="constrained", **settings)
        yield axes
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
