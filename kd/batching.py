"""Replicas of one function in two ways, rows of a data set, and what `vmap` should do otherwise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kd import checks
from kd.types import Array, PyTree

METHODS = ("auto", "loop", "vmap")


def over_replicas(
    fn: Callable[[PyTree], PyTree], method: str = "auto"
) -> Callable[[PyTree], PyTree]:
    """Runs `fn` for each entry of the leading axis of its argument.

    Args:
      fn: a traceable function of one pytree.
      method: "loop" runs the replicas one after another (`jax.lax.map`), so that each
        one's state stays in the cache; "vmap" runs them side by side, which fills an
        accelerator; "auto" is "loop" on a CPU and "vmap" elsewhere.

    Returns:
      A function of a pytree with a leading axis of replicas on every leaf.

    Raises:
      ValueError: if `method` is another word.
    """
    checks.check_choice("method", method, METHODS)
    if method == "auto":
        method = "loop" if jax.default_backend() == "cpu" else "vmap"
    return jax.vmap(fn) if method == "vmap" else lambda tree: jax.lax.map(fn, tree)


def take_rows(data: PyTree, index: Array) -> PyTree:
    """Rows of every leaf: as flat rows, which XLA copies whole on a CPU.

    Args:
      data: arrays of one common leading length N.
      index: `[B]`, integers in [0, N); what is out of range is clipped to it.

    Returns:
      A pytree like `data`, each leaf `[B, ...]`.
    """

    def rows(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        flat = leaf.reshape(leaf.shape[0], -1)
        # The index is in range by construction; "clip" spares the NaN fill of the default.
        return jnp.take(flat, index, axis=0, mode="clip").reshape(-1, *leaf.shape[1:])

    return jax.tree.map(rows, data)


def cond_any(needed: Array, refill_fn: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """`refill_fn(state)` where `needed`, else `state`; under `vmap` still a branch.

    `jax.lax.cond` under `vmap` becomes a select, which would pay for a rare and
    expensive refill at every step. Here the branch is taken when any member of the
    batch needs it, and the members that do not keep their state.

    Args:
      needed: a boolean scalar.
      refill_fn: a traceable function from `state` to the same structure. Whatever it
        needs that `vmap` may batch, such as a key, must be in `state`.
      state: a pytree.
    """

    @custom_vmap
    def choose(needed: Array, state: PyTree) -> PyTree:
        return jax.lax.cond(needed, refill_fn, lambda state: state, state)

    @choose.def_vmap
    def choose_batched(axis_size: int, in_batched: Any, needed: Array, state: PyTree):
        needed_batched, state_batched = in_batched
        needed = needed if needed_batched else jnp.broadcast_to(needed, (axis_size,))
        state = jax.tree.map(
            lambda leaf, batched: (
                leaf if batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            ),
            state,
            state_batched,
        )

        def refill(state: PyTree) -> PyTree:
            def pick(new: Array, old: Array) -> Array:
                return jnp.where(needed.reshape((axis_size,) + (1,) * (old.ndim - 1)), new, old)

            return jax.tree.map(pick, jax.vmap(refill_fn)(state), state)

        state = jax.lax.cond(jnp.any(needed), refill, lambda state: state, state)
        return state, jax.tree.map(lambda _: True, state)

    return choose(needed, state)


def with_batched(
    fn: Callable[..., Array], batched_fn: Callable[..., Array], *, axis: int = -1
) -> Callable[..., Array]:
    """A function that `vmap` over its first argument alone replaces by another.

    For what is faster in a layout of the batch's own than with a new leading axis. Unlike
    `jax.custom_batching.custom_vmap` it has derivatives of every order and direction: of a `vmap`
    they are those of `batched_fn`; within a `vmap`, and wherever another argument is batched, `fn`
    does all.

    Args:
      fn: arrays to one array.
      batched_fn: the same of a batch along an axis of its first argument and of its result.
      axis: which, 0 or -1: the last by default, where what is done by entry is contiguous.

    Returns:
      A function of the same arguments.

    Example:
      >>> double = with_batched(lambda x: 2 * x, lambda x: x + x)
      >>> jax.make_jaxpr(jax.vmap(double))(jnp.ones(3)).eqns[0].primitive.name
      'add'
    """
    checks.check_choice("axis", axis, (0, -1))
    return lambda *args: _batched_p.bind(*args, fn=fn, batched_fn=batched_fn, axis=axis)


def _apply(*args: Array, fn: Callable[..., Array], **_: Any) -> Array:
    return fn(*args)


def _shape_of(*args: Any, **given: Any) -> Any:
    shapes = [jax.ShapeDtypeStruct(arg.shape, arg.dtype) for arg in args]
    found = jax.eval_shape(partial(_apply, **given), *shapes)
    return jax.core.ShapedArray(found.shape, found.dtype)


def _differentiate(primals: Any, tangents: Any, **given: Any) -> tuple[Array, Array]:
    tangents = [ad.instantiate_zeros(tangent) for tangent in tangents]
    return jax.jvp(partial(_apply, **given), tuple(primals), tuple(tangents))


def _batch(
    args: Any, dims: Any, *, batched_fn: Callable[..., Array], axis: int, **given: Any
) -> tuple[Array, int]:
    first, *others = (dim is not None for dim in dims)
    if first and not any(others):
        found = batched_fn(jnp.moveaxis(args[0], dims[0], axis), *args[1:])
        return found, axis % jnp.ndim(found)
    return jax.vmap(partial(_apply, **given), tuple(dims))(*args), 0


_batched_p = Primitive("with_batched")
_batched_p.def_impl(_apply)
_batched_p.def_abstract_eval(_shape_of)
ad.primitive_jvps[_batched_p] = _differentiate
batching.primitive_batchers[_batched_p] = _batch
mlir.register_lowering(_batched_p, mlir.lower_fun(_apply, multiple_results=False))
