"""The study's figures: 3.10-3.16 of the thesis, and gaps in training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.logistic_regression import tables
from experiments.logistic_regression.approximations import Approximation
from experiments.logistic_regression.problems import Problem
from experiments.plotting import STYLE, label_counts, plt, save
from experiments.run import Run
from kd.inference import Gaussian
from kd.types import PyTree

if TYPE_CHECKING:
    from experiments.logistic_regression.study import Bag

COLOURS = {
    ("batch", "ce"): "#0072B2",
    ("batch", "dse"): "#56B4E9",
    ("online", "ce"): "#D55E00",
    ("online", "dse"): "#E69F00",
}
WEIGHTS_SHOWN = (-11.0, 34.0), (-28.0, 28.0)
LEVELS, GAP_LEVELS = np.linspace(0, 1, 11), np.linspace(-0.35, 0.35, 15)
SAMPLES = "samples of w"
CLASSES = {0: ("#053061", "o"), 1: ("#67001F", "^")}
GAUSSIANS = ("ep", "laplace")


def draw(
    run: Run,
    problem: Problem,
    bag: "Bag",
    students: dict[tuple, PyTree],
    others: dict[str, Approximation],
    predictions: tables.Predictions,
) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        save(_curves(run), run, "training.png")
        if problem.test_x is None:
            save(_setup(problem, run.settings.prior_variance), run, "setup.png")
            for variance in run.settings.input_variance:
                chosen = {c: params for c, params in students.items() if c[2] == variance}
                figure = _surfaces(problem, bag, chosen, others, predictions)
                save(figure, run, f"surfaces-{variance:g}.png")


def _curves(run: Run) -> plt.Figure:
    """Mean gap to the Monte Carlo prediction during training, a panel an input variance."""
    variances = run.settings.input_variance
    figure, axes = plt.subplots(
        1,
        len(variances),
        figsize=(1.5 + 3.6 * len(variances), 3.1),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, variance in zip(axes[0], variances, strict=True):
        for mode, loss, _ in (c for c in run.settings.conditions() if c[2] == variance):
            found = run.log.rows(f"student[{mode},{loss},{variance:g}]")
            points = [(row["step"], row["gap"]) for row in found if "gap" in row]
            steps, gaps = np.array(points).T
            label = f"{mode}, {tables.LOSS_NAMES[loss]}"
            axis.plot(steps, gaps, "o-", markersize=2, color=COLOURS[mode, loss], label=label)
        axis.set(xscale="log", yscale="log", xlabel="steps")
        axis.set_title(f"inputs of variance {variance:g}", fontsize=9)
        label_counts(axis)
    axes[0, 0].set_ylabel("mean gap, probability")
    repeats = run.settings.num_repeats
    title = f"mean of {repeats} students" if repeats > 1 else None
    axes[0, -1].legend(title=title, fontsize=7, title_fontsize=7)
    return figure


def _setup(problem: Problem, prior_variance: float) -> plt.Figure:
    """The prior of the weights, and the points (figure 3.10)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.7), layout="constrained")
    side = np.linspace(-3, 3, 121) * np.sqrt(prior_variance)
    squares = np.square(side)[:, None] + np.square(side)[None]
    density = np.exp(-0.5 * squares / prior_variance) / (2 * np.pi * prior_variance)
    filled = left.contourf(side, side, density, cmap="Blues")
    figure.colorbar(filled, ax=left, shrink=0.9, label="density")
    left.set(xlabel="w[0]", ylabel="w[1]", aspect="equal")
    left.set_title(f"prior, variance {prior_variance:g}", fontsize=9)
    _points(right, problem, markersize=3.5)
    right.legend(fontsize=7, loc="upper center", ncols=2)
    right.set(
        xlabel="x[0]",
        ylabel="x[1]",
        xlim=(-tables.SIDE, tables.SIDE),
        ylim=(-tables.SIDE, tables.SIDE),
        aspect="equal",
    )
    right.set_title(f"{len(problem.train_y)} points of two classes", fontsize=9)
    for axis in (left, right):
        axis.grid(visible=False)
    return figure


