"""What a run learns from: the data, its labelled part, batches; settings that do not fit."""

import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.feature_priors.settings import EXPERTS, METHODS, WEIGHED, Condition, Settings
from experiments.feature_priors.tasks import Task, task_of
from experiments.flags import Options, UserError
from experiments.images import check_pixels
from kd import data, models, streams
from kd.data import Dataset
from kd.types import Batch, Stream

_LOG = logging.getLogger(__name__)


def fingerprints(settings: Settings, options: Options) -> dict[str, str | None]:
    """Digests of the data sets."""
    names = sorted({settings.data_name, settings.source} - {""})
    return {name: data.fingerprint(name, data_dir=options.data_dir) for name in names}


def load(settings: Settings, options: Options) -> Task:
    """Reads the data, and refuses what cannot be done."""
    check(settings)
    dataset = data.load(settings.data_name, data_dir=options.data_dir)
    shape = dataset.test_x.shape[1:]
    if len(shape) != 3:
        raise UserError(
            f"{settings.data_name} has inputs {shape}, which are no images [height, width, "
            "channels]; the teacher's convolutions need some."
        )
    is_halved = settings.experiment == "experts" or (
        settings.experiment == "transfer" and not settings.source
    )
    least = 4 if is_halved else 2
    if dataset.num_classes < least:
        raise UserError(
            f"{settings.data_name} has {dataset.num_classes} classes, and {least} are needed."
        )
    check_pixels(shape, settings.pools)
    source = None
    if settings.source:
        source = data.load(settings.source, data_dir=options.data_dir)
        if source.num_classes < 2:
            raise UserError(f"--source={settings.source} has one class, and nothing to learn.")
        if source.test_x.shape[1:] != shape:
            raise UserError(
                f"--source={settings.source} has inputs {source.test_x.shape[1:]}, and "
                f"{settings.data_name} {shape}."
            )
    task = task_of(settings, dataset, source)
    check_sizes(settings, task)
    check_layers(task)
    return task


def check_layers(task: Task) -> None:
    """Refuses layers that a teacher does not have, listing those it has."""
    for link in task.links:
        model, dataset, _ = task.lessons[link.teacher]
        x = jnp.asarray(dataset.test_x[0])
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        names = models.layers_of(model, params, x)
        if link.layer not in names:
            raise UserError(
                f"teacher {link.teacher!r} has no layer {link.layer!r}; it has "
                f"{', '.join(sorted(names))}."
            )


