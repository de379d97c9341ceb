r"""Losses that distil a density known up to a constant into a tractable one.

The teacher is :math:`p = \bar p / Z`. Means of the losses are meant over its samples.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.values import square_error
from kd.types import Array, Key


def negative_log_likelihood(student_log_density: Array) -> Array:
    r"""Minus the student's log-density of one sample of the teacher, in nats.

    .. math:: E(x, \theta) = -\log p(x \mid \theta)

    Its mean over the teacher is :math:`D(p \,\|\, p_\theta)` plus the teacher's entropy,
    which is constant in the student and needs no :math:`Z`.

    Args:
      student_log_density: scalar, nats: :math:`\log p(x \mid \theta)`, normalised.
        Gradients flow through.

    Returns:
      A scalar.

    Raises:
      ValueError: if it is no scalar.
      TypeError: if it is not floating.

    Example:
      >>> float(negative_log_likelihood(jnp.array(-2.5)))
      2.5

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (4.7) and (4.20), whose
      gradient is (4.26).
    """
    _check_log_density("student_log_density", student_log_density)
    return -student_log_density


def log_density_square_error(
    student_log_density: Array, teacher_log_potential: Array, *, offset: float | Array
) -> Array:
    r"""Half the squared difference of log-densities, the teacher's up to a constant, in nats².

    .. math:: E(x, \theta) = \tfrac{1}{2} \big( \log p(x \mid \theta) - \log \bar p(x) + c \big)^2

    Its mean over the teacher is

    .. math::
       E_{\mathrm{SE}} = \big\langle \tfrac{1}{2} (\log p_\theta - \log p)^2 \big\rangle_p
         + (\log Z - c) \, D(p \,\|\, p_\theta) + \tfrac{1}{2} (\log Z - c)^2

    so that for :math:`c \le \log Z` and a student of enough capacity its only minimum is
    the teacher. For :math:`c > \log Z` this fails, however little: a student that scales
    all densities by :math:`e^{\log Z - c}`, and gives the mass this frees to where the
    teacher hardly ever is, has less of it. The teacher then is still stationary, and a local
    minimum up to :math:`c = \log Z + 1`. As :math:`c \to -\infty` the loss becomes,
    up to a constant, `negative_log_likelihood` times :math:`\log Z - c`.

    Args:
      student_log_density: scalar, nats: :math:`\log p(x \mid \theta)`, normalised.
        Gradients flow through.
      teacher_log_potential: scalar, nats: :math:`\log \bar p(x)`, unnormalised. Gradients
        flow through.
      offset: c, scalar, nats, at most log Z. For a discrete x any :math:`\log \bar p(x)`
        will do; else any :math:`\langle \log \bar p(x) - \log q(x) \rangle_q`. May be
        traced; gradients flow through.

    Returns:
      A scalar; :math:`\tfrac{1}{2} (\log Z - c)^2`, and not 0, where the two densities
      agree.

    Raises:
      ValueError: if an argument is no scalar.
      TypeError: if a log-density is not floating.

    Example:
      >>> student, teacher = jnp.array(-1.0), jnp.array(5.0)
      >>> float(log_density_square_error(student, teacher, offset=4.0))
      2.0

    Reference:
      Papamakarios (2015), (4.9) and (4.21), whose gradient is (4.27); proposition 4.1
      and (4.10). The bounds on log Z are (4.13) and (4.14), the latter with its sign
      mended: the thesis has it reversed. The counterexample and the local minimum are
      not in the thesis.
    """
    _check_log_density("student_log_density", student_log_density)
    _check_log_density("teacher_log_potential", teacher_log_potential)
    checks.check_rank("offset", offset, 0)
    # c is taken from the teacher's first: in single precision two large numbers then meet
    # before the small one.
    return square_error(student_log_density, teacher_log_potential - offset)


def score_matching(student_score: Array, teacher_score: Array) -> Array:
    r"""Half the squared distance between scores, summed over the dimensions of x.

    .. math::
       E(x, \theta) = \tfrac{1}{2} \Big\lVert \frac{\partial}{\partial x} \log p(x \mid \theta)
         - \frac{\partial}{\partial x} \log p(x) \Big\rVert^2

    The teacher's score is that of its potential, :math:`\partial \log \bar p / \partial x`:
    the constant is gone. x must be continuous: equal derivatives at the points of a
    discrete space do not make equal distributions. The mean over the teacher is 0 only if
    the two are equal, where the teacher's density is positive everywhere; where it is
    positive only on a part of the space, the student may leak mass outside. Between modes far
    apart it is nearly blind to their weights, which the scores hold only where
    samples are rare.

    Args:
      student_score: any shape, that of x, in 1 / unit of x: `jax.grad` of the student's
        log-density. Gradients flow through.
      teacher_score: the same shape: `jax.grad` of the teacher's log-potential.
        Gradients flow through.

    Returns:
      A scalar, 0 where the two agree.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if one is not floating.

    Example:
      >>> student_fn = lambda x: -0.5 * jnp.sum(x**2)
      >>> teacher_fn = lambda x: -jnp.sum(x**2) + 3.0
      >>> x = jnp.array([1.0, 2.0])
      >>> float(score_matching(jax.grad(student_fn)(x), jax.grad(teacher_fn)(x)))
      2.5

    Reference:
      Papamakarios (2015), (4.17) and (4.22), whose gradient is (4.28); proposition 4.2.
      Hyvärinen (2005), "Estimation of non-normalized statistical models by score
      matching". It is `derivative_square_error` of a single output. That it is blind to
      the weights of modes is not in the thesis.
    """
    checks.check_same_shape("student_score", student_score, "teacher_score", teacher_score)
    checks.check_floating("student_score", student_score)
    checks.check_floating("teacher_score", teacher_score)
    return square_error(student_score, teacher_score)


def hyvarinen_score_matching(log_density_fn: Callable[[Array], Array], x: Array) -> Array:
    r"""Score matching from samples alone: trace of the Hessian plus half the squared score.

    .. math::
       E(x, \theta) = \sum_i \Big[ \frac{\partial^2}{\partial x_i^2} \log p(x \mid \theta)
         + \tfrac{1}{2} \Big( \frac{\partial}{\partial x_i} \log p(x \mid \theta) \Big)^2 \Big]

    Its mean over samples is that of `score_matching` less
    :math:`\tfrac{1}{2} \langle \lVert \partial \log p / \partial x \rVert^2 \rangle_p`,
    which is constant in the student, wherever
    :math:`p \, \partial \log p_\theta / \partial x` vanishes at the boundary. It needs no
    teacher, only its samples, and no normalised student; with a teacher's score at hand
    `score_matching` has less variance.

    Args:
      log_density_fn: one x to the student's log-density, a scalar, nats, up to any
        constant; twice differentiable. Gradients flow through.
      x: one sample, any shape of D entries, floating. Gradients flow through.

    Returns:
      A scalar, of either sign: its minimum is no 0.

    Raises:
      ValueError: if `log_density_fn(x)` is no scalar.
      TypeError: if `x` is not floating.

    Example:
      >>> fn = lambda x: -0.5 * jnp.sum(x**2)
      >>> float(hyvarinen_score_matching(fn, jnp.array([1.0, 2.0])))
      0.5

    Reference:
      Hyvärinen (2005), theorem 1; the mean over samples is left to the caller. Its D
      Hessian-vector products are by the R technique of Papamakarios (2015), appendix A.
    """
    score, hessian_fn = _score_and_hessian(log_density_fn, x)
    products = jax.vmap(hessian_fn)(_basis(x))
    # Entry i of row i: each product has the shape of x.
    trace = jnp.trace(products.reshape(score.size, score.size))
    return trace + 0.5 * jnp.sum(jnp.square(score))


def sliced_score_matching(
    log_density_fn: Callable[[Array], Array], x: Array, key: Key, *, num_projections: int = 1
) -> Array:
    r"""Unbiased estimate of `hyvarinen_score_matching`, at a cost free of the dimension.

    .. math::
       \hat E = \frac{1}{P} \sum_p v_p^\top H v_p
         + \tfrac{1}{2} \Big\lVert \frac{\partial}{\partial x} \log p(x \mid \theta) \Big\rVert^2,
       \qquad H = \frac{\partial^2}{\partial x^2} \log p(x \mid \theta)

    with vectors of random signs, one Hessian-vector product each. Only the trace is
    estimated, and of it only the part off the Hessian's diagonal: where that is 0 the
    estimate is exact. Its variance is
    :math:`\frac{2}{P} \sum_{i \ne j} H_{ij}^2`.

    Args:
      log_density_fn: as for `hyvarinen_score_matching`. Gradients flow through.
      x: one sample, any shape, floating. Gradients flow through.
      key: decides the signs; an independent one an example and step.
      num_projections: P.

    Returns:
      A scalar with expectation `hyvarinen_score_matching`.

    Raises:
      ValueError: if P < 1, or `log_density_fn(x)` is no scalar.
      TypeError: if `x` is not floating, or P no integer.

    Example:
      >>> fn = lambda x: -0.5 * jnp.sum(x**2)
      >>> float(sliced_score_matching(fn, jnp.array([1.0, 2.0]), jax.random.key(0)))
      0.5

    Reference:
      Song, Garg, Shi and Ermon (2019), "Sliced score matching", arXiv:1905.07088, the
      variant with reduced variance (SSM-VR), with random signs; Hutchinson (1990).
    """
    checks.check_count("num_projections", num_projections)
    score, hessian_fn = _score_and_hessian(log_density_fn, x)
    signs = jax.random.rademacher(key, (num_projections, *score.shape), dtype=score.dtype)
    traces = jax.vmap(lambda v: jnp.sum(v * hessian_fn(v)))(signs)
    return jnp.mean(traces) + 0.5 * jnp.sum(jnp.square(score))


def _score_and_hessian(
    log_density_fn: Callable[[Array], Array], x: Array
) -> tuple[Array, Callable[[Array], Array]]:
    """The score at x, and the function that multiplies by the Hessian there."""
    checks.check_floating("x", x)
    shape = jax.eval_shape(log_density_fn, x)
    checks.check_rank("log_density_fn(x)", shape, 0)
    return jax.linearize(jax.grad(log_density_fn), x)


def _basis(x: Array) -> Array:
    size = math.prod(jnp.shape(x))
    return jnp.eye(size, dtype=jnp.result_type(x)).reshape(size, *jnp.shape(x))


def _check_log_density(name: str, value: Array) -> None:
    checks.check_rank(name, value, 0)
    checks.check_floating(name, value)
