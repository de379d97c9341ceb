"""Losses that match a teacher's derivatives with respect to the input."""

import jax
import jax.numpy as jnp

from kd import checks
from kd.derivatives import input_vjp
from kd.types import Array, Key, LogProbFn


def derivative_square_error(student_jacobian: Array, teacher_jacobian: Array) -> Array:
    r"""Half the squared distance between input derivatives: summed over inputs, mean over classes.

    .. math::
       E = \frac{1}{2I} \sum_i \Big\lVert
           \frac{\partial}{\partial x} \log f_i(x \mid \theta)
         - \frac{\partial}{\partial x} \log t_i(x) \Big\rVert^2

    Args:
      student_jacobian: `[C, ...]`, the input Jacobian of the student's
        log-probabilities (`kd.derivatives.input_jacobian`), in nats per unit of
        input. Gradients flow through.
      teacher_jacobian: the same shape. Gradients flow through.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ, or there is no class axis or no class.

    Example:
      >>> float(derivative_square_error(jnp.ones((2, 3)), jnp.zeros((2, 3))))
      1.5

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (2.18), I = C classes; (2.8)
      is the same without the logarithm. It is 0 where the two are equal. The
      converse holds for its mean over inputs: it is 0 only if student and teacher are
      equal everywhere in the inputs' support, where that is connected and holds C points
      of linearly independent teacher's probabilities (proposition 2.1, whose proof uses
      the connectedness without saying so).
    """
    checks.check_same_shape(
        "student_jacobian", student_jacobian, "teacher_jacobian", teacher_jacobian
    )
    if jnp.ndim(student_jacobian) < 1:
        raise ValueError("student_jacobian must have a class axis, got a scalar.")
    num_classes = jnp.shape(student_jacobian)[0]
    checks.check_count("number of classes", num_classes)
    return jnp.sum(jnp.square(student_jacobian - teacher_jacobian)) / (2 * num_classes)


def expected_derivative_square_error(
    student_jacobian: Array, teacher_jacobian: Array, teacher_log_probs: Array
) -> Array:
    r"""Half the squared distance between input derivatives, expected over the teacher's labels.

    .. math::
       E = \frac{1}{2} \sum_i t_i(x) \Big\lVert
           \frac{\partial}{\partial x} \log f_i(x \mid \theta)
         - \frac{\partial}{\partial x} \log t_i(x) \Big\rVert^2

    A class that the teacher gives probability 0 counts nothing, however steep. Of a teacher that
    is a mean, the gradients are the mean of those against its members: what depends on the
    student is linear in the teacher's probabilities and their derivatives.

    Args:
      student_jacobian: `[C, ...]`, the input Jacobian of the student's log-probabilities, in
        nats per unit of input. Gradients flow through.
      teacher_jacobian: the same shape. Gradients flow through.
      teacher_log_probs: `[C]`, nats. Gradients flow through.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes do not fit, or there is no class.

    Example:
      >>> E = expected_derivative_square_error(
      ...     jnp.ones((2, 3)), jnp.zeros((2, 3)), jnp.log(jnp.array([0.5, 0.5])))
      >>> float(E)
      1.5

    Reference:
      Papamakarios (2015), (3.23), of which (3.24) is the case of two classes
      (`binary_derivative_square_error`); (2.18), `derivative_square_error`, has 1 / C for t.
    """
    checks.check_rank("teacher_log_probs", teacher_log_probs, 1)
    checks.check_same_shape(
        "student_jacobian", student_jacobian, "teacher_jacobian", teacher_jacobian
    )
    num_classes = jnp.shape(teacher_log_probs)[0]
    checks.check_count("number of classes", num_classes)
    if jnp.shape(student_jacobian)[:1] != (num_classes,):
        raise ValueError(
            f"student_jacobian must have shape [{num_classes}, ...], "
            f"got {jnp.shape(student_jacobian)}."
        )
    # Of a class without probability the teacher's derivative may be infinite.
    present = teacher_log_probs != -jnp.inf
    shape = (num_classes,) + (1,) * (jnp.ndim(student_jacobian) - 1)
    gaps = jnp.where(present.reshape(shape), student_jacobian - teacher_jacobian, 0.0)
    squares = jnp.sum(jnp.square(gaps).reshape(num_classes, -1), axis=1)
    return 0.5 * jnp.sum(jnp.exp(teacher_log_probs) * squares)


def projected_square_error(student_vjps: Array, teacher_vjps: Array, *, num_classes: int) -> Array:
    r"""Derivative square error estimated from projections of the two Jacobians.

    .. math::
       \hat E = \frac{1}{2 I P} \sum_p \lVert v_p^\top J^f - v_p^\top J^t \rVert^2,
       \qquad \mathbb{E}[v v^\top] = 1

    Its expectation over the random vectors is `derivative_square_error`.

    Args:
      student_vjps: `[P, ...]`, the student's vector-Jacobian products with P random
        vectors. Gradients flow through.
      teacher_vjps: the same shape: the teacher's, with the same vectors. Gradients
        flow through.
      num_classes: C, the length of the random vectors.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ, or there is no projection or class.

    Reference:
      Papamakarios (2015), (2.18), with the trace estimator of Hutchinson (1990).
    """
    checks.check_same_shape("student_vjps", student_vjps, "teacher_vjps", teacher_vjps)
    checks.check_count("num_classes", num_classes)
    checks.check_count("number of projections", len(student_vjps))
    return derivative_square_error(student_vjps, teacher_vjps) / num_classes


def projected_derivative_square_error(
    student_fn: LogProbFn,
    teacher_fn: LogProbFn,
    x: Array,
    key: Key,
    *,
    num_projections: int = 1,
) -> Array:
    r"""Unbiased estimate of `derivative_square_error`, at a cost free of the class count.

    One vector-Jacobian product each for teacher and student a projection, with
    vectors of random signs, whose covariance is the identity and whose estimator
    has the least variance among those with independent entries.

    Args:
      student_fn: one input to log-probabilities `[C]`. Gradients flow through.
      teacher_fn: the same for the teacher. Gradients flow through.
      x: one input, any shape. Gradients flow through.
      key: decides the signs; an independent one an example and step.
      num_projections: P; the variance falls as 1/P.

    Returns:
      A scalar with expectation `derivative_square_error` of the two Jacobians.

    Raises:
      ValueError: if P < 1 or the outputs differ in shape.

    Example:
      >>> f = lambda x: jax.nn.log_softmax(x)
      >>> float(projected_derivative_square_error(f, f, jnp.ones(3), jax.random.key(0)))
      0.0

    Reference:
      Papamakarios (2015), (2.18); Hutchinson (1990).
    """
    checks.check_count("num_projections", num_projections)
    student_shape, teacher_shape = jax.eval_shape(student_fn, x), jax.eval_shape(teacher_fn, x)
    checks.check_same_shape("student_fn(x)", student_shape, "teacher_fn(x)", teacher_shape)
    checks.check_rank("student_fn(x)", student_shape, 1)
    signs = jax.random.rademacher(
        key, (num_projections, student_shape.shape[0]), dtype=student_shape.dtype
    )
    project = jax.vmap(input_vjp, in_axes=(None, None, 0))
    return projected_square_error(
        project(student_fn, x, signs),
        project(teacher_fn, x, signs),
        num_classes=student_shape.shape[0],
    )
