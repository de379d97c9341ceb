"""Metrics of classifiers, from log-probabilities `[..., N, C]` on the host, in NumPy.

Labels are integers in [0, C), `[N]` or with the leading axes of the log-probabilities; any
others raise ValueError, as log-probabilities above 0 do.
"""

import numpy as np

from kd import checks

ROUNDING = 1e-3  # Nats.


def correct(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the most probable class is the label: `[..., N]` of 0.0 and 1.0."""
    labels = _checked(log_probs, labels)
    return (np.argmax(np.asarray(log_probs), -1) == labels).astype(np.float64)


def label_log_prob(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-probability of the label, in nats: `[..., N]`; its mean is minus the NLL."""
    index = _checked(log_probs, labels)[..., None]
    return np.take_along_axis(np.asarray(log_probs, np.float64), index, -1)[..., 0]


def brier_score(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared distance of the probabilities from the one-hot label, summed over classes.

    `[..., N]`, in [0, 2]; smaller is better.

    Reference:
      Brier (1950), "Verification of forecasts expressed in terms of probability".
    """
    labels = _checked(log_probs, labels)
    probs = np.exp(np.asarray(log_probs, np.float64))
    return np.sum((probs - np.eye(probs.shape[-1])[labels]) ** 2, -1)


def agreement(log_probs: np.ndarray, teacher_log_probs: np.ndarray) -> np.ndarray:
    """Whether student and teacher name the same class: `[..., N]` of 0.0 and 1.0.

    Raises:
      ValueError: if one is not of log-probabilities, or the shapes do not go together.
    """
    _check_log_probs("teacher_log_probs", teacher_log_probs)
    return correct(log_probs, np.argmax(teacher_log_probs, -1))


def expected_calibration_error(
    log_probs: np.ndarray, labels: np.ndarray, *, num_bins: int = 15
) -> float:
    """Mean distance between confidence and accuracy over equal bins of confidence, in [0, 1].

    Args:
      log_probs: `[N, C]`, nats.
      labels: `[N]`, integers.
      num_bins: equal-width bins of (0, 1].

    Raises:
      ValueError: if `num_bins` < 1, `log_probs` is not `[N, C]`, or N is 0.

    Reference:
      Guo et al. (2017), "On calibration of modern neural networks", (3).
    """
    checks.check_count("num_bins", num_bins)
    checks.check_rank("log_probs", log_probs, 2)
    checks.check_count("number of examples", len(log_probs))
    is_right = correct(log_probs, labels)
    confidence = np.exp(np.max(np.asarray(log_probs, np.float64), -1))
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gap = np.bincount(bins, is_right - confidence, minlength=num_bins)
    return float(np.sum(np.abs(gap)) / len(labels))


def _checked(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The labels with the leading axes of `log_probs`."""
    shape, labels = np.shape(log_probs), np.asarray(labels)
    if len(shape) < 2 or labels.shape not in (shape[-2:-1], shape[:-1]):
        raise ValueError(
            f"labels must have shape {shape[:-1]} or {shape[-2:-1]} to go with log_probs {shape}, "
            f"got {labels.shape}."
        )
    _check_log_probs("log_probs", log_probs)
    if labels.dtype.kind not in "iu" or not np.all((labels >= 0) & (labels < shape[-1])):
        raise ValueError(f"labels must be integers in [0, {shape[-1]}), got {labels}.")
    return np.broadcast_to(labels, shape[:-1])


def _check_log_probs(name: str, log_probs: np.ndarray) -> None:
    largest = np.max(log_probs, initial=-np.inf)
    if np.isnan(largest):
        raise checks.NotFiniteError(f"{name} must be logarithms of probabilities, and not NaN.")
    if not largest <= ROUNDING:
        raise ValueError(f"{name} must be logarithms of probabilities, at most 0.")
