"""Contrastive divergence: how a model known up to its partition function learns from data."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd import checks
from kd.types import ApplyFn, Array, Batch, Key, Metrics, PyTree, Sampler, Update


class ContrastiveState(NamedTuple):
    """A model in training, with the chains that stand for its own samples.

    Attributes:
      params: of the model.
      optimizer: the optimiser's state.
      chains: `[C, ...]`, the persistent chains; `()` if they begin at the data.
      key: split at every step.
    """

    params: PyTree
    optimizer: PyTree
    chains: PyTree
    key: Key


def contrastive_divergence(
    log_potential_fn: ApplyFn,
    sampler_fn: Callable[[PyTree], Sampler],
    optimizer: optax.GradientTransformation,
    key: Key,
    *,
    num_steps: int = 1,
    chains: PyTree | None = None,
) -> Update:
    r"""Moves a model up the difference of its log-potential at data and at its own samples.

    .. math::
       \Delta\theta \propto
         \Big\langle \frac{\partial}{\partial\theta} \log \bar p(x) \Big\rangle_{\text{data}}
       - \Big\langle \frac{\partial}{\partial\theta} \log \bar p(x) \Big\rangle_{\text{samples}}

    which is the gradient of the mean log-likelihood where the samples are exact. Here
    they are k Gibbs steps away from the data (CD-k) or from where the chains of the step
    before ended (persistent, PCD-k).

    Args:
      log_potential_fn: `(params, x) -> [B]`, nats, for a batch `[B, ...]`.
      sampler_fn: parameters to a kernel that leaves their distribution as it is, for
        instance `lambda params: block_gibbs(rbm, params)`.
      optimizer: it descends on the loss, minus the difference above.
      key: decides the chains.
      num_steps: k.
      chains: positions of persistent chains, `[C, ...]`; None for CD-k.

    Returns:
      An `Update` of batches `{"x": [B, ...]}`, B >= 1; its metric `"loss"` is the mean
      log-potential at the samples less that at the data, in nats: it is no measure of
      progress.

    Raises:
      TypeError: if the key is not one typed key; by the update, for another state.
      ValueError: if `num_steps` < 1, or there are no chains; by the update, for an empty
        batch, or log-potentials that are not `[B]`.

    Example:
      >>> from kd.models import RBM
      >>> from kd.samplers import block_gibbs
      >>> rbm = RBM(num_visible=3, num_hidden=2)
      >>> update = contrastive_divergence(
      ...     rbm.log_potential,
      ...     lambda params: block_gibbs(rbm, params),
      ...     optax.sgd(0.1),
      ...     jax.random.key(0),
      ...     chains=jnp.zeros((10, 3)),
      ... )
      >>> state = update.init(rbm.init(jax.random.key(1), jnp.zeros(3)))
      >>> state, metrics = update.apply(state, {"x": jnp.ones((5, 3))})
      >>> bool(jnp.all(state.params["params"]["a"] > 0))  # Towards the data.
      True

    Reference:
      Hinton (2002), "Training products of experts by minimizing contrastive divergence";
      Tieleman (2008), "Training restricted Boltzmann machines using approximations to the
      likelihood gradient".
    """
    checks.check_key("key", key)
    checks.check_count("num_steps", num_steps)
    is_persistent = chains is not None
    if is_persistent:
        checks.check_same_length("chains", chains)

    def mean_potential(params: PyTree, x: PyTree) -> Array:
        values = log_potential_fn(params, x)
        checks.check_rank("log_potential_fn(params, x)", values, 1)
        return jnp.mean(values)

    def loss_fn(params: PyTree, data: PyTree, samples: PyTree) -> Array:
        return mean_potential(params, samples) - mean_potential(params, data)

    def init(params: PyTree) -> ContrastiveState:
        positions = sampler_fn(params).init(chains) if is_persistent else ()
        return ContrastiveState(params, optimizer.init(params), positions, key)

    def apply(state: ContrastiveState, batch: Batch) -> tuple[ContrastiveState, Metrics]:
        if not isinstance(state, ContrastiveState):
            raise TypeError(
                f"state must be update.init(params), a ContrastiveState; got "
                f"{type(state).__name__}."
            )
        checks.check_same_length("batch['x']", batch["x"])
        next_key, step_key = jax.random.split(state.key)
        sampler = sampler_fn(state.params)
        start = state.chains if is_persistent else sampler.init(batch["x"])
        samples = jax.lax.fori_loop(
            0,
            num_steps,
            lambda i, x: sampler.step(jax.random.fold_in(step_key, i), x)[0],
            start,
        )
        loss, slope = jax.value_and_grad(loss_fn)(state.params, batch["x"], samples)
        change, optimizer_state = optimizer.update(slope, state.optimizer, state.params)
        params = optax.apply_updates(state.params, change)
        kept = samples if is_persistent else ()
        return ContrastiveState(params, optimizer_state, kept, next_key), {"loss": loss}

    return Update(init, apply)
