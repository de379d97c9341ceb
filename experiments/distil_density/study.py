"""The study itself: teachers, students by every route, and how far from the teacher they end."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.distil_density import figures, tables
from experiments.distil_density.quadrature import Quadrature, kl_divergences, quadrature
from experiments.distil_density.routes import (
    Stage,
    labelled,
    objective_of,
    phase_name,
    stages_of_all,
)
from experiments.distil_density.settings import Settings
from experiments.distil_density.tables import Results, Trained
from experiments.distil_density.teachers import BY_NAME, Teacher, samples
from experiments.flags import Options, UserError
from experiments.report import Row
from experiments.run import Run, execute
from kd import checks, losses, models, streams, training
from kd.export import export_student
from kd.types import Array, Batch, Key, PyTree, Stream

EXPERIMENT = "distil_density"
COLUMNS = ("loss", "kl", "kl_stderr")
NUM_POINTS = 25  # Of a curve.
NUM_PILOT = 1000  # Samples that decide where students start.
MOST_CHAINS = 10_000_000
FLOOR_GRID = 80  # Points along an axis of the grid on which the floor is trained.


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
        study_fn=distil,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


class Problem(NamedTuple):
    """A teacher and how students are judged.

    Attributes:
      name: the teacher's.
      teacher: it.
      quadrature: its density on a grid.
      kl_fn: from the parameters of R students to their KL divergences `[R]`.
    """

    name: str
    teacher: Teacher
    quadrature: Quadrature
    kl_fn: Callable[[PyTree], np.ndarray]

    @classmethod
    def of(cls, settings: Settings, name: str) -> "Problem":
        """The problem of a name."""
        found = quadrature(BY_NAME[name], settings.grid_points)
        return cls(name, BY_NAME[name], found, kl_divergences(found, student_of(settings).log_prob))


def load(settings: Settings) -> dict[str, list[Stage]]:
    """The stages of every route; what cannot be done is refused."""
    num_chains = settings.batch_size * settings.thinning
    has_chains = any(BY_NAME[name].sample_fn is None for name in settings.teacher)
    if has_chains and num_chains > MOST_CHAINS:
        raise UserError(
            f"--batch_size x --thinning are {num_chains:,} chains, and {MOST_CHAINS:,} are the "
            "most; lower one."
        )
    return stages_of_all(settings)


def distil(run: Run, stages: dict[str, list[Stage]]) -> list[Row]:
    """Students of every teacher by every route; then figures, exports and rows."""
    results = {}
    for name in run.settings.teacher:
        problem = Problem.of(run.settings, name)
        starts = initial_students(run, problem)
        students = {
            loss: train_student(run, loss, problem, starts, stages[loss])
            for loss in run.settings.loss
        }
        floor = train_floor(run, problem, list(students.values()))
        results[name] = Results(problem.teacher, problem.quadrature, floor, students)
    figures.draw(run, results, stages)
    export(run, results)
    return tables.rows(run.settings, results)


def student_of(settings: Settings) -> models.GaussianMixture:
    """The student."""
    return models.GaussianMixture(settings.num_components, 2, settings.covariance)


def initial_students(run: Run, problem: Problem) -> PyTree:
    """`num_repeats` mixtures with means at samples of the teacher, the same for every route."""
    settings, count = run.settings, run.settings.num_components
    stream = samples(problem.teacher, NUM_PILOT, burn_in=settings.burn_in, thinning=1)

    def start(key: Key, x: Array) -> PyTree:
        means = x[jax.random.randint(key, (count,), 0, len(x))]
        # Half as wide as the teacher, along each of its axes.
        covariances = jnp.broadcast_to(jnp.cov(x.T) / 4, (count, 2, 2))
        return student_of(settings).from_moments(jnp.ones(count), means, covariances)

    @jax.jit
    def start_all(key: Key) -> PyTree:
        pilot_key, batch_key, key = jax.random.split(key, 3)
        _, batch = stream.next(batch_key, stream.init(pilot_key))
        keys = jax.random.split(key, settings.num_repeats)
        return jax.vmap(start, in_axes=(0, None))(keys, batch["x"])

    return start_all(run.key(f"start[{problem.name}]"))


def train_student(
    run: Run, loss: str, problem: Problem, starts: PyTree, stages: list[Stage]
) -> Trained:
    """Students of one route: its stages one after another, each with its own optimiser state."""
    settings = run.settings
    stream = samples(
        problem.teacher,
        settings.batch_size,
        burn_in=settings.burn_in,
        thinning=settings.thinning,
    )
    offset = problem.quadrature.log_z - settings.offset_gap
    params = starts
    for stage in stages:
        params = _fit(
            run,
            phase_name(loss, problem.name, stage, stages),
            problem,
            streams.map_batch(partial(labelled, problem.teacher, stage.loss), stream),
            objective_of(stage.loss, student_of(settings).log_prob, offset),
            params,
            stage,
            stages[-1].stop,
        )
    return Trained(params, problem.kl_fn(params))


def train_floor(run: Run, problem: Problem, students: list[Trained]) -> Trained:
    """The best of all students, trained on with all of the teacher at every step.

    What samples without end, and the luckiest start, would give.
    """
    settings = run.settings
    best = min(students, key=lambda trained: np.min(trained.kl))
    starts = jax.tree.map(lambda leaf: leaf[None], best.best_params())
    log_prob_fn = student_of(settings).log_prob
    coarse = quadrature(problem.teacher, FLOOR_GRID)
    batch = {
        "x": jnp.asarray(coarse.points, jnp.float32),
        "mass": jnp.asarray(coarse.masses, jnp.float32),
    }
    stream = Stream(lambda key: (), lambda key, state: (state, batch))

    def objective(params: PyTree, batch: Batch) -> Array:
        nll = jax.vmap(losses.negative_log_likelihood)(log_prob_fn(params, batch["x"]))
        return jnp.sum(batch["mass"] * nll)

    stage = Stage("kl", 0, settings.floor_steps)
    phase = f"floor[{problem.name}]"
    params = _fit(run, phase, problem, stream, objective, starts, stage, stage.stop)
    return Trained(params, problem.kl_fn(params))


def export(run: Run, results: dict[str, Results]) -> None:
    """Of each teacher the best student of the best route, as a function to log-densities."""
    for name, result in results.items():
        loss = tables.best_loss(result)
        best = result.students[loss]
        parts = () if len(results) == 1 else (name,)
        export_student(
            run.workdir.file("student", *parts),
            student_of(run.settings).log_prob,
            best.best_params(),
            input_shape=(2,),
            metadata={
                "experiment": EXPERIMENT,
                "condition": [loss, name],
                "kl": float(np.min(best.kl)),
                "model": {
                    "num_components": run.settings.num_components,
                    "num_dims": 2,
                    "covariance": run.settings.covariance,
                },
            },
            # Of log-densities near -100 in single precision.
            tolerance=1e-3,
        )


def _fit(
    run: Run,
    phase: str,
    problem: Problem,
    stream: Stream,
    objective: Callable[[PyTree, Batch], Array],
    starts: PyTree,
    stage: Stage,
    num_steps: int,
) -> PyTree:
    """One stage of all repeats, each with samples of its own; the learning rate goes on."""
    rate = optax.cosine_decay_schedule(run.settings.learning_rate, num_steps)
    update = training.gradient(objective, optax.adam(lambda count: rate(count + stage.start)))

    def evaluate(state: training.GradientState) -> dict[str, Any]:
        value, error = tables.mean_and_error(problem.kl_fn(state.params))
        return {"kl": value} | ({} if error is None else {"kl_stderr": error})

    return run.fit(
        phase,
        run.key(phase),
        stream,
        update,
        jax.vmap(update.init)(starts),
        stage.stop - stage.start,
        evaluate_fn=evaluate,
        num_points=NUM_POINTS,
        num_replicas=checks.check_same_length("starts", starts),
    ).student.params
