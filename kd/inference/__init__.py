"""Estimators that are neither a loss nor a sampler: of log partition functions and posteriors.

Of log Z, two layers. `proposal_log_weights`, `target_log_weights`, `annealed_log_weights` and
`reverse_annealed_log_weights` evaluate the user's functions on the device and give
log-weights, NumPy arrays in double precision; the others are pure functions of such
log-weights. One set of weights serves several estimators: those of a proposal give the
lower bound, the importance-sampling estimate and one side of the bridge.

Of posteriors: mixtures of Gaussians by expectation-maximisation, and Gaussians over the weights
of logistic regression by expectation propagation and Laplace's approximation.
"""

from kd.inference.annealing import (
    AnnealingPath,
    annealed_importance_sampling,
    annealed_log_weights,
    linear_schedule,
    reverse_annealed_importance_sampling,
    reverse_annealed_log_weights,
    salakhutdinov_schedule,
)
from kd.inference.bridge import BridgeLogZ, bridge_sampling
from kd.inference.dirichlet import fit_dirichlet
from kd.inference.em import (
    EMResult,
    EMState,
    expectation_maximization,
    fit_mixture,
    linear_step_size,
    power_step_size,
)
from kd.inference.ep import EPResult, logistic_ep
from kd.inference.expectations import (
    Estimator,
    Expectation,
    current_sample,
    current_samples,
    each_chain,
    entropy,
    marginal_variance,
    mean_log_probs,
    mutual_information,
    predictive,
    running_mean,
    running_quantiles,
    smoothed_log_probs,
)
from kd.inference.feature_priors import feature_log_prior
from kd.inference.geometric_path import geometric_path
from kd.inference.laplace import LaplaceResult, logistic_laplace
from kd.inference.log_weights import Proposal, proposal_log_weights, target_log_weights
from kd.inference.logistic import Gaussian, logistic_log_probs, predict_logistic
from kd.inference.maximum import max_lower_bound
from kd.inference.partition import (
    LogZ,
    importance_sampling,
    kl_lower_bound,
    kl_upper_bound,
    reverse_importance_sampling,
)
from kd.inference.rbm_path import data_logits, rbm_path

__all__ = [
    "AnnealingPath",
    "BridgeLogZ",
    "EMResult",
    "EMState",
    "EPResult",
    "Estimator",
    "Expectation",
    "Gaussian",
    "LaplaceResult",
    "LogZ",
    "Proposal",
    "annealed_importance_sampling",
    "annealed_log_weights",
    "bridge_sampling",
    "current_sample",
    "current_samples",
    "data_logits",
    "each_chain",
    "entropy",
    "expectation_maximization",
    "feature_log_prior",
    "fit_dirichlet",
    "fit_mixture",
    "geometric_path",
    "importance_sampling",
    "kl_lower_bound",
    "kl_upper_bound",
    "linear_schedule",
    "linear_step_size",
    "logistic_ep",
    "logistic_laplace",
    "logistic_log_probs",
    "marginal_variance",
    "max_lower_bound",
    "mean_log_probs",
    "mutual_information",
    "power_step_size",
    "predict_logistic",
    "predictive",
    "proposal_log_weights",
    "rbm_path",
    "reverse_annealed_importance_sampling",
    "reverse_annealed_log_weights",
    "reverse_importance_sampling",
    "running_mean",
    "running_quantiles",
    "salakhutdinov_schedule",
    "smoothed_log_probs",
    "target_log_weights",
]
