"""The study itself: a teacher, an auxiliary network, students by every method, what they find."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.feature_distillation import figures, inputs, methods, networks, tables
from experiments.feature_distillation.inputs import Loaded
from experiments.feature_distillation.networks import AUX, POOLED, TEACHER
from experiments.feature_distillation.settings import Condition, Settings
from experiments.flags import Options
from experiments.layers import check_told
from experiments.report import Row
from experiments.run import Run, execute
from kd import models, streams, training
from kd.data import Dataset
from kd.export import export_student
from kd.types import Batch, PyTree, Stream

EXPERIMENT = "feature_distillation"
NUM_POINTS = 6  # Of a curve.


class Source(NamedTuple):
    """A network that is asked.

    Attributes:
      model: the network.
      params: what it has learned.
    """

    model: nn.Module
    params: PyTree


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=("loss", "nearest_mean"),
        inputs_fn=partial(inputs.fingerprints, settings, options),
        load_fn=partial(inputs.load, settings, options),
        study_fn=compare,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def compare(run: Run, loaded: Loaded) -> list[Row]:
    """The teacher, the auxiliary network, all kinds of students; figures, exports and rows."""
    settings, dataset = run.settings, loaded.dataset
    found = {}
    teacher = train_teacher(run, dataset)
    told = tell(run, inputs.examples(dataset), TEACHER, teacher)
    found["teacher"] = judge(run, dataset, teacher, POOLED)
    sources = {TEACHER: teacher}
    if settings.needs_aux():
        before = train_auxiliary(run, dataset)
        sources[AUX] = teach_auxiliary(run, dataset, told, teacher, before)
        told = tell(run, told, AUX, sources[AUX])
        found["aux_labels"] = judge(run, dataset, before, settings.last)
        found["aux"] = judge(run, dataset, sources[AUX], settings.last)
    starts = start_students(run, dataset)
    for condition in settings.conditions():
        students = distil(run, dataset, told, sources, starts, condition)
        found[condition.name] = [
            one
            for index in range(settings.num_repeats)
            for one in judge(run, dataset, _one_of(students, index), settings.last)
        ]
        export(run, loaded, condition, _one_of(students, 0))
    figures.draw(run, found)
    return tables.rows(settings, dataset, found)


def train_teacher(run: Run, dataset: Dataset) -> Source:
    """The residual network, from labels."""
    model = networks.teacher(run.settings, dataset)
    return _by_labels(run, TEACHER, dataset, model, POOLED, run.settings.teacher_epochs)


def train_auxiliary(run: Run, dataset: Dataset) -> Source:
    """The auxiliary network, from labels."""
    model = networks.auxiliary(run.settings, dataset)
    return _by_labels(run, "aux_labels", dataset, model, run.settings.last, run.settings.aux_epochs)


def teach_auxiliary(
    run: Run, dataset: Dataset, told: Batch, teacher: Source, before: Source
) -> Source:
    """The auxiliary network after that, from the teacher's last layer alone."""
    settings = run.settings
    objective = methods.transfer(settings, before.model)
    stream = _stream(settings, told, TEACHER, teacher, {POOLED})
    num_steps = inputs.num_steps(settings, dataset, settings.aux_transfer_epochs)
    params = _fit(
        run, AUX, dataset, before.model, stream, objective, before.params, num_steps, settings.last
    )
    return before._replace(params=params)


def _by_labels(
    run: Run, phase: str, dataset: Dataset, model: nn.Module, layer: str, epochs: int
) -> Source:
    """A network on all labels."""
    params = model.init(jax.random.fold_in(run.key(phase), 1), jnp.asarray(dataset.train_x[0]))
    stream = inputs.batches(run.settings, inputs.examples(dataset), {})
    num_steps = inputs.num_steps(run.settings, dataset, epochs)
    params = _fit(
        run, phase, dataset, model, stream, methods.labels(model), params, num_steps, layer
    )
    return Source(model, params)


def _fit(
    run: Run,
    phase: str,
    dataset: Dataset,
    model: nn.Module,
    stream: Stream,
    objective: methods.Objective,
    params: PyTree,
    num_steps: int,
    layer: str,
) -> PyTree:
    """Trains one network, and judges the layer on the way."""
    update = training.gradient(objective, _optimizer(run.settings, num_steps))
    evaluate = tables.NearestMean(model, layer, dataset)
    final = run.fit(
        phase,
        run.key(phase),
        stream,
        update,
        update.init({"student": params}),
        num_steps,
        evaluate_fn=lambda state: evaluate(jax.tree.map(lambda leaf: leaf[None], state.params)),
        num_points=NUM_POINTS,
    )
    return final.student.params["student"]


