"""A teacher's values and input derivatives, added to a stream or to a whole data set."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kd import checks
from kd.derivatives import value_and_input_jacobian
from kd.hoisting import hoisted_jit
from kd.streams.blocks import blocks
from kd.types import Array, Batch, Key, LogProbFn, PyTree, Stream

JACOBIAN, PROJECTED = "jacobian", "projected"
DERIVATIVES = (None, JACOBIAN, PROJECTED)


class CacheTooLargeError(ValueError):
    """Labels of a data set would take more memory than allowed."""


def label(
    stream: Stream,
    teacher_fn: LogProbFn,
    *,
    derivatives: str | None = None,
    num_batches: int = 1,
) -> Stream:
    """Adds the teacher's log-probabilities, and its input derivatives if asked for.

    The teacher is asked for `num_batches` minibatches at once: a large teacher reads
    all its weights for every question, so twenty examples cost little less than
    hundreds (`kd.streams.blocks`).

    Args:
      stream: batches with inputs under `"x"`, `[B, ...]`; for "projected" also
        `"signs"`, `[B, P, C]` (`with_signs`).
      teacher_fn: one input to log-probabilities `[C]`, nats.
      derivatives: None; "jacobian" adds `"teacher_jacobian"`, `[B, C, ...]`;
        "projected" adds `"teacher_vjps"`, `[B, P, ...]`.
      num_batches: minibatches a block.

    Returns:
      A stream of batches of the same law (the same batches where the key given to
      `next` decides nothing, as in epochs) with `"teacher_log_probs"`, `[B, C]`, and the
      derivatives. No gradient flows into a teacher; a stream is not for reverse-mode
      differentiation.

    Raises:
      ValueError: if `derivatives` is another word or `num_batches` < 1; (when traced) if the
        teacher's answers are not `[C]`, or a batch has no inputs.
      TypeError: (when traced) if the teacher is not differentiable and derivatives are asked for.
    """
    checks.check_choice("derivatives", derivatives, DERIVATIVES)
    checks.check_count("num_batches", num_batches)
    answer_fn = jax.vmap(_labeller(teacher_fn, derivatives))
    asked = ("x", "signs") if derivatives == PROJECTED else ("x",)
    # What else is in a batch need not be of its inputs, one by one.
    return _labelled(
        stream, lambda batch: answer_fn({name: batch[name] for name in asked}), num_batches
    )


def label_features(
    stream: Stream,
    features_fn: Callable[[Array], PyTree],
    *,
    name: str = "teacher_features",
    num_batches: int = 1,
) -> Stream:
    """Adds what a teacher's layers say: for `kd.losses.features`.

    Args:
      stream: batches with inputs under `"x"`, `[B, ...]`.
      features_fn: one input to features, arrays by name: `kd.models.features_of` with the
        teacher's parameters.
      name: of the entry in a batch.
      num_batches: minibatches that the teacher is asked for at once, as of `label`.

    Returns:
      A stream of batches with the features, each `[B, ...]`. No gradient flows into a teacher; a
      stream is not for reverse-mode differentiation.

    Raises:
      ValueError: if `num_batches` < 1; (when traced) if a batch has that entry already, or
        no inputs, or there are no features.

    Example:
      >>> from kd import models, streams
      >>> teacher = models.MLP((5,), 3)
      >>> params = teacher.init(jax.random.key(0), jnp.zeros(2))
      >>> features_fn = models.features_of(teacher, ["hidden_0"])
      >>> stream = label_features(
      ...     streams.gaussian_noise((2,), 4), lambda x: features_fn(params, x))
      >>> _, batch = stream.next(jax.random.key(2), stream.init(jax.random.key(1)))
      >>> batch["teacher_features"]["hidden_0"].shape
      (4, 5)
    """
    checks.check_count("num_batches", num_batches)

    def answer(batch: Batch) -> Batch:
        _check_new(name, batch)
        found = jax.vmap(lambda x: jax.lax.stop_gradient(features_fn(x)))(batch["x"])
        if not jax.tree.leaves(found):
            raise ValueError("features_fn returns no array.")
        return {name: found}

    return _labelled(stream, answer, num_batches)


def _check_new(name: str, batch: Batch) -> None:
    if name in batch:
        raise ValueError(f"there is {name!r} in a batch already.")


def _labelled(stream: Stream, answer_fn: Callable[[Batch], Batch], num_batches: int) -> Stream:
    """The stream with answers to a batch, asked for several batches at once."""

    def draw(key: Key, stream_state: PyTree) -> tuple[PyTree, Batch]:
        keys = jax.random.split(key, num_batches)
        stream_state, block = jax.lax.scan(
            lambda state, key: stream.next(key, state), stream_state, keys
        )
        batch_size = checks.entry_of(block, "x").shape[1]
        # A number of the batch itself is not of its inputs.
        flat = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]) if leaf.ndim > 1 else leaf, block
        )
        labels = answer_fn(flat)
        labels = jax.tree.map(
            lambda leaf: leaf.reshape(num_batches, batch_size, *leaf.shape[1:]), labels
        )
        return stream_state, {**block, **labels}

    return blocks(stream.init, draw, num_batches=num_batches)


def features_dataset(
    data: Batch,
    features_fn: Callable[[Array], PyTree],
    *,
    name: str = "teacher_features",
    block_size: int = 400,
    max_bytes: float | None = None,
) -> Batch:
    """A data set with what a teacher's layers say, computed once: where no input is altered.

    Args:
      data: arrays of one common leading length N, inputs under `"x"`.
      features_fn: one input to features, arrays by name.
      name: of the entry.
      block_size: examples a question to the teacher.
      max_bytes: refuse to take more memory than this for the features.

    Returns:
      `data` with the features, each `[N, ...]`. No gradient flows into a teacher.

    Raises:
      CacheTooLargeError: before anything is computed, with both numbers.
      ValueError: if `block_size` < 1, `data` has that entry already, or features are not finite.
      TypeError: if `data` is no such dictionary.

    Example:
      >>> data = {"x": jnp.arange(6.0).reshape(3, 2)}
      >>> features_dataset(data, lambda x: {"sum": jnp.sum(x)})["teacher_features"]["sum"].tolist()
      [1.0, 5.0, 9.0]
    """
    answer_fn = lambda example: {  # noqa: E731
        name: jax.lax.stop_gradient(features_fn(example["x"]))
    }
    if isinstance(data, dict):
        _check_new(name, data)
    found = _answers(data, answer_fn, block_size=block_size, max_bytes=max_bytes, what="features")
    for path, leaf in jax.tree_util.tree_leaves_with_path(found[name]):
        checks.check_finite(f"the teacher's features{jax.tree_util.keystr(path)}", leaf)
    return {**data, **found}


def cache_bytes(data: Batch, teacher_fn: LogProbFn, *, derivatives: str | None = None) -> int:
    """Memory that `label_dataset` would take for the labels alone, in bytes."""
    checks.check_choice("derivatives", derivatives, (None, JACOBIAN))
    return _bytes_of(_shapes_of(data, _labeller(teacher_fn, derivatives)))


def label_dataset(
    data: Batch,
    teacher_fn: LogProbFn,
    *,
    derivatives: str | None = None,
    block_size: int = 400,
    max_bytes: int | None = None,
    on_block: Callable[[int], None] | None = None,
) -> Batch:
    """A data set with the teacher's values, and derivatives if asked for, computed once.

    Args:
      data: arrays of one common leading length N, inputs under `"x"`.
      teacher_fn: one input to log-probabilities `[C]`, nats.
      derivatives: None, or "jacobian" for `"teacher_jacobian"`, `[N, C, ...]`.
      block_size: examples a question to the teacher.
      max_bytes: refuse to take more memory than this for the labels.
      on_block: called with the number of examples labelled so far.

    Returns:
      `data` with `"teacher_log_probs"`, `[N, C]`, and the derivatives.

    Raises:
      CacheTooLargeError: before anything is computed, with both numbers.
      ValueError: if `derivatives` is another word, `block_size` < 1, or the answers are
        no log-probabilities `[C]` (their exponentials do not sum to 1).
      TypeError: if `data` is no such dictionary, or the teacher is not differentiable and
        derivatives are asked for.

    Example:
      >>> teacher_fn = lambda x: jax.nn.log_softmax(jnp.array([1.0, -1.0]) * x)
      >>> labelled = label_dataset({"x": jnp.zeros(3)}, teacher_fn, derivatives="jacobian")
      >>> {name: leaf.shape for name, leaf in sorted(labelled.items())}
      {'teacher_jacobian': (3, 2), 'teacher_log_probs': (3, 2), 'x': (3,)}
      >>> print(jnp.exp(labelled["teacher_log_probs"][0]))  # Probabilities, for cross_entropy.
      [0.5 0.5]
    """
    checks.check_choice("derivatives", derivatives, (None, JACOBIAN))
    labels = _answers(
        data,
        _labeller(teacher_fn, derivatives),
        block_size=block_size,
        max_bytes=max_bytes,
        what="labels",
        on_block=on_block,
    )
    _check_log_probs(labels["teacher_log_probs"])
    return {**data, **labels}


def _answers(
    data: Batch,
    answer_fn: Callable[[Batch], Batch],
    *,
    block_size: int,
    max_bytes: float | None,
    what: str,
    on_block: Callable[[int], None] | None = None,
) -> Batch:
    """Answers to all examples, block by block."""
    checks.check_count("block_size", block_size)
    shapes = _shapes_of(data, answer_fn)
    needed = _bytes_of(shapes)
    if max_bytes is not None and not needed <= max_bytes:
        raise CacheTooLargeError(
            f"the teacher's {what} would take {needed / 1e9:.3g} GB and "
            f"{max_bytes / 1e9:.3g} GB are allowed."
        )
    num_examples = checks.check_same_length("data", data)
    block_size = min(block_size, num_examples)

    def fill(answers: Batch, data: Batch, start: Array) -> Batch:
        block = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, block_size), data
        )
        return jax.tree.map(
            lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, start, 0),
            answers,
            jax.vmap(answer_fn)(block),
        )

    answers = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    fill = hoisted_jit(fill, answers, data, 0, donate_argnums=(0,))
    for start in range(0, num_examples, block_size):
        # The last block reaches back so that every block has one size.
        answers = fill(answers, data, min(start, num_examples - block_size))
        if on_block is not None:
            jax.block_until_ready(answers)
            on_block(min(start + block_size, num_examples))
    return answers


def _check_log_probs(log_probs: Array) -> None:
    if isinstance(log_probs, jax.core.Tracer):
        return
    sums = jnp.exp(jax.nn.logsumexp(log_probs.astype(jnp.float32), axis=-1))
    is_wrong = ~(jnp.abs(sums - 1) < checks.SUM_TOLERANCE)  # Negated: NaN is wrong.
    if jnp.any(is_wrong):
        index = int(jnp.argmax(is_wrong))
        raise ValueError(
            "teacher_fn must return log-probabilities; of example "
            f"{index} their exponentials sum to {float(sums[index]):.3g}."
        )


def _labeller(teacher_fn: LogProbFn, derivatives: str | None) -> Callable[[Batch], Batch]:
    """The labels of one example."""

    def answer(example: Batch) -> Batch:
        x = example["x"]
        shape = jax.eval_shape(teacher_fn, x).shape
        if len(shape) != 1:
            raise ValueError(
                f"teacher_fn must return log-probabilities [C], got shape {shape}; evaluate a "
                "log-density in the objective instead."
            )
        if derivatives == JACOBIAN:
            log_probs, jacobian = value_and_input_jacobian(teacher_fn, x)
            labels = {"teacher_log_probs": log_probs, "teacher_jacobian": jacobian}
        elif derivatives == PROJECTED:
            log_probs, pullback = jax.vjp(teacher_fn, x)
            (vjps,) = jax.vmap(pullback)(example["signs"].astype(log_probs.dtype))
            labels = {"teacher_log_probs": log_probs, "teacher_vjps": vjps}
        else:
            labels = {"teacher_log_probs": teacher_fn(x)}
        return jax.lax.stop_gradient(labels)

    return answer


def _shapes_of(data: Batch, answer_fn: Callable[[Batch], Batch]) -> Any:
    if not isinstance(data, dict) or "x" not in data:
        found = f"the keys {sorted(data)}" if isinstance(data, dict) else type(data).__name__
        raise TypeError(f"data must be a dictionary with the inputs under 'x', got {found}.")
    checks.check_same_length("data", data)
    return jax.eval_shape(jax.vmap(answer_fn), data)


def _bytes_of(shapes: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
