"""Dense layers at every position of a sequence or a map, fast under `vmap`."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from kd.batching import with_batched
from kd.types import Array

Dimensions = tuple[tuple[Any, Any], tuple[Any, Any]]


def flat_dot_general(
    left: Array, right: Array, dimension_numbers: Dimensions, **options: Any
) -> Array:
    """`jax.lax.dot_general` for flax's layers, as a product of two matrices under `vmap` too.

    A layer at L positions of B inputs contracts both of them in the gradient of its weights. XLA
    transposes that for long on a CPU: of one matrix `[B L, D]` the same gradient takes from a half
    to a tenth of the time.

    Args:
      left: what the layer is given; contracted along its last axes.
      right: its weights, contracted along the first.
      dimension_numbers: contracted axes, in order; no batch axes.
      **options: as of `dot_general`.

    Returns:
      As `dot_general`. A `vmap` over `left` alone makes one matrix of the batch and its positions;
      any other is XLA's own.

    Example:
      >>> import flax.linen as nn
      >>> layer = nn.Dense(3, dot_general=flat_dot_general)
      >>> params = layer.init(jax.random.key(0), jnp.ones((4, 2)))
      >>> jax.vmap(lambda x: layer.apply(params, x))(jnp.ones((5, 4, 2))).shape
      (5, 4, 3)
    """
    (axes, others), batch = dimension_numbers
    count = len(axes)
    in_order = tuple(axes) == tuple(range(left.ndim - count, left.ndim)) and tuple(others) == tuple(
        range(count)
    )
    if not in_order or any(batch):
        return jax.lax.dot_general(left, right, dimension_numbers, **options)

    def product(left: Array, right: Array) -> Array:
        size = math.prod(right.shape[:count])
        lead, rest = left.shape[: left.ndim - count], right.shape[count:]
        found = jax.lax.dot_general(
            left.reshape(-1, size), right.reshape(size, -1), (((1,), (0,)), ((), ())), **options
        )
        return jnp.reshape(found, (*lead, *rest))

    return with_batched(product, product, axis=0)(left, right)
