"""The study's figures: 3.10-3.16 of the thesis, and gaps in training."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.logistic_regression import tables
from experiments.logistic_regression.approximations import Approximation
from experiments.logistic_regression.problems import Problem
from experiments.plotting import STYLE, label_counts, plt, save
from experiments.run import Run
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
REACH = 23.0  # Of the weights that are shown, as in the thesis.
LEVELS = np.linspace(0, 1, 11)


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


def _surfaces(
    problem: Problem,
    bag: "Bag",
    students: dict[tuple, PyTree],
    others: dict[str, Approximation],
    predictions: tables.Predictions,
) -> plt.Figure:
    """Posterior and weights above, predictive surface below: samples, students, EP."""
    panels = [("mcmc", f"{len(bag.samples):,} samples", bag.samples[::10])]
    for condition, params in students.items():
        mode, loss, _ = condition
        weights = np.asarray(params["params"]["w"])[0]
        panels.append((tables.name_of(condition), f"{mode}, {LOSS_NAMES[loss]}", weights))
    panels.append(("ep", "EP", None))
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(1.75 * len(panels), 3.9),
        sharex="row",
        sharey="row",
        layout="constrained",
    )
    for (above, below), (name, title, weights) in zip(axes.T, panels, strict=True):
        _weights(above, bag, others, weights)
        above.set_title(title, fontsize=8)
        filled = _surface(below, problem, predictions[name, tables.SQUARE][0, :, 1])
    axes[0, 0].set_ylabel("$w_2$")
    axes[1, 0].set_ylabel("$x_2$")
    for axis in axes[0]:
        axis.set_xlabel("$w_1$", fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("$x_1$", fontsize=8)
    figure.colorbar(filled, ax=axes[1, :], shrink=0.9, label="p(y = 1 | x)")
    return figure


def _weights(
    axis: plt.Axes, bag: "Bag", others: dict[str, Approximation], weights: np.ndarray | None
) -> None:
    """Samples as a cloud; on it the members of a bag, or the Gaussian's ellipses."""
    cloud = bag.samples[::5]
    axis.plot(*cloud.T, ",", color="#56B4E9", alpha=0.5)
    if weights is None:
        gaussian = others["ep"].gaussian
        angles = np.linspace(0, 2 * np.pi, 100)
        circle = np.stack([np.cos(angles), np.sin(angles)])
        factor = np.linalg.cholesky(gaussian.covariance)
        for radius in (1, 2, 3):
            axis.plot(*(gaussian.mean[:, None] + radius * factor @ circle), color="black", lw=0.8)
    elif len(weights) <= 100:
        axis.plot(*weights.T, "o", color="black", markersize=3)
    else:
        axis.plot(*weights.T, ",", color="black")
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    axis.grid(visible=False)


def _surface(axis: plt.Axes, problem: Problem, probs: np.ndarray):
    """Probability of label 1 over the square, with the points."""
    side = np.linspace(-tables.SIDE, tables.SIDE, tables.GRID)
    filled = axis.contourf(
        side, side, probs.reshape(tables.GRID, tables.GRID), LEVELS, cmap="coolwarm"
    )
    for label, colour in ((0, "#053061"), (1, "#67001F")):
        axis.plot(*problem.train_x[problem.train_y == label].T, ".", color=colour, markersize=3)
    axis.set(aspect="equal")
    axis.grid(visible=False)
    return filled
