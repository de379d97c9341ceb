"""Streams that draw many batches at once and hand them out one after another."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import cond_any
from kd.types import Array, Batch, Key, PyTree, Stream


class BlockState(NamedTuple):
    """Where a stream of blocks stands.

    Attributes:
      source: state of what the blocks are drawn from.
      block: batches already drawn, each leaf `[num_batches, B, ...]`.
      position: the next batch of the block; `num_batches` when it is used up.
    """

    source: PyTree
    block: Batch
    position: Array


def blocks(
    init_fn: Callable[[Key], PyTree],
    draw_fn: Callable[[Key, PyTree], tuple[PyTree, Batch]],
    *,
    num_batches: int,
) -> Stream:
    """A stream whose batches are drawn `num_batches` at a time.

    For sources that give many batches for little more than one. Only one block is ever
    held, and it travels in the state.

    Args:
      init_fn: key to the state of the source.
      draw_fn: `(key, state) -> (state, block)`, each leaf of the block
        `[num_batches, B, ...]`.
      num_batches: batches a block.

    Returns:
      A stream of batches, each leaf `[B, ...]`. Under `vmap` the block is drawn when any
      member of the batch needs it.

    Raises:
      ValueError: if `num_batches` < 1; by `init` if a block has another length.

    Example:
      >>> stream = blocks(
      ...     lambda key: (), lambda key, state: (state, {"x": jax.random.normal(key, (3, 2))}),
      ...     num_batches=3)
      >>> state, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["x"].shape
      (2,)
    """
    checks.check_count("num_batches", num_batches)

    def init(key: Key) -> BlockState:
        source = init_fn(key)
        _, shapes = jax.eval_shape(draw_fn, key, source)
        lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(shapes)}
        if lengths != {(num_batches,)}:
            raise ValueError(f"a block must hold num_batches = {num_batches}, got {lengths}.")
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return BlockState(source, empty, jnp.array(num_batches, jnp.int32))

    def next_(key: Key, state: BlockState) -> tuple[BlockState, Batch]:
        def refill(carry: tuple[Key, BlockState]) -> tuple[Key, BlockState]:
            key, state = carry
            source, block = draw_fn(key, state.source)
            return key, BlockState(source, block, jnp.zeros_like(state.position))

        _, state = cond_any(state.position >= num_batches, refill, (key, state))
        batch = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, state.position, keepdims=False),
            state.block,
        )
        return state._replace(position=state.position + 1), batch

    return Stream(init, next_)
