"""The verb: `fit` an `Update` to a `Stream`, checkpointed and resumable to the bit."""

from kd.training.contrastive import (
    ContrastiveState,
    contrastive_divergence,
    persistent_contrastive_divergence,
)
from kd.training.fit import (
    FitState,
    NonFiniteLossError,
    compile_chunk,
    fit,
    init_fit,
    log_spaced,
    make_step,
    row_steps,
)
from kd.training.monte_carlo import MonteCarloState, monte_carlo
from kd.training.proximal import ProximalState, proximal
from kd.training.stages import Stage, StagedState, staged, train_only
from kd.training.updates import (
    CombinedState,
    GradientState,
    StoreState,
    combine,
    discard,
    gradient,
    observe,
    replicate,
    store,
)

__all__ = [
    "CombinedState",
    "ContrastiveState",
    "FitState",
    "GradientState",
    "MonteCarloState",
    "NonFiniteLossError",
    "ProximalState",
    "Stage",
    "StagedState",
    "StoreState",
    "combine",
    "compile_chunk",
    "contrastive_divergence",
    "discard",
    "fit",
    "gradient",
    "init_fit",
    "log_spaced",
    "make_step",
    "monte_carlo",
    "observe",
    "persistent_contrastive_divergence",
    "proximal",
    "replicate",
    "row_steps",
    "staged",
    "store",
    "train_only",
]
