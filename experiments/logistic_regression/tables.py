"""The study's figures of merit: gaps to the Monte Carlo prediction, held-out scores, costs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import costs, report
from experiments.logistic_regression.approximations import Approximation, bag_log_probs
from experiments.logistic_regression.problems import Problem
from experiments.logistic_regression.settings import Settings
from experiments.report import Row, mean_row
from experiments.run import Run
from kd.batching import over_replicas
from kd.types import PyTree

if TYPE_CHECKING:
    from experiments.logistic_regression.study import Bag

SQUARE, HELD_OUT = "square", "test"
SIDE, GRID = 8.0, 81  # The plotted square, as in the thesis.
TIMED_INPUTS, TIMED_ROUNDS = 1000, 5
MOST_R_HAT = 1.01
# EP by exact moments and quadrature; by MacKay's moments and quadrature, as in the thesis; and
# by MacKay's moments and predictions.
OTHERS = ("ep", "ep_thesis", "ep_mackay", "laplace", "hmc")
LOSS_NAMES = {"ce": "cross-entropy", "dse": "derivatives"}
NAMES = {
    "ep": "EP, exact moments",
    "ep_thesis": "EP, MacKay's moments",
    "ep_mackay": "EP, all by MacKay",
    "laplace": "Laplace",
    "hmc": "Hamiltonian Monte Carlo",
    "student": "a student",
}
Predictions = dict[tuple[str, str], np.ndarray]


def places(run: Run, problem: Problem) -> dict[str, np.ndarray]:
    """Inputs at which predictions are compared, `[M, D]`, by name."""
    from experiments.logistic_regression.study import inputs

    found = {}
    for variance in run.settings.input_variance:
        stream = inputs(problem, run.settings.num_inputs, variance)
        key = run.key(f"inputs[{variance:g}]")
        found[f"inputs_{variance:g}"] = np.asarray(stream.next(key, stream.init(key))[1]["x"])
    if problem.test_x is None:
        found[SQUARE] = square()
    else:
        found[HELD_OUT] = problem.test_x
    return found


def square() -> np.ndarray:
    """The points of the plotted square, row by row, `[G * G, 2]`."""
    axis = np.linspace(-SIDE, SIDE, GRID)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)


def name_of(condition: tuple[str, str, float]) -> str:
    """Of a kind of student."""
    mode, loss, variance = condition
    return f"{mode},{loss},{variance:g}"


def title_of(kind: str, settings: Settings, *, is_whole: bool = True) -> str:
    """The words for a name in the rows; `is_whole` tells several input variances apart."""
    if kind == "mcmc":
        return f"{settings.num_samples:,} samples"
    if kind in NAMES:
        return NAMES[kind]
    mode, loss, variance = kind.split(",")
    place = f", inputs {variance}" if is_whole and len(settings.input_variance) > 1 else ""
    return f"{mode}, {LOSS_NAMES[loss]}{place}"


def predict_all(
    problem: Problem,
    where: dict[str, np.ndarray],
    bag: "Bag",
    students: dict[tuple, PyTree],
    others: dict[str, Approximation],
) -> Predictions:
    """Log-probabilities by predictor and place, nats: `[1, M, C]`, of students `[R, M, C]`."""
    found = {}
    for place, x in where.items():
        found["mcmc", place] = bag_log_probs(problem, bag.samples, x)[None]
        for name, other in others.items():
            found[name, place] = other.log_probs(problem, x)[None]
        for condition, params in students.items():
            found[name_of(condition), place] = student_log_probs(problem, params, x)
    return found


def student_log_probs(problem: Problem, params: PyTree, x: np.ndarray) -> np.ndarray:
    """Of R students: `[R, M, C]`, nats."""
    samples = np.asarray(params["params"]["w"])
    return np.stack([bag_log_probs(problem, one, x) for one in samples])


def gap_function(
    run: Run, problem: Problem, bag: "Bag", variance: float
) -> Callable[[PyTree], np.ndarray]:
    """From R students to their mean gaps `[R]` over inputs of one variance."""
    x = places(run, problem)[f"inputs_{variance:g}"]
    expected = jnp.asarray(np.exp(bag_log_probs(problem, bag.samples, x)), jnp.float32)
    x = jnp.asarray(x)

    @jax.jit
    def gaps(params: PyTree) -> jax.Array:
        def one(params: PyTree) -> jax.Array:
            log_probs = jax.vmap(lambda x: problem.bag_log_probs(params, x))(x)
            return jnp.mean(jnp.abs(jnp.exp(log_probs) - expected))

        return over_replicas(one)(params)

    return lambda params: np.asarray(gaps(params), np.float64)


def rows(
    settings: Settings,
    problem: Problem,
    bag: "Bag",
    students: dict[tuple, PyTree],
    others: dict[str, Approximation],
    where: dict[str, np.ndarray],
    predictions: Predictions,
) -> list[Row]:
    """All final figures of a run; errors are over students."""
    made = [
        Row("r_hat", bag.r_hat, None, settings.num_chains, ""),
        Row("ess", bag.ess, None, settings.num_chains, "samples"),
        Row("r_hat.hmc", others["hmc"].r_hat, None, settings.num_chains, ""),
        Row("num_divergences.hmc", float(others["hmc"].num_divergences), None, 1, ""),
    ]
    for (name, place), log_probs in predictions.items():
        if name != "mcmc":
            gaps = np.abs(np.exp(log_probs) - np.exp(predictions["mcmc", place]))
            made.append(
                mean_row(f"mean_gap.{place}[{name}]", gaps.mean(axis=(1, 2)), "probability")
            )
            made.append(mean_row(f"max_gap.{place}[{name}]", gaps.max(axis=(1, 2)), "probability"))
        if place == HELD_OUT:
            made += _scores(name, log_probs, problem.test_y)
    return made + _costs(problem, bag, students, others)


def _scores(name: str, log_probs: np.ndarray, labels: np.ndarray) -> list[Row]:
    """Accuracy and mean log-probability of R predictors `[R, M, C]` at M held-out labels."""
    right = 100.0 * (log_probs.argmax(-1) == labels).mean(axis=1)
    chosen = log_probs[:, np.arange(len(labels)), labels].mean(axis=1)
    return [
        mean_row(f"accuracy[{name}]", right, "%"),
        mean_row(f"log_prob[{name}]", chosen, "nats"),
    ]


def _costs(
    problem: Problem,
    bag: "Bag",
    students: dict[tuple, PyTree],
    others: dict[str, Approximation],
) -> list[Row]:
    """Bytes and milliseconds of a thousand predictions, of one predictor of each kind."""
    x = np.resize(problem.train_x, (TIMED_INPUTS, problem.train_x.shape[1]))
    one = np.asarray(next(iter(students.values()))["params"]["w"][0])
    found = {
        "mcmc": (bag.samples.nbytes, lambda: bag_log_probs(problem, bag.samples, x)),
        "student": (one.nbytes, lambda: bag_log_probs(problem, one, x)),
    }
    for name, other in others.items():
        found[name] = (other.num_bytes(), lambda other=other: other.log_probs(problem, x))
    made = []
    medians = costs.milliseconds([predict for _, predict in found.values()], rounds=TIMED_ROUNDS)
    for (name, (num_bytes, _)), median in zip(found.items(), medians, strict=True):
        made.append(Row(f"cost.bytes[{name}]", float(num_bytes), None, 1, "bytes"))
        made.append(Row(f"cost.latency[{name}]", median, None, 1, "ms"))
    return made


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables at the end of a run."""
    by_name = report.RowsByName(summary, workdir)
    place = SQUARE if settings.dataset == "points" else HELD_OUT
    others = [name for name in OTHERS if f"mean_gap.{place}[{name}]" in by_name]
    _show_gaps(by_name, settings, place, others)
    if place == HELD_OUT:
        kinds = ["mcmc", *(name_of(condition) for condition in settings.conditions()), *others]
        lines = [
            [
                title_of(kind, settings),
                report.pm(by_name[f"accuracy[{kind}]"], 2),
                report.pm(by_name[f"log_prob[{kind}]"], 4),
            ]
            for kind in kinds
        ]
        report.print_table("held out", ["", "accuracy %", "log p, nats"], lines)
    lines = [
        [
            title_of(name, settings),
            f"{by_name[f'cost.bytes[{name}]']['value']:,.0f}",
            f"{by_name[f'cost.latency[{name}]']['value']:.2f}",
        ]
        for name in ("mcmc", "student", *others)
    ]
    report.print_table("what it costs", ["", "bytes", "ms, 1,000 predictions"], lines)
    r_hat = by_name["r_hat"]["value"]
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} students.", end=" ")
    print(f"R-hat {r_hat:.3f}, {by_name['ess']['value']:,.0f} effective samples.")
    if not r_hat < MOST_R_HAT:
        print("The chains do not agree: more samples, or a longer burn-in, are needed.")
    hmc, divergences = (by_name[f"{n}.hmc"]["value"] for n in ("r_hat", "num_divergences"))
    if not hmc < MOST_R_HAT or divergences:
        steps = f"{divergences:.0f} of {settings.num_samples:,} steps diverged"
        print(f"Hamiltonian Monte Carlo: R-hat {hmc:.3f}, {steps}.")
    report.print_end(summary, workdir)


