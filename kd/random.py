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
# Of least largest error (weighted least squares, reweighted until it is even): log(1 + m) / m
# for 1 + m from sqrt(1/2) to sqrt(2), and R of `normal` in powers of its argument less a centre.
LOG1P = (
    0.11827461421489716,
    -0.18901975452899933,
    0.20604677498340607,
    -0.24881340563297272,
    0.3330329656600952,
    -0.5000196695327759,
    1.0000032186508179,
)
LOG_2, ROOT_HALF = np.float32(math.log(2)), np.int32(0x3F3504F3)  # The bits of sqrt(1/2).
QUANTILE = (
    -0.0014444204280152917,
    0.0013092757435515523,
    0.006807132624089718,
    -0.01094180066138506,
    -0.003927144687622786,
    0.02644377388060093,
    -0.03878507390618324,
    0.02883402816951275,
    0.018469372764229774,
    -0.12969157099723816,
    1.8251549005508423,
    3.5726146697998047,
)
QUANTILE_SHIFT, QUANTILE_CENTRE = np.float32(5), np.float32(3.5)


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
    r"""Standard normal numbers, float32, by the inverse of their distribution function.

    Each is within 3e-6 of the exact quantile of its 24-bit uniform number, and none
    is beyond 5.42.

    .. math::
       z = \Phi^{-1}\Big(\frac{1 + x}{2}\Big) = x R\big(\sqrt{c - \log(1 - x^2)}\big),
       \qquad x \in (-1, 1)

    with a polynomial R: the square root makes the tails nearly linear, so that one
    polynomial serves all of them and nothing branches.

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
    x = (centred + 0.5) * np.float32(2**-23)
    root = jnp.sqrt(QUANTILE_SHIFT - _log((1 - x) * (1 + x)))
    return x * _polynomial(QUANTILE, root - QUANTILE_CENTRE)


def _log(v: Array) -> Array:
    """Natural logarithm of float32 numbers > 0 that are not denormal; XLA's own is slower."""
    bits = jax.lax.bitcast_convert_type(v, jnp.int32)
    exponent = (bits - ROOT_HALF) >> 23
    mantissa = jax.lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1
    return mantissa * _polynomial(LOG1P, mantissa) + exponent.astype(jnp.float32) * LOG_2


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """Horner's rule, the highest power first."""
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value


def _mix(state: Array, *round_: int | np.uint32) -> Array:
    first, one, second, two, third = round_
    state = (state ^ (state >> first)) * one
    state = (state ^ (state >> second)) * two
    return state ^ (state >> third)
