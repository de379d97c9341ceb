"""Regularisers that are not smooth, as the last part of an optax chain."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd import checks
from kd.types import Array, PyTree


class ProximalState(NamedTuple):
    """How far the schedule of amounts is.

    Attributes:
      count: steps made, int32.
    """

    count: Array


def proximal(
    prox_fn: Callable[[PyTree, Array], PyTree], amount: float | Callable[[Array], Array]
) -> optax.GradientTransformation:
    r"""After a step of the optimiser before it, a proximal step, which reaches exact zeros.

    .. math:: \phi \leftarrow \mathrm{prox}_{a_t R}(\phi + \Delta_t)

    For a chain: `optax.chain(optax.adam(rate), proximal(shrink_groups, strength * rate))`. After
    an optimiser with a metric of its own, as Adam, the proximal step is still Euclidean: each
    parameter shrinks by the amount, whatever its gradients are. Then it is no longer the loss plus
    the regulariser that is minimised: the amount is weighed against Adam's steps, which are
    about the rate, and a strength of the order of 1 is what tells, once the rates have added up
    to about the size of the weights: in short runs nothing is emptied. What the gradient keeps
    moving is at 0 only on and off: let the rate fall to 0 before units are counted or removed.
    For pruning alone the gradient of the regulariser, through Adam, and a threshold lost less
    likelihood in `experiments/RESULTS.md` (figure 2): there what the loss does not need goes first.

    Args:
      prox_fn: parameters and amount to parameters, as `kd.models.shrink_groups`.
      amount: :math:`a_t`, the strength of the regulariser times the learning rate; or a schedule
        of it from the number of steps made.

    Raises:
      TypeError: for a `prox_fn` that is none.
      ValueError: if the amount is a number and negative or not finite; by `update`, without
        parameters.

    Example:
      >>> def soft_threshold(params, amount):
      ...     return jnp.sign(params) * jnp.maximum(jnp.abs(params) - amount, 0.0)
      >>> optimizer = optax.chain(optax.sgd(0.5), proximal(soft_threshold, 0.1))
      >>> params = jnp.array([1.0, 0.05])
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(jnp.array([1.0, 0.0]), state, params)
      >>> print(np.asarray(optax.apply_updates(params, updates)).round(6))
      [0.4 0. ]

    Reference:
      Parikh and Boyd (2014), "Proximal algorithms", section 4.2.
    """
    if not callable(prox_fn):
        raise TypeError(f"prox_fn must be a function, got {prox_fn!r}.")
    if not callable(amount) and amount != 0:
        checks.check_positive("amount", amount)

    def init(params: PyTree) -> ProximalState:
        del params
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: ProximalState, params: PyTree | None = None
    ) -> tuple[PyTree, ProximalState]:
        if params is None:
            raise ValueError("proximal needs the parameters: update(updates, state, params).")
        size = amount(state.count) if callable(amount) else amount
        moved = prox_fn(optax.apply_updates(params, updates), size)
        # A parameter that becomes 0 does so exactly: p + (0 - p) = 0.
        updates = jax.tree.map(lambda new, old: new - old, moved, params)
        return updates, ProximalState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