def _show_gaps(
    by_name: report.RowsByName, settings: Settings, place: str, others: list[str]
) -> None:
    """Gaps by the variance of the inputs; those of `others` at inputs of the first."""
    lines = []
    for variance in settings.input_variance:
        kinds = [name_of(c) for c in settings.conditions() if c[2] == variance]
        if variance == settings.input_variance[0]:
            kinds += others
        if len(settings.input_variance) > 1:
            lines.append([f"inputs {variance:g}:", "", "", "", ""])
        for kind in kinds:
            figures = []
            for where in (f"inputs_{variance:g}", place):
                figures.append(report.pm(by_name[f"mean_gap.{where}[{kind}]"], 4))
                figures.append(f"{by_name[f'max_gap.{where}[{kind}]']['value']:.3f}")
            lines.append([title_of(kind, settings, is_whole=False), *figures])
    title = f"gaps to the mean of {settings.num_samples:,} samples, in probability"
    there = {SQUARE: "mean in square", HELD_OUT: "mean, held out"}[place]
    header = ["", "mean at inputs", "max", there, "max"]
    report.print_table(title, header, lines)
    variances = " or ".join(f"{variance:g}" for variance in settings.input_variance)
    if place == SQUARE:
        print(f"Inputs: of a Gaussian of variance {variances}.\nThe square: that of the figures.")
    else:
        print(f"Inputs: of a Gaussian with {variances} times the covariance of the data.")
    if "ep" in others:
        print("EP is expectation propagation: by exact moments and quadrature; by MacKay's")
        print("  moments and quadrature, as in the thesis; by his moments and predictions.")
