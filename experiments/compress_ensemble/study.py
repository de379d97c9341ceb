"""The study itself: an ensemble, a baseline, students, and what became of them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compress_ensemble import figures, generators, inputs, tables
from experiments.compress_ensemble.objectives import (
    OPTIMIZER,
    Objective,
    distillation_objective,
    label_objective,
)
from experiments.compress_ensemble.settings import ENSEMBLE_SETTINGS, Settings
from experiments.compress_ensemble.tables import Trained
from experiments.flags import Options, UserError
from experiments.report import Row
from experiments.run import Run, checkpoint_dir, execute
from kd import data, models, streams, training
from kd.batching import over_replicas
from kd.data import Dataset
from kd.export import export_student
from kd.training.checkpoint import Checkpointer
from kd.types import Array, PyTree, Stream

EXPERIMENT = "compress_ensemble"
COLUMNS = ("loss", "accuracy", "log_prob")
NUM_TEACHER_POINTS, NUM_STUDENT_POINTS = 6, 40
PREDICT_BLOCK = 1000


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    if settings.label_weight > 0:
        for loss, generator, _ in settings.conditions():
            if loss == "soft_target" and generator != "dataset":
                raise UserError(
                    f"--label_weight needs labels, and --generator={generator} has none: give 0."
                )
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=COLUMNS,
        inputs_fn=partial(_inputs, settings, options),
        load_fn=partial(load, settings, options),
        study_fn=compress,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def load(settings: Settings, options: Options) -> Dataset:
    """The data set; what will not do is refused now, and not after the ensemble is trained."""
    dataset = data.load(settings.dataset, data_dir=options.data_dir)
    for _, _, fraction in settings.conditions():
        part = data.take_first(dataset, fraction)
        for num_epochs in (settings.direct_epochs, settings.student_epochs):
            inputs.num_steps(part, settings.batch_size, num_epochs)
    inputs.num_steps(dataset, settings.batch_size, settings.teacher_epochs)
    inputs.check_cache(settings, options, dataset)
    generators.check(settings, dataset)
    return dataset


def compress(run: Run, dataset: Dataset) -> list[Row]:
    """Ensemble, baselines, students; then figures, exports and rows."""
    fractions = dict.fromkeys(fraction for _, _, fraction in run.settings.conditions())
    teacher = train_ensemble(run, dataset)
    direct = {fraction: train_direct(run, dataset, fraction) for fraction in fractions}
    sources = generators.sources(run, dataset)
    students = distil_all(run, dataset, teacher, sources)
    figures.draw(run, dataset, teacher, direct, students, sources)
    export(run, dataset, students)
    return tables.rows(run.settings, dataset, teacher, direct, students)


def train_ensemble(run: Run, dataset: Dataset) -> Trained:
    """Members on bootstrap resamples, all in one program (section 2.2.1)."""
    settings = run.settings
    model = models.MLP(settings.teacher_hidden, dataset.num_classes)
    stream = streams.bootstrap(inputs.examples(dataset), settings.batch_size)
    num_steps = inputs.num_steps(dataset, settings.batch_size, settings.teacher_epochs)
    log_prob_fn = _ensemble_log_probs(model)
    predict = _predictor(log_prob_fn, dataset.test_x)
    fit_key, init_key = jax.random.split(run.key("teacher"))
    update = training.gradient(label_objective(model.apply, dataset.num_classes).fn, OPTIMIZER)
    members = models.init_members(
        lambda key: model.init(key, dataset.train_x[0]), init_key, settings.num_members
    )
    state = jax.vmap(update.init)(members)
    if run.options.teacher_from is not None:
        run_state = training.init_fit(fit_key, stream, state, num_replicas=settings.num_members)
        params = _borrowed(run, run_state, num_steps).student.params
    else:
        params = run.fit(
            "teacher",
            fit_key,
            stream,
            update,
            state,
            num_steps,
            num_replicas=settings.num_members,
            evaluate_fn=lambda state: tables.curve_figures(
                predict(state.params)[None], dataset.test_y
            ),
            num_points=NUM_TEACHER_POINTS,
        ).student.params
    return Trained(log_prob_fn, params, np.asarray(predict(params))[None])


def train_direct(run: Run, dataset: Dataset, fraction: float) -> Trained:
    """The student's network trained on the labels: what distillation must beat."""
    part = data.take_first(dataset, fraction)
    stream = streams.resample(inputs.examples(part), run.settings.batch_size)
    num_steps = inputs.num_steps(part, run.settings.batch_size, run.settings.direct_epochs)
    model = models.MLP(run.settings.student_hidden, dataset.num_classes)
    objective = label_objective(model.apply, dataset.num_classes)
    phase = f"direct[{fraction:g}]"
    return _train_students(run, phase, dataset, stream, objective, model, num_steps)


