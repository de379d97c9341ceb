"""Convolutions that are fast on every platform, alone and with their pooling."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import with_batched
from kd.types import Array

METHODS = ("auto", "patches", "native")
# Numbers of patches at once, 4 MiB: more leave a CPU's cache, and memory is slower than products.
MOST_PATCHES = 2**20
FEW_OUTPUTS = 32  # Whose products cost less than to keep their patches for the gradient.


class ConvolveAndPool(nn.Module):
    r"""A layer of `convolve_and_pool`; weights and biases start :math:`\mathcal{N}(0, 1/(fan+1))`.

    Attributes:
      num_outputs: channels.
      kernel_size: side of the kernels, pixels.
      pool_size: side of the squares, pixels.
      activation_fn: elementwise.
    """

    num_outputs: int
    kernel_size: int
    pool_size: int
    activation_fn: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1])
        fan_in = shape[0] * shape[1] * shape[2]
        init_fn = nn.initializers.normal((fan_in + 1) ** -0.5)
        kernel = self.param("kernel", init_fn, (*shape, self.num_outputs))
        bias = self.param("bias", init_fn, (self.num_outputs,))
        return convolve_and_pool(
            x, kernel, bias, pool_size=self.pool_size, activation_fn=self.activation_fn
        )


def convolve_and_pool(
    image: Array,
    kernel: Array,
    bias: Array,
    *,
    pool_size: int,
    activation_fn: Callable[[Array], Array],
    method: str = "auto",
) -> Array:
    """A convolution of stride 1 without padding, its activation, and the largest of each square.

    Args:
      image: `[H, W, channels]`. Gradients flow through.
      kernel: `[h, w, channels, outputs]`. Gradients flow through.
      bias: `[outputs]`. Gradients flow through.
      pool_size: side of the squares, pixels; the rest of the image is dropped.
      activation_fn: elementwise.
      method: "patches" is a matrix product with all patches, and a `vmap` over images has the
        images along the last axis, where all that is done by pixel is contiguous, and goes through
        many of them in groups whose patches stay in the cache; "native" is XLA's convolution;
        "auto" is the first on a CPU, where XLA's gradients take several times as long within a
        loop, and the second elsewhere.

    Returns:
      `[(H - h + 1) // pool_size, (W - w + 1) // pool_size, outputs]`.

    Raises:
      ValueError: if `method` is another word.
    """
    checks.check_choice("method", method, METHODS)
    if method == "auto":
        method = "patches" if jax.default_backend() == "cpu" else "native"
    options = {"pool_size": pool_size, "activation_fn": activation_fn}
    if method == "native":
        return _one(image, kernel, bias, convolve_fn=_native, **options)
    one = partial(_one, convolve_fn=_patches, **options)
    return with_batched(one, partial(_batch, **options))(image, kernel, bias)


def convolve(
    image: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    method: str = "auto",
) -> Array:
    """A convolution by itself, with zeros around the image where asked for.

    Args:
      image: `[H, W, channels]`. Gradients flow through.
      kernel: `[h, w, channels, outputs]`. Gradients flow through.
      stride: pixels from one position to the next.
      padding: zeros on each of the four sides.
      method: as of `convolve_and_pool`.

    Returns:
      `[(H + 2 padding - h) // stride + 1, (W + 2 padding - w) // stride + 1, outputs]`.

    Raises:
      ValueError: if `method` is another word, or `stride` or `padding` no such count.
    """
    checks.check_choice("method", method, METHODS)
    checks.check_count("stride", stride)
    checks.check_count("padding", padding, at_least=0)
    if method == "auto":
        method = "patches" if jax.default_backend() == "cpu" else "native"
    image = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    if method == "native":
        return _native(image, kernel, stride)
    one = partial(_patches, stride=stride)
    return with_batched(one, partial(_batched_patches, stride=stride))(image, kernel)


def _one(
    image: Array,
    kernel: Array,
    bias: Array,
    *,
    convolve_fn: Callable[[Array, Array], Array],
    pool_size: int,
    activation_fn: Callable[[Array], Array],
) -> Array:
    return _pool(activation_fn(convolve_fn(image, kernel) + bias[None, None]), pool_size)


def _native(image: Array, kernel: Array, stride: int = 1) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        image[None], kernel, (stride, stride), "VALID", dimension_numbers=dimensions
    )[0]


def _patches(image: Array, kernel: Array, stride: int = 1) -> Array:
    patches = jnp.concatenate(_shifted(image, kernel.shape, stride), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _batch(
    images: Array,
    kernel: Array,
    bias: Array,
    *,
    pool_size: int,
    activation_fn: Callable[[Array], Array],
) -> Array:
    """Of `[H, W, channels, B]`, within as `[channels, H, W, B]`."""

    def all_at_once(images: Array, kernel: Array, bias: Array) -> Array:
        found = _channels_first(images, kernel) + bias[:, None, None, None]
        pooled = jax.vmap(lambda x: _pool(x, pool_size))(activation_fn(found))
        return jnp.moveaxis(pooled, 0, 2)

    return _in_cache(all_at_once, images, kernel, bias)


def _batched_patches(images: Array, kernel: Array, *, stride: int) -> Array:
    """Of `[H, W, channels, B]`."""

    def all_at_once(images: Array, kernel: Array) -> Array:
        return jnp.moveaxis(_channels_first(images, kernel, stride), 0, 2)

    return _in_cache(all_at_once, images, kernel, stride=stride)


def _in_cache(
    fn: Callable[..., Array], images: Array, kernel: Array, *others: Array, stride: int = 1
) -> Array:
    """`fn` of images `[H, W, channels, B]`, a group after another if their patches are many.

    Where derivatives are taken, all at once: the gradient needs the patches again. Unless they are
    quicker made anew than kept.
    """
    rows, columns = (-(-(images.shape[i] - kernel.shape[i] + 1) // stride) for i in range(2))
    each = rows * columns * math.prod(kernel.shape[:3])
    total = each * images.shape[-1]
    # A program that is exported for any number of images knows no number of groups.
    if not isinstance(total, int) or total <= 2 * MOST_PATCHES:
        return fn(images, kernel, *others)
    size = max(1, MOST_PATCHES // each)

    @jax.custom_jvp
    def run(images: Array, *others: Array) -> Array:
        return _by_groups(fn, size, images, *others)

    @run.defjvp
    def differentiate(primals: tuple[Array, ...], tangents: tuple[Array, ...]):
        is_cheap = total > 4 * MOST_PATCHES and kernel.shape[-1] <= FEW_OUTPUTS
        of_all = partial(_by_groups, jax.checkpoint(fn), size) if is_cheap else fn
        return jax.jvp(of_all, primals, tangents)

    return run(images, kernel, *others)


def _by_groups(fn: Callable[..., Array], size: int, images: Array, *others: Array) -> Array:
    """`fn` of `size` images `[..., B]` at a time, the rest last."""
    count = images.shape[-1] // size
    first, rest = jnp.split(images, [count * size], axis=-1)
    groups = jnp.moveaxis(first.reshape(*images.shape[:-1], count, size), -2, 0)
    found = jax.lax.map(lambda group: fn(group, *others), groups)
    found = jnp.moveaxis(found, 0, -2).reshape(*found.shape[1:-1], count * size)
    if rest.shape[-1] == 0:
        return found
    return jnp.concatenate([found, fn(rest, *others)], axis=-1)


def _channels_first(images: Array, kernel: Array, stride: int = 1) -> Array:
    """Of `[H, W, channels, B]`, a convolution as `[outputs, rows, columns, B]`."""
    shifted = _shifted(images, kernel.shape, stride)
    patches = jnp.stack([jnp.moveaxis(x, 2, 0) for x in shifted])
    flat = patches.reshape(-1, images.shape[-1] * patches.shape[2] * patches.shape[3])
    found = kernel.reshape(-1, kernel.shape[-1]).T @ flat
    return found.reshape(-1, *patches.shape[2:])


def _shifted(image: Array, shape: tuple[int, ...], stride: int = 1) -> list[Array]:
    """The image by each of the kernel's places, `[rows, columns, ...]`."""
    height, width = (image.shape[axis] - shape[axis] + 1 for axis in range(2))
    return [
        image[row : row + height : stride, column : column + width : stride]
        for row in range(shape[0])
        for column in range(shape[1])
    ]


def _pool(image: Array, size: int) -> Array:
    """The largest of each square of `[H, W, ...]`, the rest dropped.

    By reshaping: XLA's windows take many times as long to differentiate on a CPU.
    """
    rows, columns = (image.shape[axis] // size for axis in range(2))
    squares = image[: rows * size, : columns * size]
    return jnp.max(squares.reshape(rows, size, columns, size, *image.shape[2:]), axis=(1, 3))
