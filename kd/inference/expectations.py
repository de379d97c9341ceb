r"""Posterior expectations of what a network says, and their estimates from one sample at a time.

An expectation is :math:`\mathbb{E}_{p(\theta \mid D)}[g(x, \theta)]` with g a function of the
network's log-probabilities at one input. Estimators are given the values of g under the current
samples, example by example, and keep what they need to.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array, PyTree


class Estimator(NamedTuple):
    """How an expectation at one example is estimated from visit to visit.

    Attributes:
      init: the value of g, as a `jax.ShapeDtypeStruct`, to the memory of an example that was
        never visited, all zeros; () where nothing is remembered.
      step: `(memory, values, count)` to `(memory, estimate)`: values `[R, ...]` of g under the R
        samples of this visit, and the number of visits, this one counted, floating.
      remembers: whether the estimate is of more than this visit.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, Array, Array], tuple[PyTree, Array]]
    remembers: bool


class Expectation(NamedTuple):
    """One posterior expectation.

    Attributes:
      fn: log-probabilities `[C]`, nats, to the value of g, an array of any shape.
      estimator: of its mean.
      read: the estimate to what a student is to learn; the identity of plain expectations. One that
        is not linear needs an estimator that remembers: of the current sample alone a variance,
        say, is 0.

    Example:
      >>> variance = Expectation(  # Of the probabilities, over samples.
      ...     lambda log_probs: jnp.stack([jnp.exp(log_probs), jnp.exp(2 * log_probs)]),
      ...     running_mean(),
      ...     read=lambda mean: mean[1] - mean[0] ** 2,
      ... )
      >>> variance.read(jnp.array([[0.5, 0.5], [0.5, 0.25]])).tolist()
      [0.25, 0.0]
    """

    fn: Callable[[Array], Array]
    estimator: Estimator
    read: Callable[[Array], Array] = lambda estimate: estimate


def current_sample() -> Estimator:
    r"""The value under the current samples alone: unbiased, without memory, noisy.

    .. math:: U_s(\hat g, \theta_t, m) = g(x, \theta_t)

    A student learns the expectation by a loss that is least at its target's mean, as cross-entropy
    or squares; an absolute error is least at the *median* over samples, and wants `running_mean`.

    Example:
      >>> estimator = current_sample()
      >>> memory, estimate = estimator.step((), jnp.array([1.0, 3.0]), jnp.array(5))
      >>> float(estimate)
      2.0

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", (9).
    """
    return Estimator(
        lambda value: (), lambda memory, values, count: (memory, jnp.mean(values, 0)), False
    )


def current_samples() -> Estimator:
    """The values under the current samples, `[R, ...]`, each by itself.

    For losses that are no function of a mean: of all members of an ensemble, tempered anew
    at each step.

    Example:
      >>> memory, estimate = current_samples().step((), jnp.array([1.0, 3.0]), jnp.array(5))
      >>> estimate.tolist()
      [1.0, 3.0]
    """
    return Estimator(lambda value: (), lambda memory, values, count: (memory, values), False)


def _single(value: jax.ShapeDtypeStruct) -> jnp.dtype:
    """At least single precision: in half a mean over many visits would stand still."""
    return jnp.promote_types(value.dtype, jnp.float32)


def running_mean() -> Estimator:
    r"""The mean over all visits of an example: a Monte Carlo average without stored samples.

    .. math:: U_o(\hat g, \theta_t, m) = \frac{1}{m + 1} (m \hat g + g(x, \theta_t))

    after m visits. Its memory is that of one value of g an example.

    Example:
      >>> estimator = running_mean()
      >>> memory, estimate = estimator.step(jnp.array(1.0), jnp.array([4.0]), jnp.array(3))
      >>> float(estimate)  # (1 + 1 + 4) / 3.
      2.0

    Reference:
      Vadera, Jalaian and Marlin (2020), (10).
    """

    def step(memory: Array, values: Array, count: Array) -> tuple[Array, Array]:
        mean = memory + (jnp.mean(values, 0) - memory) / count
        return mean, mean

    return Estimator(lambda value: jnp.zeros(value.shape, _single(value)), step, True)