def _surfaces(
    problem: Problem,
    bag: "Bag",
    students: dict[tuple, PyTree],
    others: dict[str, Approximation],
    predictions: tables.Predictions,
) -> plt.Figure:
    """Weights, predictive surfaces, and their differences from that of the samples."""
    panels = [("mcmc", f"{len(bag.samples):,} samples")]
    panels += [(tables.name_of(c), f"{c[0]}, {tables.LOSS_NAMES[c[1]]}") for c in students]
    panels += [(name, tables.NAMES[name]) for name in GAUSSIANS]
    members = {tables.name_of(c): np.asarray(p["params"]["w"])[0] for c, p in students.items()}
    figure, axes = plt.subplots(
        3,
        len(panels),
        figsize=(1.7 * len(panels), 5.8),
        sharex="row",
        sharey="row",
        layout="constrained",
    )
    expected = np.exp(predictions["mcmc", tables.SQUARE][0, :, 1])
    for column, (name, title) in zip(axes.T, panels, strict=True):
        gaussian = others[name].gaussian if name in GAUSSIANS else None
        _weights(column[0], bag, members.get(name), gaussian)
        column[0].set_title(title, fontsize=8)
        probs = np.exp(predictions[name, tables.SQUARE][0, :, 1])
        surface = _surface(column[1], probs, LEVELS, "coolwarm")
        _points(column[1], problem, markersize=2)
        if name != "mcmc":
            gap = probs - expected
            difference = _surface(column[2], gap, GAP_LEVELS, "PuOr")
            column[2].set_title(f"max gap {np.abs(gap).max():.2f}", fontsize=8)
        for axis, label in zip(column, ("w[0]", "x[0]", "x[0]"), strict=True):
            axis.set_xlabel(label, fontsize=8)
    for axis, label in zip((*axes[:2, 0], axes[2, 1]), ("w[1]", "x[1]", "x[1]"), strict=True):
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelleft=True)
    _legend(axes[2, 0], axes[0], axes[1, 0])
    figure.colorbar(surface, ax=axes[1, :], shrink=0.9, label="p(y = 1 | x)")
    figure.colorbar(
        difference,
        ax=axes[2, :],
        shrink=0.9,
        ticks=np.linspace(-0.3, 0.3, 7),
        label="difference from the\nsamples' p(y = 1 | x)",
    )
    return figure


def _legend(place: plt.Axes, weights: Sequence[plt.Axes], surface: plt.Axes) -> None:
    """What weights and points look like, in a place of its own."""
    found = {}
    for axis in (*weights, surface):
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    place.axis("off")
    legend = place.legend(found.values(), found, fontsize=7, loc="center", borderaxespad=0)
    for handle in legend.legend_handles:
        handle.set(markersize=4, alpha=1.0)


def _weights(
    axis: plt.Axes, bag: "Bag", weights: np.ndarray | None, gaussian: Gaussian | None
) -> None:
    """Samples as a cloud; on it the members of a bag, or a Gaussian's ellipses."""
    style = {"color": "#56B4E9", "markersize": 1.5, "alpha": 0.4, "mew": 0, "label": SAMPLES}
    axis.plot(*bag.samples[::5].T, ".", **style)
    if gaussian is not None:
        angles = np.linspace(0, 2 * np.pi, 100)
        circle = np.stack([np.cos(angles), np.sin(angles)])
        factor = np.linalg.cholesky(gaussian.covariance)
        for radius in (1, 2, 3):
            ellipse = gaussian.mean[:, None] + radius * factor @ circle
            axis.plot(*ellipse, color="black", lw=0.8, label="Gaussian, 1–3 σ")
    if weights is not None:
        style = {"color": "black", "markersize": 3.5, "mfc": "none", "mew": 0.8}
        axis.plot(*weights.T, "o", **style, label="a student's w")
    axis.set(xlim=WEIGHTS_SHOWN[0], ylim=WEIGHTS_SHOWN[1], aspect="equal")
    axis.grid(visible=False)


def _surface(axis: plt.Axes, values: np.ndarray, levels: np.ndarray, colours: str):
    """Of values at the points of the plotted square."""
    side = np.linspace(-tables.SIDE, tables.SIDE, tables.GRID)
    grid = np.clip(values.reshape(tables.GRID, tables.GRID), levels[0], levels[-1])
    filled = axis.contourf(side, side, grid, levels, cmap=colours)
    axis.set(aspect="equal")
    axis.grid(visible=False)
    return filled


def _points(axis: plt.Axes, problem: Problem, markersize: float) -> None:
    """Training inputs, blue dots for label 0 and red triangles for 1."""
    for label, (colour, marker) in CLASSES.items():
        chosen = problem.train_x[problem.train_y == label].T
        axis.plot(*chosen, marker, color=colour, ms=markersize, mew=0, ls="", label=f"y = {label}")
