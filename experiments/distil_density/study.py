"""The study itself: teachers, students by every route, and how far from the teacher they end."""

from collections.abc import Callable
from functools import partial
from typing import Any

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
from kd import losses, models, streams, training
from kd.export import export_student
from kd.types import Array, Batch, Key, PyTree, Stream

EXPERIMENT = "distil_density"
COLUMNS = ("loss", "kl", "kl_stderr")
NUM_POINTS = 25  # Of a curve.
NUM_PILOT = 1000  # Samples that decide where students start.
FLOOR_GRID = 80  # Points along an axis of the grid on which the floor is trained.


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    for name in ("data_dir", "teacher_from"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} has no use here: the teachers of this study are formulas.")
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=COLUMNS,
        inputs_fn=dict,
        load_fn=partial(stages_of_all, settings),
        study_fn=distil,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def distil(run: Run, stages: dict[str, list[Stage]]) -> list[Row]:
    """Students of every teacher by every route; then figures, exports and rows."""
    results = {}
    for name in run.settings.teacher:
        teacher = BY_NAME[name]
        found = quadrature(teacher, run.settings.grid_points)
        starts = initial_students(run, name)
        floor = train_floor(run, name, starts, found)
        students = {
            loss: train_student(run, loss, name, starts, found, stages[loss])
            for loss in run.settings.loss
        }
        results[name] = Results(teacher, found, floor, students)
    figures.draw(run, results, stages)
    export(run, results)
    return tables.rows(run.settings, results)


def student_of(settings: Settings) -> models.GaussianMixture:
    """The student."""
    return models.GaussianMixture(settings.num_components, 2, settings.covariance)


def initial_students(run: Run, name: str) -> PyTree:
    """`num_repeats` mixtures with means at samples of the teacher, the same for every route."""
    settings, teacher = run.settings, BY_NAME[name]
    pilot_key, *keys = jax.random.split(run.key(f"start[{name}]"), settings.num_repeats + 1)
    stream = _samples(settings, teacher, NUM_PILOT)
    x = stream.next(pilot_key, stream.init(jax.random.fold_in(pilot_key, 0)))[1]["x"]
    count = settings.num_components
    # Half as wide as the teacher, along each of its axes.
    covariances = jnp.broadcast_to(jnp.cov(x.T) / 4, (count, 2, 2))

    def start(key: Key) -> PyTree:
        means = x[jax.random.randint(key, (count,), 0, len(x))]
        return student_of(settings).from_moments(jnp.ones(count), means, covariances)

    return jax.vmap(start)(jnp.stack(keys))


def train_student(
    run: Run, loss: str, name: str, starts: PyTree, found: Quadrature, stages: list[Stage]
) -> Trained:
    """Students of one route: its stages one after another, each with its own optimiser state."""
    teacher, settings = BY_NAME[name], run.settings
    params = starts
    for stage in stages:
        phase = phase_name(loss, name, stage, stages)
        stream = streams.map_batch(
            partial(labelled, teacher, stage.loss),
            _samples(settings, teacher, settings.batch_size),
        )
        offset = found.log_z - settings.offset_gap
        objective = objective_of(stage.loss, student_of(settings).log_prob, offset)
        params = _fit(run, phase, stream, objective, params, found, stage, stages[-1].stop)
    return Trained(params, kl_divergences(found, student_of(settings).log_prob)(params))


def train_floor(run: Run, name: str, starts: PyTree, found: Quadrature) -> Trained:
    """Students that see all of the teacher at every step: what samples without end would give."""
    settings = run.settings
    student = student_of(settings)
    coarse = quadrature(BY_NAME[name], FLOOR_GRID)
    batch = {"x": jnp.asarray(coarse.points, jnp.float32), "mass": jnp.asarray(coarse.masses)}
    stream = Stream(lambda key: (), lambda key, state: (state, batch))

    def objective(params: PyTree, batch: Batch) -> Array:
        nll = jax.vmap(losses.negative_log_likelihood)(student.log_prob(params, batch["x"]))
        return jnp.sum(batch["mass"] * nll)

    stage = Stage("kl", 0, settings.floor_steps)
    params = _fit(run, f"floor[{name}]", stream, objective, starts, found, stage, stage.stop)
    return Trained(params, kl_divergences(found, student.log_prob)(params))


def export(run: Run, results: dict[str, Results]) -> None:
    """Of each teacher the first student of the best route, as a function to log-densities."""
    for name, result in results.items():
        loss = tables.best_loss(result)
        parts = () if len(results) == 1 else (name,)
        export_student(
            run.workdir.file("student", *parts),
            student_of(run.settings).log_prob,
            jax.tree.map(lambda leaf: leaf[0], result.students[loss].params),
            input_shape=(2,),
            metadata={
                "experiment": EXPERIMENT,
                "condition": [loss, name],
                "kl": float(result.students[loss].kl[0]),
            },
            # Of log-densities near -100 in single precision.
            tolerance=1e-3,
        )


def _fit(
    run: Run,
    phase: str,
    stream: Stream,
    objective: Callable[[PyTree, Batch], Array],
    starts: PyTree,
    found: Quadrature,
    stage: Stage,
    num_steps: int,
) -> PyTree:
    """One stage of all repeats, each with samples of its own; the learning rate goes on."""
    settings = run.settings
    rate = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
    update = training.gradient(objective, optax.adam(lambda count: rate(count + stage.start)))
    divergences = kl_divergences(found, student_of(settings).log_prob)

    def evaluate(state: training.GradientState) -> dict[str, Any]:
        value, error = tables.mean_and_error(divergences(state.params))
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
        num_replicas=settings.num_repeats,
    ).params


def _samples(settings: Settings, teacher: Teacher, batch_size: int) -> Stream:
    return samples(teacher, batch_size, burn_in=settings.burn_in, thinning=settings.thinning)
