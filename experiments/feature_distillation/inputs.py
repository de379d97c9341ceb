"""What a run learns from: standardised images, batches; settings that do not fit."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.feature_distillation.settings import DIRECT, Settings
from experiments.flags import Options, UserError
from experiments.images import check_pixels
from kd import data, streams
from kd.data import Dataset
from kd.types import Array, Batch, Stream

LEAST_SPREAD = 1e-6  # Of a channel, to be divided by.
NUM_GROUPS = 8  # Of the teacher's normalisation.


class Loaded(NamedTuple):
    """The inputs of a run.

    Attributes:
      dataset: standardised by channel.
      mean: `[channels]`, of the training images.
      spread: `[channels]`, their standard deviation.
    """

    dataset: Dataset
    mean: np.ndarray
    spread: np.ndarray


def fingerprints(settings: Settings, options: Options) -> dict[str, str | None]:
    """Digests of the data set."""
    return {"dataset": data.fingerprint(settings.dataset, data_dir=options.data_dir)}


def load(settings: Settings, options: Options) -> Loaded:
    """Reads the data, and refuses what cannot be done."""
    check(settings)
    dataset = data.load(settings.dataset, data_dir=options.data_dir)
    shape = dataset.test_x.shape[1:]
    if len(shape) != 3:
        raise UserError(
            f"{settings.dataset} has inputs {shape}, which are no images [height, width, channels]."
        )
    check_pixels(shape, settings.pool_size)
    if settings.batch_size > len(dataset.train_x):
        raise UserError(
            f"--batch_size={settings.batch_size} is more than the {len(dataset.train_x)} training "
            "examples there are."
        )
    if dataset.num_classes < 2:
        raise UserError(f"{settings.dataset} has one class: any image is of the one looked for.")
    missing = np.setdiff1d(dataset.test_y, dataset.train_y)
    if len(missing):
        raise UserError(
            f"{settings.dataset} has test images of class {missing[0]}, and no training image of "
            "it to be found."
        )
    if settings.num_queries > len(dataset.test_x):
        raise UserError(
            f"--num_queries={settings.num_queries} is more than the {len(dataset.test_x)} test "
            "examples there are."
        )
    mean = np.mean(dataset.train_x, axis=(0, 1, 2))
    spread = np.maximum(np.std(dataset.train_x, axis=(0, 1, 2)), LEAST_SPREAD)
    scaled = [(x - mean) / spread for x in (dataset.train_x, dataset.test_x)]
    return Loaded(dataset._replace(train_x=scaled[0], test_x=scaled[1]), mean, spread)


def check(settings: Settings) -> None:
    """Refuses settings that do not go together."""
    pairs = [
        ("stage_sizes", "stage_channels"),
        ("pool_size", "channels"),
        ("aux_channels", "channels"),
    ]
    if DIRECT.is_met(settings):
        pairs.append(("stage_grid", "stage_channels"))
    for name, like in pairs:
        counts = len(getattr(settings, name)), len(getattr(settings, like))
        if counts[0] != counts[1]:
            raise UserError(
                f"--{name} has {counts[0]} values, and --{like} {counts[1]}: give as many."
            )
    for channels in settings.stage_channels:
        groups = min(NUM_GROUPS, channels)
        if channels % groups:
            raise UserError(
                f"--stage_channels has {channels}, which is not divided by the {groups} groups "
                "that the teacher normalises by."
            )


def num_steps(settings: Settings, dataset: Dataset, num_epochs: int) -> int:
    """Minibatches in so many passes."""
    return num_epochs * steps_an_epoch(settings, dataset)


def steps_an_epoch(settings: Settings, dataset: Dataset) -> int:
    """Whole minibatches in a pass."""
    return max(1, len(dataset.train_x) // settings.batch_size)


def examples(dataset: Dataset) -> Batch:
    """All training examples."""
    return {"x": jnp.asarray(dataset.train_x), "y": jnp.asarray(dataset.train_y)}


def batches(
    settings: Settings, told: Batch, answers: dict[str, Callable[[Array], dict[str, Array]]]
) -> Stream:
    """Minibatches, numbered, with what each teacher says: of altered images, asked anew.

    Args:
      settings: of the run.
      told: the examples, with what teachers say of them as they are where nothing is altered.
      answers: by teacher, of one image.
    """
    stream = streams.resample(told, settings.batch_size)
    if settings.padding:
        stream = streams.with_crops(stream, padding=settings.padding)
        for name, answer_fn in answers.items():
            stream = _answered(stream, name, answer_fn)
    return streams.numbered(stream)


def _answered(stream: Stream, name: str, answer_fn: Callable[[Array], dict[str, Array]]) -> Stream:
    """With a network's answers to each batch, whose images are the same whoever is asked."""
    return streams.map_batch(lambda batch: batch | {name: jax.vmap(answer_fn)(batch["x"])}, stream)
