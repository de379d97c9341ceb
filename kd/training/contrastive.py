"""Contrastive divergence: how a model known up to its partition function learns from data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import kd.random
from kd import checks
from kd.models.rbm import RBM
from kd.types import ApplyFn, Array, Batch, Key, Metrics, PyTree, Sampler, Update


class ContrastiveState(NamedTuple):
    """A model in training, with the chains that stand for its own samples.

    Attributes:
      params: of the model.
      optimizer: the optimiser's state.
      chains: `[C, ...]`, the persistent chains, or their hidden states; `()` if they begin at
        the data.
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
        _check_state(state)
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


def persistent_contrastive_divergence(
    rbm: RBM,
    optimizer: optax.GradientTransformation,
    key: Key,
    *,
    hidden: Array,
    num_steps: int = 1,
    uniform_fn: Callable[[Key, tuple[int, ...]], Array] = kd.random.uniform,
) -> Update:
    r"""PCD-k of an RBM, written by hand: five matrix products a step where autodiff makes six.

    As `contrastive_divergence` with persistent chains of block Gibbs sampling, but what a chain
    keeps from step to step is its hidden state. That is drawn from the very activations at
    which the gradient is taken, those before the update; and data and samples go through the
    weights together.

    Args:
      rbm: the model.
      optimizer: it descends on the loss, minus the difference of log-potentials.
      key: decides the chains.
      hidden: `[C, J]`, zeros and ones: where the chains start.
      num_steps: k.
      uniform_fn: `(key, shape)` to numbers in [0, 1), for instance `jax.random.uniform`.

    Returns:
      An `Update` of batches `{"x": [B, I]}` of zeros and ones, B >= 1, with the state and
      metric of `contrastive_divergence`; the state's `chains` are hidden. The metric of a batch
      of other values is NaN.

    Raises:
      TypeError: if the key is not one typed key; by the update, for another state.
      ValueError: if `num_steps` < 1, or `hidden` is not `[C, J]` of zeros and ones; by the
        update, for an empty batch, or one that is not `[B, I]`.

    Example:
      >>> rbm = RBM(num_visible=3, num_hidden=2)
      >>> update = persistent_contrastive_divergence(
      ...     rbm, optax.sgd(0.1), jax.random.key(0), hidden=jnp.zeros((10, 2)))
      >>> state = update.init(rbm.init(jax.random.key(1), jnp.zeros(3)))
      >>> state, metrics = update.apply(state, {"x": jnp.ones((5, 3))})
      >>> state.chains.shape, bool(jnp.all(state.params["params"]["a"] > 0))
      ((10, 2), True)

    Reference:
      Tieleman (2008). The same update, with the same state, as scikit-learn's `BernoulliRBM`.
    """
    checks.check_key("key", key)
    checks.check_count("num_steps", num_steps)
    checks.check_rank("hidden", hidden, 2)
    checks.check_same_length("hidden", hidden)
    checks.check_last_axis("hidden", hidden, rbm.num_hidden)
    checks.check_binary("hidden", hidden)

    def draw(u: Array, t: Array) -> Array:
        # u < sigmoid(z) is 2 u - 1 < tanh(z / 2), the cheaper.
        return (2 * u - 1 < t).astype(t.dtype)

    def numbers(key: Key) -> tuple[Array, Array]:
        """For the visible and the hidden states of a sweep."""
        u = uniform_fn(key, (len(hidden), rbm.num_visible + rbm.num_hidden))
        return u[:, : rbm.num_visible], u[:, rbm.num_visible :]

    def init(params: PyTree) -> ContrastiveState:
        dtype = jax.tree.leaves(params)[0].dtype
        return ContrastiveState(params, optimizer.init(params), jnp.asarray(hidden, dtype), key)

    def apply(state: ContrastiveState, batch: Batch) -> tuple[ContrastiveState, Metrics]:
        _check_state(state)
        checks.check_rank("batch['x']", batch["x"], 2)
        checks.check_same_length("batch['x']", batch["x"])
        keys = jax.random.split(state.key, 1 + num_steps)

        def sweep(index: Array, h: Array) -> Array:
            for_x, for_h = numbers(keys[index])
            x = draw(for_x, jnp.tanh(0.5 * rbm.visible_logits(state.params, h)))
            return draw(for_h, jnp.tanh(0.5 * rbm.hidden_logits(state.params, x)))

        h = state.chains
        if num_steps > 1:
            h = jax.lax.fori_loop(1, num_steps, sweep, h)
        for_x, for_h = numbers(keys[-1])
        samples = draw(for_x, jnp.tanh(0.5 * rbm.visible_logits(state.params, h)))
        data = jnp.asarray(batch["x"], samples.dtype)
        both = jnp.concatenate([data, samples])
        logits = rbm.hidden_logits(state.params, both)
        t = jnp.tanh(0.5 * logits)
        shares = jnp.where(jnp.arange(len(both)) < len(data), -1 / len(data), 1 / len(samples))
        loss, slope = _loss_and_slope(state.params, both, logits, t, shares.astype(both.dtype))
        change, optimizer_state = optimizer.update(slope, state.optimizer, state.params)
        params = optax.apply_updates(state.params, change)
        h = draw(for_h, t[len(data) :])
        loss = jnp.mean(checks.nan_unless_binary(jnp.broadcast_to(loss, len(data)), batch["x"]))
        return ContrastiveState(params, optimizer_state, h, keys[0]), {"loss": loss}

    return Update(init, apply)


def _loss_and_slope(
    params: PyTree, both: Array, logits: Array, t: Array, shares: Array
) -> tuple[Array, PyTree]:
    """The sum of log-potentials by their shares, which sum to 0, and its gradient.

    With `t` the hyperbolic tangent of half the logits, the only one of that size.
    """
    # softplus(z) = max(z, 0) + log 2 - log(1 + |tanh(z / 2)|), of which log 2 cancels.
    hidden = jnp.sum(jnp.maximum(logits, 0) - jnp.log(1 + jnp.abs(t)), axis=1)
    on = shares[:, None] * (0.5 + 0.5 * t)
    visible = shares @ both
    slope = {"w": both.T @ on, "a": visible, "b": jnp.sum(on, axis=0)}
    return visible @ params["params"]["a"] + shares @ hidden, {"params": slope}


def _check_state(state: Any) -> None:
    if not isinstance(state, ContrastiveState):
        raise TypeError(
            f"state must be update.init(params), a ContrastiveState; got {type(state).__name__}."
        )