def distil_all(
    run: Run, dataset: Dataset, teacher: Trained, sources: dict[tuple[str, float], Stream]
) -> tables.Students:
    """A student for every condition; the teacher labels a data set only once."""
    settings = run.settings
    teacher_fn = partial(teacher.log_prob_fn, teacher.params)
    model = models.MLP(settings.student_hidden, dataset.num_classes)
    cache = inputs.labels(run, dataset, teacher_fn) if inputs.cached_losses(settings) else {}
    students = {}
    for condition in settings.conditions():
        loss, generator, fraction = condition
        part = data.take_first(dataset, fraction)
        objective = distillation_objective(loss, model.apply, settings)
        is_cached = generator == "dataset" and loss in inputs.cached_losses(settings)
        if is_cached:
            known = {name: cache[name][: len(part.train_x)] for name in ("x", *objective.labels)}
            stream = streams.resample(known, settings.batch_size)
        else:
            stream = inputs.asked(
                settings,
                sources[generator, fraction],
                teacher_fn,
                objective,
                num_classes=dataset.num_classes,
            )
        students[condition] = _train_students(
            run,
            f"student[{loss},{generator},{fraction:g}]",
            dataset,
            stream,
            objective,
            model,
            inputs.num_steps(part, settings.batch_size, settings.student_epochs),
            shared=not is_cached,
        )
    return students


def export(run: Run, dataset: Dataset, students: tables.Students) -> None:
    """The first repeat of every student, alone: in `student/`, or a folder each below it."""
    for condition, student in students.items():
        parts = () if len(students) == 1 else ("-".join(map(str, condition)),)
        export_student(
            run.workdir.file("student", *parts),
            student.log_prob_fn,
            jax.tree.map(lambda leaf: leaf[0], student.params),
            input_shape=dataset.train_x.shape[1:],
            metadata={
                "experiment": EXPERIMENT,
                "condition": list(condition),
                "dataset": run.settings.dataset,
                "input_range": [float(dataset.train_x.min()), float(dataset.train_x.max())],
            },
        )


def _train_students(
    run: Run,
    phase: str,
    dataset: Dataset,
    stream: Stream,
    objective: Objective,
    model: models.MLP,
    num_steps: int,
    *,
    shared: bool = False,
) -> Trained:
    """`num_repeats` students; on one stream where its batches are dear, else one each."""
    num_repeats = run.settings.num_repeats
    log_prob_fn = _log_probs(model)
    predict = _predictor(log_prob_fn, dataset.test_x, of_replicas=True)
    fit_key, init_key = jax.random.split(run.key(phase))
    update = training.gradient(objective.fn, OPTIMIZER)
    starts = models.init_members(
        lambda key: model.init(key, dataset.train_x[0]), init_key, num_repeats
    )
    found = run.fit(
        phase,
        fit_key,
        stream,
        training.replicate(update) if shared else update,
        jax.vmap(update.init)(starts),
        num_steps,
        num_replicas=None if shared else num_repeats,
        evaluate_fn=lambda state: tables.curve_figures(predict(state.params), dataset.test_y),
        num_points=NUM_STUDENT_POINTS,
    )
    params = found.student.params
    log_probs = np.asarray(predict(params))
    return Trained(log_prob_fn, params, log_probs, is_independent=not shared)


def _borrowed(run: Run, template: training.FitState, num_steps: int) -> training.FitState:
    """The ensemble of another run with the same ensemble settings."""
    source = Path(run.options.teacher_from)
    try:
        config = json.loads((source / "config.json").read_text())
        there = config["settings"]
        differing = [n for n in ENSEMBLE_SETTINGS if there[n] != _jsonable(run.settings, n)]
        if config["inputs"] != _inputs(run.settings, run.options):
            differing.append("the content of the data set")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"--teacher_from {source} holds no run of this study.") from error
    if differing:
        raise UserError(
            f"--teacher_from {source} has another ensemble: {', '.join(differing)} differ."
        )
    state = Checkpointer(checkpoint_dir(source, "teacher")).restore(template, tidy=False)
    if state is None or int(np.max(state.step)) != num_steps:
        raise UserError(f"--teacher_from {source} has not finished its ensemble.")
    return state


def _inputs(settings: Settings, options: Options) -> dict[str, str | None]:
    return {"dataset": data.fingerprint(settings.dataset, data_dir=options.data_dir)}


def _jsonable(settings: Settings, name: str) -> object:
    return json.loads(json.dumps(getattr(settings, name)))


def _log_probs(model: models.MLP) -> Callable[[PyTree, Array], Array]:
    return lambda params, x: jax.nn.log_softmax(model.apply(params, x))


def _ensemble_log_probs(model: models.MLP) -> Callable[[PyTree, Array], Array]:
    return lambda params, x: models.ensemble_log_probs(model.apply, params, x)


def _predictor(
    log_prob_fn: Callable[[PyTree, Array], Array], x: np.ndarray, *, of_replicas: bool = False
) -> Callable[[PyTree], Array]:
    """From parameters to log-probabilities of all of `x`: `[N, C]`, or `[R, N, C]`."""

    @jax.jit
    def predict(params: PyTree, x: Array) -> Array:
        def one(params: PyTree) -> Array:
            return jax.lax.map(lambda x: log_prob_fn(params, x), x, batch_size=PREDICT_BLOCK)

        return over_replicas(one)(params) if of_replicas else one(params)

    x = jnp.asarray(x)
    return lambda params: predict(params, x)
