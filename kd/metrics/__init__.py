"""Metrics of predictions: per example where there is such a thing, so that they can be paired."""

from kd.metrics.classification import (
    agreement,
    brier_score,
    correct,
    expected_calibration_error,
    label_log_prob,
)
from kd.metrics.neighbours import Retrieval, retrieval
from kd.metrics.summary import Estimate, bootstrap_estimate, estimate
from kd.metrics.uncertainty import (
    Detection,
    Ranking,
    Uncertainties,
    detection,
    dirichlet_uncertainties,
    ranking,
    risk_coverage,
    roc_curve,
    uncertainties,
)

__all__ = [
    "Detection",
    "Estimate",
    "Ranking",
    "Retrieval",
    "Uncertainties",
    "agreement",
    "bootstrap_estimate",
    "brier_score",
    "correct",
    "detection",
    "dirichlet_uncertainties",
    "estimate",
    "expected_calibration_error",
    "label_log_prob",
    "ranking",
    "retrieval",
    "risk_coverage",
    "roc_curve",
    "uncertainties",
]
