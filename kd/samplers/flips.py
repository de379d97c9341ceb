"""Metropolis flips of single bits, for any distribution over zeros and ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.samplers.base import check_start
from kd.types import Array, Key, Sampler


class FlipState(NamedTuple):
    """Where a chain of flips stands.

    Attributes:
      position: `[I]`, zeros and ones.
      log_density: there, in nats.
    """

    position: Array
    log_density: Array


class FlipInfo(NamedTuple):
    """What a step of flips did.

    Attributes:
      num_accepted: flips made, of `num_flips` proposed, int32.
    """

    num_accepted: Array


def bit_flips(log_density_fn: Callable[[Array], Array], *, num_flips: int) -> Sampler:
    r"""A reversible kernel on binary vectors: single bits, drawn at random, flipped or not.

    .. math:: p(\text{flip } i) = \frac{1}{I} \min\Big(1, \frac{\bar p(x^{(i)})}{\bar p(x)}\Big)

    Args:
      log_density_fn: `[I]`, zeros and ones, to its log-density in nats, up to a constant.
      num_flips: proposed in a step.

    Returns:
      A `Sampler` whose state is a `FlipState`; `step` also returns `FlipInfo`.

    Raises:
      ValueError: if `num_flips` < 1; by `init`, if the position is no vector of zeros and
        ones, or its log-density no scalar or not finite.

    Example:
      >>> sampler = bit_flips(lambda x: jnp.sum(x), num_flips=10)
      >>> state, info = sampler.step(jax.random.key(0), sampler.init(jnp.zeros(4)))
      >>> state.position.shape, bool(info.num_accepted <= 10)
      ((4,), True)

    Reference:
      Metropolis et al. (1953), "Equation of state calculations by fast computing machines".
    """
    checks.check_count("num_flips", num_flips)

    def init(position: Array, key: Key | None = None) -> FlipState:
        del key  # Nothing in the start is random.
        checks.check_rank("position", position, 1)
        checks.check_binary("position", position)
        position = jnp.asarray(position, jnp.result_type(float))
        log_density = jnp.asarray(log_density_fn(position))
        checks.check_rank("log_density_fn(position)", log_density, 0)
        state = FlipState(position, log_density)
        check_start(state)
        return state

    def step(key: Key, state: FlipState) -> tuple[FlipState, FlipInfo]:
        size = state.position.size
        index_key, accept_key = jax.random.split(key)
        indices = jax.random.randint(index_key, (num_flips,), 0, size)
        log_numbers = jnp.log1p(-jax.random.uniform(accept_key, (num_flips,)))

        def flip(state: FlipState, inputs: tuple[Array, Array]) -> tuple[FlipState, Array]:
            index, log_number = inputs
            moved = jnp.where(jnp.arange(size) == index, 1 - state.position, state.position)
            log_density = log_density_fn(moved)
            is_accepted = log_number < log_density - state.log_density
            new = FlipState(moved, log_density)
            return jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), new, state), is_accepted

        state, is_accepted = jax.lax.scan(flip, state, (indices, log_numbers))
        return state, FlipInfo(jnp.sum(is_accepted, dtype=jnp.int32))

    return Sampler(init, step)
