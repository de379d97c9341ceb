"""Log partition functions from samples of the target and of a proposal: bridge sampling."""

from typing import NamedTuple

import numpy as np

from kd import checks
from kd.inference.partition import (
    EXCLUDED_BY_PROPOSAL,
    EXCLUDED_BY_TARGET,
    WIDTH,
    LogZ,
    check_log_weights,
    log_mean_exp,
    refuse_infinite,
)

# Standard errors by which the two means may lie on the wrong sides of log Z by chance, from
# so many samples on; and the relative error of log-weights in single precision.
MOST_REVERSED, FEWEST_JUDGED, ROUNDING = 8.0, 10, 1e-5
# That a log-weight of the proposal exceeds one of the target by so much has a probability
# of at most exp(-20): the density of the latter is that of the former times exp(l) / Z.
MOST_AHEAD = 20.0


class BridgeLogZ(NamedTuple):
    """An estimate of log Z by bridge sampling, in nats.

    Attributes:
      value: the estimate.
      stderr: one standard error, by the delta rule for the ratio of two independent means.
        Chains that began at the proposal's samples have to have forgotten them.
      low, high: the value less and plus three standard errors.
      thesis_low, thesis_high: the wider interval of the thesis, by the rule of its released
        code: the upper end of one mean over the lower end of the other; infinite where a
        lower end is not positive.
      num_proposal, num_target: samples of each.
      effective_proposal, effective_target: effective samples of each of the two means.
      num_infinite: log-weights that are infinite, where p̄ or q is 0.
      num_iterations: of the equation for log Z.
      is_converged: whether the last of them moved by less than the tolerance.
    """

    value: float
    stderr: float
    low: float
    high: float
    thesis_low: float
    thesis_high: float
    num_proposal: int
    num_target: int
    effective_proposal: float
    effective_target: float
    num_infinite: int
    num_iterations: int
    is_converged: bool


def bridge_sampling(
    log_weights_proposal: np.ndarray,
    log_weights_target: np.ndarray,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-10,
) -> BridgeLogZ:
    r"""Log Z, in nats, from samples of both distributions and the optimal bridge.

    .. math::
       Z = \left\langle \frac{\bar p_b}{q} \right\rangle_q \Big/
           \left\langle \frac{\bar p_b}{\bar p} \right\rangle_p, \quad
       \bar p_b = \frac{q \bar p}{s_q Z q + s_p \bar p}

    with the shares :math:`s_q = N / (N + M)` and :math:`s_p = M / (N + M)` of the samples.

    Args:
      log_weights_proposal: `[N]`, of samples of the proposal, N >= 2. Minus infinity is
        a sample that the target excludes.
      log_weights_target: `[M]`, of samples of the target, M >= 2. Infinity is a sample that
        the proposal excludes.
      max_iterations: at most as many evaluations of the two means.
      tolerance: relative to log Z where that is above 1, else in nats.

    Returns:
      The estimate. If it is not converged the value is that of the last iteration.

    Raises:
      ValueError: if an argument is not a vector of at least 2, one of its entries is NaN,
        of the wrong infinity, or all are infinite (there is no overlap); if the two are the
        wrong way round; or if `max_iterations` < 1, or `tolerance` is not positive.

    Example:
      >>> result = bridge_sampling(np.array([1.0, 1.0]), np.array([1.0, 1.0, 1.0]))
      >>> print(f"{result.value:.4f} {result.stderr:.4f} {result.is_converged}")
      1.0000 0.0000 True

    Reference:
      Meng and Wong (1996), "Simulating ratios of normalizing constants via a simple
      identity"; Papamakarios (2015), (4.53)-(4.54), which has N = M. Deviations: the
      equation for Z is solved by Newton's method within a bracket, to convergence. The
      thesis's fixed point, ten iterations from Z = 1, has the same root, but swings about
      it where the two sets of log-weights lie apart. `low` and `high` are by the delta rule
      for the ratio; the thesis's interval adds up errors that add in quadrature.
    """
    proposal = check_log_weights("log_weights_proposal", log_weights_proposal)
    target = check_log_weights("log_weights_target", log_weights_target)
    refuse_infinite("log_weights_proposal", proposal, np.inf, EXCLUDED_BY_PROPOSAL)
    refuse_infinite("log_weights_target", target, -np.inf, EXCLUDED_BY_TARGET)
    checks.check_count("max_iterations", max_iterations)
    checks.check_positive("tolerance", tolerance)
    _refuse_swapped(proposal, target)
    log_ratio = np.log(target.size / proposal.size)
    value, num_iterations, is_converged = _solve(
        proposal, target, log_ratio, max_iterations, tolerance
    )
    over_q, over_p, _ = _means(proposal, target, value - log_ratio)
    centre = value - over_q.value + over_p.value
    stderr = float(np.hypot(over_q.stderr, over_p.stderr))
    return BridgeLogZ(
        value=float(value),
        stderr=stderr,
        low=float(value - WIDTH * stderr),
        high=float(value + WIDTH * stderr),
        thesis_low=float(centre + over_q.low - over_p.high),
        thesis_high=float(centre + over_q.high - over_p.low),
        num_proposal=proposal.size,
        num_target=target.size,
        effective_proposal=over_q.effective_samples,
        effective_target=over_p.effective_samples,
        num_infinite=int(np.sum(np.isinf(proposal)) + np.sum(np.isinf(target))),
        num_iterations=num_iterations,
        is_converged=is_converged,
    )


