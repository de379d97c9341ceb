"""Convolutional networks."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from kd import checks
from kd.models.convolution import ConvolveAndPool
from kd.models.features import sow_features
from kd.models.mlp import dense
from kd.types import Array


class CNN(nn.Module):
    r"""Convolutions with max-pooling, then dense layers: one image `[H, W, channels]` to logits.

    Every convolution has stride 1 and no padding, and is followed by the activation and by pooling
    over squares. Weights and biases start as :math:`\mathcal{N}(0, 1/(\mathrm{fan\_in} + 1))`.

    Attributes:
      channels: of each convolution.
      hidden_sizes: units of each dense layer before the last.
      num_outputs: C.
      kernel_size: side of the kernels, pixels.
      pool_size: side of the squares, pixels, or one a convolution; each image's rest is dropped.
      activation_fn: elementwise.
      dropout_rate: share of the channels after each pooling, whole ones, and of each dense layer's
        units that are dropped, in [0, 1], where `apply` is given `deterministic=False` and
        `rngs={"dropout": key}`; by default nothing is.

    Raises:
      ValueError: when applied, if the input has no three axes, or is too small, there are not as
        many pool sizes as convolutions, or the rate is another number.

    Example:
      >>> import jax
      >>> model = CNN(channels=(10, 20), hidden_sizes=(80,), num_outputs=10)
      >>> params = model.init(jax.random.key(0), jnp.zeros((28, 28, 1)))
      >>> model.apply(params, jnp.ones((28, 28, 1))).shape
      (10,)
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      29880

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks": that of the example is theirs for MNIST.
    """

    channels: Sequence[int]
    hidden_sizes: Sequence[int]
    num_outputs: int
    kernel_size: int = 4
    pool_size: int | Sequence[int] = 2
    activation_fn: Callable[[Array], Array] = nn.relu
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        checks.check_rank("x", x, 3)
        checks.check_weight("dropout_rate", self.dropout_rate)
        checks.check_count("kernel_size", self.kernel_size)
        pools = self.pool_size
        pools = tuple(pools) if isinstance(pools, Sequence) else (pools,) * len(self.channels)
        if len(pools) != len(self.channels):
            raise ValueError(
                f"there must be a pool_size for each of {len(self.channels)} convolutions, got "
                f"{len(pools)}."
            )
        for size in pools:
            checks.check_count("pool_size", size)
        for size in (*self.channels, *self.hidden_sizes):
            checks.check_count("each of channels and hidden_sizes", size)
        for index, (size, pool) in enumerate(zip(self.channels, pools, strict=True)):
            if min(x.shape[:2]) < self.kernel_size + pool - 1:
                raise ValueError(
                    f"an image of {x.shape[0]} x {x.shape[1]} is too small for kernels of "
                    f"{self.kernel_size} and pooling by {pool}."
                )
            layer = ConvolveAndPool(
                size, self.kernel_size, pool, self.activation_fn, name=f"Conv_{index}"
            )
            x = layer(x)
            whole_channels = nn.Dropout(self.dropout_rate, broadcast_dims=(0, 1))
            x = whole_channels(x, deterministic=deterministic)
        x = jnp.reshape(x, -1)
        for index, size in enumerate(self.hidden_sizes):
            x = self.activation_fn(dense(size, x))
            x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
            sow_features(self, f"hidden_{index}", lambda x=x: x)
        return dense(self.num_outputs, x)
