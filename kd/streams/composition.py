"""Streams made from streams."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Batch, Key, PyTree, Stream


def map_batch(fn: Callable[[Batch], Batch], stream: Stream) -> Stream:
    """The stream with `fn` applied to every batch.

    Args:
      fn: a pure, traceable function of a whole batch.
      stream: the stream whose batches it takes.
    """

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        state, batch = stream.next(key, state)
        return state, fn(batch)

    return Stream(stream.init, next_)


def with_signs(stream: Stream, *, num_projections: int, num_classes: int) -> Stream:
    """Adds fresh random signs `"signs"`, `[B, P, C]`: the randomness of a projected loss.

    An `Update` is deterministic, so what a loss draws comes with the batch.

    Args:
      stream: batches with inputs under `"x"`.
      num_projections: P.
      num_classes: C.

    Raises:
      ValueError: if a count is not positive.
    """
    checks.check_count("num_projections", num_projections)
    checks.check_count("num_classes", num_classes)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, sign_key = jax.random.split(key)
        state, batch = stream.next(stream_key, state)
        shape = (len(batch["x"]), num_projections, num_classes)
        return state, {**batch, "signs": jax.random.rademacher(sign_key, shape, jnp.float32)}

    return Stream(stream.init, next_)
