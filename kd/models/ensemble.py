"""Ensembles: one stacked pytree and one `vmap`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import ApplyFn, Array, Key, PyTree


def init_members(init_fn: Callable[[Key], PyTree], key: Key, num_members: int) -> PyTree:
    """Parameters of `num_members` members, stacked along a leading axis of every leaf.

    Args:
      init_fn: `init_fn(key) -> params` of one member.
      key: split once a member.
      num_members: M >= 1.

    Returns:
      A pytree like `init_fn(key)`, each leaf `[M, ...]`.

    Raises:
      ValueError: if `num_members` < 1.
    """
    checks.check_count("num_members", num_members)
    return jax.vmap(init_fn)(jax.random.split(key, num_members))


def ensemble_log_probs(logits_fn: ApplyFn, member_params: PyTree, x: Array) -> Array:
    r"""Log-probabilities of an ensemble's average prediction, in nats, for one input.

    .. math:: \log t(x) = \log \frac{1}{M} \sum_m \mathrm{softmax}(z^{(m)}(x))

    computed as the log-mean-exp of the members' log-softmaxes, so that its input
    derivative is finite wherever theirs are. *Probabilities* are averaged: averaged
    logits would be another teacher, the normalised geometric mean.

    Args:
      logits_fn: `(params, x) -> [C]`, one member.
      member_params: parameters with a leading axis M on every leaf
        (`init_members`).
      x: one input, any shape. Gradients flow through.

    Returns:
      `[C]`, nats.

    Raises:
      ValueError: if the leaves of `member_params` differ in their leading length.

    Example:
      >>> logits_fn = lambda params, x: params * x
      >>> members = jnp.array([[0.0, 0.0], [0.0, 0.0]])
      >>> print(jnp.exp(ensemble_log_probs(logits_fn, members, jnp.array(1.0))))
      [0.5 0.5]

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (2.15).
    """
    num_members = checks.check_same_length("member_params", member_params)
    logits = jax.vmap(logits_fn, in_axes=(0, None))(member_params, x)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(float(num_members))
