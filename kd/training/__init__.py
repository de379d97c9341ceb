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
from kd.training.updates import GradientState, StoreState, gradient, observe, replicate, store

__all__ = [
    "ContrastiveState",
    "FitState",
    "GradientState",
    "NonFiniteLossError",
    "StoreState",
    "compile_chunk",
    "contrastive_divergence",
    "fit",
    "gradient",
    "init_fit",
    "log_spaced",
    "make_step",
    "observe",
    "persistent_contrastive_divergence",
    "replicate",
    "row_steps",
    "store",
]