def check_sizes(settings: Settings, task: Task) -> None:
    """Refuses batches larger than what there is, and shares of nothing."""
    dataset = task.dataset
    for name, lesson in task.lessons.items():
        own = lesson.dataset
        if own is not dataset and settings.batch_size > len(own.train_x):
            raise UserError(
                f"--batch_size={settings.batch_size} is more than the {len(own.train_x)} examples "
                f"that teacher {name!r} has to learn from."
            )
        if not len(own.test_x):
            raise UserError(f"teacher {name!r} has no test image, so that it cannot be judged.")
    if not len(dataset.test_x):
        raise UserError(f"{settings.data_name} has no test image of the students' classes.")
    for share in settings.label_share:
        count = num_labelled(settings, dataset, share)
        if count < 2:
            raise UserError(f"--label_share={share:g} leaves fewer than two examples with a label.")
    most = max(num_labelled(settings, dataset, share) for share in settings.label_share)
    smallest = len(dataset.train_x) - num_kept_apart(settings, most)
    if settings.batch_size > smallest:
        raise UserError(
            f"--batch_size={settings.batch_size} is more than the {smallest} examples there are"
            f"{' beside those kept apart' if settings.chooses_rate else ''}."
        )
    if settings.student_epochs * (smallest // settings.batch_size) < 2:
        raise UserError(
            f"--student_epochs={settings.student_epochs} of --batch_size={settings.batch_size} "
            "make one step, and stages need two."
        )
    if WEIGHED.is_met(settings) and settings.num_compared > len(dataset.train_x):
        raise UserError(
            f"--num_compared={settings.num_compared} is more than the {len(dataset.train_x)} "
            "training images there are."
        )
    for share in settings.label_share:
        _tell_of_missing_classes(settings, dataset, share)


def _tell_of_missing_classes(settings: Settings, dataset: Dataset, share: float) -> None:
    labelled = split_of(settings, dataset, share, is_trial=False).labelled
    missing = np.setdiff1d(np.arange(dataset.num_classes), dataset.train_y[labelled])
    if len(missing):
        _LOG.warning(
            "with --label_share=%g none of the %d labelled examples is of class %s.",
            *(share, len(labelled), ", ".join(map(str, missing))),
        )


def check(settings: Settings) -> None:
    """Refuses settings that do not go together."""
    if len(settings.pools) != len(settings.channels):
        raise UserError(
            f"--pool_size has {len(settings.pools)} values, and --teacher_channels "
            f"{len(settings.channels)}: give as many."
        )
    if len(set(settings.method)) < len(settings.method):
        raise UserError(f"--method names a value twice: {','.join(settings.method)}.")
    unknown = [method for method in settings.method if method not in METHODS[settings.experiment]]
    if unknown:
        raise UserError(
            f"--experiment={settings.experiment} has no --method={unknown[0]}; it has "
            f"{', '.join(METHODS[settings.experiment])}."
        )
    matched = 2 if settings.experiment == "cifar" else 1
    if settings.expert_layer and len(settings.expert_layer) != 2:
        raise UserError(
            f"--expert_layer must name two layers, one of each expert; got "
            f"{len(settings.expert_layer)}."
        )
    if EXPERTS in settings.methods and settings.hidden[0] < 2:
        raise UserError(
            "--student_hidden has a first layer of 1 unit, which two experts cannot have halves of."
        )
    if len(settings.hidden) < matched:
        raise UserError(f"--student_hidden needs {matched} layers to match, or more.")
    if len(settings.channels) < matched:
        raise UserError(f"--teacher_channels needs {matched} layers to match, or more.")


def num_labelled(settings: Settings, dataset: Dataset, share: float) -> int:
    """Training examples that have labels."""
    return round(share * len(dataset.train_x))


def num_kept_apart(settings: Settings, count: int) -> int:
    """Of so many labelled examples, those to choose a rate by, where one is to be chosen."""
    if not settings.chooses_rate:
        return 0
    return min(max(1, round(settings.kept_apart * count)), count - 1)


class Split(NamedTuple):
    """Numbers of training examples.

    Attributes:
      told: those that the teachers speak of.
      labelled: those with labels, which are among them.
      apart: those to choose a rate by.
    """

    told: np.ndarray
    labelled: np.ndarray
    apart: np.ndarray


def split_of(settings: Settings, dataset: Dataset, share: float, *, is_trial: bool) -> Split:
    """Which examples have labels, the same for every method; in a trial some are kept apart.

    Those are labelled ones, so that a method chooses its rate by no more labels than it has. Of a
    smaller share the labelled examples are among those of a larger one.
    """
    order = np.random.default_rng(settings.seed).permutation(len(dataset.train_x))
    labelled = order[: num_labelled(settings, dataset, share)]
    count = num_kept_apart(settings, len(labelled)) if is_trial else 0
    apart, labelled = labelled[:count], labelled[count:]
    return Split(np.setdiff1d(np.arange(len(order)), apart), labelled, apart)


def num_steps(settings: Settings, dataset: Dataset, num_epochs: int) -> int:
    """Minibatches in so many passes."""
    return num_epochs * max(1, len(dataset.train_x) // settings.batch_size)


def examples(settings: Settings, dataset: Dataset) -> Stream:
    """Labelled minibatches, for the teacher."""
    return streams.resample(
        {"x": jnp.asarray(dataset.train_x), "y": jnp.asarray(dataset.train_y)}, settings.batch_size
    )


def labelled_part(dataset: Dataset, split: Split) -> Batch:
    """The examples with labels."""
    x, y = dataset.train_x[split.labelled], dataset.train_y[split.labelled]
    return {"labelled_x": jnp.asarray(x), "labelled_y": jnp.asarray(y)}


def batches(settings: Settings, condition: Condition, told: Batch, labelled: Batch) -> Stream:
    """Images that the teacher speaks of, and labelled ones: each as many as a step takes."""
    unlabelled = streams.resample(told, settings.batch_size)
    if condition.method == "noisy":
        unlabelled = streams.with_relative_noise(
            unlabelled, "logits", scale=settings.noise_scale, share=settings.noise_share
        )
    size = min(settings.batch_size, len(labelled["labelled_y"]))
    return streams.merge(unlabelled, streams.resample(labelled, size))
