"""Teachers that are not JAX functions."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kd.types import Array, LogProbFn


def from_predict_proba(
    predict_proba: Callable[[np.ndarray], np.ndarray], *, num_classes: int
) -> LogProbFn:
    """A teacher from any host function of a batch, for instance a scikit-learn forest.

    Under `vmap` the whole batch is handed to `predict_proba` in one call.

    Args:
      predict_proba: from a float array `[N, D]`, inputs flattened, to probabilities
        `[N, C]`. It runs on the host, must not call JAX, and must be pure.
      num_classes: C.

    Returns:
      A function from one input, any shape, to log-probabilities `[C]` in nats; a
      class of probability 0 has minus infinity.

    Raises:
      TypeError: when the returned function is differentiated: it has no input
        derivatives, so losses that match derivatives cannot use it.
      jax.errors.JaxRuntimeError: (from the call) when `predict_proba` raises or returns
        another shape; the message holds the host's own.

    Example:
      >>> even = lambda x: np.full((len(x), 2), 0.5)
      >>> teacher_fn = from_predict_proba(even, num_classes=2)
      >>> print(jnp.exp(teacher_fn(jnp.ones(3))))
      [0.5 0.5]
    """

    def call_host(x: np.ndarray, rank: int) -> np.ndarray:
        x = np.asarray(x)
        batch_shape = x.shape[: x.ndim - rank]
        probs = np.asarray(predict_proba(x.reshape(int(np.prod(batch_shape)), -1)))
        expected = (int(np.prod(batch_shape)), num_classes)
        if probs.shape != expected:
            raise ValueError(f"predict_proba must return shape {expected}, got {probs.shape}.")
        return probs.reshape(*batch_shape, num_classes).astype(np.float32)

    @jax.custom_jvp
    def log_probs(x: Array) -> Array:
        probs = jax.pure_callback(
            functools.partial(call_host, rank=jnp.ndim(x)),
            jax.ShapeDtypeStruct((num_classes,), jnp.float32),
            x,
            vmap_method="broadcast_all",
        )
        return jnp.log(probs)

    @log_probs.defjvp
    def refuse(primals, tangents):
        raise TypeError(
            "This teacher is a host function (predict_proba) and has no input derivatives: "
            "match its values (cross_entropy, soft_target), or use a JAX teacher."
        )

    return log_probs
