"""Maximum likelihood for mixtures of Gaussians by expectation-maximisation, batch and online."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.inference.mixture_statistics import (
    default_block_size,
    expected_clouds,
    merge,
    most_likely,
    own_clouds,
    to_blocks,
)
from kd.models.mixture import Components, GaussianMixture
from kd.types import Array, Batch, Metrics, PyTree, Update

StepSize = float | Callable[[Array], Array]


class EMState(NamedTuple):
    """A mixture that EM moves; its averaged statistics are its own moments.

    Attributes:
      params: of the `GaussianMixture`.
      step: batches seen, int32.
    """

    params: PyTree
    step: Array


class EMResult(NamedTuple):
    """What `fit_mixture` found.

    Attributes:
      params: of the `GaussianMixture`.
      log_likelihood: of `params`, nats, the mean over the inputs.
      num_iterations: M steps made.
      is_converged: whether the last of them gained less than the tolerance.
      num_empty: components without a share in the data.
      num_floored: other components with a variance at the floor.
    """

    params: PyTree
    log_likelihood: Array
    num_iterations: Array
    is_converged: Array
    num_empty: Array
    num_floored: Array


def expectation_maximization(
    mixture: GaussianMixture, *, step_size: StepSize = 1.0, floor: float = 1e-6
) -> Update:
    r"""EM as an update: batch EM with step size 1 and all data, stepwise EM with less.

    .. math::
       \Phi \leftarrow (1 - \alpha) \Phi + \alpha \Phi', \quad
       \Phi'_k = \frac{1}{B} \sum_b r_{kb} \, (1, x_b, x_b x_b^\top), \quad
       r_{kb} = p(k \mid x_b)

    and the parameters are those of which :math:`\Phi` are the moments. So the averaged
    statistics need no place of their own: before the first batch, and ever after, they
    are the moments of the parameters. The sums are never formed: a weight, a mean and a
    covariance are mixed as two clouds of points are, which is the same and loses no digits
    where the data are far from 0.

    A component whose share in the data is below 1e-30 keeps its mean and covariance, and a
    weight of 1e-30. All stays finite for finite inputs, as long as their squared distances
    from each mean, in units of its covariance, do.

    Args:
      mixture: the model, of any form of covariance.
      step_size: :math:`\alpha` in [0, 1], or a function of the step, int32 from 0, to
        it; what it returns is clipped to [0, 1]. A first step of 1 throws the
        statistics of the start away.
      floor: least eigenvalue of a covariance, in the squared units of x: the maximum of the
        likelihood is over covariances with none below. (The raised covariances enter the next
        average.)

    Returns:
      An update of batches `{"x": [B, D]}` whose state is an `EMState`. Its metrics are
      `"loss"`, minus the mean log-likelihood of the batch, in nats, at the parameters before
      the step; and after it `"num_empty"`, components without a share in the data, and
      `"num_floored"`, others with a variance at the floor. An input that is not finite makes
      the loss NaN or infinite.

    Raises:
      ValueError: if `floor` is not positive, or `step_size` (for a function, at step 0) not in
        [0, 1]; by `init` for parameters of another model; by `apply` for x of another
        shape, or without inputs.
      TypeError: by `apply` for another state.

    Example:
      >>> mixture = GaussianMixture(num_components=1, num_dims=1)
      >>> update = expectation_maximization(mixture, step_size=0.5)
      >>> state = update.init(mixture.from_moments(
      ...     jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1))))
      >>> state, metrics = update.apply(state, {"x": jnp.array([[1.0], [3.0]])})
      >>> print(mixture.means(state.params)[0], mixture.covariances(state.params)[0].round(4))
      [1.] [[2.]]

    Reference:
      Cappé and Moulines (2009), "On-line expectation-maximization algorithm for latent data
      models"; Papamakarios (2015), (D.3)-(D.14), whose (D.2) has min for max. Deviations:
      the statistics are means over the batch, as in the thesis's code; the floor.
    """
    checks.check_positive("floor", floor)
    first = step_size(jnp.zeros((), jnp.int32)) if callable(step_size) else step_size
    checks.check_weight("step_size", first)

    def init(params: PyTree) -> EMState:
        _components(mixture, params)
        return EMState(params, jnp.zeros((), jnp.int32))

    def apply(state: EMState, batch: Batch) -> tuple[EMState, Metrics]:
        if not isinstance(state, EMState):
            raise TypeError(
                f"state must be update.init(params), an EMState; got {type(state).__name__}."
            )
        if "x" not in batch:
            names = ", ".join(map(repr, sorted(batch)))
            raise ValueError(f"a batch must have its inputs under 'x', got {names}.")
        components = _components(mixture, state.params)
        dtype = components.logits.dtype
        blocks = to_blocks(_inputs(mixture, batch["x"], dtype), _block_size(mixture))
        clouds, log_likelihood = expected_clouds(components, blocks)
        rate = step_size(state.step) if callable(step_size) else step_size
        rate = jnp.clip(jnp.asarray(rate, dtype), 0, 1)
        old = own_clouds(components)
        clouds = merge(
            old._replace(shares=(1 - rate) * old.shares),
            clouds._replace(shares=rate * clouds.shares),
        )
        moved, *counts = most_likely(components, clouds, jnp.asarray(floor, dtype))
        num_empty, num_floored = (count.astype(dtype) for count in counts)
        metrics = {"loss": -log_likelihood, "num_empty": num_empty, "num_floored": num_floored}
        return EMState(_params(moved), state.step + 1), metrics

    return Update(init, apply)


def fit_mixture(
    mixture: GaussianMixture,
    params: PyTree,
    x: Array,
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
    floor: float = 1e-6,
    block_size: int | None = None,
) -> EMResult:
    r"""Batch EM until the mean log-likelihood gains less than the tolerance.

    Runs under `jax.vmap`, for instance over several starts.

    Args:
      mixture: the model, of any form of covariance.
      params: the start.
      x: `[N, D]`, the data.
      tolerance: nats per input. In single precision the mean log-likelihood is known to one
        part in ten million or so, and iterations end when they gain less than that: at a
        plateau, too, from which EM would have gone on. Where that matters, start in double
        precision, with a smaller tolerance and more iterations.
      max_iterations: at most as many M steps.
      floor: least eigenvalue of a covariance, in the squared units of x.
      block_size: inputs in memory at a time, each with K D numbers; what a CPU's cache
        holds if None. It changes the result by rounding alone.

    Returns:
      The parameters, with their log-likelihood. All fields are arrays.

    Raises:
      ValueError: if x is empty, of another shape or (where it is not traced) not finite; if
        `params` are of another model; if `tolerance` is negative or NaN, `floor` not
        positive, or a count < 1.

    Example:
      >>> mixture = GaussianMixture(num_components=2, num_dims=1)
      >>> start = mixture.from_moments(
      ...     jnp.array([0.5, 0.5]), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1, 1)))
      >>> x = jnp.array([[-12.0], [-8.0], [-10.0], [9.0], [11.0]])
      >>> result = fit_mixture(mixture, start, x)
      >>> print(mixture.weights(result.params), mixture.means(result.params).ravel())
      [0.6 0.4] [-10.  10.]

    Reference:
      Papamakarios (2015), (D.3)-(D.9). Deviations: the thesis's code stops where the total
      log-likelihood gains less than 1e-7, which single precision cannot resolve, however many
      iterations that takes; and it has no floor, so that a component may collapse onto a point.
    """
    components = _components(mixture, params)
    x = _inputs(mixture, x, components.logits.dtype)
    checks.check_finite("x", x)
    if not isinstance(tolerance, jax.core.Tracer) and not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}.")
    checks.check_count("max_iterations", max_iterations)
    checks.check_positive("floor", floor)
    block_size = _block_size(mixture) if block_size is None else block_size
    checks.check_count("block_size", block_size)
    found, *rest = _iterate(components, x, tolerance, max_iterations, floor, block_size=block_size)
    return EMResult(_params(found), *rest)


def power_step_size(t0: float, beta: float) -> Callable[[Array], Array]:
    r"""Step sizes :math:`(t_0 + t)^{-\beta}` with t counted from 1: stepwise EM converges.

    Args:
      t0: >= 0; with 0 the first step is 1, and throws the start away.
      beta: in (1/2, 1].

    Returns:
      A function of the step, counted from 0.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> print(power_step_size(0, 1.0)(jnp.arange(4)))
      [1.         0.5        0.33333334 0.25      ]

    Reference:
      Papamakarios (2015), (D.16).
    """
    if not 0 <= t0 < math.inf:
        raise ValueError(f"t0 must be finite and not negative, got {t0}.")
    if not 0.5 < beta <= 1:
        raise ValueError(f"beta must be in (0.5, 1], got {beta}.")
    return lambda step: (t0 + 1.0 + step) ** -beta


def linear_step_size(num_steps: int) -> Callable[[Array], Array]:
    r"""Step sizes from 1 at the first step to 0 at the last of `num_steps`, and 0 after it.

    Args:
      num_steps: >= 2.

    Returns:
      A function of the step, counted from 0.

    Raises:
      ValueError: if `num_steps` < 2.

    Example:
      >>> print(linear_step_size(5)(jnp.arange(6)))
      [1.   0.75 0.5  0.25 0.   0.  ]

    Reference:
      Papamakarios (2015), section 3.2.3.
    """
    checks.check_count("num_steps", num_steps, at_least=2)
    return lambda step: jnp.maximum(1 - step / (num_steps - 1), 0)


class _Iterate(NamedTuple):
    components: Components
    clouds: PyTree
    log_likelihood: Array
    gain: Array
    num_iterations: Array
    num_empty: Array
    num_floored: Array


@functools.partial(jax.jit, static_argnames="block_size")
def _iterate(
    components: Components,
    x: Array,
    tolerance: float,
    max_iterations: int,
    floor: float,
    *,
    block_size: int,
) -> tuple:
    blocks = to_blocks(x, block_size)

    def goes_on(now: _Iterate) -> Array:
        # False where the gain is NaN.
        return (now.num_iterations < max_iterations) & (now.gain >= tolerance)

    def iterate(now: _Iterate) -> _Iterate:
        moved, *counts = most_likely(now.components, now.clouds, jnp.asarray(floor, x.dtype))
        clouds, value = expected_clouds(moved, blocks)
        gain = value - now.log_likelihood
        return _Iterate(moved, clouds, value, gain, now.num_iterations + 1, *counts)

    clouds, value = expected_clouds(components, blocks)
    zero = jnp.zeros((), jnp.int32)
    counts = jax.eval_shape(most_likely, components, clouds, value)[1:]
    start = _Iterate(
        components,
        clouds,
        value,
        jnp.full_like(value, jnp.inf),
        zero,
        *(jnp.zeros(count.shape, count.dtype) for count in counts),
    )
    end = jax.lax.while_loop(goes_on, iterate, start)
    is_converged = end.gain < tolerance
    return (
        end.components,
        end.log_likelihood,
        end.num_iterations,
        is_converged,
        end.num_empty,
        end.num_floored,
    )


def _block_size(mixture: GaussianMixture) -> int:
    return default_block_size(mixture.num_components, mixture.num_dims)


def _inputs(mixture: GaussianMixture, x: Array, dtype: jnp.dtype) -> Array:
    checks.check_rank("x", x, 2)
    checks.check_last_axis("x", x, mixture.num_dims)
    checks.check_same_length("x", x)
    return jnp.asarray(x, dtype)


def _components(mixture: GaussianMixture, params: PyTree) -> Components:
    """The mixture's parameters by name; raises ValueError if they are another's."""
    count, size, form = mixture.num_components, mixture.num_dims, mixture.covariance
    expected = {"logits": (count,), "locations": (count, size), "log_scales": (count, size)}
    if form == "spherical":
        expected["log_scales"] = (count,)
    elif form == "full":
        expected["lower"] = (count, size * (size - 1) // 2)
    found = jax.tree.map(jnp.shape, params)
    if found != {"params": expected}:
        raise ValueError(
            f"params must be those of {form} covariances: {{'params': {expected}}}; got {found}."
        )
    kinds = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}
    if len(kinds) > 1 or not kinds <= {jnp.dtype("float32"), jnp.dtype("float64")}:
        names = ", ".join(sorted(map(str, kinds)))
        raise TypeError(f"params must be all in single, or all in double precision; got {names}.")
    return Components(**({"lower": None} | params["params"]))


def _params(components: Components) -> PyTree:
    leaves = components._asdict()
    return {"params": {name: leaf for name, leaf in leaves.items() if leaf is not None}}
