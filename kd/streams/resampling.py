"""Streams over a data set held in memory.

A data set is a dictionary of arrays with one common leading length N. The arrays are
captured by the stream, not carried in its state: a checkpoint holds only where in the
data the stream is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import cond_any, take_rows
from kd.types import Array, Batch, Key, PyTree, Stream


class EpochState(NamedTuple):
    """Where a stream without replacement stands.

    Attributes:
      key: decides every permutation: that of epoch e is drawn with `fold_in(key, e)`.
      epoch: the number of the epoch that `order` begins with.
      position: of the next example within that epoch, in [0, N).
      order: `[2N]`, the permutations of this epoch and the next, so that a batch may
        reach over the end of an epoch and every example is still seen once in each.
    """

    key: Key
    epoch: Array
    position: Array
    order: Array


def resample(data: Batch, batch_size: int, *, replace: bool = False) -> Stream:
    r"""Minibatches of a data set, :math:`p(x) = \frac{1}{N} \sum_n \delta(x - x_n)`.

    Args:
      data: arrays of one common leading length N.
      batch_size: B; at most N when `replace` is false.
      replace: whether each example is drawn independently (with replacement). If not,
        the stream goes through one random permutation of the data after another: each
        example once an epoch, also where B does not divide N.

    Returns:
      A stream of batches with the keys of `data`, each leaf `[B, ...]`.

    Raises:
      ValueError: if the arrays differ in length, or B is out of range.

    Example:
      >>> stream = resample({"x": jnp.arange(4)}, 2)
      >>> state = stream.init(jax.random.key(0))
      >>> state, first = stream.next(jax.random.key(1), state)
      >>> state, second = stream.next(jax.random.key(2), state)
      >>> sorted(first["x"].tolist() + second["x"].tolist())
      [0, 1, 2, 3]

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", section 2.2.3; (2.21) is the
      law with replacement, the thesis itself used none.
    """
    num_examples = checks.check_same_length("data", data)
    checks.check_numeric("data", data)
    if not replace:
        return _epochs(data, batch_size, lambda key: jnp.arange(num_examples))
    checks.check_count("batch_size", batch_size)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        return state, take_rows(data, jax.random.randint(key, (batch_size,), 0, num_examples))

    return Stream(lambda key: (), next_)


def bootstrap(data: Batch, batch_size: int) -> Stream:
    """Epochs over one bootstrap resample of a data set: N examples drawn with replacement.

    The resample is drawn by `init` from its key and then gone through without
    replacement, a new permutation an epoch.

    Args:
      data: arrays of one common leading length N.
      batch_size: B <= N.

    Returns:
      A stream of batches with the keys of `data`, each leaf `[B, ...]`.

    Raises:
      ValueError: as `resample`.

    Reference:
      Papamakarios (2015), section 2.2.1.
    """
    num_examples = checks.check_same_length("data", data)
    checks.check_numeric("data", data)
    # Epochs use fold_in(key, 0), fold_in(key, 1), ...: the last number is never one.
    last = jnp.iinfo(jnp.int32).max

    def members(key: Key) -> Array:
        return jax.random.randint(jax.random.fold_in(key, last), (num_examples,), 0, num_examples)

    return _epochs(data, batch_size, members)


def _epochs(data: Batch, batch_size: int, members_fn) -> Stream:
    num_examples = checks.check_same_length("data", data)
    checks.check_count("batch_size", batch_size, at_most=num_examples)

    def permutation(key: Key, epoch: Array) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), members_fn(key))

    def init(key: Key) -> EpochState:
        zero = jnp.zeros((), jnp.int32)
        order = jnp.concatenate([permutation(key, zero), permutation(key, zero + 1)])
        return EpochState(key, zero, zero, order)

    def turn_over(state: EpochState) -> EpochState:
        epoch = state.epoch + 1
        order = jnp.concatenate([state.order[num_examples:], permutation(state.key, epoch + 1)])
        return EpochState(state.key, epoch, state.position - num_examples, order)

    def next_(key: Key, state: EpochState) -> tuple[EpochState, Batch]:
        del key  # The order is decided by the key given to `init`.
        index = jax.lax.dynamic_slice(state.order, (state.position,), (batch_size,))
        state = state._replace(position=state.position + batch_size)
        return cond_any(state.position >= num_examples, turn_over, state), take_rows(data, index)

    return Stream(init, next_)
