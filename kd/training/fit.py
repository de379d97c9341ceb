"""`fit`: a stream, an update, and one compiled loop a chunk.

The step is a pure function of one pytree and holds no host state. Between chunks the
host does what a host is for: rows of metrics, evaluation, checkpoints.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.batching import over_replicas
from kd.hoisting import hoisted_jit
from kd.types import Array, Key, Metrics, PyTree, Stream, Update


class FitState(NamedTuple):
    """All that a run is, in one pytree: a checkpoint is this, and resuming is exact.

    Attributes:
      step: updates made so far, int32.
      key: `fold_in(key, s)` is given to the stream at step s, counted from 0.
      stream: the stream's state.
      student: the update's state.
    """

    step: Array
    key: Key
    stream: PyTree
    student: PyTree


AT_ONCE = (
    " So early it is the start, or what a batch holds: posterior expectations, say, are NaN of "
    "logits, and of examples whose numbers are out of range."
)


class NonFiniteLossError(ArithmeticError):
    """A metric, or a student, became NaN or infinite.

    Attributes:
      step: the first step, counted from 1, whose metrics were not finite; or the step
        after which the student was found not to be, its losses having been finite.
      names: of the metrics that are not finite by the end of the row; or ("student",), or
        ("bag",) of what `store` kept.
    """

    def __init__(self, step: int, names: Sequence[str]):
        why = AT_ONCE if step == 1 else ""
        message = f"the {' and the '.join(names)} became NaN or infinite at step {step}.{why}"
        super().__init__(message)
        self.step = step
        self.names = tuple(names)


class CheckpointMismatchError(ValueError):
    """A whole checkpoint that does not fit the run that would go on from it."""


class CheckpointerLike(Protocol):
    """What `fit` asks of a checkpointer: `kd.training.checkpoint.Checkpointer` is one."""

    def restore(self, template: PyTree) -> PyTree | None: ...

    def is_due(self) -> bool: ...

    def save(self, step: int, state: PyTree) -> None: ...


def init_fit(
    key: Key,
    stream: Stream,
    student: PyTree,
    *,
    stream_state: PyTree | None = None,
    num_replicas: int | None = None,
) -> FitState:
    """The state before the first step.

    Args:
      key: decides the stream and every batch.
      stream: initialised here, unless it has a state already.
      student: the update's initial state; with `num_replicas`, with a leading axis.
      stream_state: where the stream is to go on from, as of a run that moved it so far.
      num_replicas: replicas, each with a stream and key of its own.
    """

    def init(key: Key, student: PyTree) -> FitState:
        stream_key, step_key = jax.random.split(key)
        start = stream.init(stream_key) if stream_state is None else ()
        return FitState(jnp.zeros((), jnp.int32), step_key, start, student)

    run = _init_fit(init, key, student, num_replicas)
    return run if stream_state is None else run._replace(stream=stream_state)


def _init_fit(
    init: Callable[[Key, PyTree], FitState], key: Key, student: PyTree, num_replicas: int | None
) -> FitState:
    """Of one run, or of replicas."""
    if num_replicas is None:
        return hoisted_jit(init, key, student)(key, student)
    checks.check_count("num_replicas", num_replicas)
    has_state = bool(jax.tree.leaves(student))  # That of `discard` is empty.
    if has_state and checks.check_same_length("state", student) != num_replicas:
        raise ValueError(f"state must have a leading axis of num_replicas = {num_replicas}.")
    keys = jax.random.split(key, num_replicas)
    return hoisted_jit(jax.vmap(init), keys, student)(keys, student)


def make_step(stream: Stream, update: Update) -> Callable[[FitState], tuple[FitState, Metrics]]:
    """One step: draw a batch, move the student. Pure, without host state."""

    def step(state: FitState) -> tuple[FitState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        stream_state, batch = stream.next(key, state.stream)
        student, metrics = update.apply(state.student, batch)
        return FitState(state.step + 1, state.key, stream_state, student), metrics

    return step


def fit(
    key: Key,
    stream: Stream,
    update: Update,
    state: PyTree,
    num_steps: int,
    *,
    stream_state: PyTree | None = None,
    num_replicas: int | None = None,
    method: str = "auto",
    log_every: int | None = None,
    evaluate_fn: Callable[[PyTree], dict[str, Any]] | None = None,
    evaluate_at: Iterable[int] = (),
    on_row: Callable[[int, dict[str, Any]], None] | None = None,
    checkpointer: CheckpointerLike | None = None,
) -> FitState:
    """Trains a student: `num_steps` batches of `stream` through `update`.

    Args:
      key: decides everything random in the run; a checkpoint of another one is refused.
      stream: the batches.
      update: moves the student.
      state: the update's initial state, `update.init(params)`. It is copied: the
        caller's arrays stay alive although the run donates its own.
      num_steps: total steps, those before a resume counted in.
      stream_state: where the stream is to go on from; by default it begins anew. A burn-in that
        is a run of its own, by `discard`, may be stopped and resumed like any other.
      num_replicas: R independent runs in one program, each with a stream of its own;
        `state` then has a leading axis R on every leaf (`jax.vmap(update.init)`).
      method: how replicas run, see `kd.batching.over_replicas`.
      log_every: steps between rows of metrics; a hundredth of the run if None.
      evaluate_fn: from the update's state to a dictionary of figures.
      evaluate_at: the steps (0 allowed) after which it is called, those beyond
        `num_steps` left out; the last step is added when there is an `evaluate_fn`.
      on_row: called as `on_row(step, row)` with true step numbers. A row holds the
        mean of each metric since the row before, and the evaluation if one was due.
      checkpointer: saves the whole `FitState`, for instance a
        `kd.training.checkpoint.Checkpointer(directory)`; a run it holds is gone on with,
        to the same bits as one never interrupted. Rows up to a checkpoint are given to
        `on_row` before it is written.

    Returns:
      The final state; the student is `.student.params` after `gradient`.

    Raises:
      TypeError: if the key is not typed, or `stream` or `update` is something else.
      CheckpointMismatchError: if the checkpoint is of another run: its key differs.
      NonFiniteLossError: when a metric, a parameter of the student (the field `params` of the
        update's state) or what was kept (`kept`) stops being finite; the checkpoint
        before stays.
      ValueError: for counts out of range, a checkpoint beyond `num_steps`, or
        `evaluate_at` without `evaluate_fn`.

    Example:
      >>> import optax
      >>> from kd import streams, training
      >>> stream = streams.resample({"x": jnp.ones(4)}, 2)
      >>> update = training.gradient(
      ...     lambda p, batch: jnp.mean((p - batch["x"]) ** 2), optax.sgd(0.25))
      >>> final = fit(jax.random.key(0), stream, update, update.init(jnp.array(0.0)), 50)
      >>> int(final.step), float(final.student.params)
      (50, 1.0)
    """
    checks.check_key("key", key)
    checks.check_type("stream", stream, Stream)
    checks.check_type("update", update, Update)
    if isinstance(stream_state, FitState):
        raise TypeError("stream_state must be the stream's, as run.stream; got a FitState.")
    if checkpointer is not None and not hasattr(checkpointer, "restore"):
        kind = type(checkpointer).__name__
        raise TypeError(f"checkpointer must be one, as Checkpointer(directory); got {kind}.")
    checks.check_count("num_steps", num_steps, at_least=0, at_most=2**31 - 1)
    evaluate_at = set(evaluate_at)
    stops = row_steps(num_steps, log_every=log_every, evaluate_at=evaluate_at)
    if evaluate_at and evaluate_fn is None:
        raise ValueError(f"evaluate_at = {sorted(evaluate_at)} needs an evaluate_fn, got None.")
    evaluate_steps = evaluate_at | {num_steps} if evaluate_fn else set()

    run = init_fit(key, stream, state, stream_state=stream_state, num_replicas=num_replicas)
    run = jax.tree.map(jnp.copy, run)  # The first chunk donates what it is given.
    restored = checkpointer.restore(run) if checkpointer else None
    if restored is not None and not _is_same_key(run.key, restored.key):
        raise CheckpointMismatchError(
            "the checkpoint is of a run with another key; give that one, or another directory."
        )
    run = run if restored is None else restored
    chunk = compile_chunk(make_step(stream, update), run, num_replicas=num_replicas, method=method)

    step = _step_of(run)
    if step > num_steps:
        raise ValueError(f"the checkpoint is at step {step}, beyond num_steps = {num_steps}.")
    if step == 0 and 0 in evaluate_steps and on_row:
        on_row(0, evaluate_fn(run.student))
    for stop in (stop for stop in stops if stop > step):
        run, row = _run_chunk(chunk, run, step, stop)
        step = stop
        if step in evaluate_steps:
            row |= evaluate_fn(run.student)
        if on_row:
            on_row(step, row)
        if checkpointer and (step == num_steps or checkpointer.is_due()):
            checkpointer.save(step, run)
    return run


def row_steps(
    num_steps: int, *, log_every: int | None = None, evaluate_at: Iterable[int] = ()
) -> list[int]:
    """The steps at which `fit`, given the same arguments, calls `on_row`, in order.

    Step 0 is among them only if it is one of `evaluate_at`.

    Example:
      >>> row_steps(10, log_every=4, evaluate_at=[0, 5, 20])
      [0, 4, 5, 8, 10]
    """
    checks.check_count("num_steps", num_steps, at_least=0, at_most=2**31 - 1)
    log_every = max(1, num_steps // 100) if log_every is None else log_every
    checks.check_count("log_every", log_every)
    steps = {*range(log_every, num_steps, log_every), num_steps} - {0}
    for step in evaluate_at:
        checks.check_count("each of evaluate_at", step, at_least=0)
        steps.add(step)
    return sorted(step for step in steps if step <= num_steps)


def log_spaced(num_steps: int, num_points: int, *, first: int = 1) -> list[int]:
    """Step numbers evenly spaced on a log axis, from `first` to `num_steps`, both included.

    Example:
      >>> log_spaced(1000, 4)
      [1, 10, 100, 1000]
    """
    checks.check_count("num_steps", num_steps)
    checks.check_count("num_points", num_points)
    checks.check_count("first", first)
    points = np.geomspace(min(first, num_steps), num_steps, num_points)
    return sorted({int(round(point)) for point in points} | {num_steps})


def compile_chunk(
    step_fn: Callable[[FitState], tuple[FitState, Metrics]],
    example: FitState,
    *,
    num_replicas: int | None = None,
    method: str = "auto",
) -> Callable[[FitState, Array], tuple[FitState, Metrics, Array]]:
    """Compiles `(state, num_steps) -> (state, sums of metrics, finite steps)`.

    The number of steps, int32, is an argument of the loop, so that any schedule of
    stops runs one program. The state is donated.

    Args:
      step_fn: from `make_step`.
      example: a state like those it will be called with.
      num_replicas, method: as for `fit`.
    """

    def chunk(state: FitState, num_steps: Array) -> tuple[FitState, Metrics, Array]:
        _, shapes = jax.eval_shape(step_fn, state)
        sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def body(_, carry):
            state, sums, num_finite = carry
            state, metrics = step_fn(state)
            sums = jax.tree.map(jnp.add, sums, metrics)
            # A sum that stopped being finite stays so: this counts the steps before.
            finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(sums)]
            return state, sums, num_finite + jnp.all(jnp.array(finite)).astype(jnp.int32)

        return jax.lax.fori_loop(0, num_steps, body, (state, sums, jnp.zeros((), jnp.int32)))

    def chunks(state: FitState, num_steps: Array):
        return over_replicas(lambda state: chunk(state, num_steps), method)(state)

    program = chunk if num_replicas is None else chunks
    return hoisted_jit(program, example, jnp.zeros((), jnp.int32), donate_argnums=(0,))


def _run_chunk(chunk, run: FitState, step: int, stop: int) -> tuple[FitState, dict[str, Any]]:
    run, sums, num_finite = chunk(run, jnp.array(stop - step, jnp.int32))
    finite_steps = int(np.min(num_finite))
    if finite_steps < stop - step:
        broken = [name for name, total in sums.items() if not np.all(np.isfinite(total))]
        raise NonFiniteLossError(step + finite_steps + 1, broken)
    # A loss is taken before its step, so a finite one does not vouch for the last step.
    for name, field in (("student", "params"), ("bag", "kept")):
        if not _are_finite(getattr(run.student, field, ())):
            raise NonFiniteLossError(stop, [name])
    return run, {name: np.asarray(total) / (stop - step) for name, total in sums.items()}


@jax.jit
def _are_finite(params: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves], bool))


def _is_same_key(one: Key, other: Key) -> bool:
    return bool(jnp.all(jax.random.key_data(one) == jax.random.key_data(other)))


def _step_of(run: FitState) -> int:
    return int(np.max(run.step))
