"""Losses: pure functions of one example, to be minimised, in nats where they are in nats.

None reduces over a batch and none jits: the caller adds `vmap`, `mean`, `jit`.
Losses of layers, of a whole batch where the mathematics is, are in `kd.losses.features`.

**Gradients and teachers.** Nothing flows into a teacher that is data: what comes out of a
`Stream` carries no gradient, and the teacher's argument of every loss of `kd.losses.features` stops
it. The losses of this package itself are functions of two networks alike, since two may learn from
each other: gradients flow through every floating argument unless its docstring says otherwise. Who
asks a teacher within an objective, rather than in a stream, differentiates by the student's
parameters alone, as `jax.grad` does by default, or stops the gradient there.
"""

from kd.losses.binary import binary_cross_entropy, binary_derivative_square_error
from kd.losses.densities import (
    hyvarinen_score_matching,
    log_density_square_error,
    negative_log_likelihood,
    score_matching,
    sliced_score_matching,
)
from kd.losses.derivatives import (
    derivative_square_error,
    expected_derivative_square_error,
    projected_derivative_square_error,
    projected_square_error,
)
from kd.losses.dirichlet import dirichlet_negative_log_likelihood
from kd.losses.values import (
    absolute_error,
    cross_entropy,
    kl_divergence,
    logit_square_error,
    soft_target,
    soft_target_with_label,
    square_error,
)

__all__ = [
    "absolute_error",
    "binary_cross_entropy",
    "binary_derivative_square_error",
    "cross_entropy",
    "derivative_square_error",
    "dirichlet_negative_log_likelihood",
    "expected_derivative_square_error",
    "hyvarinen_score_matching",
    "kl_divergence",
    "log_density_square_error",
    "logit_square_error",
    "negative_log_likelihood",
    "projected_derivative_square_error",
    "projected_square_error",
    "score_matching",
    "sliced_score_matching",
    "soft_target",
    "soft_target_with_label",
    "square_error",
]
