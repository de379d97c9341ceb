"""Features as Gaussian processes: divergences between the kernels of two layers.

A layer of D features stands for the Gaussian process with mean 0 whose covariance at the inputs of
a batch is its Gram matrix; so layers of any widths, of any two networks, can be compared. All of
this is of a batch, not of an example: a batch's kernel is no sum over its inputs, and the
mean over batches is an objective of its own, not an estimate of that of all the data.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single, pair
from kd.losses.features.gaussians import (
    jittered,
    kl,
    linear_kl,
    linear_log_dets,
    procrustes,
    wasserstein,
)
from kd.losses.features.kernels import linear_kernel
from kd.positive_definite import inverse_and_log_det, product
from kd.types import Array

JITTER = 1e-3
ROOT_JITTER = 1e-6  # Where roots of kernels are enough, and no inverse magnifies rounding.


def gaussian_process_kl(
    student: Array,
    teacher: Array,
    *,
    kernel_fn: Callable[[Array], Array] = linear_kernel,
    jitter: float = JITTER,
    centre: bool = False,
    means: tuple[Array, Array] | None = None,
) -> Array:
    r"""KL divergence from the student's Gaussian process to the teacher's, nats, of a batch.

    .. math:: E = \frac{1}{2} \left(\mathrm{tr}(K_t^{-1} K_s) - N
       + (\mu_t - \mu_s)^\top K_t^{-1} (\mu_t - \mu_s) + \log\frac{|K_t|}{|K_s|}\right)

    Both kernels with the jitter on their diagonals. With the linear kernel only the smaller side
    of each is factorised, in time and memory linear in the other: where the batch is larger than
    the width, the features' columns above the jitter's are made orthonormal, and what they leave
    of the student's is squared (the determinant lemma and Woodbury's, without their differences
    of large numbers); of means alone the teacher's Gram matrix is made and inverted. Its own
    gradient: no Cholesky factor is differentiated through.

    Args:
      student: `[N, ...]`, features of N inputs; gradients flow through.
      teacher: `[N, ...]`, of the same inputs, with as many features as it has. No gradients.
      kernel_fn: features `[N, D]` to a covariance `[N, N]`, as `rbf_kernel(2.0)`. Of what it
        captures the student's kernel alone has gradients.
      jitter: times the mean of the teacher's variances, on the diagonal of both. The smaller,
        the dearer is what the student says outside of the teacher's span; may be traced, to let
        it fall. In single precision, where layers are as wide as the batch, N times 6e-8 over
        it is about the relative error of each small eigenvalue, 0.8 % for 128 inputs; of a larger
        batch the errors are those of its root, and 1e-5 is not too small. Where it is lost in the
        rounding of a student's far larger features, 4 roundings of their trace are in its place.
        Features of 1e-15 to
        1e18 are within that precision's range; of 1e-18 or 1e19 the value is NaN.
      centre: whether each feature is less its mean over the batch: those of rectified units have
        means, a Gaussian process of mean 0 has none.
      means: of the two processes, `[N]` each, by default 0: the student's, through which gradients
        flow, and the teacher's.

    Returns:
      A scalar, at least 0, and 0 where the kernels are equal, as after a rotation of either's
      features; a factor changes it. Where the student's width is less than the teacher's rank its
      infimum is positive.

    Raises:
      ValueError: for fewer than two inputs, or not as many of both; where values are known,
        features that are not finite, or a teacher's that are all the same; a jitter that is
        not positive, or a kernel of another shape.
      TypeError: for features or means that are not floating, a kernel that is no function.

    Example:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> rotated = jnp.stack([features[:, 1], -features[:, 0]], axis=1)
      >>> print(f"{abs(gaussian_process_kl(rotated, features)):.4f}")
      0.0000
      >>> print(f"{gaussian_process_kl(2 * features, features):.4f}")
      1.6117

    Reference:
      Fitzsimons, Schmon and Roberts (2019), section 2.2. Their last display, the prior,
      has the ratio of determinants inverted and without its root: it rewards features that
      vanish. This is the divergence itself.
    """
    student, teacher = pair(student, teacher, centre=centre)
    size = len(student)
    if kernel_fn is linear_kernel:
        student, teacher = _by_width(student), _by_width(teacher)
        noise = _jitter(jitter, jnp.sum(teacher**2) / size)
        found = linear_kl(student, teacher, noise)
    else:
        own, kernel = _kernels(kernel_fn, student, teacher)
        noise = _jitter(jitter, jnp.trace(kernel) / size)
        found = kl(jittered(own, noise), jittered(kernel, noise))
    if means is None:
        return found
    if len(means) != 2:
        raise ValueError(f"means must be the student's and the teacher's, got {len(means)}.")
    for name, mean in zip(("student", "teacher"), means, strict=True):
        checks.check_floating(f"the mean of the {name}", mean)
        checks.check_shape(f"the mean of the {name}", mean, (size,))
        checks.check_finite(f"the mean of the {name}", mean)
    if kernel_fn is linear_kernel:
        kernel = product(teacher, teacher.T)
    off = jax.lax.stop_gradient(at_least_single(means[1])) - at_least_single(means[0])
    precision, _ = inverse_and_log_det(jittered(kernel, noise))
    return found + 0.5 * off @ product(jax.lax.stop_gradient(precision), off)


def gaussian_process_wasserstein(
    student: Array,
    teacher: Array,
    *,
    kernel_fn: Callable[[Array], Array] = linear_kernel,
    centre: bool = False,
) -> Array:
    r"""Squared 2-Wasserstein distance between the two Gaussian processes, of a batch.

    .. math:: W^2 = \mathrm{tr} K_s + \mathrm{tr} K_t
       - 2 \, \mathrm{tr} (K_t^{1/2} K_s K_t^{1/2})^{1/2}

    For the linear kernel this is the least squared distance between the features, divided by
    the roots of their widths, after a rotation of the wider ones. It needs no inverse, and so no
    jitter, and its gradient is bounded where kernels are singular.

    Of another kernel the roots are of its eigenvalues, with a jitter of 1e-6 of the teacher's mean
    variance: value and gradient are finite whatever the rank, of inputs that are twice in a batch
    and of features much smoother than single precision resolves.

    Args:
      student, teacher, kernel_fn, centre: as of `gaussian_process_kl`.

    Returns:
      A scalar, at least 0, in units of a squared feature, summed over the batch.

    Raises:
      ValueError, TypeError: as `gaussian_process_kl`.

    Example:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{gaussian_process_wasserstein(3 * features, features):.4f}")  # 2² / 2, twice.
      4.0000

    Reference:
      Dowson and Landau (1982), "The Fréchet distance between multivariate normal distributions".
    """
    student, teacher = pair(student, teacher, centre=centre)
    if kernel_fn is linear_kernel:
        return procrustes(_by_width(student), _by_width(teacher))
    own, kernel = _kernels(kernel_fn, student, teacher)
    noise = _jitter(ROOT_JITTER, jnp.trace(kernel) / len(teacher))
    return wasserstein(own, kernel, noise)


def gaussian_process_bhattacharyya(
    student: Array,
    teacher: Array,
    *,
    kernel_fn: Callable[[Array], Array] = linear_kernel,
    jitter: float = JITTER,
    centre: bool = False,
) -> Array:
    r"""Bhattacharyya distance between the two Gaussian processes, nats, of a batch.

    .. math:: B = \frac{1}{2} \log\frac{|(K_s + K_t) / 2|}{\sqrt{|K_s| \, |K_t|}}

    Increasing in the Hellinger distance, but without an upper bound at which gradients vanish.

    Args:
      student, teacher, kernel_fn, jitter, centre: as of `gaussian_process_kl`.

    Returns:
      A scalar, 0 where the kernels are equal.

    Raises:
      ValueError, TypeError: as `gaussian_process_kl`.

    Example:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{gaussian_process_bhattacharyya(2 * features, features):.4f}")
      0.2229

    Reference:
      Kailath (1967), "The divergence and Bhattacharyya distance measures in signal selection".
    """
    together, own, other = _log_dets(student, teacher, kernel_fn, jitter, centre)
    return _at_least_0(0.5 * together - 0.25 * (own + other))


def gaussian_process_hellinger(
    student: Array,
    teacher: Array,
    *,
    kernel_fn: Callable[[Array], Array] = linear_kernel,
    jitter: float = JITTER,
    centre: bool = False,
) -> Array:
    r"""Squared Hellinger distance between the two Gaussian processes, in [0, 1], of a batch.

    .. math:: H^2 = 1 - \frac{|K_s|^{1/4} |K_t|^{1/4}}{|(K_s + K_t) / 2|^{1/2}}

    Among many inputs nearly everything is at a distance of 1, where gradients vanish: to learn
    from, `gaussian_process_bhattacharyya` orders kernels alike.

    Args:
      student, teacher, kernel_fn, jitter, centre: as of `gaussian_process_kl`.

    Returns:
      A scalar.

    Raises:
      ValueError, TypeError: as `gaussian_process_kl`.

    Example:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{gaussian_process_hellinger(2 * features, features):.4f}")
      0.1998

    Reference:
      Pardo (2006), "Statistical inference based on divergence measures", section 2.
    """
    distance = gaussian_process_bhattacharyya(
        student, teacher, kernel_fn=kernel_fn, jitter=jitter, centre=centre
    )
    return -jnp.expm1(-distance)


def gaussian_process_square_distance(
    student: Array,
    teacher: Array,
    *,
    kernel_fn: Callable[[Array], Array] = linear_kernel,
    jitter: float = JITTER,
    centre: bool = False,
) -> Array:
    r"""Squared :math:`L^2` distance of the two processes' densities, in [0, 1], of a batch.

    .. math:: E = \frac{\int (p_s - p_t)^2}{\int p_s^2 + \int p_t^2}
       = 1 - \frac{2 \, |K_s + K_t|^{-1/2}}{|2 K_s|^{-1/2} + |2 K_t|^{-1/2}}

    Divided by the squares, as the distance itself has the units of a density of N dimensions,
    which leave the range of any float. It is in logarithms :math:`-\log(1 - E) = B +
    \log\cosh\frac{1}{4} \log\frac{|K_s|}{|K_t|}`, with the Bhattacharyya distance B: at least the
    squared Hellinger distance, and like that it is nearly 1 among many inputs, where gradients
    vanish. To learn from, `gaussian_process_bhattacharyya` has no such bound.

    Args:
      student, teacher, kernel_fn, jitter, centre: as of `gaussian_process_kl`.

    Returns:
      A scalar.

    Raises:
      ValueError, TypeError: as `gaussian_process_kl`.

    Example:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{gaussian_process_square_distance(2 * features, features):.4f}")
      0.3597

    Reference:
      Fitzsimons, Schmon and Roberts (2019), end of section 2.2, name an :math:`L^2` distance
      "between the features" among other choices, without a formula; this is of their densities,
      and the division is ours. Integrals of products: Rasmussen and Williams (2006), (A.7), (A.8).
    """
    together, own, other = _log_dets(student, teacher, kernel_fn, jitter, centre)
    distance = _at_least_0(0.5 * together - 0.25 * (own + other))
    off = 0.25 * (own - other)
    log_cosh = jnp.logaddexp(off, -off) - jnp.log(2.0)
    return -jnp.expm1(-distance - log_cosh)


def gram_square_error(
    student: Array,
    teacher: Array,
    *,
    kernel_fn: Callable[[Array], Array] = linear_kernel,
    centre: bool = False,
) -> Array:
    r"""Mean squared difference of the two kernels' entries, of a batch.

    .. math:: E = \frac{1}{N^2} \lVert K_s - K_t \rVert_F^2

    The :math:`L^2` distance of the covariances; that of the densities is
    `gaussian_process_square_distance`.

    Args:
      student, teacher, kernel_fn, centre: as of `gaussian_process_kl`.

    Returns:
      A scalar.

    Raises:
      ValueError, TypeError: as `gaussian_process_kl`.

    Example:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> float(gram_square_error(2 * features, features))  # Two entries of four off by 3/2.
      1.125

    Reference:
      Huang and Wang (2017), "Like what you like: knowledge distill via neuron selectivity
      transfer", (7), whose polynomial kernel is of channels where this is of inputs.
    """
    student, teacher = pair(student, teacher, centre=centre)
    own, kernel = _kernels(kernel_fn, student, teacher)
    return jnp.mean(jnp.square(own - kernel))


def _log_dets(
    student: Array,
    teacher: Array,
    kernel_fn: Callable[[Array], Array],
    jitter: float,
    centre: bool,
) -> Sequence[Array]:
    """Of the mean of both covariances, of the student's and of the teacher's, jittered."""
    student, teacher = pair(student, teacher, centre=centre)
    size = len(student)
    if kernel_fn is linear_kernel:
        student, teacher = _by_width(student), _by_width(teacher)
        noise = _jitter(jitter, jnp.sum(teacher**2) / size)
        return linear_log_dets(student, teacher, noise)
    own, kernel = _kernels(kernel_fn, student, teacher)
    noise = _jitter(jitter, jnp.trace(kernel) / size)
    together = (0.5 * (own + kernel), own, kernel)
    return [inverse_and_log_det(jittered(one, noise))[1] for one in together]


def _kernels(
    kernel_fn: Callable[[Array], Array], student: Array, teacher: Array
) -> tuple[Array, Array]:
    """Of both, checked; the teacher's without gradients, whatever the kernel captures."""
    if not callable(kernel_fn):
        raise TypeError(f"kernel_fn must be a function, got {type(kernel_fn).__name__}.")
    own, kernel = (at_least_single(kernel_fn(features)) for features in (student, teacher))
    for found in (own, kernel):
        checks.check_shape("the kernel", found, (len(student), len(student)))
    return own, jax.lax.stop_gradient(kernel)


def _at_least_0(distance: Array) -> Array:
    """Without what rounding takes off nothing; the gradient stays."""
    return distance + jax.lax.stop_gradient(jnp.maximum(distance, 0.0) - distance)


def _by_width(features: Array) -> Array:
    """Those whose plain products are the linear kernel."""
    return features * features.shape[1] ** -0.5


def _jitter(jitter: float, variance: Array) -> Array:
    checks.check_positive("jitter", jitter)
    return jax.lax.stop_gradient(jitter * variance)
