"""The study itself: a teacher, students by every method, and what became of them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import costs
from experiments.answers import log_probs_of, log_probs_of_each
from experiments.flags import Options
from experiments.layers import check_told
from experiments.report import Row
from experiments.run import Run, execute
from experiments.sentence_distillation import figures, inputs, methods, tables, tasks
from experiments.sentence_distillation.settings import TINY, Condition, Settings
from experiments.sentence_distillation.tasks import Task
from kd import losses, models, streams, training
from kd.data import SentenceDataset
from kd.export import export_student
from kd.types import Array, Batch, PyTree

EXPERIMENT = "sentence_distillation"
NUM_POINTS = 6  # Of a curve.
ROUNDS = 20  # Of the clock.


class Teacher(NamedTuple):
    """A teacher that has learned.

    Attributes:
      params: of its network.
      log_probs: `[M, C]`, of the test sentences.
    """

    params: PyTree
    log_probs: np.ndarray


class Students(NamedTuple):
    """Students of one kind.

    Attributes:
      params: of the networks, each leaf `[R, ...]`.
      log_probs: `[R, M, C]`, of the test sentences.
    """

    params: PyTree
    log_probs: np.ndarray


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=("loss", "stage", "accuracy", "nll"),
        inputs_fn=partial(inputs.fingerprints, settings),
        load_fn=partial(inputs.load, settings),
        study_fn=compare,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def compare(run: Run, dataset: SentenceDataset) -> list[Row]:
    """The teacher, and all kinds of students; then figures, exports and rows."""
    task = tasks.task_of(run.settings, dataset)
    teacher = train_teacher(run, task)
    told = tell(run, task, teacher)
    found = {}
    for condition in run.settings.conditions():
        found[condition] = distil(run, task, told, condition)
        export(run, task, condition, found[condition])
    figures.draw(run, task, teacher, found)
    return tables.rows(task, teacher, found) + cost_rows(task, teacher, found)


def train_teacher(run: Run, task: Task) -> Teacher:
    """A Transformer on all labels."""
    settings, model, dataset = run.settings, task.teacher, task.dataset
    num_steps = inputs.num_steps(settings, dataset, settings.teacher_epochs)

    def objective(params: PyTree, batch: Batch) -> Array:
        logits = jax.vmap(
            lambda x, key: model.apply(params, x, deterministic=False, rngs={"dropout": key})
        )(batch["x"], batch["key"])
        one_hot = jax.nn.one_hot(batch["y"], dataset.num_classes)
        return jnp.mean(jax.vmap(losses.cross_entropy)(jax.nn.log_softmax(logits), one_hot))

    optimizer = optax.adam(optax.cosine_decay_schedule(settings.teacher_rate, num_steps))
    update = training.gradient(objective, optimizer)
    key = run.key("teacher")
    params = model.init(jax.random.fold_in(key, 1), jnp.asarray(dataset.train_x[0]))
    predict = partial(log_probs_of, model, x=jnp.asarray(dataset.test_x))
    final = run.fit(
        "teacher",
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


def tell(run: Run, task: Task, teacher: Teacher) -> Batch:
    """Sentences with the teacher's logits and matched layers, computed once.

    States are in units of their root mean square over all words, so that the losses of different
    layers add up on one footing; scores of attention are as they are.
    """
    names = task.told(run.settings.method)
    features_fn = models.features_of(task.teacher, [*names, "output"])

    def answer(x: Array) -> dict[str, Array]:
        found = features_fn(teacher.params, x)
        return {"features": {name: found[name] for name in names}, "logits": found["output"]}

    x = jnp.asarray(task.dataset.train_x)
    told = streams.features_dataset(
        {"x": x}, answer, name="told", max_bytes=1e9 * run.options.cache_gb
    )["told"]
    found = told["features"]
    check_told(found)
    for name in names:
        if not name.startswith("attention"):
            found[name] = found[name] / token_scale(x, found[name])
    return {"x": x, **told}


def token_scale(x: Array, states: Array) -> Array:
    """The root mean square of `[N, L, D]` over all words; 1 where it is 0."""
    mask = models.token_mask(x)[..., None]
    squares = jnp.sum(jnp.where(mask, states, 0.0) ** 2)
    scale = jnp.sqrt(squares / jnp.maximum(jnp.sum(mask) * states.shape[-1], 1))
    return jnp.where(scale > 0, scale, 1.0)


def distil(run: Run, task: Task, told: Batch, condition: Condition) -> Students:
    """Students of one kind: from the starts, and by the minibatches, of every other kind."""
    settings, dataset, method = run.settings, task.dataset, condition.method
    num_steps = inputs.num_steps(settings, dataset, settings.student_epochs)
    update = methods.update_of(settings, method, task, num_steps=num_steps)
    key = run.key("students")
    starts = jax.vmap(lambda key: methods.start_of(method, task, told, key))(
        jax.random.split(jax.random.fold_in(key, 1), settings.num_repeats)
    )
    predict = partial(log_probs_of_each, task.student_of(method), x=jnp.asarray(dataset.test_x))
    final = run.fit(
        f"students[{condition.name}]",
        key,
        inputs.batches(settings, told, inputs.labelled_part(settings, dataset, condition.share)),
        update,
        jax.vmap(update.init)(starts),
        num_steps,
        evaluate_fn=lambda state: tables.curve(predict(state.params["student"]), dataset.test_y),
        num_points=NUM_POINTS,
        num_replicas=settings.num_repeats,
    )
    params = final.student.params["student"]
    return Students(params, np.asarray(predict(params)))


def cost_rows(task: Task, teacher: Teacher, found: dict[Condition, Students]) -> list[Row]:
    """Numbers and milliseconds that a prediction takes, by network."""
    networks = {"teacher": (task.teacher, teacher.params)}
    for condition, students in found.items():
        name = "tiny" if condition.method in TINY else "student"
        params = jax.tree.map(lambda leaf: leaf[0], students.params)
        networks.setdefault(name, (task.student_of(condition.method), params))
    made = []
    x = jnp.asarray(task.dataset.test_x[:1])
    predict = [
        partial(costs.compile_batch(model.apply, params, x), params, x)
        for model, params in networks.values()
    ]
    latencies = costs.milliseconds(predict, rounds=ROUNDS)
    for (name, (_, params)), latency in zip(networks.items(), latencies, strict=True):
        made += [
            Row(f"parameters[{name}]", costs.num_parameters(params), None, 1, ""),
            Row(f"latency[{name}]", latency, None, 1, "ms"),
        ]
    return made


def export(run: Run, task: Task, condition: Condition, found: Students) -> None:
    """The first student of a kind."""
    model = task.student_of(condition.method)
    export_student(
        run.workdir.file("student", condition.name.replace(",", "-")),
        lambda params, x: jax.nn.log_softmax(model.apply(params, x)),
        jax.tree.map(lambda leaf: leaf[0], found.params),
        input_shape=task.dataset.train_x.shape[1:],
        dtype=jnp.int32,
        metadata={
            "experiment": EXPERIMENT,
            "outputs": "log-probabilities",
            "condition": condition._asdict(),
            "vocabulary": list(task.dataset.vocabulary),
        },
    )
