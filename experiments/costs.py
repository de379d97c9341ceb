"""What a prediction costs: parameters, arithmetic, measured time."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kd.types import Array, PyTree


def num_parameters(params: PyTree) -> int:
    """Numbers in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def compile_batch(fn: Callable[[PyTree, Array], Array], params: PyTree, x: Array) -> Callable:
    """`fn` of one input, compiled for as many as `x` has, `[B, ...]`."""
    return jax.jit(jax.vmap(fn, in_axes=(None, 0))).lower(params, x).compile()


def flops(fn: Callable[[PyTree, Array], Array], params: PyTree, x: Array) -> float:
    """Floating-point operations of `fn` of one input, as XLA counts them; NaN where it does not.

    Of a program for one input: it counts the body of a loop once, and many inputs may go in groups.
    """
    compiled = compile_batch(fn, params, x[None])
    return (compiled.cost_analysis() or {}).get("flops", float("nan"))


def milliseconds(thunks: Sequence[Callable[[], Any]], *, rounds: int) -> list[float]:
    """The median time of a call of each, its result waited for, after one uncounted.

    In turn, so that whatever else the machine does meets all of them alike.
    """
    times = np.empty((rounds + 1, len(thunks)))
    for row in times:
        for index, thunk in enumerate(thunks):
            start = time.perf_counter()
            jax.block_until_ready(thunk())
            row[index] = 1e3 * (time.perf_counter() - start)
    return np.median(times[1:], axis=0).tolist()
