"""Matplotlib as every study uses it: the one place that imports it, without a screen."""

import os

os.environ["MPLBACKEND"] = "Agg"  # Whatever it was; matplotlib reads it as it is imported.
import matplotlib.pyplot as plt  # noqa: E402

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


def save(figure: plt.Figure, run: Run, name: str) -> None:
    """Writes a figure into `figures/` of the workdir, and lets go of it."""
    figure.savefig(run.workdir.file("figures", name))
    plt.close(figure)
