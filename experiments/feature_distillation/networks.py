"""The three networks, and what each of them says of an image."""

from collections.abc import Callable, Sequence
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
BLOCK = 250  # Inputs at once.


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
    """The teacher's stage for each of the student's convolutions, spread over all but the last."""
    last = max(0, len(settings.stage_sizes) - 2)
    chosen = np.linspace(0, last, len(settings.intermediate)).round().astype(int)
    return {own: f"stage_{index}" for own, index in zip(settings.intermediate, chosen, strict=True)}


def teacher_answer(settings: Settings, model: nn.Module, params: PyTree) -> Callable:
    """What the teacher says of one image: logits, pooled features, and means of its stages."""
    inner = sorted(set(stages(settings).values()))
    features_fn = models.features_of(model, [POOLED, LOGITS, *inner])

    def answer(x: Array) -> dict[str, Array]:
        found = features_fn(params, x)
        # Of maps the means over positions: what all stages have, whatever their sizes.
        return found | {name: jnp.mean(found[name], axis=(0, 1)) for name in inner}

    return answer


def aux_answer(settings: Settings, model: nn.Module, params: PyTree) -> Callable:
    """What the auxiliary network says of one image: all of its layers."""
    features_fn = models.features_of(model, [settings.last, *settings.intermediate])
    return lambda x: features_fn(params, x)


def embedder(model: nn.Module, layer: str, x: np.ndarray) -> Callable[[PyTree], Array]:
    """Features `[M, D]` of images, by parameters."""
    return partial(_embed_fn(model, layer), jnp.asarray(x))


@lru_cache  # One compilation for all students.
def _embed_fn(model: nn.Module, layer: str) -> Callable[[Array, PyTree], Array]:
    features_fn = models.features_of(model, [layer])

    def embed(x: Array, params: PyTree) -> Array:
        return jax.lax.map(lambda one: features_fn(params, one)[layer], x, batch_size=BLOCK)

    return jax.jit(embed)
