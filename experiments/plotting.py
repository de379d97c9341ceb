"""Matplotlib as every study uses it: the one place that imports it, without a screen."""

import os

os.environ["MPLBACKEND"] = "Agg"  # Whatever it was; matplotlib reads it as it is imported.
import matplotlib.pyplot as plt  # noqa: E402
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

    To be called when the limits are final.
    """
    low, high = axis.get_xlim()
    steps = next((steps for ratio, steps in STEPS if high / low < ratio), (1,))
    axis.xaxis.set_major_locator(LogLocator(subs=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def label_values(axis: plt.Axes, which: str = "y") -> None:
    """Labels a logarithmic axis of plain numbers, 0.2, 0.5, 1, more where it is short.

    To be called when the limits are final.
    """
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    labelled = axis.yaxis if which == "y" else axis.xaxis
    steps = next((steps for ratio, steps in STEPS if high / low < ratio), (1,))
    labelled.set_major_locator(LogLocator(subs=steps))
    labelled.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    labelled.set_minor_formatter(NullFormatter())


def label_thousands(axis: plt.Axes) -> None:
    """Labels a logarithmic x axis of large counts: 20k, 50k, 100k, and M for millions."""

    def short(count: float, _) -> str:
        if count >= 1e6:
            return f"{count / 1e6:g}M"
        return f"{count / 1e3:g}k" if count >= 1e3 else f"{count:g}"

    label_values(axis, "x")
    axis.xaxis.set_major_formatter(FuncFormatter(short))


def save(figure: plt.Figure, run: Run, name: str) -> None:
    """Writes a figure into `figures/` of the workdir, and lets go of it."""
    figure.savefig(run.workdir.file("figures", name))
    plt.close(figure)
