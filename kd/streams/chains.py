"""Streams of the states of simulated Markov chains: nothing is stored but where they are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import over_replicas
from kd.samplers.base import check_sampler, check_start, fold_in_range, keep_steps, merge_chains
from kd.streams.resampling import resample
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


class ChainState(NamedTuple):
    """Where a chain, or several, stand.

    Attributes:
      sampler: the sampler's state; of several chains with a leading axis.
    """

    sampler: PyTree


def chain(
    sampler: Sampler,
    position: PyTree,
    *,
    batch_size: int,
    burn_in: int = 0,
    thin: int = 1,
    num_chains: int | None = None,
    name: str = "x",
    method: str = "auto",
) -> Stream:
    """The positions of a Markov chain as it goes: `fit` over it is online distillation.

    Nothing is stored but where the chain is. A batch holds `batch_size` successive kept
    positions; of C chains, `batch_size / C` of each, chain by chain.

    Args:
      sampler: of one chain.
      position: where it starts; with `num_chains` a leading axis C on every leaf.
      batch_size: B, a multiple of C.
      burn_in: steps made by `init`, before the first batch.
      thin: steps a kept position.
      num_chains: C independent chains; one without an axis if None.
      name: the key of the positions in a batch.
      method: how several chains run, see `kd.batching.over_replicas`.

    Returns:
      A stream of batches `{name: positions, "info": infos}`, each leaf `[B, ...]`; the infos are
      of the step that led to each position.

    Raises:
      TypeError: if `sampler` is something else.
      ValueError: if a count is out of range, C does not divide B, the starts are not C, the
        name is "info", or the log-density at a start is not finite.

    Example:
      >>> from kd.samplers import slice_sampler
      >>> normal = slice_sampler(lambda x: -0.5 * x**2, width=2.0)
      >>> stream = chain(normal, jnp.zeros(2), batch_size=10, burn_in=20, num_chains=2, name="w")
      >>> state, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["w"].shape
      (10,)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", sections 3.2.2 and 3.3.3.
    """
    check_sampler(sampler)
    size = 1 if num_chains is None else num_chains
    checks.check_count("num_chains", size)
    checks.check_count("batch_size", batch_size)
    checks.check_count("burn_in", burn_in, at_least=0)
    checks.check_count("thin", thin)
    if batch_size % size:
        raise ValueError(f"num_chains must divide batch_size, got {size} and {batch_size}.")
    checks.check_type("name", name, str)
    if name == "info":
        raise ValueError("name must not be 'info', which the infos have.")
    if num_chains is not None and checks.check_same_length("position", position) != size:
        raise ValueError(f"position must have a leading axis of num_chains = {size}.")

    def over_chains(fn, *inputs: PyTree) -> PyTree:
        if num_chains is None:
            return fn(*inputs)
        return over_replicas(lambda inputs: fn(*inputs), method)(inputs)

    def keys_of(key: Key) -> Key:
        return key if num_chains is None else jax.random.split(key, size)

    def start(key: Key, position: PyTree) -> PyTree:
        return sampler.init(position, key)

    def burn(key: Key, state: PyTree) -> PyTree:
        return jax.lax.fori_loop(
            0,
            burn_in,
            lambda i, state: sampler.step(jax.random.fold_in(key, i), state)[0],
            state,
        )

    def init(key: Key) -> ChainState:
        init_key, burn_in_key = jax.random.split(key)
        state = over_chains(start, keys_of(init_key), position)
        return ChainState(over_chains(burn, keys_of(burn_in_key), state))

    def advance(key: Key, state: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        return keep_steps(sampler, fold_in_range(key, batch_size // size), state, thin)

    def next_(key: Key, state: ChainState) -> tuple[ChainState, Batch]:
        moved, kept = over_chains(advance, keys_of(key), state.sampler)
        if num_chains is not None:
            kept = jax.tree.map(lambda leaf: leaf.reshape(batch_size, *leaf.shape[2:]), kept)
        return ChainState(moved), {name: kept[0], "info": kept[1]}

    # Under `fit` it is traced, and could not be refused.
    check_start(over_chains(start, keys_of(jax.random.key(0)), position))
    return Stream(init, next_)


def bag(
    position: PyTree,
    batch_size: int,
    *,
    num_chains: int | None = None,
    name: str = "x",
    replace: bool = False,
) -> Stream:
    """Samples that were stored, drawn again in random order: batch distillation.

    Where a sampler is wanted, as by `posterior_expectations`, there is `kd.samplers.from_draws`.

    Args:
      position: of `kd.samplers.sample`, of numpyro's `mcmc.get_samples()`, or any other: each
        leaf `[S, ...]`; with `num_chains` `[C, S, ...]`.
      batch_size: B; at most all samples together when `replace` is false.
      num_chains: C, whose samples are put together; None where there is no such axis.
      name: their key in a batch.
      replace: see `resample`.

    Returns:
      A stream of batches `{name: positions}`, each leaf `[B, ...]`.

    Raises:
      ValueError: as `resample`, or if the leading axis is not C.

    Example:
      >>> stream = bag({"w": jnp.arange(6.0).reshape(2, 3)}, 6, num_chains=2, name="posterior")
      >>> _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(1)))
      >>> sorted(batch["posterior"]["w"].tolist())
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", sections 3.2.1 and 3.3.2.
    """
    return resample({name: merge_chains(position, num_chains)}, batch_size, replace=replace)