def running_quantiles(
    levels: Sequence[float], *, step_size: float = 0.1, power: float = 0.6
) -> Estimator:
    r"""Quantiles of g by stochastic approximation, elementwise: `[L, ...]` for g `[...]`.

    .. math:: q_\ell \leftarrow q_\ell + a \, m^{-\kappa} (\ell - [g(x, \theta_t) \le q_\ell])

    at the m-th visit. They start at the first value. For long chains: an estimate moves by at most
    the step size a visit, and quantiles of neighbouring levels may cross until they have settled.

    Args:
      levels: L of them, each in (0, 1).
      step_size: a, in units of g.
      power: :math:`\kappa`, in (0.5, 1].

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> estimator = running_quantiles([0.25, 0.75])
      >>> memory = estimator.init(jax.ShapeDtypeStruct((), jnp.float32))
      >>> memory, estimate = estimator.step(memory, jnp.array([0.5]), jnp.array(1.0))
      >>> estimate.shape
      (2,)

    Reference:
      Robbins and Monro (1951), "A stochastic approximation method".
    """
    checks.check_count("the number of levels", len(levels))
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"levels must be in (0, 1), got {level}.")
    checks.check_positive("step_size", step_size)
    if not 0.5 < power <= 1:
        raise ValueError(f"power must be in (0.5, 1], got {power}.")

    def step(memory: Array, values: Array, count: Array) -> tuple[Array, Array]:
        first = jnp.broadcast_to(jnp.mean(values, 0), memory.shape)
        # [L, R, ...] against [L, 1, ...].
        is_below = values[None] <= memory[:, None]
        wanted = jnp.reshape(jnp.asarray(levels, memory.dtype), (-1,) + (1,) * (memory.ndim - 1))
        moved = memory + step_size * count**-power * (wanted - jnp.mean(is_below, 1))
        quantiles = jnp.where(count == 1, first, moved).astype(memory.dtype)
        # NaN is not below anything: it must not pass for a large value.
        quantiles = jnp.where(jnp.isnan(first), jnp.nan, quantiles)
        return quantiles, quantiles

    return Estimator(
        lambda value: jnp.zeros((len(levels), *value.shape), _single(value)), step, True
    )


def predictive(log_probs: Array) -> Array:
    r"""Probabilities `[C]`: their expectation is the posterior predictive distribution.

    Reference:
      Vadera, Jalaian and Marlin (2020), section 3.1.
    """
    return jnp.exp(log_probs)


def entropy(log_probs: Array) -> Array:
    r"""Entropy in nats, a scalar: its expectation is the expected data uncertainty.

    .. math:: g = -\sum_c p_c \log p_c

    A probability of 0 contributes 0.

    Example:
      >>> print(f"{entropy(jnp.log(jnp.array([0.5, 0.5]))):.4f}")
      0.6931

    Reference:
      Vadera, Jalaian and Marlin (2020), section 3.1, which leaves out the minus.
    """
    present = log_probs != -jnp.inf
    log_probs = jnp.where(present, log_probs, 0.0)
    return -jnp.sum(jnp.where(present, jnp.exp(log_probs) * log_probs, 0.0), axis=-1)


def marginal_variance(log_probs: Array) -> Array:
    r"""Variances of the labels' indicators, `[C]`: :math:`g_c = p_c (1 - p_c)`.

    Reference:
      Vadera, Jalaian and Marlin (2020), section 3.1.
    """
    probs = jnp.exp(log_probs)
    return probs * (1 - probs)


def smoothed_log_probs(
    log_probs: Array, *, smoothing: float = 1e-3, temperature: float = 1.0
) -> Array:
    r"""Log-probabilities, nats, mixed with the uniform distribution so that they are bounded.

    .. math:: g = \log((1 - \gamma) \, p^{1/T} / Z + \gamma / C), \qquad Z = \sum_c p_c^{1/T}

    Their expectation is what a Dirichlet distribution is fitted to (`mean_log_probs`).

    Args:
      log_probs: `[..., C]`, nats.
      smoothing: :math:`\gamma`, in [0, 1]; 0 mixes nothing in.
      temperature: T, positive, may be traced; with that of the loss.

    Raises:
      ValueError: if an argument is out of range, or the log-probabilities are a scalar.

    Example:
      >>> found = smoothed_log_probs(jnp.log(jnp.array([0.9, 0.1])), temperature=2.0, smoothing=0.0)
      >>> print(jnp.exp(found).round(4))  # Roots of 9 to 1.
      [0.75 0.25]

    Reference:
      Malinin, Mlodozeniec and Gales (2020), "Ensemble distribution distillation": in their code.
    """
    checks.check_weight("smoothing", smoothing)
    checks.check_positive("temperature", temperature)
    if jnp.ndim(log_probs) < 1:
        raise ValueError("log_probs must be [..., C], got a scalar.")
    if isinstance(temperature, jax.Array) or temperature != 1:
        log_probs = jax.nn.log_softmax(log_probs / temperature)
    if smoothing == 0:
        return log_probs
    num_classes = log_probs.shape[-1]
    uniform = jnp.full_like(log_probs, jnp.log(smoothing / num_classes))
    return jnp.logaddexp(jnp.log1p(-smoothing) + log_probs, uniform)


