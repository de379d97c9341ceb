"""The study itself: a posterior, students by four routes, and what they are compared with."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bags import BAG_STEPS, burn_in_batches, by_chain, check_bag, keep_draws
from experiments.chains import check_slices, divergence
from experiments.flags import Options, UserError
from experiments.logistic_regression import approximations, chains, figures, problems, tables
from experiments.logistic_regression.problems import Problem
from experiments.logistic_regression.settings import Settings
from experiments.report import Row
from experiments.run import Run, execute
from kd import derivatives, losses, streams, training
from kd.export import export_student
from kd.types import Array, Batch, PyTree, Stream

EXPERIMENT = "logistic_regression"
COLUMNS = ("loss", "gap", "stored", "log_posterior", "num_exhausted", "num_limited")
NUM_POINTS = 12  # Of a curve.
LABEL_BATCHES = 20  # Asked of the bag at once.
MOST_SPREAD = 1.5  # Times the prior's standard deviation.


class Bag(NamedTuple):
    """Samples of the posterior.

    Attributes:
      samples: `[S, ...]`, chain by chain.
      r_hat: the largest split R-hat of a weight.
      ess: the least effective samples of a weight.
    """

    samples: np.ndarray
    r_hat: float
    ess: float

    @property
    def params(self) -> PyTree:
        """Of the Monte Carlo prediction."""
        return {"params": {"w": jnp.asarray(self.samples)}}


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=COLUMNS,
        inputs_fn=dict,
        load_fn=partial(load, settings),
        study_fn=compare,
        products=("draws", "figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def load(settings: Settings) -> Problem:
    """The data; what cannot be done is refused."""
    check_bag(settings.num_samples, settings.num_chains)
    if settings.minibatch and settings.sampler == "slice":
        raise UserError("--minibatch is of sgld and sghmc, not of slice.")
    return problems.load(settings)


def compare(run: Run, problem: Problem) -> list[Row]:
    """The bag, all students, the Gaussian approximations; then figures, exports and rows."""
    bag = fill_bag(run, problem)
    students = {
        condition: train_students(run, problem, bag, *condition)
        for condition in run.settings.conditions()
    }
    others = approximations.all_of(run, problem)
    places = tables.places(run, problem)
    predictions = tables.predict_all(problem, places, bag, students, others)
    figures.draw(run, problem, bag, students, others, predictions)
    export(run, problem, students)
    return tables.rows(run.settings, problem, bag, students, others, places, predictions)


def fill_bag(run: Run, problem: Problem) -> Bag:
    """Samples of the posterior, kept as the chains run."""
    settings = run.settings
    share = settings.num_samples // BAG_STEPS
    stream = chains.stream(problem, settings, share, settings.num_chains)
    update = training.store("w")
    start = update.init(jnp.zeros((settings.num_samples, *problem.weight_shape())))
    with divergence(settings.sampler, settings.step_size):
        kept = run.fit(
            "bag",
            run.key("bag"),
            stream,
            chains.observed(update, settings),
            start,
            BAG_STEPS,
            burn_in=burn_in_batches(
                settings.burn_in, share, num_chains=settings.num_chains, thin=settings.thin
            ),
        ).student.kept
    if settings.sampler == "slice":
        check_slices(run.log, "bag")
    draws = by_chain(kept, settings.num_chains)
    check_spread(draws, settings)
    r_hat, ess = keep_draws(run.workdir, "posterior", draws)
    return Bag(draws.reshape(kept.shape), r_hat, ess)


def check_spread(draws: np.ndarray, settings: Settings) -> None:
    """Raises UserError if the chains spread more than the prior: no posterior of this model does.

    Its likelihood is log-concave (Brascamp and Lieb, 1976).
    """
    spread = float(np.max(np.std(draws, axis=(0, 1))))
    if spread > MOST_SPREAD * settings.prior_variance**0.5:
        raise UserError(
            f"the chains' weights spread by up to {spread:.3g}, and the prior's by "
            f"{settings.prior_variance**0.5:.3g}, which bounds the posterior's: --step_size="
            f"{settings.step_size:g} is too large for {settings.sampler} with "
            f"--minibatch={settings.minibatch}; a smaller one needs another workdir."
        )


def inputs(problem: Problem, batch_size: int, variance: float) -> Stream:
    """Inputs to learn at, under `"x"`: Gaussian, of real data in the shape of its own.

    Of real data the last entry is the column of ones.
    """
    if problem.test_x is None:
        return streams.gaussian_noise(
            (problem.train_x.shape[1],), batch_size, scale=float(np.sqrt(variance))
        )
    x = problem.train_x[:, :-1].astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    factor = vectors * np.sqrt(np.maximum(values, 0) * variance)
    noise = streams.gaussian_noise((x.shape[1],), batch_size, scale=1.0)

    def shape(batch: Batch) -> Batch:
        moved = batch["x"] @ jnp.asarray(factor.T, batch["x"].dtype)
        return {"x": jnp.concatenate([moved, jnp.ones((batch_size, 1), moved.dtype)], axis=1)}

    return streams.map_batch(shape, noise)


def train_students(
    run: Run, problem: Problem, bag: Bag, mode: str, loss: str, variance: float
) -> PyTree:
    """`num_repeats` bags of a few members, `[R, S', ...]`."""
    settings, phase = run.settings, f"student[{mode},{loss},{variance:g}]"
    student = problem.bag(settings.num_members)
    stream, burn_in = inputs(problem, settings.batch_size, variance), 0
    if mode == "batch":
        stream = _labelled(problem, stream, bag, loss)
    else:
        stream = streams.merge(stream, chains.stream(problem, settings, settings.batch_size))
        burn_in = burn_in_batches(settings.burn_in, settings.batch_size, thin=settings.thin)
    rate = optax.linear_schedule(settings.learning_rate, 0.0, settings.num_iterations)
    update = training.gradient(objective_of(problem, mode, loss), optax.sgd(rate))
    if mode == "online":
        update = chains.observed(update, settings)
    keys = jax.random.split(run.key(f"start[{phase}]"), settings.num_repeats)
    start = jax.vmap(lambda key: student.init(key, jnp.zeros(problem.train_x.shape[1])))(keys)
    gap_fn = tables.gap_function(run, problem, bag, variance)
    with divergence(settings.sampler, settings.step_size):
        return run.fit(
            phase,
            run.key(phase),
            stream,
            update,
            jax.vmap(update.init)(start),
            settings.num_iterations,
            evaluate_fn=lambda state: {"gap": float(np.mean(gap_fn(state.params)))},
            num_points=NUM_POINTS,
            burn_in=burn_in,
            num_replicas=settings.num_repeats,
        ).student.params


def objective_of(problem: Problem, mode: str, loss: str) -> Callable[[PyTree, Batch], Array]:
    """The mean over a batch of (3.22) or (3.24), against the bag or against single samples."""

    def teacher(batch: Batch) -> tuple[Array, Array | None]:
        """Log-probabilities, and their input derivatives where the loss needs them."""
        if mode == "batch":
            return batch["teacher_log_probs"], batch.get("teacher_jacobian")
        if loss == "ce":
            return jax.vmap(problem.log_probs)(batch["w"], batch["x"]), None
        return jax.vmap(
            lambda w, x: derivatives.value_and_input_jacobian(partial(problem.log_probs, w), x)
        )(batch["w"], batch["x"])

    def cross_entropy(params: PyTree, batch: Batch) -> Array:
        log_probs = jax.vmap(partial(problem.bag_log_probs, params))(batch["x"])
        return jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, jnp.exp(teacher(batch)[0])))

    def derivative_square_error(params: PyTree, batch: Batch) -> Array:
        jacobian_fn = partial(derivatives.input_jacobian, partial(problem.bag_log_probs, params))
        log_probs, jacobians = teacher(batch)
        loss_fn = jax.vmap(losses.expected_derivative_square_error)
        return jnp.mean(loss_fn(jax.vmap(jacobian_fn)(batch["x"]), jacobians, log_probs))

    return {"ce": cross_entropy, "dse": derivative_square_error}[loss]


def _labelled(problem: Problem, stream: Stream, bag: Bag, loss: str) -> Stream:
    """Inputs with the Monte Carlo prediction there, asked for in blocks."""
    return streams.label(
        stream,
        partial(problem.bag_log_probs, bag.params),
        derivatives="jacobian" if loss == "dse" else None,
        num_batches=LABEL_BATCHES,
    )


def export(run: Run, problem: Problem, students: dict[tuple, PyTree]) -> None:
    """The first student of every kind, as a function to log-probabilities."""
    for condition, params in students.items():
        parts = () if len(students) == 1 else ("-".join(map(str, condition)),)
        export_student(
            run.workdir.file("student", *parts),
            problem.bag_log_probs,
            jax.tree.map(lambda leaf: leaf[0], params),
            input_shape=problem.train_x.shape[1:],
            metadata={"experiment": EXPERIMENT, "condition": list(condition)},
        )
