"""The three networks, and what each of them says of an image."""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.feature_distillation.inputs import NUM_GROUPS
from experiments.feature_distillation.settings import Settings
from kd import models
from kd.data import Dataset
from kd.types import Array, PyTree

TEACHER, AUX = "teacher", "aux"
POOLED, LOGITS = "pooled", "output"
BLOCK = 200  # Inputs at once.


def teacher(settings: Settings, dataset: Dataset) -> nn.Module:
    """A residual network."""
    return models.ResNet(
        dataset.num_classes, settings.stage_sizes, settings.stage_channels, NUM_GROUPS
    )


def student(settings: Settings, dataset: Dataset) -> nn.Module:
    """A few convolutions, and a dense layer by which images are found."""
    return _convolutional(settings, dataset, settings.channels, settings.hidden_size)


def auxiliary(settings: Settings, dataset: Dataset) -> nn.Module:
    """The same with more of everything."""
    return _convolutional(settings, dataset, settings.aux_channels, settings.aux_hidden_size)


def _convolutional(
    settings: Settings, dataset: Dataset, channels: Sequence[int], hidden_size: int
) -> nn.Module:
    return models.CNN(
        channels, (hidden_size,), dataset.num_classes, kernel_size=3, pool_size=settings.pool_size
    )


def stages(settings: Settings) -> dict[str, str]:
    """The teacher's stage for each of the student's convolutions, in order and spread evenly.

    Over all stages but the last, whose pooled map the student's last layer is matched to; over all
    where there are not more stages than convolutions, and only where there are fewer have two
    convolutions the same.
    """
    num_stages, num_layers = len(settings.stage_sizes), len(settings.intermediate)
    last = num_stages - 2 if num_stages > num_layers else num_stages - 1
    chosen = np.linspace(0, last, num_layers).round().astype(int)
    return {own: f"stage_{index}" for own, index in zip(settings.intermediate, chosen, strict=True)}


def answer_of(
    settings: Settings, model: nn.Module, params: PyTree, names: Collection[str]
) -> Callable[[Array], dict[str, Array]]:
    """What a network says of one image: layers by name, the teacher's stages averaged.

    A stage of C channels has at most `side**2 * C` numbers an image, by its `--stage_grid`: for
    ResNet-18's first three as published 4,096, which for 50,000 images are 0.8 GB.
    """
    features_fn = models.features_of(model, sorted(names))
    sides = {f"stage_{index}": side for index, side in enumerate(settings.stage_grid)}

    def answer(x: Array) -> dict[str, Array]:
        found = features_fn(params, x)
        return found | {
            name: averaged(found[name], side) for name, side in sides.items() if name in found
        }

    return answer


def averaged(maps: Array, side: int) -> Array:
    """Means over at most `side x side` parts of maps `[H, W, C]`, as equal as can be."""
    for axis in (0, 1):
        parts = jnp.array_split(maps, min(side, maps.shape[axis]), axis)
        maps = jnp.stack([jnp.mean(part, axis) for part in parts], axis)
    return maps


def embedder(model: nn.Module, layer: str, x: np.ndarray) -> Callable[[PyTree], Array]:
    """Features `[M, D]` of images, by parameters."""
    return partial(_embed_fn(model, layer), jnp.asarray(x))


@lru_cache  # One compilation for all students.
def _embed_fn(model: nn.Module, layer: str) -> Callable[[Array, PyTree], Array]:
    features_fn = models.features_of(model, [layer])

    def embed(x: Array, params: PyTree) -> Array:
        return jax.lax.map(lambda one: features_fn(params, one)[layer], x, batch_size=BLOCK)

    return jax.jit(embed)
