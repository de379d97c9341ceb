"""The study itself: a teacher, students by every method, and what became of them."""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.answers import log_probs_of, log_probs_of_each
from experiments.feature_priors import figures, inputs, methods, sampling, tables
from experiments.feature_priors.settings import SAMPLED, SGD, WRITTEN, Condition, Settings
from experiments.feature_priors.tasks import Task
from experiments.flags import Options
from experiments.layers import check_told
from experiments.report import Row
from experiments.run import Run, execute
from kd import losses, models, streams, training
from kd.checks import NotFiniteError
from kd.export import export_student
from kd.types import Array, Batch, PyTree

EXPERIMENT = "feature_priors"
NUM_POINTS = 6  # Of a curve.
_LOG = logging.getLogger(__name__)


class Teacher(NamedTuple):
    """A teacher that has learned.

    Attributes:
      params: of its network.
      log_probs: `[M, C]`, of its own lesson's test inputs.
    """

    params: PyTree
    log_probs: np.ndarray


class Students(NamedTuple):
    """Students of one kind.

    Attributes:
      params: of the networks, each leaf `[R, ...]`.
      log_probs: `[R, M, C]`, of the test inputs.
      rate: of their optimiser.
      r_hats: `[K]`, where they are chains of one posterior, which agree as far as these are near 1.
    """

    params: PyTree
    log_probs: np.ndarray
    rate: float
    r_hats: np.ndarray


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=("loss", "stage", "accuracy", "nll", "log_posterior"),
        inputs_fn=partial(inputs.fingerprints, settings, options),
        load_fn=partial(inputs.load, settings, options),
        study_fn=compare,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def compare(run: Run, task: Task) -> list[Row]:
    """The teachers, and all kinds of students; then figures, exports and rows.

    Of several kinds one whose loss is no longer finite is left out, and the others go on.
    """
    teachers = {name: train_teacher(run, name, task) for name in task.lessons}
    told = tell(run, task, teachers)
    found, last = {}, None
    is_posterior = run.settings.experiment == SAMPLED
    maxima = sampling.maxima(run, task, told) if is_posterior else {}
    for condition in run.settings.conditions():
        if is_posterior:
            params = maxima[sampling.kind_of(condition)]
            found[condition] = infer(run, task, told, condition, params)
        else:
            try:
                found[condition] = distil(run, task, told, teachers, condition)
            except (training.NonFiniteLossError, NotFiniteError) as error:
                last = error
                where = " ".join(getattr(error, "__notes__", ()))
                _LOG.warning("%s is left out, %s: %s", condition.name, where, error)
                continue
        if not sampling.is_sampled(condition):  # An average over a chain is no one network.
            export(run, task, condition, found[condition])
    if last is not None and not found:
        raise last
    figures.draw(run, task, teachers, found)
    return tables.rows(run.settings, task, teachers, found)


def train_teacher(run: Run, name: str, task: Task) -> Teacher:
    """A convolutional network on all labels of its lesson."""
    settings, (model, dataset, _) = run.settings, task.lessons[name]
    num_steps = inputs.num_steps(settings, dataset, settings.teacher_epochs)

    def objective(params: PyTree, batch: Batch) -> Array:
        log_probs = jax.nn.log_softmax(jax.vmap(lambda x: model.apply(params, x))(batch["x"]))
        one_hot = jax.nn.one_hot(batch["y"], dataset.num_classes)
        return jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, one_hot))

    optimizer = optax.adam(optax.cosine_decay_schedule(settings.teacher_rate, num_steps))
    update = training.gradient(objective, optimizer)
    phase = f"teacher[{name}]"
    key = run.key(phase)
    params = model.init(jax.random.fold_in(key, 1), jnp.asarray(dataset.train_x[0]))
    predict = partial(log_probs_of, model, x=jnp.asarray(dataset.test_x))
    final = run.fit(
        phase,
        key,
        inputs.examples(settings, dataset),
        update,
        update.init(params),
        num_steps,
        evaluate_fn=lambda state: tables.curve(predict(state.params)[None], dataset.test_y),
        num_points=NUM_POINTS,
    )
    params = final.student.params
    return Teacher(params, np.asarray(predict(params)))


def tell(run: Run, task: Task, teachers: dict[str, Teacher]) -> Batch:
    """Images with the teachers' logits and matched features, computed once."""

    def answer(x: Array) -> dict[str, Array]:
        features, log_probs = {}, []
        for name, (model, _, classes) in task.lessons.items():
            found = models.features_of(model)(teachers[name].params, x)
            features |= {
                link.told: found[link.layer] for link in task.links if link.teacher == name
            }
            if classes:
                own = jax.nn.log_softmax(found["output"])
                whole = jnp.full(task.dataset.num_classes, -jnp.inf)
                log_probs.append(whole.at[jnp.array(classes)].set(own))
        # Of several, each of classes of its own, the mean.
        logits = jax.nn.logsumexp(jnp.stack(log_probs), axis=0) if log_probs else jnp.zeros(())
        return {"features": features, "logits": logits - jnp.mean(logits)}

    told = streams.features_dataset(
        {"x": jnp.asarray(task.dataset.train_x)},
        answer,
        name="told",
        max_bytes=1e9 * run.options.cache_gb,
    )
    check_told(told["told"]["features"])
    return {"x": told["x"], **told["told"]}


