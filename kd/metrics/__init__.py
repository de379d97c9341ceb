"""Metrics of predictions: per example where there is such a thing, so that they can be paired."""

from kd.metrics.classification import agreement as agreement
from kd.metrics.classification import brier_score as brier_score
from kd.metrics.classification import correct as correct
from kd.metrics.classification import expected_calibration_error as expected_calibration_error
from kd.metrics.classification import label_log_prob as label_log_prob
from kd.metrics.summary import Estimate as Estimate
from kd.metrics.summary import bootstrap_estimate as bootstrap_estimate
from kd.metrics.summary import estimate as estimate
