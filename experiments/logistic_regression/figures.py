"""The study's figures: 3.10-3.16 of the thesis, and gaps in training."""

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
LOSS_NAMES = {"ce": "cross-entropy", "dse": "derivatives"}
WEIGHTS_SHOWN = (-8.0, 34.0), (-28.0, 28.0)
LEVELS, GAP_LEVELS = np.linspace(0, 1, 11), np.linspace(-0.3, 0.3, 13)


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
        layout="constrained",
    )
    for axis, variance in zip(axes[0], variances, strict=True):
        for mode, loss, _ in (c for c in run.settings.conditions() if c[2] == variance):
            found = run.log.rows(f"student[{mode},{loss},{variance:g}]")
            points = [(row["step"], row["gap"]) for row in found if "gap" in row]
            steps, gaps = np.array(points).T
            label = f"{mode}, {LOSS_NAMES[loss]}"
            axis.plot(steps, gaps, "o-", markersize=2, color=COLOURS[mode, loss], label=label)
        axis.set(xscale="log", yscale="log", xlabel="steps")
        axis.set_title(f"inputs of variance {variance:g}", fontsize=9)
        label_counts(axis)
    axes[0, 0].set_ylabel("mean gap, probability")
    axes[0, -1].legend(fontsize=7)
    return figure


def _setup(problem: Problem, prior_variance: float) -> plt.Figure:
    """The prior of the weights, and the points (figure 3.10)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.4, 2.7), layout="constrained")
    side = np.linspace(-3, 3, 121) * np.sqrt(prior_variance)
    squares = np.square(side)[:, None] + np.square(side)[None]
    left.contourf(side, side, np.exp(-0.5 * squares / prior_variance), cmap="Blues")
    left.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal")
    left.set_title(f"prior, variance {prior_variance:g}", fontsize=9)
    _points(right, problem, markersize=5)
    right.set(
        xlabel="$x_1$",
        ylabel="$x_2$",
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
    panels = [("mcmc", f"{len(bag.samples):,} samples", None)]
    for condition, params in students.items():
        mode, loss, _ = condition
        weights = np.asarray(params["params"]["w"])[0]
        panels.append((tables.name_of(condition), f"{mode}, {LOSS_NAMES[loss]}", weights))
    panels.append(("ep", "EP", None))
    figure, axes = plt.subplots(
        3,
        len(panels),
        figsize=(1.75 * len(panels), 5.6),
        sharex="row",
        sharey="row",
        layout="constrained",
    )
    expected = np.exp(predictions["mcmc", tables.SQUARE][0, :, 1])
    for column, (name, title, weights) in zip(axes.T, panels, strict=True):
        probs = np.exp(predictions[name, tables.SQUARE][0, :, 1])
        _weights(column[0], bag, weights, others["ep"].gaussian if name == "ep" else None)
        column[0].set_title(title, fontsize=8)
        column[0].set_xlabel("$w_1$", fontsize=8)
        surface = _surface(column[1], probs, LEVELS, "coolwarm")
        _points(column[1], problem, markersize=3)
        if name == "mcmc":
            column[2].axis("off")
            continue
        gap = probs - expected
        difference = _surface(column[2], gap, GAP_LEVELS, "PuOr")
        column[2].set_xlabel(f"$x_1$; at most {np.abs(gap).max():.2f}", fontsize=8)
    for axis, label in zip(axes[:2, 0], ("$w_2$", "$x_2$"), strict=True):
        axis.set_ylabel(label)
    figure.colorbar(surface, ax=axes[1, :], shrink=0.9, label="p(y = 1 | x)")
    figure.colorbar(difference, ax=axes[2, :], shrink=0.9, label="less the samples'")
    return figure


def _weights(
    axis: plt.Axes, bag: "Bag", weights: np.ndarray | None, gaussian: Gaussian | None
) -> None:
    """Samples as a cloud; on it the members of a bag, or a Gaussian's ellipses."""
    axis.plot(*bag.samples[::5].T, ".", color="#56B4E9", markersize=1.5, alpha=0.4, mew=0)
    if gaussian is not None:
        angles = np.linspace(0, 2 * np.pi, 100)
        circle = np.stack([np.cos(angles), np.sin(angles)])
        factor = np.linalg.cholesky(gaussian.covariance)
        for radius in (1, 2, 3):
            axis.plot(*(gaussian.mean[:, None] + radius * factor @ circle), color="black", lw=0.8)
    if weights is not None:
        axis.plot(*weights.T, "o", color="black", markersize=3.5, mfc="none", mew=0.8)
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
    """Training inputs, blue for label 0 and red for 1."""
    for label, colour in ((0, "#053061"), (1, "#67001F")):
        chosen = problem.train_x[problem.train_y == label].T
        axis.plot(*chosen, ".", color=colour, markersize=markersize)
