"""The study's figures: 3.1-3.9 of the thesis, and KL divergences against N and batch size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.density_estimation import posterior, quadrature
from experiments.density_estimation.settings import ROUTES
from experiments.density_estimation.tables import ROUTE_NAMES
from experiments.plotting import STYLE, label_counts, plt, save
from experiments.run import Run

if TYPE_CHECKING:
    from experiments.density_estimation.study import Result, Sweep

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = {"batch": "#0072B2", "online": "#D55E00", "truth": "#009E73", "monte_carlo": "black"}
NAMES = {"batch": "batch EM", "online": "online EM", "truth": "the true density"}
ROUTE_COLOURS = {"one": "#D55E00", "thinned": "#009E73", "parallel": "#0072B2"}
SHOWN = (-15.0, 10.0)  # As in the thesis; further where a density has a tail to be seen.
TAIL, STEP = 0.01, 5.0  # Of the highest density; limits are its multiples.
SWEEP_SHOWN = (1e-3, 1.0)  # Nats: so that figures of two runs may stand side by side.


def draw(run: Run, results: "dict[int, Result]", sweep: "Sweep | None") -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        for num_points, result in results.items():
            save(_posterior(run, num_points, result), run, f"points-{num_points}.png")
        if len(results) > 1:
            save(_divergences(run, results), run, "kl.png")
        if sweep is not None:
            save(_sweep(run, sweep.kl), run, "batches.png")


def _posterior(run: Run, num_points: int, result: "Result") -> plt.Figure:
    """Histograms of the means, and the four predictive densities, of the first data set."""
    figure = plt.figure(figsize=(8.2, 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    axes = left.subplots(posterior.NUM_MEANS, 1, sharex=True)
    bag = result.bags[0]
    low, high = np.quantile(bag, [0.001, 0.999])
    for index, axis in enumerate(axes):
        axis.hist(bag[:, index], bins=np.linspace(low, high, 60), density=True, color="#56B4E9")
        axis.axvline(posterior.MEANS[index], color="black", linewidth=1)
        axis.set(ylabel=f"w[{index}]", yticks=[])  # As in draws/.
        axis.grid(visible=False)
    axes[0].set_title(f"posterior of the means w, {num_points:,} points", fontsize=9)
    axes[-1].set_xlabel("w (the line is the true mean)")
    axis = right.subplots()
    _predictive(axis, quadrature.grid(run.settings.grid_points), result)
    return figure


def _predictive(axis: plt.Axes, x: np.ndarray, result: "Result") -> None:
    """The true density, the Monte Carlo prediction and the students', of the first data set."""
    students = {name: np.exp(log_q[0]) for name, log_q in result.log_densities.items()}
    truth, monte_carlo = quadrature.truth(x), result.monte_carlo[0]
    axis.plot(x, truth, color=COLOURS["truth"], linestyle=":", label=NAMES["truth"])
    label = f"Monte Carlo, mean of {result.bags.shape[1]:,} samples"
    axis.plot(x, monte_carlo, color=COLOURS["monte_carlo"], lw=2.5, alpha=0.35, label=label)
    for name, style in (("batch", "-"), ("online", "--")):
        label = f"{NAMES[name]}, KL {result.kl[name][0]:.4f} nats"
        axis.plot(x, students[name], color=COLOURS[name], linestyle=style, label=label)
    points = result.points[0]
    axis.plot(points, np.zeros_like(points), "|", color="black", markersize=7, label="points")
    drawn = [truth, monte_carlo, *students.values()]
    axis.set(xlabel="x", ylabel="density", xlim=limits(x, drawn), ylim=(0, 1.32 * np.max(drawn)))
    axis.set_title("predictive density; KL is KL(Monte Carlo ‖ student)", fontsize=9)
    axis.legend(fontsize=7, loc="upper center", ncols=2)  # Above all curves.


def limits(x: np.ndarray, densities: Sequence[np.ndarray]) -> tuple[float, float]:
    """Those of the thesis, or wider ones, that no density's visible tail is cut."""
    highest = np.max(densities, axis=0)
    seen = x[highest > TAIL * highest.max()]
    low, high = STEP * np.floor(seen[0] / STEP), STEP * np.ceil(seen[-1] / STEP)
    return min(SHOWN[0], float(low)), max(SHOWN[1], float(high))


def _divergences(run: Run, results: "dict[int, Result]") -> plt.Figure:
    """KL(Monte Carlo ‖ density) against the number of points."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    num_points = np.array(list(results))
    for name in ("truth", "batch", "online"):
        values = np.array([result.kl[name] for result in results.values()])
        _with_errors(axis, num_points, values, COLOURS[name], NAMES[name])
    axis.set(xscale="log", yscale="log", xlabel="points N")
    axis.set_ylabel("KL(Monte Carlo ‖ density), nats")
    label_counts(axis)
    repeats = run.settings.num_repeats
    title = f"mean of {repeats} data sets ± one standard error" if repeats > 1 else None
    axis.legend(title=title, fontsize=8, title_fontsize=8)
    return figure


def _sweep(run: Run, sweep: dict[tuple[str, int], np.ndarray]) -> plt.Figure:
    """KL divergence of online students against the draws a step, by where these come from."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    sizes = np.array(run.settings.batch_sizes)
    for route in ROUTES:
        values = np.array([sweep[route, size] for size in sizes])
        name = ROUTE_NAMES[route]
        if route == "thinned":
            name = f"{name} by {run.settings.sweep_thin}"
        _with_errors(axis, sizes, values, ROUTE_COLOURS[route], name)
    draws = run.settings.batch_size * run.settings.num_iterations
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=f"draws a step ({draws:,} in all)",
        ylabel="KL(Monte Carlo ‖ student), nats",
        ylim=SWEEP_SHOWN,
    )
    steps = {"linear": "linear steps", "power": "power steps"}[run.settings.step_size]
    points = run.settings.sweep_points
    axis.set_title(f"online EM with {steps}, posterior of {points:,} points", fontsize=9)
    label_counts(axis)
    repeats = run.settings.num_repeats
    title = f"mean of {repeats} data sets ± one standard error" if repeats > 1 else None
    axis.legend(title=title, fontsize=8, title_fontsize=8)
    return figure


def _with_errors(axis: plt.Axes, x: np.ndarray, values: np.ndarray, colour: str, name: str) -> None:
    """Means over the last axis, with their standard errors where there are several."""
    mean = values.mean(axis=1)
    axis.plot(x, mean, "o-", markersize=3, color=colour, label=name)
    if values.shape[1] > 1:
        error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        low = np.maximum(mean - error, 0.2 * mean)
        axis.fill_between(x, low, mean + error, color=colour, alpha=0.2, linewidth=0)
