"""The largest log-potential that a search finds: a sure lower bound on log Z."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.types import Array


def max_lower_bound(
    log_potential_fn: Callable[[Array], Array],
    candidates: Array,
    *,
    num_ascents: int = 10,
    max_flips: int = 10_000,
) -> tuple[Array, Array]:
    r"""Lower bound on log Z of a discrete distribution, in nats: a large log-potential.

    .. math:: \max_x \log \bar p(x) \le \log Z

    The best candidates climb by single flips, each the best there is, until no flip helps.

    Args:
      log_potential_fn: `[N, I] -> [N]`, :math:`\log \bar p` of zeros and ones.
      candidates: `[N, I]`, zeros and ones: random states, samples, whatever there is.
      num_ascents: how many of them climb.
      max_flips: at most, of each.

    Returns:
      The bound, a scalar, and where it is reached, `[I]`. A state whose log-potential is
      NaN counts as one of no probability.

    Raises:
      ValueError: if there is no candidate, one (where it is not traced) holds other
        values, a count is not positive, `log_potential_fn` does not give `[N]`, or (where
        it is not traced) the largest log-potential is not finite.

    Example:
      >>> value, x = max_lower_bound(lambda x: x @ jnp.array([2.0, -1.0]), jnp.zeros((1, 2)))
      >>> float(value), x.tolist()
      (2.0, [1.0, 0.0])

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (4.13) and (4.50), sections 4.2.3
      and 4.2.4: random sampling followed by hill climbing.
    """
    checks.check_rank("candidates", candidates, 2)
    num_candidates = checks.check_same_length("candidates", candidates)
    checks.check_binary("candidates", candidates)
    checks.check_count("num_ascents", num_ascents)
    checks.check_count("max_flips", max_flips)
    candidates = jnp.asarray(candidates, jnp.result_type(float))

    def potential_fn(x: Array) -> Array:
        values = log_potential_fn(x)
        if jnp.shape(values) != (len(x),):
            raise ValueError(
                f"log_potential_fn must give shape ({len(x)},), got {jnp.shape(values)}."
            )
        return jnp.where(jnp.isnan(values), -jnp.inf, values)

    flips = jnp.eye(candidates.shape[1], dtype=candidates.dtype)

    def climb(x: Array) -> tuple[Array, Array]:
        def body(carry: tuple) -> tuple:
            num_flips, x, value, _ = carry
            neighbours = jnp.abs(x[None] - flips)
            values = potential_fn(neighbours)
            best = jnp.argmax(values)
            improves = values[best] > value
            x = jnp.where(improves, neighbours[best], x)
            return num_flips + 1, x, jnp.maximum(value, values[best]), improves

        start = (0, x, potential_fn(x[None])[0], jnp.array(True))
        _, x, value, _ = jax.lax.while_loop(
            lambda carry: carry[3] & (carry[0] < max_flips), body, start
        )
        return value, x

    first = jax.lax.top_k(potential_fn(candidates), min(num_ascents, num_candidates))[1]
    values, xs = jax.lax.map(climb, candidates[first])
    best = jnp.argmax(values)
    if not isinstance(values, jax.core.Tracer) and not np.isfinite(values[best]):
        raise ValueError(
            f"log_potential_fn gives no finite maximum: the largest is {values[best]}."
        )
    return values[best], xs[best]
