"""`jax.jit` that passes captured arrays as arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import jax


def hoisted_jit(fn: Callable, *example: Any, donate_argnums: Sequence[int] = ()) -> Callable:
    """Compiles `fn` with the arrays it captured made arguments of the program.

    Data sets and teachers reach a stream by closure. To `jax.jit` such arrays are
    constants of the program: XLA copies them, and folds them for seconds when they are
    large. As arguments they are used where they lie.

    Args:
      fn: a traceable function of pytrees.
      *example: arguments like those it will be called with; only shapes are used.
      donate_argnums: of `fn`'s arguments.

    Returns:
      A compiled function of arguments shaped like `example`. It raises ValueError where
      they are other pytrees.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.ones(3)
      >>> float(hoisted_jit(lambda x: x @ weights, weights)(jnp.arange(3.0)))
      3.0
    """
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*example)
    structure = jax.tree.structure(shapes)
    expected = jax.tree.structure(example)

    def evaluate(captured: Sequence[jax.Array], *args: Any) -> Any:
        if jax.tree.structure(args) != expected:
            raise ValueError(f"expected {expected}, got {jax.tree.structure(args)}.")
        leaves = jax.core.eval_jaxpr(closed.jaxpr, captured, *jax.tree.leaves(args))
        return jax.tree.unflatten(structure, leaves)

    compiled = jax.jit(evaluate, donate_argnums=tuple(1 + index for index in donate_argnums))
    captured = closed.consts
    return lambda *args: compiled(captured, *args)
