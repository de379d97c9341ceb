"""What a prediction costs: parameters, arithmetic, measured time."""

import time
from collections.abc import Callable
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


def flops(compiled: Any, batch_size: int) -> float:
    """Floating-point operations an input, as XLA counts them; NaN where it does not."""
    return (compiled.cost_analysis() or {}).get("flops", float("nan")) / batch_size


def milliseconds(thunk: Callable[[], Any], *, rounds: int) -> float:
    """The median time of a call, its result waited for, after one uncounted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(thunk())
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[1:]))
