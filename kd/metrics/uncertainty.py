"""How uncertain a prediction is, and what such a number is worth, on the host, in NumPy."""

from typing import NamedTuple

import numpy as np
from scipy import special

from kd import checks

LARGEST = 40.0  # Of the logarithm of a concentration that is taken as it is.
ROUNDING = 1e-5  # Nats, of a knowledge uncertainty in single precision.


class Uncertainties(NamedTuple):
    """Of predictions, `[..., N]`, in nats.

    Attributes:
      total: entropy of the predictive distribution.
      data: expected entropy of the members.
      knowledge: the difference: mutual information of label and weights.
    """

    total: np.ndarray
    data: np.ndarray
    knowledge: np.ndarray


def uncertainties(probs: np.ndarray, expected_entropy: np.ndarray) -> Uncertainties:
    """From a predictive distribution and an expected entropy.

    Of a Monte Carlo average the knowledge is at least 0, rounding apart, which is mended.
    Of a student with two heads it may be negative, where the heads contradict each other; that is
    left so.

    Args:
      probs: `[..., N, C]`, not their logarithms.
      expected_entropy: `[..., N]`, nats.

    Raises:
      ValueError: if the shapes do not go together, they are no probabilities, or an entropy is
        negative or not finite.

    Example:
      >>> found = uncertainties(np.array([[0.5, 0.5]]), np.array([0.2]))
      >>> print(f"{found.total[0]:.4f} {found.knowledge[0]:.4f}")
      0.6931 0.4931

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", (3).
    """
    probs = np.asarray(probs, np.float64)
    data = np.asarray(expected_entropy, np.float64)
    if probs.ndim < 1 or data.shape != probs.shape[:-1]:
        raise ValueError(
            f"expected_entropy must have shape {probs.shape[:-1]} to go with probs {probs.shape}, "
            f"got {data.shape}."
        )
    if not np.all((probs >= 0) & (np.abs(probs.sum(-1, keepdims=True) - 1) < checks.SUM_TOLERANCE)):
        raise ValueError("probs must be probabilities, at least 0 and with a sum of 1.")
    if not np.all((data >= 0) & np.isfinite(data)):
        raise ValueError("expected_entropy must be finite and at least 0.")
    total = np.sum(special.entr(probs), -1)
    knowledge = total - data
    is_rounding = (knowledge < 0) & (knowledge > -ROUNDING)
    return Uncertainties(total, data, np.where(is_rounding, 0.0, knowledge))


def dirichlet_uncertainties(log_concentrations: np.ndarray) -> Uncertainties:
    r"""Those of a Dirichlet distribution over predictions, in closed form.

    .. math:: \mathbb{E} H = -\sum_c \bar p_c (\psi(\alpha_c + 1) - \psi(\alpha_0 + 1)), \qquad
       \bar p = \alpha / \alpha_0

    Args:
      log_concentrations: `[..., N, C]`, logarithms of :math:`\alpha`.

    Example:
      >>> found = dirichlet_uncertainties(np.zeros((1, 2)))  # Uniform over [0, 1].
      >>> print(f"{found.data[0]:.4f} {found.knowledge[0]:.4f}")
      0.5000 0.1931

    Reference:
      Malinin, Mlodozeniec and Gales (2020), "Ensemble distribution distillation", section 3.
    """
    z = np.asarray(log_concentrations, np.float64)
    probs = special.softmax(z, axis=-1)
    log_total = special.logsumexp(z, axis=-1, keepdims=True)
    logs = np.concatenate([z, log_total], -1)
    # Beyond, digamma(x + 1) is log x to the last bit, and x itself may overflow.
    near = special.digamma(np.exp(np.minimum(logs, LARGEST)) + 1)
    digammas = np.where(logs < LARGEST, near, logs)
    found = uncertainties(probs, -np.sum(probs * (digammas[..., :-1] - digammas[..., -1:]), -1))
    # Below 0 by rounding alone.
    return found._replace(knowledge=np.maximum(found.knowledge, 0.0))


