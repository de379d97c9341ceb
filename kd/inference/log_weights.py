"""Log-weights of samples: the user's functions, evaluated on the device in bounded memory."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.inference.partition import (
    EXCLUDED_BY_PROPOSAL,
    EXCLUDED_BY_TARGET,
    refuse_infinite,
    refuse_nan,
)
from kd.types import Array, Key


class Proposal(NamedTuple):
    """A tractable distribution.

    Attributes:
      log_prob: `log_prob(x [N, ...]) -> [N]`, nats, normalised.
      sample: `sample(key, num) -> [num, ...]`, exact and independent; of a NADE
        `lambda key, num: nade.sample(params, key, num)[0]`.

    Both are compiled. They are compiled once if the same function objects are given again.
    """

    log_prob: Callable[[Array], Array]
    sample: Callable[[Key, int], Array]


def proposal_log_weights(
    key: Key,
    log_potential_fn: Callable[[Array], Array],
    proposal: Proposal,
    num_samples: int,
    *,
    block_size: int = 1000,
) -> np.ndarray:
    r"""Log-weights :math:`\log \bar p(x) - \log q(x)`, in nats, of samples of the proposal.

    Samples are drawn, evaluated and dropped in blocks. The functions run on the device in
    the precision of their arguments, double with `jax.enable_x64`; only the difference is
    always double.

    Args:
      key: with `block_size`, decides the samples.
      log_potential_fn: `[B, ...] -> [B]`, :math:`\log \bar p`; minus infinity where p is 0.
      proposal: q.
      num_samples: N.
      block_size: B, samples held at a time.

    Returns:
      `[N]`, float64: for `kl_lower_bound`, `importance_sampling`, `bridge_sampling`.

    Raises:
      TypeError: if `key` is not one typed key.
      ValueError: if N or B < 1; or if a function's result is not `[B]`, NaN or infinity, or
        the proposal gives no `[B, ...]`, or its density is 0 at one of its own samples.

    Example:
      >>> from kd.inference import importance_sampling
      >>> def log_normal(x):
      ...     return -0.5 * x**2 - 0.5 * jnp.log(2 * jnp.pi)
      >>> normal = Proposal(log_normal, lambda key, num: jax.random.normal(key, (num,)))
      >>> weights = proposal_log_weights(
      ...     jax.random.key(0), lambda x: log_normal(x) + 5.0, normal, 100
      ... )
      >>> print(f"{importance_sampling(weights).value:.4f}")
      5.0000
    """
    checks.check_key("key", key)
    checks.check_count("num_samples", num_samples)
    checks.check_count("block_size", block_size)
    size = min(block_size, num_samples)
    sample_fn = jax.jit(proposal.sample, static_argnums=1)
    blocks = []
    for index in range(-(-num_samples // size)):
        x = sample_fn(jax.random.fold_in(key, index), size)
        if not isinstance(x, jax.Array) or x.shape[:1] != (size,):
            found = getattr(x, "shape", type(x).__name__)
            raise ValueError(f"proposal.sample must give an array [{size}, ...], got {found}.")
        potential, log_prob = _evaluate(log_potential_fn, proposal, x, size)
        refuse_infinite("proposal.log_prob", log_prob, -np.inf, EXCLUDED_BY_PROPOSAL)
        blocks.append(potential - log_prob)
    return np.concatenate(blocks)[:num_samples]


def target_log_weights(
    log_potential_fn: Callable[[Array], Array],
    proposal: Proposal,
    samples: Array,
    *,
    block_size: int = 1000,
) -> np.ndarray:
    r"""Log-weights :math:`\log \bar p(x) - \log q(x)`, in nats, of samples of the target.

    Args:
      log_potential_fn, proposal, block_size: as for `proposal_log_weights`.
      samples: `[N, ...]`, of the target: of a Markov chain, thinned until they are all but
        independent, for the standard errors take them as such.

    Returns:
      `[N]`, float64: for `kl_upper_bound`, `bridge_sampling`. Infinity where q is 0.

    Raises:
      ValueError: if there is no sample, or B < 1; or if a function's result is not `[B]`,
        NaN or infinity, or the target's density is 0 at one of its own samples.

    Example:
      >>> uniform = Proposal(lambda x: jnp.zeros(len(x)), lambda key, num: jnp.zeros(num))
      >>> target_log_weights(lambda x: 2.0 * x, uniform, jnp.array([0.0, 0.5, 1.0]))
      array([0., 1., 2.])
    """
    checks.check_count("block_size", block_size)
    num_samples = checks.check_same_length("samples", samples)
    size = min(block_size, num_samples)
    blocks = []
    for start in range(0, num_samples, size):
        # The last block is filled up from before its start: one shape is one compilation.
        first = min(start, num_samples - size)
        block = jnp.asarray(samples[first : first + size])
        potential, log_prob = _evaluate(log_potential_fn, proposal, block, size)
        refuse_infinite("log_potential_fn", potential, -np.inf, EXCLUDED_BY_TARGET)
        blocks.append((potential - log_prob)[start - first :])
    return np.concatenate(blocks)


def _evaluate(
    log_potential_fn: Callable[[Array], Array], proposal: Proposal, x: Array, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both log-densities of one block, in double precision."""
    found = []
    for name, fn in (
        ("log_potential_fn", log_potential_fn),
        ("proposal.log_prob", proposal.log_prob),
    ):
        value = np.asarray(jax.jit(fn)(x), np.float64)
        if value.shape != (size,):
            raise ValueError(f"{name} must give shape {(size,)}, got {value.shape}.")
        refuse_nan(name, value)
        refuse_infinite(name, value, np.inf, "a log-density must be below infinity")
        found.append(value)
    return found[0], found[1]