def distil(
    run: Run, task: Task, told: Batch, teachers: dict[str, Teacher], condition: Condition
) -> Students:
    """Students of one kind, at the rate of their protocol."""
    settings = run.settings
    given = {name: teacher.params for name, teacher in teachers.items()}
    train_ = partial(train, run, teachers=given, condition=condition)
    rate = {WRITTEN: settings.teacher_rate, SGD: settings.sgd_rate}.get(condition.protocol)
    if rate is None:
        rate = settings.rate[0]
        if settings.chooses_rate:
            rate = choose_rate(run, task, told, condition, train_)
    split = inputs.split_of(settings, task.dataset, condition.share, is_trial=False)
    labelled = inputs.labelled_part(task.dataset, split)
    phase = f"students[{condition.name}]"
    return train_(phase, task, told, labelled, rate=rate, num_repeats=settings.num_repeats)


def infer(run: Run, task: Task, told: Batch, condition: Condition, params: PyTree) -> Students:
    """Students that the posterior of all weights has, given its maxima."""
    predict = partial(log_probs_of_each, task.student, x=jnp.asarray(task.dataset.test_x))
    found = sampling.posterior(run, task, told, condition, params, predict)
    return Students(found.params, found.log_probs, run.settings.maximum_rate, found.r_hats)


def choose_rate(
    run: Run, task: Task, told: Batch, condition: Condition, train_: Callable[..., Students]
) -> float:
    """The rate whose student is best on labelled examples kept apart, of those tried."""
    settings, whole = run.settings, task.dataset
    split = inputs.split_of(settings, whole, condition.share, is_trial=True)
    labelled = inputs.labelled_part(whole, split)
    part = whole._replace(
        train_x=whole.train_x[split.told],
        train_y=whole.train_y[split.told],
        test_x=whole.train_x[split.apart],
        test_y=whole.train_y[split.apart],
    )
    told = jax.tree.map(lambda leaf: leaf[split.told], told)
    scores = {}
    for rate in settings.rate:
        phase = f"rate[{condition.name},{rate:g}]"
        part_task = task._replace(dataset=part)
        try:
            found = train_(phase, part_task, told, labelled, rate=rate, num_repeats=1)
        except (training.NonFiniteLossError, NotFiniteError) as error:
            scores[rate], last = np.inf, error  # It is not the rate to take.
        else:
            scores[rate] = tables.curve(found.log_probs, part.test_y)["nll"]
    best = min(scores, key=scores.get)
    if scores[best] == np.inf:
        raise last
    return best


def train(
    run: Run,
    phase: str,
    task: Task,
    told: Batch,
    labelled: Batch,
    *,
    teachers: dict[str, PyTree],
    condition: Condition,
    rate: float,
    num_repeats: int,
) -> Students:
    """Students, each from a start and by minibatches of its own; of every method from the same."""
    settings = run.settings
    num_steps = inputs.num_steps(settings, task.dataset, settings.student_epochs)
    update = methods.update_of(settings, condition, task, rate=rate, num_steps=num_steps)
    key = run.key("students")
    starts = jax.vmap(lambda key: methods.start_of(condition, task, told, teachers, key))(
        jax.random.split(jax.random.fold_in(key, 1), num_repeats)
    )
    labels, x = task.dataset.test_y, jnp.asarray(task.dataset.test_x)
    predict = partial(log_probs_of_each, task.student, x=x)
    final = run.fit(
        phase,
        key,
        inputs.batches(settings, condition, told, labelled),
        update,
        jax.vmap(update.init)(starts),
        num_steps,
        evaluate_fn=lambda state: tables.curve(predict(state.params["student"]), labels),
        num_points=NUM_POINTS,
        num_replicas=num_repeats,
    )
    params = final.student.params["student"]
    return Students(params, np.asarray(predict(params)), rate, np.zeros(0))


def export(run: Run, task: Task, condition: Condition, found: Students) -> None:
    """The first student of a kind."""
    export_student(
        run.workdir.file("student", condition.name.replace(",", "-")),
        lambda params, x: jax.nn.log_softmax(task.student.apply(params, x)),
        jax.tree.map(lambda leaf: leaf[0], found.params),
        input_shape=task.dataset.train_x.shape[1:],
        metadata={
            "experiment": EXPERIMENT,
            "outputs": "log-probabilities",
            "condition": condition._asdict(),
        },
    )
