"""The verb: `fit` an `Update` to a `Stream`, checkpointed and resumable to the bit."""

from kd.training.fit import FitState as FitState
from kd.training.fit import NonFiniteLossError as NonFiniteLossError
from kd.training.fit import compile_chunk as compile_chunk
from kd.training.fit import fit as fit
from kd.training.fit import init_fit as init_fit
from kd.training.fit import log_spaced as log_spaced
from kd.training.fit import make_step as make_step
from kd.training.updates import GradientState as GradientState
from kd.training.updates import gradient as gradient
from kd.training.updates import replicate as replicate
