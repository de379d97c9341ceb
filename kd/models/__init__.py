"""Models and teachers: pure functions of `(params, x)` for one example `x`."""

from kd.models.callables import from_predict_proba as from_predict_proba
from kd.models.ensemble import ensemble_log_probs as ensemble_log_probs
from kd.models.ensemble import init_members as init_members
from kd.models.mlp import MLP as MLP
