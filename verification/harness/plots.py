"""The style of our plots, which a page shows on white or on black."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INK = "#7d8590"
"""A grey that is readable on white and on black."""


@contextmanager
def plot(path: Path, *grid: int, salt: str, **settings: Any) -> Iterator[Any]:
    """
    Yield a plot's axes; at the end write the plot as SVG.

    The same figures make the same file, to the byte.

    Args:
        path: The file to write.
        grid: The numbers of rows and of columns.
        salt: The seed of the names within the SVG.
        settings: Arguments of `matplotlib.pyplot.subplots`.
    """
    import matplotlib as mpl  # not at the top: this import takes a second

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style: Any = {  # matplotlib's type lists every key
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