def roc_curve(own_scores: np.ndarray, other_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of one's own and of the others above each threshold, for scores as in `detection`.

    Args:
      own_scores: `[N]`, of inputs in distribution.
      other_scores: `[M]`, of inputs out of it.

    Returns:
      False and true positive rates, `[thresholds + 1]` each, from 0 to 1.

    Raises:
      ValueError: if one is no vector, is empty, or is not finite.

    Example:
      >>> [rates.tolist() for rates in roc_curve(np.array([0.1]), np.array([0.3]))]
      [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    from sklearn import metrics

    return metrics.roc_curve(*_labelled(own_scores, other_scores), drop_intermediate=False)[:2]


def _labelled(own_scores: np.ndarray, other_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels, 1 of the others, and scores."""
    for name, scores in (("own_scores", own_scores), ("other_scores", other_scores)):
        checks.check_rank(name, scores, 1)
        checks.check_count(f"the number of {name}", len(scores))
        checks.check_finite(name, scores)
    labels = np.repeat([0, 1], [len(own_scores), len(other_scores)])
    return labels, np.concatenate([own_scores, other_scores])


class Detection(NamedTuple):
    """What a score is worth for telling inputs of another kind from one's own.

    Attributes:
      auroc: area under the receiver operating characteristic, 0.5 by chance.
      aupr: average precision, those of the other kind being the positives.
      fpr95: the share of one's own above the threshold that finds 95 % of the others.
    """

    auroc: float
    aupr: float
    fpr95: float


def detection(own_scores: np.ndarray, other_scores: np.ndarray) -> Detection:
    """Of scores that should be larger for inputs out of distribution.

    Args:
      own_scores: `[N]`, of inputs in distribution.
      other_scores: `[M]`, of inputs out of it.

    Raises:
      ValueError: if one is no vector, is empty, or is not finite.

    Example:
      >>> print(detection(np.array([0.1, 0.2]), np.array([0.3, 0.15])).auroc)
      0.75

    Reference:
      Hendrycks and Gimpel (2017), "A baseline for detecting misclassified and
      out-of-distribution examples in neural networks"; the share at 95 %, with what is out of
      distribution as the positives, as in Hendrycks, Mazeika and Dietterich (2019), "Deep anomaly
      detection with outlier exposure".
    """
    from sklearn import metrics

    labels, scores = _labelled(own_scores, other_scores)
    false, true = roc_curve(own_scores, other_scores)
    return Detection(
        float(metrics.roc_auc_score(labels, scores)),
        float(metrics.average_precision_score(labels, scores)),
        float(false[np.argmax(true >= 0.95)]),
    )


class Ranking(NamedTuple):
    """Normalised discounted cumulative gains over draws, `[draws]` each.

    Attributes:
      ndcg: of the scores' order.
      random: of a random order of the same inputs: what the gains alone are worth.
    """

    ndcg: np.ndarray
    random: np.ndarray


def ranking(
    gains: np.ndarray,
    scores: np.ndarray,
    *,
    top: int = 20,
    draw_size: int = 100,
    num_draws: int = 500,
    seed: int = 0,
) -> Ranking:
    r"""nDCG@k of an order by scores, where a teacher's own uncertainties are the gains.

    .. math:: \mathrm{DCG} = \sum_{r = 1}^k \frac{\mathrm{gain}_r}{\log_2(r + 1)}

    Divided by that of the order by gains. Gains that are all alike give nearly 1 to any order:
    the random order's is the floor.

    Args:
      gains: `[N]`, at least 0.
      scores: `[N]`; ties are broken at random.
      top: k.
      draw_size: inputs a draw, at random without replacement.
      num_draws: of them.
      seed: decides the draws.

    Raises:
      ValueError: if the vectors differ in length, a gain is negative, something is not finite, or
        a count is out of range.

    Example:
      >>> gains = np.arange(50.0)
      >>> found = ranking(gains, gains, top=5, draw_size=20, num_draws=3)
      >>> print(found.ndcg)
      [1. 1. 1.]

    Reference:
      Jarvelin and Kekalainen (2002), "Cumulated gain-based evaluation of IR techniques", whose
      first ranks are not discounted; this discount is that of Burges et al. (2005), "Learning to
      rank using gradient descent". Vadera, Jalaian and Marlin (2020), table 4, where the gain is
      not defined.
    """
    gains, scores = np.asarray(gains, np.float64), np.asarray(scores, np.float64)
    checks.check_rank("gains", gains, 1)
    checks.check_same_shape("gains", gains, "scores", scores)
    checks.check_finite("gains", gains)
    checks.check_finite("scores", scores)
    if gains.min(initial=0.0) < 0:
        raise ValueError(f"gains must be at least 0, got {gains.min()}.")
    checks.check_count("draw_size", draw_size, at_most=len(gains))
    checks.check_count("top", top, at_most=draw_size)
    checks.check_count("num_draws", num_draws)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_draws):
        # In random order, so that a stable sort breaks ties at random.
        drawn = rng.permutation(len(gains))[:draw_size]
        ideal = _gain_of_order(gains[drawn], gains[drawn], top)
        by_score = _gain_of_order(gains[drawn], scores[drawn], top)
        by_chance = _gain_of_order(gains[drawn], -np.arange(draw_size), top)
        found.append((by_score / ideal, by_chance / ideal) if ideal > 0 else (1.0, 1.0))
    return Ranking(*np.array(found).T)


def _gain_of_order(gains: np.ndarray, scores: np.ndarray, top: int) -> float:
    order = np.argsort(-scores, kind="stable")[:top]
    return float(np.sum(gains[order] / np.log2(np.arange(2, top + 2))))


def risk_coverage(losses: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and mean loss of the predictions kept, the least uncertain first.

    Of equally uncertain ones each counts as their mean, as in a random order of them.

    Args:
      losses: `[N]`, for instance 0 and 1.
      scores: `[N]`, uncertainties.

    Returns:
      Coverages 1 / N, ..., 1 and the risks there, both `[N]`; the mean of the risks is the area
      under the curve.

    Raises:
      ValueError: if the vectors differ in length, are empty, or are not finite.

    Example:
      >>> risk_coverage(np.array([1.0, 0.0]), np.array([0.9, 0.1]))[1].tolist()
      [0.0, 0.5]

    Reference:
      Geifman and El-Yaniv (2017), "Selective classification for deep neural networks".
    """
    checks.check_rank("losses", losses, 1)
    checks.check_same_shape("losses", losses, "scores", scores)
    checks.check_count("the number of losses", len(losses))
    checks.check_finite("losses", losses)
    checks.check_finite("scores", scores)
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, np.asarray(losses, np.float64)) / sizes
    counts = np.arange(1, len(losses) + 1)
    return counts / len(losses), np.cumsum(means[np.sort(group)]) / counts
