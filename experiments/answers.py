"""What networks answer to many inputs, compiled once an architecture however often it is asked."""

from functools import partial

import flax.linen as nn
import jax

from kd.types import Array, PyTree

BLOCK = 500  # Inputs at once.


@partial(jax.jit, static_argnums=0)
def outputs_of(model: nn.Module, params: PyTree, x: Array) -> Array:
    """A network's outputs at inputs `[N, ...]`: `[N, outputs]`."""
    return jax.lax.map(lambda one: model.apply(params, one), x, batch_size=BLOCK)


@partial(jax.jit, static_argnums=0)
def log_probs_of(model: nn.Module, params: PyTree, x: Array) -> Array:
    """Log-probabilities by its logits, `[N, C]`, nats."""
    return jax.nn.log_softmax(outputs_of(model, params, x))


@partial(jax.jit, static_argnums=0)
def log_probs_of_each(model: nn.Module, params: PyTree, x: Array) -> Array:
    """Those of networks, each leaf of the parameters `[R, ...]`: `[R, N, C]`."""
    return jax.lax.map(lambda one: log_probs_of(model, one, x), params)
