r"""Log partition functions by annealed importance sampling, forwards and backwards.

A path joins a base distribution, whose Z is known and which can be sampled, to the target,
through unnormalised densities :math:`f_\beta` with :math:`\beta` from 0 to 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.hoisting import hoisted_jit
from kd.inference.partition import (
    LogZ,
    importance_sampling,
    refuse_nan,
    reverse_importance_sampling,
)
from kd.types import Array, Key, PyTree


class AnnealingPath(NamedTuple):
    r"""A path of unnormalised densities, and how to move along it.

    Attributes:
      init: `init(key, num) -> state`, exact samples of the base: a pytree of arrays with
        leading axis num.
      step: `step(key, state, beta, next_beta) -> (state, increment [num])`. The increment
        is :math:`\log f_{\beta'}(x) - \log f_\beta(x)` at the state given; then the state
        moves by a kernel that leaves :math:`f_{\beta'}` invariant. An increment of minus
        infinity, where :math:`f_{\beta'}` is 0, ends a chain: its weight is 0, whatever
        follows. Backwards it is called
        with `next_beta` below `beta`, and the kernel must be reversible, as Gibbs
        sampling through hidden variables, Metropolis-Hastings and slice sampling are.
      log_z_base: log of the sum or integral of :math:`f_0`, in nats.
      check: `check(state)` raises for a state that is not one of the path's.

    Example:
      A path of Metropolis steps, from a normal distribution to a narrower one:

      >>> def log_f(x, beta):
      ...     return -0.5 * x**2 - beta * x**4
      >>> def step(key, x, beta, next_beta):
      ...     increment = log_f(x, next_beta) - log_f(x, beta)
      ...     move_key, accept_key = jax.random.split(key)
      ...     moved = x + jax.random.normal(move_key, x.shape)
      ...     log_ratio = log_f(moved, next_beta) - log_f(x, next_beta)
      ...     is_accepted = jnp.log(jax.random.uniform(accept_key, x.shape)) < log_ratio
      ...     return jnp.where(is_accepted, moved, x), increment
      >>> path = AnnealingPath(
      ...     lambda key, num: jax.random.normal(key, (num,)), step, 0.5 * np.log(2 * np.pi)
      ... )
      >>> result = annealed_importance_sampling(
      ...     jax.random.key(0), path, linear_schedule(50), num_chains=1000
      ... )
      >>> grid = np.linspace(-6, 6, 10001)
      >>> bool(result.low < np.log(np.trapezoid(np.exp(log_f(grid, 1.0)), grid)) < result.high)
      True
    """

    init: Callable[[Key, int], PyTree]
    step: Callable[[Key, PyTree, Array, Array], tuple[PyTree, Array]]
    log_z_base: float
    check: Callable[[PyTree], None] = lambda state: None


def annealed_importance_sampling(
    key: Key, path: AnnealingPath, betas: np.ndarray, *, num_chains: int
) -> LogZ:
    r"""Log Z, in nats: importance sampling along a path from its base to the target.

    .. math:: \log Z \approx \log Z_0 + \log \frac{1}{S} \sum_s \prod_k
       \frac{f_{\beta_{k+1}}(x_{s,k})}{f_{\beta_k}(x_{s,k})}

    Its expectation is at most log Z.

    Args:
      key: decides the chains.
      path: from base to target.
      betas: `[K]`, increasing from 0 to 1.
      num_chains: S >= 2.

    Returns:
      The estimate, with the interval of `importance_sampling`.

    Raises:
      TypeError, ValueError: as `annealed_log_weights` and `importance_sampling`.

    Example:
      >>> from kd.inference import rbm_path
      >>> params = {"w": jnp.zeros((3, 2)), "a": jnp.ones(3), "b": jnp.zeros(2)}
      >>> path = rbm_path(params, base_rate_logits=jnp.zeros(3))
      >>> result = annealed_importance_sampling(
      ...     jax.random.key(0), path, linear_schedule(100), num_chains=1000
      ... )
      >>> log_z = 3 * np.log1p(np.exp(1.0)) + 2 * np.log(2.0)
      >>> bool(result.low < log_z < result.high)
      True

    Reference:
      Neal (2001), "Annealed importance sampling".
    """
    checks.check_count("num_chains", num_chains, at_least=2)
    return importance_sampling(annealed_log_weights(key, path, betas, num_chains=num_chains))


def reverse_annealed_importance_sampling(
    key: Key, path: AnnealingPath, betas: np.ndarray, target_state: PyTree
) -> LogZ:
    r"""Log Z, in nats: annealing backwards, from samples of the target to the base.

    .. math:: \log Z \approx \log Z_0 - \log \frac{1}{S} \sum_s \prod_k
       \frac{f_{\beta_k}(x_{s,k})}{f_{\beta_{k+1}}(x_{s,k})}

    Its expectation is at least log Z, if the samples are exact: with
    `annealed_importance_sampling` it encloses log Z. Samples of a chain that has not
    found all of the target bring it down, below log Z even.

    Args:
      key: decides the chains.
      path: from base to target.
      betas: `[K]`, increasing from 0 to 1, as for the forward run.
      target_state: a state of the path, of independent samples of the target.

    Returns:
      The estimate, with the interval of `reverse_importance_sampling`.

    Raises:
      TypeError, ValueError: as `reverse_annealed_log_weights` and
        `reverse_importance_sampling`.

    Example:
      >>> from kd.inference import rbm_path
      >>> params = {"w": jnp.zeros((3, 2)), "a": jnp.zeros(3), "b": jnp.zeros(2)}
      >>> path = rbm_path(params, base_rate_logits=jnp.zeros(3))
      >>> samples = path.init(jax.random.key(0), 10)
      >>> result = reverse_annealed_importance_sampling(
      ...     jax.random.key(1), path, linear_schedule(5), samples
      ... )
      >>> print(f"{result.value:.4f} {5 * np.log(2.0):.4f}")
      3.4657 3.4657

    Reference:
      Grosse, Ghahramani and Adams (2015), "Sandwiching the marginal likelihood using
      bidirectional Monte Carlo", arXiv:1511.02543; Burda, Grosse and Salakhutdinov (2015),
      "Accurate and conservative estimates of MRF log-likelihood using reverse annealing",
      arXiv:1412.8566, who start from test data instead.
    """
    return reverse_importance_sampling(reverse_annealed_log_weights(key, path, betas, target_state))


def annealed_log_weights(
    key: Key, path: AnnealingPath, betas: np.ndarray, *, num_chains: int
) -> np.ndarray:
    """Log-weights of annealed chains, in nats, log Z of the base included.

    One compiled scan; the increments are summed with compensation, so that the sum of
    many in single precision is as good as they are.

    Args:
      key: decides the chains.
      path: from base to target.
      betas: `[K]`, increasing from 0 to 1, also in the precision of the device.
      num_chains: S.

    Returns:
      `[S]`, float64: for `importance_sampling`, and for `bridge_sampling` with those of
      `reverse_annealed_log_weights`, which is better than either alone.

    Raises:
      TypeError: if `key` is not one typed key, or `num_chains` no integer.
      ValueError: if `betas` do not increase from 0 to 1, `num_chains` < 1, the path's log Z
        is not finite, or its increments are not `[S]` or NaN.

    Reference:
      Neal (2001), "Annealed importance sampling"; of bridging both directions: Bennett
      (1976), "Efficient estimation of free energy differences from Monte Carlo data".
    """
    checks.check_count("num_chains", num_chains)

    def init_fn(key: Key, _: None) -> PyTree:
        return path.init(key, num_chains)

    return _anneal(key, path, _checked_betas(betas), init_fn, None, num_chains)


def reverse_annealed_log_weights(
    key: Key, path: AnnealingPath, betas: np.ndarray, target_state: PyTree
) -> np.ndarray:
    """Log-weights of chains annealed backwards, in nats, with the sign of the forward ones.

    Args:
      key, path, betas: as for `annealed_log_weights`.
      target_state: a state of the path, S independent samples of the target.

    Returns:
      `[S]`, float64: for `reverse_importance_sampling` and `bridge_sampling`.

    Raises:
      TypeError, ValueError: as `annealed_log_weights`, or if the leaves of `target_state`
        differ in length, or the path refuses it.
    """
    num_chains = checks.check_same_length("target_state", target_state)
    path.check(target_state)
    betas = _checked_betas(betas)[::-1]
    # Each increment has the other sign backwards, and so has their sum.
    backward = path._replace(log_z_base=-path.log_z_base)
    state = jax.tree.map(jnp.asarray, target_state)
    return -_anneal(key, backward, betas, lambda _, state: state, state, num_chains)


def linear_schedule(num_betas: int) -> np.ndarray:
    """Evenly spaced betas from 0 to 1.

    Args:
      num_betas: K >= 2.

    Returns:
      `[K]`, float64.

    Raises:
      ValueError: if K < 2.

    Example:
      >>> linear_schedule(3)
      array([0. , 0.5, 1. ])
    """
    checks.check_count("num_betas", num_betas, at_least=2)
    return np.linspace(0.0, 1.0, num_betas)


def salakhutdinov_schedule() -> np.ndarray:
    """The 14,500 betas of Salakhutdinov and Murray (2008), dense at the target's end.

    500 evenly spaced from 0 to 0.5, 4,000 from 0.5 to 0.9, and 10,000 from 0.9 to 1.0. Here
    0.5 and 0.9 belong to the part that they begin; in the released code they occur twice,
    and there are 14,503.

    Returns:
      `[14500]`, float64, from 0 to 1.

    Example:
      >>> betas = salakhutdinov_schedule()
      >>> betas.size, float(betas[500]), float(betas[4500])
      (14500, 0.5, 0.9)
    """
    parts = [np.linspace(0.0, 0.5, 500, endpoint=False)]
    parts.append(np.linspace(0.5, 0.9, 4000, endpoint=False))
    parts.append(np.linspace(0.9, 1.0, 10000))
    return np.concatenate(parts)


def _anneal(
    key: Key,
    path: AnnealingPath,
    betas: Array,
    init_fn: Callable[[Key, PyTree], PyTree],
    given: PyTree,
    num_chains: int,
) -> np.ndarray:
    """The path's log Z and the sums of increments along `betas`, in their direction."""
    checks.check_key("key", key)
    if not np.isfinite(path.log_z_base):
        raise ValueError(f"path.log_z_base must be finite, got {path.log_z_base}.")

    def advance(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        state, total, lost = carry
        state, increment = path.step(inputs[0], state, *inputs[1:])
        if jnp.shape(increment) != (num_chains,):
            raise ValueError(
                f"path.step must give increments of shape {(num_chains,)}, "
                f"got {jnp.shape(increment)}."
            )
        return (state, *_add(total, lost, increment.astype(total.dtype))), None

    def run(key: Key, given: PyTree) -> tuple[Array, Array]:
        key_init, key_steps = jax.random.split(key)
        zeros = jnp.zeros(num_chains, betas.dtype)
        keys = jax.random.split(key_steps, betas.size - 1)
        start = (init_fn(key_init, given), zeros, zeros)
        return jax.lax.scan(advance, start, (keys, betas[:-1], betas[1:]))[0][1:]

    # The path captures its weights; as constants XLA would fold them.
    total, lost = hoisted_jit(run, key, given)(key, given)
    found = path.log_z_base + np.asarray(total, np.float64) + np.asarray(lost, np.float64)
    refuse_nan("path.step: the summed increments", found)
    return found


def _add(total: Array, lost: Array, term: Array) -> tuple[Array, Array]:
    """Adds a term, and to `lost` what rounding takes from it (Knuth's two-sum)."""
    # A chain that the target excluded: its next increments may be infinite, or NaN.
    new = jnp.where(jnp.isneginf(total), total, total + term)
    part = new - total
    error = (total - (new - part)) + (term - part)
    # Once the sum is infinite the error would be NaN.
    return new, lost + jnp.where(jnp.isfinite(new), error, 0.0)


def _checked_betas(betas: np.ndarray) -> Array:
    # In the device's precision: rounded here and nowhere else, the increments telescope.
    rounded = np.asarray(betas, jnp.result_type(float))
    checks.check_rank("betas", rounded, 1)
    if not (rounded.size >= 2 and rounded[0] == 0 and rounded[-1] == 1):
        ends = f"{rounded[0]:g} to {rounded[-1]:g}" if rounded.size else "none"
        raise ValueError(f"betas must go from 0 to 1, got {rounded.size} from {ends}.")
    if not np.all(np.diff(rounded) > 0):
        index = int(np.argmin(np.diff(rounded) > 0))
        raise ValueError(
            f"betas must increase, in {rounded.dtype}: got {rounded[index]} at {index}, "
            f"then {rounded[index + 1]}."
        )
    return jnp.asarray(rounded)