def tell(run: Run, told: Batch, name: str, source: Source) -> Batch:
    """The examples with what a network says of them: of all, or of one where they are altered."""
    wanted = methods.asked(run.settings, name)
    if not wanted:
        return told
    answer_fn = networks.answer_of(run.settings, *source, wanted)
    if run.settings.padding:
        # Asked anew at every step; the one is for shapes.
        some = jax.vmap(answer_fn)(told["x"][: networks.BLOCK])
        check_told(some)
        return told | {name: jax.tree.map(lambda leaf: leaf[:1], some)}
    told = streams.features_dataset(
        told,
        answer_fn,
        name=name,
        block_size=networks.BLOCK,
        max_bytes=1e9 * run.options.cache_gb,
    )
    check_told(told[name])
    return told


def start_students(run: Run, dataset: Dataset) -> Source:
    """Students of any kind before they learn; leaves are `[R, ...]`."""
    model = networks.student(run.settings, dataset)
    keys = jax.random.split(run.key("starts"), run.settings.num_repeats)
    x = jnp.asarray(dataset.train_x[0])
    return Source(model, jax.vmap(lambda key: model.init(key, x))(keys))


def distil(
    run: Run,
    dataset: Dataset,
    told: Batch,
    sources: dict[str, Source],
    starts: Source,
    condition: Condition,
) -> Source:
    """Students of one kind, from the starts and by the minibatches of every other kind."""
    settings, repeats, model = run.settings, run.settings.num_repeats, starts.model
    key = run.key("students")
    example = jax.tree.map(lambda leaf: leaf[0], told)
    start_fn = partial(methods.start_of, settings, condition, model)
    own = jax.vmap(start_fn, in_axes=(0, None, 0))(
        starts.params, example, jax.random.split(jax.random.fold_in(key, 1), repeats)
    )
    num_steps = inputs.num_steps(settings, dataset, settings.student_epochs)
    epoch = inputs.steps_an_epoch(settings, dataset)
    objective = methods.objective_of(settings, condition, model, epoch)
    update = training.gradient(objective, _optimizer(settings, num_steps))
    evaluate = tables.NearestMean(model, settings.last, dataset)
    name, wanted = methods.source_of(condition), methods.needed(settings, condition)
    final = run.fit(
        f"students[{condition.name}]",
        key,
        _stream(settings, told, name, sources.get(name), wanted),
        update,
        jax.vmap(update.init)(own),
        num_steps,
        evaluate_fn=lambda state: evaluate(state.params),
        num_points=NUM_POINTS,
        num_replicas=repeats,
    )
    return Source(model, final.student.params["student"])


def _stream(
    settings: Settings, told: Batch, name: str | None, source: Source | None, wanted: set[str]
) -> Stream:
    """Batches with what is wanted of a source's answer, and no more; without a source of none."""
    examples = {key: told[key] for key in ("x", "y")}
    if source is None:
        return inputs.batches(settings, examples, {})
    if settings.padding:
        answer_fn = networks.answer_of(settings, *source, wanted)
        return inputs.batches(settings, examples, {name: answer_fn})
    picked = {key: told[name][key] for key in wanted}
    return inputs.batches(settings, examples | {name: picked}, {})


def _optimizer(settings: Settings, num_steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(settings.rate, num_steps))


def _one_of(students: Source, index: int) -> Source:
    return students._replace(params=jax.tree.map(lambda leaf: leaf[index], students.params))


def judge(run: Run, dataset: Dataset, source: Source, layer: str) -> list[tables.Found]:
    """What one network's features find; a list of one."""
    embed = [
        np.asarray(networks.embedder(source.model, layer, x)(source.params))
        for x in (dataset.test_x, dataset.train_x)
    ]
    return [tables.find(run.settings, dataset, *embed)]


def export(run: Run, loaded: Loaded, condition: Condition, student: Source) -> None:
    """The first student of a kind: from an image as it is, in [0, 1], to its features."""
    layer = run.settings.last
    features_fn = models.features_of(student.model, [layer])
    mean, spread = (jnp.asarray(one)[None, None] for one in (loaded.mean, loaded.spread))
    export_student(
        run.workdir.file("student", condition.name.replace(",", "-")),
        lambda params, x: features_fn(params, (x - mean) / spread)[layer],
        student.params,
        input_shape=loaded.dataset.train_x.shape[1:],
        metadata={
            "experiment": EXPERIMENT,
            "outputs": "features",
            "condition": condition._asdict(),
        },
    )
