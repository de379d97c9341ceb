"""Residual networks."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from kd import checks
from kd.models.convolution import convolve
from kd.models.features import sow_features
from kd.types import Array


class ResNet(nn.Module):
    """A pre-activation residual network: one image `[H, W, channels]` to logits.

    A convolution, then stages of blocks of two 3 x 3 convolutions each; every stage but the first
    halves height and width. Normalised by groups of channels within one image, where the reference
    has batch normalisation: a model here is a function of its parameters and one image.

    It sows `"stage_0"` and so on, each stage's outputs, and `"pooled"`, the mean over positions
    that the last, dense layer takes.

    Attributes:
      num_outputs: C.
      stage_sizes: blocks a stage.
      stage_channels: of each stage.
      num_groups: of each normalisation; with fewer channels, as many as those.

    Raises:
      TypeError: when applied, if sizes or channels are no sequences of whole numbers.
      ValueError: when applied, if the input has no three axes, sizes do not fit each other, or
        channels are not divided by groups.

    Example:
      >>> import jax
      >>> model = ResNet(10, stage_sizes=(1, 1), stage_channels=(8, 16))
      >>> params = model.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
      >>> model.apply(params, jnp.ones((8, 8, 1))).shape
      (10,)

    Reference:
      He, Zhang, Ren and Sun (2016), "Identity mappings in deep residual networks"; Wu and He
      (2018), "Group normalization". The sizes by default are those of ResNet-18.
    """

    num_outputs: int
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    stage_channels: Sequence[int] = (64, 128, 256, 512)
    num_groups: int = 8

    @nn.compact
    def __call__(self, x: Array) -> Array:
        checks.check_rank("x", x, 3)
        checks.check_count("num_groups", self.num_groups)
        for name in ("stage_sizes", "stage_channels"):
            checks.check_type(name, getattr(self, name), Sequence)
        if len(self.stage_sizes) != len(self.stage_channels) or not self.stage_sizes:
            raise ValueError(
                f"stage_sizes and stage_channels must be as many, one or more, got "
                f"{len(self.stage_sizes)} and {len(self.stage_channels)}."
            )
        for size in (*self.stage_sizes, *self.stage_channels):
            checks.check_count("each of stage_sizes and stage_channels", size)
        x = _Convolution(self.stage_channels[0])(x)
        for stage, sizes in enumerate(zip(self.stage_sizes, self.stage_channels, strict=True)):
            num_blocks, channels = sizes
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = _Block(channels, stride, self.num_groups)(x)
            sow_features(self, f"stage_{stage}", lambda x=x: x)
        x = nn.relu(_norm(self.num_groups, x)(x))
        x = jnp.mean(x, axis=(0, 1))
        sow_features(self, "pooled", lambda: x)
        return nn.Dense(self.num_outputs)(x)


class _Block(nn.Module):
    channels: int
    stride: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        active = nn.relu(_norm(self.num_groups, x)(x))
        short = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            short = _Convolution(self.channels, self.stride, kernel_size=1)(active)
        found = _Convolution(self.channels, self.stride)(active)
        active = nn.relu(_norm(self.num_groups, found)(found))
        return short + _Convolution(self.channels)(active)


class _Convolution(nn.Module):
    channels: int
    stride: int = 1
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        return convolve(x, kernel, stride=self.stride, padding=self.kernel_size // 2)


def _norm(num_groups: int, x: Array) -> nn.GroupNorm:
    return nn.GroupNorm(min(num_groups, x.shape[-1]), reduction_axes=(-3, -2, -1))