def _refuse_swapped(proposal: np.ndarray, target: np.ndarray) -> None:
    """Raises ValueError where the means are plainly on the wrong sides of log Z.

    The mean log-weight is at most log Z over the proposal, and at least log Z over the
    target. An estimate from samples that have it otherwise is worth nothing, and its
    standard error does not tell.
    """
    ahead = np.min(proposal) - np.max(target)
    if ahead > max(MOST_AHEAD, ROUNDING * abs(np.max(target))):
        raise ValueError(
            f"log_weights_proposal all lie above log_weights_target, by {ahead:.6g} nats: they are "
            "swapped, or not of samples of the two."
        )
    both = np.concatenate([proposal, target])
    if min(proposal.size, target.size) < FEWEST_JUDGED or not np.isfinite(both).all():
        return
    difference = np.mean(proposal) - np.mean(target)
    stderr = np.hypot(
        np.std(proposal) / np.sqrt(proposal.size), np.std(target) / np.sqrt(target.size)
    )
    if difference > MOST_REVERSED * stderr and difference > ROUNDING * abs(np.mean(target)):
        raise ValueError(
            f"log_weights_proposal have the mean {np.mean(proposal):.6g}, above log_weights_target "
            f"with {np.mean(target):.6g}: they are swapped, or not of samples of the two."
        )


def _solve(
    proposal: np.ndarray,
    target: np.ndarray,
    log_ratio: float,
    max_iterations: int,
    tolerance: float,
) -> tuple[float, int, bool]:
    """Log Z at which the bridge returns it, the iterations taken, and whether they converged."""
    low, high = _bracket(proposal, target, log_ratio)
    value = _start(proposal, target, low, high)
    for num_iterations in range(1, max_iterations + 1):
        over_q, over_p, slope = _means(proposal, target, value - log_ratio)
        # What the fixed point would add; it falls as log Z rises.
        excess = over_q.value - over_p.value - log_ratio
        low, high = (value, high) if excess > 0 else (low, value)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = float(value + np.divide(excess, slope))
        if not low <= moved <= high:
            moved = (low + high) / 2
        step, value = abs(moved - value), moved
        if step <= tolerance * max(1.0, abs(value)):
            return value, num_iterations, True
    return value, max_iterations, False


def _means(proposal: np.ndarray, target: np.ndarray, shift: float) -> tuple[LogZ, LogZ, float]:
    r"""The two means of the bridge, each up to its share, and minus the slope of their log-ratio.

    With :math:`u = \ell - \log Z + \log (M / N)` the bridge over q is
    :math:`\sigma(u) / s_p`, over p :math:`\sigma(-u) / (Z s_q)`; the slope is with respect to
    log Z.
    """
    log_over_q = -np.logaddexp(0.0, shift - proposal)
    log_over_p = -np.logaddexp(0.0, target - shift)
    over_q = log_mean_exp("log_weights_proposal", log_over_q)
    over_p = log_mean_exp("log_weights_target", log_over_p)
    slope = np.mean(np.exp(log_over_q - over_q.value - np.logaddexp(0.0, proposal - shift)))
    slope += np.mean(np.exp(log_over_p - over_p.value - np.logaddexp(0.0, shift - target)))
    return over_q, over_p, float(slope)


def _bracket(proposal: np.ndarray, target: np.ndarray, log_ratio: float) -> tuple[float, float]:
    """Two values of log Z, below and above the root of the bridge's equation."""
    kept = [values[np.isfinite(values)] for values in (proposal, target)]
    for name, values, finite in (
        ("log_weights_proposal", proposal, kept[0]),
        ("log_weights_target", target, kept[1]),
    ):
        if not finite.size:
            raise ValueError(f"{name}: all {values.size} are infinite: there is no overlap.")
    # Beyond all log-weights by this much one of the means is the smaller for sure.
    lost = np.log(proposal.size / kept[0].size) + np.log(target.size / kept[1].size)
    pad = 1.0 + 2.0 * abs(log_ratio) + lost
    finite = np.concatenate(kept)
    return float(np.min(finite) - pad), float(np.max(finite) + pad)


def _start(proposal: np.ndarray, target: np.ndarray, low: float, high: float) -> float:
    """Half-way between the two estimates from one side, the bridge's limit for small overlap."""
    forward = log_mean_exp("log_weights_proposal", proposal).value
    backward = -log_mean_exp("log_weights_target", -target).value
    return float(np.clip((forward + backward) / 2, low, high))
