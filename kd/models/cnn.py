"""Convolutional networks."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd import checks
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
      pool_size: side of the squares, pixels; each image's rest is dropped.
      activation_fn: elementwise.
      dropout_rate: share of the channels after each pooling, whole ones, and of each dense layer's
        units that are dropped, in [0, 1], where `apply` is given `deterministic=False` and
        `rngs={"dropout": key}`; by default nothing is.

    Raises:
      ValueError: when applied, if the input has no three axes, or is too small, or the rate is
        another number.

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
    pool_size: int = 2
    activation_fn: Callable[[Array], Array] = nn.relu
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        checks.check_rank("x", x, 3)
        checks.check_weight("dropout_rate", self.dropout_rate)
        for name in ("kernel_size", "pool_size"):
            checks.check_count(name, getattr(self, name))
        for size in (*self.channels, *self.hidden_sizes):
            checks.check_count("each of channels and hidden_sizes", size)
        for size in self.channels:
            if min(x.shape[:2]) < self.kernel_size + self.pool_size - 1:
                raise ValueError(
                    f"an image of {x.shape[0]} x {x.shape[1]} is too small for kernels of "
                    f"{self.kernel_size} and pooling by {self.pool_size}."
                )
            init_fn = nn.initializers.normal((self.kernel_size**2 * x.shape[-1] + 1) ** -0.5)
            x = nn.Conv(
                size,
                (self.kernel_size, self.kernel_size),
                padding="VALID",
                kernel_init=init_fn,
                bias_init=init_fn,
                conv_general_dilated=convolve,
            )(x)
            x = max_pool(self.activation_fn(x), self.pool_size)
            whole_channels = nn.Dropout(self.dropout_rate, broadcast_dims=(0, 1))
            x = whole_channels(x, deterministic=deterministic)
        x = jnp.reshape(x, -1)
        for size in self.hidden_sizes:
            x = self.activation_fn(dense(size, x))
            x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
        return dense(self.num_outputs, x)


def convolve(images: Array, kernel: Array, *args, method: str = "auto", **options) -> Array:
    """A convolution of stride 1 without padding, `[B, H, W, channels]`, for `flax.linen.Conv`.

    Args:
      images: `[B, H, W, channels]`. Gradients flow through.
      kernel: `[h, w, channels, outputs]`. Gradients flow through.
      *args, **options: as `flax.linen.Conv` gives them to `jax.lax.conv_general_dilated`.
      method: "patches" is one matrix product with all patches, "native" is XLA's; "auto" is the
        first on a CPU, where XLA's gradients take several times as long within a loop, and
        the second elsewhere.

    Raises:
      ValueError: if `method` is another word.
    """
    checks.check_choice("method", method, ("auto", "patches", "native"))
    if method == "auto":
        method = "patches" if jax.default_backend() == "cpu" else "native"
    if method == "native":
        return jax.lax.conv_general_dilated(images, kernel, *args, **options)
    height, width = (images.shape[i + 1] - kernel.shape[i] + 1 for i in range(2))
    patches = jnp.concatenate(
        [
            images[:, row : row + height, column : column + width]
            for row in range(kernel.shape[0])
            for column in range(kernel.shape[1])
        ],
        axis=-1,
    )
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(image: Array, size: int) -> Array:
    """The largest of each square of an image `[H, W, channels]`; the rest of it is dropped.

    By reshaping: XLA's windows take many times as long to differentiate on a CPU.
    """
    height, width, channels = image.shape
    rows, columns = height // size, width // size
    squares = image[: rows * size, : columns * size].reshape(rows, size, columns, size, channels)
    return jnp.max(squares, axis=(1, 3))
