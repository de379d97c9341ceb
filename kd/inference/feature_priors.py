"""Priors on what a student's layers say, from a teacher's."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features import gaussian_process_kl
from kd.losses.features.batches import check_varied
from kd.types import Array, PyTree

Divergence = Callable[[Array, Array], Array]


def feature_log_prior(
    features_fn: Callable[[PyTree, Array], Mapping[str, Array]],
    x: Array,
    teacher_features: Mapping[str, Array],
    *,
    strength: float = 1.0,
    divergence_fn: Divergence = gaussian_process_kl,
) -> Callable[[PyTree], Array]:
    r"""A log-prior of a student's parameters: its features are near a teacher's, in nats.

    .. math:: \log p(\theta) = -\alpha \sum_\ell D(\phi_\ell(\theta), \hat\phi_\ell)
       + \mathrm{const}

    at fixed inputs, so that it is a function of the parameters alone and goes wherever a log-prior
    does: added to a log-likelihood and maximised, or sampled under it, with
    `kd.samplers.minibatch_log_posterior` and `kd.samplers.sgld`. It alone is no proper prior: it
    knows no scale of weights that the features do not, so that another goes with it.

    Priors of several teachers multiply: their logarithms add, and each may have inputs, layers and
    a strength of its own. Teachers of *one* layer leave it what they share: by the KL divergence
    the most probable kernel is their harmonic mean,

    .. math:: K = \Bigl(\sum_j \alpha_j\Bigr) \Bigl(\sum_j \alpha_j K_j^{-1}\Bigr)^{-1}
       \preceq \frac{\sum_j \alpha_j}{\alpha_i} K_i \quad \text{for every } i,

    so that what one of them does not vary in, the layer does not. For all that each knows, as in
    section 3.3 of the reference, each has features of its own: another layer, or a slice of one,
    which `features_fn` may give a name.

    Args:
      features_fn: parameters and one input to features by name: `kd.models.features_of`.
      x: `[N, ...]`, inputs at which features are compared, without labels.
      teacher_features: by the *student's* layer, `[N, ...]`: the teacher's features there. No
        gradients, whatever the divergence.
      strength: :math:`\alpha`, positive.
      divergence_fn: of features `[N, ...]` of a student and a teacher, nats.

    Returns:
      A function of parameters to a scalar. It raises ValueError for a layer that the student does
      not have, and a divergence that is no scalar, TypeError for features that are not by layer.

    Raises:
      TypeError: for features that are not by layer, or not floating.
      ValueError: for no layer, a strength that is not positive, not as many features as inputs; a
        teacher's features that are not finite, or the same at all inputs.

    Example:
      >>> from kd import models
      >>> student = models.MLP((4,), 2)
      >>> x = jnp.arange(6.0).reshape(3, 2)
      >>> params = student.init(jax.random.key(0), x[0])
      >>> features_fn = models.features_of(student)
      >>> own = jax.vmap(lambda one: features_fn(params, one)["hidden_0"])(x)
      >>> log_prior_fn = feature_log_prior(features_fn, x, {"hidden_0": own})
      >>> print(f"{abs(log_prior_fn(params)):.4f}")  # At its largest.
      0.0000

    Reference:
      Fitzsimons, Schmon and Roberts (2019), "Implicit priors for knowledge sharing in Bayesian
      neural networks", section 2.2; several teachers, section 3.3.
    """
    if not isinstance(teacher_features, Mapping):
        raise TypeError(
            "teacher_features must be features by the student's layer, got "
            f"{type(teacher_features).__name__}."
        )
    checks.check_count("the number of layers", len(teacher_features))
    checks.check_positive("strength", strength)
    checks.check_array("x", x)
    for name, value in teacher_features.items():
        checks.check_floating(f"the teacher's {name!r}", value)
        if not jnp.ndim(x) or not jnp.ndim(value):
            raise ValueError(f"x and the teacher's {name!r} must be [N, ...].")
        if len(value) != len(x):
            raise ValueError(f"the teacher's {name!r} has {len(value)} inputs, and x {len(x)}.")
        checks.check_finite(f"the teacher's {name!r}", value)
        check_varied(f"the teacher's {name!r}", value)
    targets = {name: jax.lax.stop_gradient(value) for name, value in teacher_features.items()}

    def log_prior(params: PyTree) -> Array:
        found = jax.vmap(lambda one: features_fn(params, one))(x)
        checks.check_type("what features_fn returns", found, Mapping)
        unknown = sorted(set(targets) - set(found))
        if unknown:
            raise ValueError(
                f"the student has no layer {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(sorted(found))}."
            )
        divergences = [divergence_fn(found[name], targets[name]) for name in targets]
        for divergence in divergences:
            checks.check_rank("the divergence of a layer", divergence, 0)
        return -strength * sum(divergences)

    return log_prior