def mean_log_probs(*, smoothing: float = 1e-3) -> Expectation:
    r"""Mean log-probabilities `[C]`, nats, at most 0: what a Dirichlet student learns.

    A running mean. The current sample alone is a point, whose likeliest Dirichlet is that point;
    of stored networks that all answer at each visit (`kd.samplers.fixed`) `current_sample` is
    exact, and remembers nothing. A temperature that falls while a student learns wants
    `current_samples` of the log-probabilities themselves, tempered in the objective: a mean over
    visits is of the temperature of those visits.

    Args:
      smoothing: of `smoothed_log_probs`, in (0, 1]: without, the mean has no bound.

    Raises:
      ValueError: if the smoothing is out of range.

    Example:
      >>> fn, estimator, read = mean_log_probs(smoothing=0.5)
      >>> print(jnp.exp(fn(jnp.log(jnp.array([1.0, 0.0])))))
      [0.75 0.25]

    Reference:
      Malinin, Mlodozeniec and Gales (2020), "Ensemble distribution distillation", (9).
    """
    checks.check_fraction("smoothing", smoothing)
    return Expectation(lambda x: smoothed_log_probs(x, smoothing=smoothing), running_mean())


def mutual_information() -> Expectation:
    r"""Between label and weights, nats, at least 0: the knowledge uncertainty.

    .. math:: I = H[\mathbb{E}\, p] - \mathbb{E}\, H[p]

    A function of two expectations, not one itself, so it needs estimates that remember: from the
    current sample alone it is 0.

    Reference:
      Vadera, Jalaian and Marlin (2020), (3).
    """

    def fn(log_probs: Array) -> Array:
        return jnp.append(jnp.exp(log_probs), entropy(log_probs))

    def read(estimate: Array) -> Array:
        probs, expected_entropy = estimate[..., :-1], estimate[..., -1]
        return jnp.maximum(entropy(jnp.log(probs)) - expected_entropy, 0.0)

    return Expectation(fn, running_mean(), read)


def each_chain(
    expectation: Expectation,
    num_chains: int,
    combine_fn: Callable[[Array], Array] = lambda each: jnp.mean(each, axis=0),
) -> Expectation:
    r"""An expectation by each of several chains alone; then the mean of theirs, or their spread.

    .. math:: \frac{1}{R} \sum_r \mathrm{read}(U(\hat g_r, \theta_{r, t}, m))

    Without it the chains' samples count together in one estimate, which for means is the same.
    It is not for mutual information, where that of all chains as one is larger by what they
    disagree about, nor for quantiles; and their disagreement needs each by itself.

    Args:
      expectation: what each chain estimates.
      num_chains: R, as of the stream; the memory is R times as large.
      combine_fn: from what each of them says, `[R, ...]`, to what a student is to learn.

    Raises:
      TypeError: for no `Expectation`, or a `combine_fn` that is none.
      ValueError: if `num_chains` is no such count, or, in use, not the number of samples a visit.

    Example:
      >>> spread = each_chain(
      ...     Expectation(predictive, running_mean()), 2, lambda each: jnp.std(each, axis=0))
      >>> fn, estimator, read = spread
      >>> memory = estimator.init(jax.ShapeDtypeStruct((2,), jnp.float32))
      >>> values = jnp.array([[0.25, 0.75], [0.75, 0.25]])  # Of two chains.
      >>> _, estimates = estimator.step(memory, values, jnp.array(1.0))
      >>> read(estimates).tolist()
      [0.25, 0.25]
    """
    checks.check_type("expectation", expectation, Expectation)
    checks.check_count("num_chains", num_chains)
    if not callable(combine_fn):
        raise TypeError(f"combine_fn must be a function, got {combine_fn!r}.")
    fn, estimator, read = expectation

    def init(value: jax.ShapeDtypeStruct) -> PyTree:
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_chains, *leaf.shape)), estimator.init(value)
        )

    def step(memory: PyTree, values: Array, count: Array) -> tuple[PyTree, Array]:
        if values.shape[0] != num_chains:
            raise ValueError(
                f"each_chain is of num_chains = {num_chains}, and a visit has {values.shape[0]} "
                "samples."
            )
        return jax.vmap(lambda own, value: estimator.step(own, value[None], count))(memory, values)

    return Expectation(
        fn,
        Estimator(init, step, estimator.remembers),
        lambda estimates: combine_fn(jax.vmap(read)(estimates)),
    )
