"""Losses: pure functions of one example, to be minimised, in nats where they are in nats.

None reduces over a batch and none jits: the caller adds `vmap`, `mean`, `jit`.
Gradients flow through every floating argument unless its docstring says otherwise;
a teacher's values that came out of a `Stream` are data, and carry none.
"""

from kd.losses.derivatives import (
    derivative_square_error as derivative_square_error,
)
from kd.losses.derivatives import (
    projected_derivative_square_error as projected_derivative_square_error,
)
from kd.losses.derivatives import (
    projected_square_error as projected_square_error,
)
from kd.losses.values import cross_entropy as cross_entropy
from kd.losses.values import kl_divergence as kl_divergence
from kd.losses.values import logit_square_error as logit_square_error
from kd.losses.values import soft_target as soft_target
from kd.losses.values import soft_target_with_label as soft_target_with_label
from kd.losses.values import square_error as square_error
