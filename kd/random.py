r"""Fast random numbers for samplers: hashed counters, pure functions of a key.

`jax.random` spends more on its random bits than a Gibbs sampler spends on its matrix
products. Here each number is a hash of its index and of two words drawn from the key
with `jax.random.bits`: a few integer operations, no state, and the same numbers on every
device. They pass the tests of equidistribution and correlation in `tests/test_random.py`;
they are not cryptographic, and one key gives at most 2**32 of them.

Every function has the signature of its namesake in `jax.random`, so that either can be
given to a sampler.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.types import Array, Key

WEYL = np.uint32(0x9E3779B9)
# Multipliers of two rounds of xor-shift-multiply with low bias (Wellons, "Hash function
# prospector", 2018, and its later search).
ROUNDS = (
    (16, np.uint32(0x21F0AAAD), 15, np.uint32(0xD35A2D97), 15),
    (16, np.uint32(0x7FEB352D), 15, np.uint32(0x846CA68B), 16),
)


def bits(key: Key, shape: Sequence[int] = ()) -> Array:
    """Uniform 32-bit integers.

    Args:
      key: one typed key.
      shape: of the result, of at most 2**32 entries.

    Returns:
      uint32, `[*shape]`.

    Raises:
      TypeError: if the key is not one typed key.
      ValueError: if there are more than 2**32 entries.

    Example:
      >>> bits(jax.random.key(0), (2, 3)).dtype
      dtype('uint32')
    """
    checks.check_key("key", key)
    size = math.prod(shape)
    if size > 2**32:
        raise ValueError(f"shape must have at most 2**32 entries, got {tuple(shape)}.")
    # Two words: with one, two keys would give the same sequence at another offset.
    offset, tweak = jax.random.bits(key, (2,), jnp.uint32)
    state = jax.lax.iota(jnp.uint32, size) * WEYL + offset
    state = _mix(_mix(state, *ROUNDS[0]) ^ tweak, *ROUNDS[1])
    return state.reshape(shape)


def uniform(key: Key, shape: Sequence[int] = ()) -> Array:
    """Uniform numbers in [0, 1), multiples of 2**-24, float32.

    Args:
      key, shape: as for `bits`.

    Raises:
      TypeError, ValueError: as `bits`.

    Example:
      >>> u = uniform(jax.random.key(0), (1000,))
      >>> bool(jnp.all((u >= 0) & (u < 1)))
      True
    """
    # Via int32: the conversion of unsigned integers is slow on CPUs.
    return (bits(key, shape) >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)


def normal(key: Key, shape: Sequence[int] = ()) -> Array:
    """Standard normal numbers, float32, by the inverse of their distribution function.

    Args:
      key, shape: as for `bits`.

    Raises:
      TypeError, ValueError: as `bits`.

    Example:
      >>> normal(jax.random.key(0), (2,)).shape
      (2,)
    """
    # Odd multiples of 2**-24 in (-1, 1): symmetric, and never at the ends.
    centred = (bits(key, shape) >> 8).astype(jnp.int32).astype(jnp.float32) - np.float32(2**23)
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv((centred + 0.5) * np.float32(2**-23))


def _mix(state: Array, *round_: int | np.uint32) -> Array:
    first, one, second, two, third = round_
    state = (state ^ (state >> first)) * one
    state = (state ^ (state >> second)) * two
    return state ^ (state >> third)
