"""Estimators that are neither a loss nor a sampler: of log partition functions.

Two layers. `proposal_log_weights`, `target_log_weights`, `annealed_log_weights` and
`reverse_annealed_log_weights` evaluate the user's functions on the device and give
log-weights, NumPy arrays in double precision; the others are pure functions of such
log-weights. One set of weights serves several estimators: those of a proposal give the
lower bound, the importance-sampling estimate and one side of the bridge.
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
from kd.inference.geometric_path import geometric_path
from kd.inference.log_weights import Proposal, proposal_log_weights, target_log_weights
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
    "LogZ",
    "Proposal",
    "annealed_importance_sampling",
    "annealed_log_weights",
    "bridge_sampling",
    "data_logits",
    "geometric_path",
    "importance_sampling",
    "kl_lower_bound",
    "kl_upper_bound",
    "linear_schedule",
    "max_lower_bound",
    "proposal_log_weights",
    "rbm_path",
    "reverse_annealed_importance_sampling",
    "reverse_annealed_log_weights",
    "reverse_importance_sampling",
    "salakhutdinov_schedule",
    "target_log_weights",
]
