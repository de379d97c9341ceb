"""Matplotlib as every study uses it: the one place that imports it, without a screen."""

import os
from collections.abc import Callable

os.environ["MPLBACKEND"] = "Agg"  # Whatever it was; matplotlib reads it as it is imported.
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

from experiments.run import Run  # noqa: E402

STYLE = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}

# Where the ends of an axis have less than this ratio, its labels in every decade.
STEPS = ((30.0, (1, 2, 5)), (200.0, (1, 3)))


def label_counts(axis: plt.Axes) -> None:
    """Labels a logarithmic x axis of counts: 100, 1,000 and so on, more where it is short.

    To be called, as the next two, when the limits are final.
    """
    _label(axis.xaxis, axis.get_xlim(), lambda count, _: f"{count:,.0f}")


def label_values(axis: plt.Axes, which: str = "y") -> None:
    """Labels a logarithmic axis, "x" or "y", of plain numbers: 0.2, 0.5, 1."""
    limits = axis.get_xlim() if which == "x" else axis.get_ylim()
    _label(axis.xaxis if which == "x" else axis.yaxis, limits, lambda value, _: f"{value:g}")


def label_thousands(axis: plt.Axes) -> None:
    """Labels a logarithmic x axis of large counts: 20k, 50k, 100k, and M for millions."""

    def short(count: float, _: int) -> str:
        scale, unit = next((s, u) for s, u in ((1e6, "M"), (1e3, "k"), (0, "")) if count >= s)
        return f"{count / (scale or 1):g}{unit}"

    _label(axis.xaxis, axis.get_xlim(), short)


def _label(axis: Axis, limits: tuple[float, float], format_fn: Callable[[float, int], str]) -> None:
    steps = next((steps for ratio, steps in STEPS if limits[1] / limits[0] < ratio), (1,))
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(format_fn))
    axis.set_minor_formatter(NullFormatter())


def save(figure: plt.Figure, run: Run, name: str) -> None:
    """Writes a figure into `figures/` of the workdir, and lets go of it."""
    figure.savefig(run.workdir.file("figures", name))
    plt.close(figure)
