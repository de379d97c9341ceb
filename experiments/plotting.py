"""Matplotlib as every study uses it: the one place that imports it, without a screen."""

import os
import warnings
from collections.abc import Callable, Sequence

os.environ["MPLBACKEND"] = "Agg"  # Whatever it was; matplotlib reads it as it is imported.
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
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

MOST_LETTERS = 16  # Of a row's name.
LEAST = 1e-7  # On an axis of logarithms: what is smaller is rounding.
MOST_IN_A_LINE = 24  # Letters of a small picture's title.
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


def draw_rows(axis: plt.Axes, values: Sequence[np.ndarray], colours: Sequence[str]) -> None:
    """A row for each method: the mean and one standard error, and every student as a tick.

    One without students stays empty. On an axis of logarithms, which is one already, what rounding
    took to 0 stands at `LEAST`.
    """
    is_log = axis.get_xscale() == "log"
    for place, (own, colour) in enumerate(zip(values, colours, strict=True)):
        if not len(own):
            continue
        own = np.maximum(own, LEAST) if is_log else own
        error = np.std(own, ddof=1) / len(own) ** 0.5 if len(own) > 1 else 0
        axis.plot(own, np.full(len(own), place), "|", color=colour, alpha=0.5, markersize=8)
        axis.errorbar(
            np.mean(own), place, xerr=error, fmt="o", color=colour, markersize=5, capsize=3
        )
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def draw_teacher(axis: plt.Axes, value: float) -> None:
    """A dashed line across the rows; as `draw_rows` on an axis of logarithms."""
    value = max(value, LEAST) if axis.get_xscale() == "log" else value
    axis.axvline(value, color="black", linestyle="--", linewidth=1)


def explain_rows(
    figure: plt.Figure, teacher: str | None = "teacher", colours: dict[str, str] | None = None
) -> None:
    """The legend of `draw_rows`: the dashed line of a teacher, and `colours` by their meaning."""
    handles = [
        Line2D([], [], color="grey", marker="o", label="mean ± one standard error"),
        Line2D([], [], color="grey", marker="|", linestyle="", alpha=0.6, label="a student"),
    ]
    if teacher:
        line = Line2D([], [], color="black", linestyle="--", linewidth=1, label=teacher)
        handles.insert(0, line)
    for meaning, colour in (colours or {}).items():
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="", label=meaning))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def draw_matrices(
    panels: dict[str, np.ndarray],
    *,
    columns: int,
    label: str,
    names: Sequence[str] = (),
) -> plt.Figure:
    """Matrices with entries from -1 to 1 side by side, by title, and what the colours mean.

    A long title goes on below its first comma. `names` of their rows, shown at the left.
    """
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        *(rows, columns),
        figsize=(0.8 + max(4, 2 * columns), 0.5 + 2.1 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.ravel()[len(panels) :]:
        axis.set_visible(False)
    for index, (axis, (title, matrix)) in enumerate(
        zip(axes.ravel(), panels.items(), strict=False)
    ):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        is_long = len(title) > MOST_IN_A_LINE
        axis.set_title(title.replace(", ", "\n", 1) if is_long else title, fontsize=8)
        axis.set_xticks([])
        shown = names if index % columns == 0 else ()
        axis.set_yticks(range(len(shown)), map(_plain, shown), parse_math=False)
        axis.tick_params(labelsize=7)
        axis.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, ticks=(-1, 0, 1))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def _plain(word: str) -> str:
    """Of a word from outside what can be drawn beside a row."""
    word = "".join(letter if letter.isprintable() else "?" for letter in word)
    return word if len(word) <= MOST_LETTERS else f"{word[: MOST_LETTERS - 1]}…"


def save(figure: plt.Figure, run: Run, name: str) -> None:
    """Writes a figure into `figures/` of the workdir, and lets go of it."""
    with warnings.catch_warnings():
        # A script that the font does not have is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(run.workdir.file("figures", name))
    plt.close(figure)
