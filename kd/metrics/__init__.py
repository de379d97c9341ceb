"""Metrics of predictions: per example where there is such a thing, so that they can be paired."""

from kd.metrics.classification import (
    agreement,
    brier_score,
    correct,
    expected_calibration_error,
    label_log_prob,
)
from kd.metrics.summary import Estimate, bootstrap_estimate, estimate

__all__ = [
    "Estimate",
    "agreement",
    "bootstrap_estimate",
    "brier_score",
    "correct",
    "estimate",
    "expected_calibration_error",
    "label_log_prob",
]
