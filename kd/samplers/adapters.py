"""Kernels of other libraries as samplers."""

import inspect
from typing import Any

from kd.types import Key, PyTree, Sampler


def from_blackjax(algorithm: Any) -> Sampler:
    """A sampler of one of blackjax's algorithms, for `sample`, `streams.chain` and `fit`.

    Args:
      algorithm: a `SamplingAlgorithm`, ready to step, such as `blackjax.nuts(log_density_fn,
        step_size=..., inverse_mass_matrix=...)`: adapted before, by its own means.

    Returns:
      A `Sampler` with the algorithm's own state and info.

    Raises:
      TypeError: if it has no `init` and `step`, or its `step` asks for more than key and state,
        as those of stochastic gradients do for a minibatch: `kd.samplers.sgld` draws
        its own.

    Example:
      >>> import jax.numpy as jnp
      >>> from kd.types import Sampler
      >>> walk = Sampler(lambda x, rng_key=None: x, lambda rng_key, x: (x + 1, ()))
      >>> sampler = from_blackjax(walk)
      >>> float(sampler.step(None, sampler.init(jnp.zeros(())))[0])
      1.0
    """
    init, step = getattr(algorithm, "init", None), getattr(algorithm, "step", None)
    if not (callable(init) and callable(step)):
        raise TypeError(f"algorithm must have init and step, got {type(algorithm).__name__}.")
    try:
        inspect.signature(step).bind("key", "state")
    except TypeError as error:
        raise TypeError(f"algorithm.step must take a key and a state alone: {error}.") from error

    def start(position: PyTree, key: Key | None = None) -> PyTree:
        return init(position, key) if _takes_two(init) else init(position)

    return Sampler(start, step)


def _takes_two(init: Any) -> bool:
    try:
        inspect.signature(init).bind("position", "key")
    except TypeError:
        return False
    return True
