"""Quadratic mutual information of features and labels, of a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single, check_labels, pair
from kd.losses.features.relational import cosine_similarity, same_label
from kd.types import Array


def quadratic_mutual_information(similarities: Array, labels: Array) -> Array:
    r"""Quadratic mutual information of features and labels, at least 0, of a batch.

    .. math:: I = V_\mathrm{in} + V_\mathrm{all} - 2 V_\mathrm{between}
       = \int \sum_c (p(h, c) - p(h) p(c))^2 \, dh

    with kernel density estimates on the batch, whose products integrate to the similarities. To be
    maximised, or matched to a teacher's; no loss itself.

    Args:
      similarities: `[N, N]`, of a kernel that is positive definite, as `rbf_kernel` or cosines'.
        Gradients flow through.
      labels: `[N]`, integers.

    Returns:
      A scalar, in units of the similarities.

    Raises:
      ValueError: for shapes that do not fit, fewer than two inputs; where values are known, for
        similarities that are not finite.
      TypeError: for labels that are no integers, similarities that are not floating.

    Example:
      >>> apart = jnp.eye(2)
      >>> float(quadratic_mutual_information(apart, jnp.array([0, 1])))
      0.25

    Reference:
      Principe, Xu, Zhao and Fisher (2000), "Learning from examples with information theoretic
      criteria"; Passalis and Tefas (2018), section 3.
    """
    check_labels(labels)
    checks.check_floating("similarities", similarities)
    size = jnp.shape(labels)[0]
    checks.check_shape("similarities", similarities, (size, size))
    if size < 2:
        raise ValueError("a batch of one input has no relations between inputs: give two or more.")
    checks.check_finite("similarities", similarities)
    similarities = at_least_single(similarities)
    is_same = same_label(labels).astype(similarities.dtype)
    share = jnp.mean(is_same, axis=1)  # Of each input's class.
    within = jnp.sum(is_same * similarities)
    everything = jnp.mean(share) * jnp.sum(similarities)
    between = jnp.sum(share[:, None] * similarities)
    return (within + everything - 2 * between) / size**2


def mutual_information_square_error(
    student: Array,
    teacher: Array,
    labels: Array,
    *,
    similarity_fn: Callable[[Array], Array] = cosine_similarity,
) -> Array:
    r"""Squared difference of what two layers know of the labels, of a batch.

    .. math:: E = (I(h^s, y) - I(h^t, y))^2

    by `quadratic_mutual_information` of either's similarities. That the two are equal is what
    probabilistic knowledge transfer is derived from, which asks for more, that similarities are,
    and needs no label. This alone is a weak loss: one number of a batch.

    Args:
      student: `[N, ...]`, of N inputs, of any width. Gradients flow through.
      teacher: `[N, ...]`, of the same inputs, of any width. No gradients.
      labels: `[N]`, integers.
      similarity_fn: features `[N, D]` to similarities `[N, N]`, of a positive definite kernel.

    Returns:
      A scalar, in squared units of similarities.

    Raises:
      ValueError, TypeError: as `probabilistic_knowledge_transfer` and
        `quadratic_mutual_information`.

    Example:
      >>> h = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 1])
      >>> print(f"{mutual_information_square_error(h, -3 * h, labels):.4f}")
      0.0000
      >>> print(f"{mutual_information_square_error(jnp.abs(h - 0.5), h, labels):.4f}")  # 1/8 - 0.
      0.0156

    Reference:
      Passalis and Tefas (2018), section 3.
    """
    student, teacher = pair(student, teacher)
    known = []
    for features in (student, teacher):
        similarities = similarity_fn(features)
        checks.check_shape("similarities", similarities, (len(student), len(student)))
        known.append(quadratic_mutual_information(similarities, labels))
    return jnp.square(known[0] - jax.lax.stop_gradient(known[1]))
