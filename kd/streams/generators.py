"""Streams that draw their inputs from a distribution."""

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.batching import take_rows
from kd.streams.blocks import blocks
from kd.types import Array, Batch, Key, PyTree, Stream


class Autoregressive(Protocol):
    """What `nade_conditionals` asks of a model: `kd.models.NADE` is one."""

    def sample(self, params: PyTree, key: Key, num_samples: int) -> tuple[Array, Array]: ...


def gaussian_noise(shape: Sequence[int], batch_size: int, *, scale: float = 1.0) -> Stream:
    r"""Independent Gaussian inputs, :math:`x \sim \mathcal{N}(0, \mathrm{scale}^2 I)`.

    Args:
      shape: of one input.
      batch_size: B.
      scale: standard deviation, in units of the input.

    Returns:
      A stream of batches `{"x": [B, *shape]}`; its state is empty.

    Raises:
      ValueError: if `batch_size` or `scale` is not positive.

    Example:
      >>> stream = gaussian_noise((28, 28, 1), 20)
      >>> state, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["x"].shape
      (20, 28, 28, 1)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", section 2.2.3.
    """
    checks.check_count("batch_size", batch_size)
    checks.check_positive("scale", scale)
    checks.check_type("shape", shape, tuple | list)

    def init(key: Key) -> PyTree:
        del key  # Every draw has its own, given to `next`.
        return ()

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        return state, {"x": scale * jax.random.normal(key, (batch_size, *shape))}

    return Stream(init, next_)


def nade_conditionals(
    nade: Autoregressive,
    params: PyTree,
    shape: Sequence[int],
    batch_size: int,
    *,
    num_batches: int = 1,
) -> Stream:
    r"""Inputs from a NADE: the conditional probabilities along the path of each sample.

    Where the NADE was trained on binarised images these are grey ones, smoother than its
    samples and nearer to the images.

    Args:
      nade: with `sample(params, key, num) -> (samples [N, I], conditionals [N, I])`.
      params: of the model.
      shape: of one input, I entries.
      batch_size: B.
      num_batches: minibatches sampled at once; a step of NADE costs little more for
        thousands of samples than for twenty.

    Returns:
      A stream of batches `{"x": [B, *shape]}`, in [0, 1].

    Raises:
      TypeError: if the model's samples come without conditionals.
      ValueError: if a count is not positive, or the model's samples have not the entries of
        `shape`.

    Example:
      >>> from kd.models import NADE
      >>> nade = NADE(num_visible=4, num_hidden=3)
      >>> params = nade.init(jax.random.key(0), jnp.zeros(4))
      >>> stream = nade_conditionals(nade, params, (2, 2), 20, num_batches=5)
      >>> state, batch = stream.next(jax.random.key(2), stream.init(jax.random.key(1)))
      >>> batch["x"].shape
      (20, 2, 2)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", section 2.2.3.
    """
    checks.check_count("batch_size", batch_size)
    drawn = jax.eval_shape(lambda: nade.sample(params, jax.random.key(0), 1))
    if not isinstance(drawn, tuple):
        raise TypeError("nade.sample must give samples and their conditionals, as NADE's does.")
    one = drawn[1]
    if one.shape != (1, math.prod(shape)):
        raise ValueError(
            f"shape must have the {one.shape[-1]} entries of a sample, got {tuple(shape)}."
        )

    def draw(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        _, conditionals = nade.sample(params, key, num_batches * batch_size)
        return state, {"x": conditionals.reshape(num_batches, batch_size, *shape)}

    return blocks(lambda key: (), draw, num_batches=num_batches)


def munge(
    data: Batch,
    neighbours: Array,
    batch_size: int,
    *,
    swap_probability: float,
    local_variance: float,
) -> Stream:
    r"""Inputs near those of a data set: examples that took some of a neighbour's values.

    With :math:`x` a random example and :math:`x'` its nearest neighbour, each attribute is
    drawn from :math:`\mathcal{N}(x'_d, (|x_d - x'_d| / s)^2)` with probability p, and kept
    otherwise.

    Args:
      data: inputs under `"x"`, `[N, ...]`; the rest is left out.
      neighbours: `[N]`, the index of each example's nearest neighbour
        (`nearest_neighbours`).
      batch_size: B.
      swap_probability: p in [0, 1].
      local_variance: s > 0; the larger, the nearer to the neighbour's value.

    Returns:
      A stream of batches `{"x": [B, ...]}`; its state is empty.

    Raises:
      TypeError: if the inputs are not floating.
      ValueError: if an argument is out of range, or `neighbours` is not `[N]` or (where it
        is not traced) holds no indices.

    Example:
      >>> data = {"x": jnp.array([[0.0], [1.0]])}
      >>> stream = munge(data, jnp.array([1, 0]), 3, swap_probability=0.0, local_variance=1.0)
      >>> state, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["x"].shape
      (3, 1)

    Reference:
      Bucila, Caruana and Niculescu-Mizil (2006), "Model compression", algorithm 1
      (MUNGE), for continuous attributes. Deviation: the paper goes through the data and
      changes both of a pair; here each input is drawn afresh, one of a pair, so that the
      stream has no end and its inputs are independent.
    """
    num_examples = checks.check_same_length("data", data["x"])
    checks.check_floating("data['x']", data["x"])
    checks.check_count("batch_size", batch_size)
    checks.check_weight("swap_probability", swap_probability)
    checks.check_positive("local_variance", local_variance)
    if jnp.shape(neighbours) != (num_examples,):
        raise ValueError(
            f"neighbours must have shape ({num_examples},), got {jnp.shape(neighbours)}."
        )
    checks.check_indices("neighbours", neighbours, num_examples)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        index_key, swap_key, noise_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, (batch_size,), 0, num_examples)
        x = take_rows(data["x"], index)
        other = take_rows(data["x"], take_rows(neighbours, index))
        noise = jnp.abs(x - other) / local_variance * jax.random.normal(noise_key, x.shape)
        swapped = jax.random.bernoulli(swap_key, swap_probability, x.shape)
        return state, {"x": jnp.where(swapped, other + noise, x)}

    return Stream(lambda key: (), next_)


def nearest_neighbours(x: Array, *, block_size: int = 1000) -> Array:
    """Index of the nearest other example of each, by Euclidean distance.

    Args:
      x: `[N, ...]`, N >= 2.
      block_size: examples compared with all others at once, to bound memory.

    Returns:
      `[N]`, int32; of several as near, the first.

    Raises:
      ValueError: if N < 2 or `block_size` < 1, or `x` is not finite.

    Example:
      >>> nearest_neighbours(jnp.array([0.0, 1.0, 5.0, 5.5])).tolist()
      [1, 0, 3, 2]
    """
    checks.check_count("number of examples", len(x), at_least=2)
    checks.check_count("block_size", block_size)
    checks.check_finite("x", x)
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    flat = flat - flat.mean(axis=0)
    # In double precision: a difference of squares loses the digits that they have in common.
    with jax.enable_x64(True):
        return _nearest(flat, min(block_size, len(flat)))


@functools.partial(jax.jit, static_argnums=1)
def _nearest(flat: Array, block_size: int) -> Array:
    squares = jnp.sum(jnp.square(flat), -1)

    def nearest(index: Array) -> Array:
        # Without the example's own square, which is the same for all others.
        distances = squares - 2 * (flat @ flat[index])
        return jnp.argmin(distances.at[index].set(jnp.inf)).astype(jnp.int32)

    return jax.lax.map(nearest, jnp.arange(len(flat)), batch_size=block_size)
