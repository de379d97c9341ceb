"""The geometric path of annealing, between any proposal and any log-potential."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import over_replicas
from kd.inference.annealing import AnnealingPath
from kd.inference.log_weights import Proposal
from kd.samplers.base import position_of
from kd.types import Array, Key, Sampler


def geometric_path(
    log_potential_fn: Callable[[Array], Array],
    proposal: Proposal,
    kernel_fn: Callable[[Callable[[Array], Array]], Sampler],
    *,
    num_steps: int = 1,
    method: str = "auto",
) -> AnnealingPath:
    r"""A path through weighted geometric means of a proposal and an unnormalised target.

    .. math:: f_\beta(x) = q(x)^{1 - \beta} \, \bar p(x)^\beta

    Args:
      log_potential_fn: `[N, ...] -> [N]`, :math:`\log \bar p` in nats; minus infinity where p
        is 0.
      proposal: q, the base.
      kernel_fn: from the log-density of one position `[...]`, up to a constant, to a sampler
        that leaves it invariant, reversible if the path is gone backwards: for binary
        vectors `lambda fn: kd.samplers.bit_flips(fn, num_flips=100)`, for real ones
        `kd.samplers.slice_sampler` in random order or any of blackjax.
      num_steps: of the sampler at each beta.
      method: how the chains run, see `kd.batching.over_replicas`.

    Returns:
      The path, for `annealed_importance_sampling` and the reverse.

    Raises:
      ValueError: if `num_steps` < 1 or `method` is another word.

    Example:
      >>> import numpy as np
      >>> from kd.inference import annealed_importance_sampling, linear_schedule
      >>> from kd.samplers import bit_flips
      >>> fair = Proposal(
      ...     lambda x: jnp.full(len(x), -3 * jnp.log(2.0)),
      ...     lambda key, num: jax.random.bernoulli(key, 0.5, (num, 3)).astype(float))
      >>> path = geometric_path(
      ...     lambda x: jnp.sum(x, -1), fair, lambda fn: bit_flips(fn, num_flips=6))
      >>> result = annealed_importance_sampling(
      ...     jax.random.key(0), path, linear_schedule(30), num_chains=300)
      >>> bool(result.low < 3 * np.log1p(np.e) < result.high)
      True

    Reference:
      Neal (2001), "Annealed importance sampling", section 3; Papamakarios (2015),
      section 4.2.4, names the method.
    """
    checks.check_count("num_steps", num_steps)
    over_replicas(lambda tree: tree, method)  # Refuses another word at once.

    def step(key: Key, x: Array, beta: Array, next_beta: Array) -> tuple[Array, Array]:
        log_q, log_p = proposal.log_prob(x), log_potential_fn(x)
        increment = _weighted(next_beta, log_q, log_p) - _weighted(beta, log_q, log_p)

        def log_density(x: Array) -> Array:
            return _weighted(next_beta, proposal.log_prob(x[None])[0], log_potential_fn(x[None])[0])

        sampler = kernel_fn(log_density)

        def move(inputs: tuple[Key, Array]) -> Array:
            init_key, *keys = jax.random.split(inputs[0], 1 + num_steps)
            state = sampler.init(inputs[1], init_key)
            for key in keys:
                state, _ = sampler.step(key, state)
            return position_of(state)

        keys = jax.random.split(key, len(x))
        return over_replicas(move, method)((keys, x)), increment

    return AnnealingPath(proposal.sample, step, log_z_base=0.0)


def _weighted(beta: Array, log_q: Array, log_p: Array) -> Array:
    """Log of f; where a weight is 0, its density has no say, be it 0 itself."""
    from_q = jnp.where(beta < 1, (1 - beta) * log_q, 0.0)
    return from_q + jnp.where(beta > 0, beta * log_p, 0.0)
