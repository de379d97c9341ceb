"""Streams of the states of simulated Markov chains: nothing is stored but where they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array, Batch, Key, PyTree, Sampler, Stream


class ChainsState(NamedTuple):
    """Where the chains are.

    Attributes:
      chains: the sampler's state, a leading axis of chains on every leaf.
      turn: which batch of chains is handed out next.
    """

    chains: PyTree
    turn: Array


def parallel_chains(
    sampler: Sampler,
    init_fn: Callable[[Key], PyTree],
    *,
    num_chains: int,
    batch_size: int,
    burn_in: int = 0,
) -> Stream:
    """Chains side by side: all make a step a batch, and take turns in being handed out.

    A batch holds the next `batch_size` chains in order, so that its members are
    independent, and a chain makes `num_chains / batch_size` steps between two turns.

    Args:
      sampler: of one step for all chains: its state has a leading axis of chains.
      init_fn: key to the positions of all chains, `[num_chains, ...]`.
      num_chains: C.
      batch_size: B, a divisor of C.
      burn_in: steps made by `init`, before the first batch.

    Returns:
      A stream of batches `{"x": state}`, each leaf `[B, ...]`.

    Raises:
      ValueError: if a count is out of range or B does not divide C; by `init` if the
        positions are not C.

    Example:
      >>> from kd.models import RBM
      >>> from kd.samplers import block_gibbs
      >>> rbm = RBM(num_visible=3, num_hidden=2)
      >>> params = rbm.init(jax.random.key(0), jnp.zeros(3))
      >>> stream = parallel_chains(
      ...     block_gibbs(rbm, params),
      ...     lambda key: jax.random.bernoulli(key, 0.5, (100, 3)),
      ...     num_chains=100, batch_size=20, burn_in=10)
      >>> state, batch = stream.next(jax.random.key(2), stream.init(jax.random.key(1)))
      >>> batch["x"].shape
      (20, 3)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", section 4.2.3, with C = 2,000,
      B = 20 and a burn-in of 2,000 from independent fair coins.
    """
    checks.check_count("num_chains", num_chains)
    checks.check_count("batch_size", batch_size, at_most=num_chains)
    checks.check_count("burn_in", burn_in, at_least=0)
    if num_chains % batch_size:
        raise ValueError(f"batch_size must divide num_chains, got {batch_size} and {num_chains}.")

    def init(key: Key) -> ChainsState:
        init_key, step_key = jax.random.split(key)
        chains = sampler.init(init_fn(init_key))
        if checks.check_same_length("the chains' state", chains) != num_chains:
            raise ValueError(f"init_fn must give num_chains = {num_chains} positions.")
        chains = jax.lax.fori_loop(
            0,
            burn_in,
            lambda i, chains: sampler.step(jax.random.fold_in(step_key, i), chains)[0],
            chains,
        )
        return ChainsState(chains, jnp.zeros((), jnp.int32))

    def next_(key: Key, state: ChainsState) -> tuple[ChainsState, Batch]:
        chains, _ = sampler.step(key, state.chains)
        batch = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, state.turn * batch_size, batch_size),
            chains,
        )
        turn = (state.turn + 1) % (num_chains // batch_size)
        return ChainsState(chains, turn), {"x": batch}

    return Stream(init, next_)
