"""Updates: how a student moves, given one batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd import checks
from kd.batching import over_replicas
from kd.types import Array, Batch, Metrics, PyTree, Update


class GradientState(NamedTuple):
    """A student trained by gradients.

    Attributes:
      params: the student's parameters.
      optimizer: the optimiser's state.
    """

    params: PyTree
    optimizer: optax.OptState


def gradient(
    objective: Callable[[PyTree, Batch], Array], optimizer: optax.GradientTransformation
) -> Update:
    """One optimiser step down the gradient of an objective.

    Args:
      objective: `(params, batch) -> loss`, a scalar to be minimised, usually the mean
        over the batch of a loss from `kd.losses`.
      optimizer: any optax transformation; its updates are added to the parameters.

    Returns:
      An update whose state is a `GradientState` and whose metrics are `{"loss"}`, at
      the parameters before the step. Its `apply` raises TypeError for another state.

    Example:
      >>> import jax.numpy as jnp
      >>> update = gradient(lambda p, batch: jnp.mean((p - batch["x"]) ** 2), optax.sgd(0.5))
      >>> state, metrics = update.apply(update.init(jnp.array(0.0)), {"x": jnp.ones(2)})
      >>> float(state.params), float(metrics["loss"])
      (1.0, 1.0)
    """

    def init(params: PyTree) -> GradientState:
        return GradientState(params, optimizer.init(params))

    def apply(state: GradientState, batch: Batch) -> tuple[GradientState, Metrics]:
        if not isinstance(state, GradientState):
            raise TypeError(
                f"state must be update.init(params), a GradientState; got {type(state).__name__}."
            )
        loss, grads = jax.value_and_grad(objective)(state.params, batch)
        steps, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
        return GradientState(params, optimizer_state), {"loss": loss}

    return Update(init, apply)


def replicate(update: Update, *, method: str = "auto") -> Update:
    """Several students moved by the same batches, for instance from several starts.

    Worth it where a batch is dear, as when a large teacher has to label it. Students
    with batches of their own are `fit(..., num_replicas=...)`.

    Args:
      update: of one student.
      method: see `kd.batching.over_replicas`.

    Returns:
      An update whose parameters, state and metrics have a leading axis of replicas.

    Raises:
      ValueError: if `method` is another word.
    """

    def apply(state: PyTree, batch: Batch) -> tuple[PyTree, Metrics]:
        return over_replicas(lambda state: update.apply(state, batch), method)(state)

    return Update(jax.vmap(update.init), apply)


def combine(**updates: Update) -> Update:
    """Several updates moved by the same batches, each with a state of its own.

    Several students beside one chain, say: the chain is what is dear.

    Args:
      **updates: by name.

    Returns:
      An update of dictionaries by name: `init` takes one of what each update's takes, its state
      holds theirs, as `state.states["name"]`, and its metrics are theirs, as `"name.metric"`. Its
      `params`, and what it has `kept`, are those of the states that have some, which `fit` watches.

    Raises:
      ValueError: if there is none; by `init`, for other names; by `apply`, if two metrics share a
        name.

    Example:
      >>> import jax.numpy as jnp
      >>> update = combine(few=store("x"), many=store("x"))
      >>> state = update.init({"few": jnp.zeros(2), "many": jnp.zeros(4)})
      >>> state, metrics = update.apply(state, {"x": jnp.ones(2)})
      >>> sorted(metrics)
      ['few.stored', 'many.stored']
    """
    checks.check_count("the number of updates", len(updates))

    def init(starts: dict[str, PyTree]) -> CombinedState:
        if set(starts) != set(updates):
            raise ValueError(f"starts must be of {sorted(updates)}, got {sorted(starts)}.")
        return CombinedState({name: update.init(starts[name]) for name, update in updates.items()})

    def apply(state: CombinedState, batch: Batch) -> tuple[CombinedState, Metrics]:
        states, metrics = {}, {}
        for name, update in updates.items():
            states[name], found = update.apply(state.states[name], batch)
            named = {f"{name}.{key}": value for key, value in found.items()}
            _check_distinct(metrics, named)
            metrics |= named
        return CombinedState(states), metrics

    return Update(init, apply)


class CombinedState(NamedTuple):
    """States of several updates.

    Attributes:
      states: by name.
    """

    states: dict[str, PyTree]

    @property
    def params(self) -> dict[str, PyTree]:
        """Parameters of the students among them."""
        return {k: v.params for k, v in self.states.items() if hasattr(v, "params")}

    @property
    def kept(self) -> dict[str, PyTree]:
        """What those among them have kept."""
        return {k: v.kept for k, v in self.states.items() if hasattr(v, "kept")}


def discard() -> Update:
    """Does nothing with a batch: `fit` with it only moves a stream, as in a chain's burn-in.

    Its state is empty, and so are its metrics.

    Example:
      >>> update = discard()
      >>> update.apply(update.init(()), {"x": jnp.ones(2)})
      ((), {})
    """
    return Update(lambda params: (), lambda state, batch: (state, {}))


def observe(update: Update, figures_fn: Callable[[Batch], Metrics]) -> Update:
    """The update, with figures of each batch among its metrics.

    For what a stream says of itself: how a chain fares that a student learns beside. `fit` stops
    at a metric that is not finite, so that a chain which diverges stops the run by its name.

    Args:
      update: any.
      figures_fn: a batch to scalars by name; integers are made floating, since `fit` sums.

    Returns:
      An update of the same state; its `apply` raises ValueError if two metrics share a name.

    Example:
      >>> import jax.numpy as jnp
      >>> update = observe(store("x"), lambda batch: {"mean": jnp.mean(batch["x"])})
      >>> _, metrics = update.apply(update.init(jnp.zeros(4)), {"x": jnp.array([1.0, 2.0])})
      >>> float(metrics["mean"]), float(metrics["stored"])
      (1.5, 2.0)
    """

    def apply(state: PyTree, batch: Batch) -> tuple[PyTree, Metrics]:
        figures = {name: _floating(value) for name, value in figures_fn(batch).items()}
        state, metrics = update.apply(state, batch)
        _check_distinct(metrics, figures)
        return state, metrics | figures

    return Update(update.init, apply)


def _check_distinct(metrics: Metrics, others: Metrics) -> None:
    shared = sorted(metrics.keys() & others.keys())
    if shared:
        raise ValueError(f"two metrics are named {', '.join(map(repr, shared))}.")


def _floating(value: Array) -> Array:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


class StoreState(NamedTuple):
    """What was kept of a stream.

    Attributes:
      kept: each leaf `[S, ...]`, of which the first `count` rows are filled, or all.
      count: rows so far, int32.
    """

    kept: PyTree
    count: Array


def store(name: str) -> Update:
    """Keeps what a stream hands out: `fit` over a chain then makes a bag, and may be resumed.

    Its memory is that of all that is kept, where distilling the chain as it goes needs that of a
    batch.

    Args:
      name: the key of the batch to keep.

    Returns:
      An update whose `init` takes an array, or a pytree of them, of S rows to fill, and whose state
      is a `StoreState`. A batch that does not fit is moved back to end at the S-th row, over what
      was there. Its only metric is `"stored"`, the rows so far. Its `apply` raises ValueError, when
      traced, for rows of another structure, shape or kind of number, or fewer than a batch has.

    Example:
      >>> import jax.numpy as jnp
      >>> update = store("x")
      >>> state = update.init(jnp.zeros(4))
      >>> state, _ = update.apply(state, {"x": jnp.array([1.0, 2.0])})
      >>> state.kept.tolist(), int(state.count)
      ([1.0, 2.0, 0.0, 0.0], 2)
    """

    def init(empty: PyTree) -> StoreState:
        return StoreState(jax.tree.map(jnp.asarray, empty), jnp.zeros((), jnp.int32))

    def apply(state: StoreState, batch: Batch) -> tuple[StoreState, Metrics]:
        size = checks.check_same_length(f"batch[{name!r}]", batch[name])
        _check_rows(state.kept, batch[name], size)
        kept = jax.tree.map(
            lambda kept, new: jax.lax.dynamic_update_slice_in_dim(
                kept, new.astype(kept.dtype), state.count, axis=0
            ),
            state.kept,
            batch[name],
        )
        state = StoreState(kept, state.count + size)
        return state, {"stored": state.count.astype(jnp.float32)}

    return Update(init, apply)


def _check_rows(kept: PyTree, new: PyTree, size: int) -> None:
    """Raises ValueError unless the batch is rows of what is kept."""

    def rows(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], tree)

    if jax.tree.structure(kept) != jax.tree.structure(new) or rows(kept) != rows(new):
        raise ValueError(f"rows to fill must be like the batch's, {rows(new)}; got {rows(kept)}.")
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(new), strict=True):
        if len(one) < size:
            raise ValueError(f"there must be at least a batch of rows, {size}; got {len(one)}.")
        if not jnp.can_cast(jnp.result_type(other), jnp.result_type(one), "same_kind"):
            raise ValueError(
                f"rows to fill must hold {jnp.result_type(other)}; got {jnp.result_type(one)}."
            )
