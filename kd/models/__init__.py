"""Models and teachers: pure functions of `(params, x)` for one example `x`."""

from kd.models.bags import SigmoidBag, SoftmaxBag
from kd.models.callables import from_predict_proba
from kd.models.cnn import CNN
from kd.models.ensemble import ensemble_log_probs, init_members
from kd.models.features import FeaturesFn, features_of, layers_of, sow_features
from kd.models.heads import Heads, predictive_and_entropy
from kd.models.mixture import GaussianMixture
from kd.models.mlp import MLP
from kd.models.nade import NADE
from kd.models.pruning import (
    Pruned,
    group_lasso,
    group_norms,
    mask_units,
    prune,
    shrink_groups,
)
from kd.models.rbm import RBM
from kd.models.regressor import Regressor
from kd.models.resnet import ResNet
from kd.models.sequences import LSTM, Transformer, sinusoids, token_mask
from kd.models.widths import widened

__all__ = [
    "CNN",
    "FeaturesFn",
    "GaussianMixture",
    "Heads",
    "LSTM",
    "MLP",
    "NADE",
    "Pruned",
    "RBM",
    "Regressor",
    "ResNet",
    "SigmoidBag",
    "SoftmaxBag",
    "Transformer",
    "ensemble_log_probs",
    "features_of",
    "from_predict_proba",
    "group_lasso",
    "group_norms",
    "init_members",
    "layers_of",
    "mask_units",
    "predictive_and_entropy",
    "prune",
    "shrink_groups",
    "sinusoids",
    "sow_features",
    "token_mask",
    "widened",
]
