"""Losses for two classes, in log-odds, which lose no digits where a probability is near 0 or 1."""

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array


def binary_cross_entropy(student_logit: Array, teacher_logit: Array) -> Array:
    r"""Cross-entropy from teacher to student, in nats, of a binary label.

    .. math:: E(x, \theta) = -t(x) \log f(x \mid \theta) - (1 - t(x)) \log(1 - f(x \mid \theta))

    Args:
      student_logit: scalar, :math:`\log f - \log(1 - f)`. Gradients flow through.
      teacher_logit: scalar, :math:`\log t - \log(1 - t)`: of the mean of a bag of samples (batch
        distillation), or of one sample of a chain (online distillation), whose gradients
        have the same mean. An infinity is a label. Gradients flow through.

    Returns:
      A scalar, linear in the logit where the student is certain and wrong.

    Raises:
      ValueError: if an argument is no scalar.

    Example:
      >>> print(f"{binary_cross_entropy(0.0, jnp.inf):.4f}")
      0.6931

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (3.22), and (3.40) for the online form.
    """
    checks.check_rank("student_logit", student_logit, 0)
    checks.check_rank("teacher_logit", teacher_logit, 0)
    checks.check_floating("student_logit", student_logit)
    checks.check_floating("teacher_logit", teacher_logit)
    positive, negative = jax.nn.sigmoid(teacher_logit), jax.nn.sigmoid(-teacher_logit)
    # A label that cannot be costs nothing, even where the student excludes it: 0, not 0 times inf.
    surprise = jnp.where(positive == 0, 0.0, jax.nn.softplus(-student_logit))
    other = jnp.where(negative == 0, 0.0, jax.nn.softplus(student_logit))
    return positive * surprise + negative * other


def binary_derivative_square_error(
    student_logit: Array,
    student_gradient: Array,
    teacher_logit: Array,
    teacher_gradient: Array,
) -> Array:
    r"""Half the squared distance between input derivatives of the label's log-probability.

    Expected over labels that the teacher draws,

    .. math::
       E &= t E_1 + (1 - t) E_0, \\
       E_1 &= \tfrac{1}{2} \lVert \nabla_x \log f - \nabla_x \log t \rVert^2 =
              \tfrac{1}{2} \lVert (1 - f) \nabla_x s - (1 - t) \nabla_x \tau \rVert^2, \\
       E_0 &= \tfrac{1}{2} \lVert \nabla_x \log (1 - f) - \nabla_x \log (1 - t) \rVert^2 =
              \tfrac{1}{2} \lVert f \nabla_x s - t \nabla_x \tau \rVert^2

    with the log-odds s of f and :math:`\tau` of t. As :math:`t \, \nabla \log t = \nabla t`, all
    that depends on the student is linear in t and its derivative: the mean over single
    samples of a chain (online distillation) differs from the loss of their mean by a constant,
    and has its gradients, as with cross-entropy.

    Args:
      student_logit: scalar s. Gradients flow through.
      student_gradient: its derivative with respect to the input, `[...]`, in nats per unit of
        input. Gradients flow through.
      teacher_logit: scalar :math:`\tau`. Gradients flow through.
      teacher_gradient: its derivative, `[...]`. Gradients flow through.

    Returns:
      A scalar, 0 where the two agree.

    Raises:
      ValueError: if a logit is no scalar, or the derivatives differ in shape.

    Example:
      >>> E = binary_derivative_square_error(0.0, jnp.ones(2), 0.0, jnp.zeros(2))
      >>> float(E)
      0.25

    Reference:
      Papamakarios (2015), (3.24)-(3.26). Deviation: its section 3.3.3 has the loss changed by
      online use, since t is inside a logarithm and a square; its gradients are not.
    """
    checks.check_rank("student_logit", student_logit, 0)
    checks.check_rank("teacher_logit", teacher_logit, 0)
    checks.check_same_shape(
        "student_gradient", student_gradient, "teacher_gradient", teacher_gradient
    )
    f, t = jax.nn.sigmoid(student_logit), jax.nn.sigmoid(teacher_logit)
    not_f, not_t = jax.nn.sigmoid(-student_logit), jax.nn.sigmoid(-teacher_logit)
    of_ones = jnp.sum(jnp.square(not_f * student_gradient - not_t * teacher_gradient))
    of_zeros = jnp.sum(jnp.square(f * student_gradient - t * teacher_gradient))
    return 0.5 * (t * of_ones + not_t * of_zeros)
