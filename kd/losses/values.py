"""Losses that match a teacher's values."""

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array


def cross_entropy(student_log_probs: Array, teacher_probs: Array) -> Array:
    r"""Cross-entropy from teacher to student, in nats, summed over classes.

    .. math:: E(x, \theta) = -\sum_i t_i(x) \log f_i(x \mid \theta)

    Args:
      student_log_probs: `[C]`, nats: a log-softmax. Gradients flow through.
      teacher_probs: `[C]`, probabilities (of a labelled batch,
        `jnp.exp(batch["teacher_log_probs"])`); a one-hot label is one. Gradients flow
        through.

    Returns:
      A scalar. A class with teacher probability 0 contributes 0 even where the
      student's log-probability is minus infinity. NaN where a teacher probability is negative, as
      log-probabilities are, given by mistake.

    Raises:
      ValueError: if an argument is not a vector, or the shapes differ.

    Example:
      >>> f = cross_entropy(jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0]))
      >>> print(f"{f:.4f}")
      0.6931

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (2.5) and (2.17).
    """
    checks.check_rank("student_log_probs", student_log_probs, 1)
    checks.check_same_shape("student_log_probs", student_log_probs, "teacher_probs", teacher_probs)
    ignored = jnp.isneginf(student_log_probs) & (teacher_probs == 0)
    found = -jnp.sum(teacher_probs * jnp.where(ignored, 0.0, student_log_probs))
    return jnp.where(jnp.all(teacher_probs >= 0), found, jnp.nan)


def kl_divergence(student_log_probs: Array, teacher_log_probs: Array) -> Array:
    r"""KL divergence from teacher to student, in nats, summed over classes.

    .. math:: D(t \,\|\, f) = \sum_i t_i (\log t_i - \log f_i)

    Args:
      student_log_probs: `[C]`, nats. Gradients flow through.
      teacher_log_probs: `[C]`, nats; minus infinity stands for probability 0 and
        contributes 0, in value and in gradient. Gradients flow through.

    Returns:
      A scalar, 0 where the two agree.

    Raises:
      ValueError: if an argument is not a vector, or the shapes differ.

    Example:
      >>> p = jnp.log(jnp.array([0.25, 0.75]))
      >>> print(f"{kl_divergence(p, p):.4f}")
      0.0000

    Reference:
      Papamakarios (2015), (2.16).
    """
    checks.check_rank("student_log_probs", student_log_probs, 1)
    checks.check_same_shape(
        "student_log_probs", student_log_probs, "teacher_log_probs", teacher_log_probs
    )
    # Both `where`s are needed: one guards the value, the other the backward pass,
    # in which 0 * inf would be NaN.
    # Only minus infinity is absent: a NaN must come out again.
    present = teacher_log_probs != -jnp.inf
    teacher = jnp.where(present, teacher_log_probs, 0.0)
    student = jnp.where(present, student_log_probs, 0.0)
    return jnp.sum(jnp.where(present, jnp.exp(teacher) * (teacher - student), 0.0))


def square_error(student: Array, teacher: Array) -> Array:
    r"""Half the squared distance between two outputs, summed over outputs.

    .. math:: E = \tfrac{1}{2} \lVert f(x \mid \theta) - t(x) \rVert^2

    Args:
      student: any shape. Gradients flow through.
      teacher: the same shape. Gradients flow through.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if one is not floating: integers would wrap.

    Example:
      >>> float(square_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
      2.5

    Reference:
      Papamakarios (2015), (2.4).
    """
    checks.check_same_shape("student", student, "teacher", teacher)
    checks.check_floating("student", student)
    checks.check_floating("teacher", teacher)
    return 0.5 * jnp.sum(jnp.square(student - teacher))


def absolute_error(student: Array, teacher: Array) -> Array:
    r"""The absolute distance between two outputs, summed over outputs.

    .. math:: E = \lVert f(x \mid \theta) - t(x) \rVert_1

    It is least at the median of noisy targets: of a posterior expectation give running means.

    Args:
      student: any shape. Gradients flow through; where the two are equal they are 0.
      teacher: the same shape. Gradients flow through.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if one is not floating.

    Example:
      >>> float(absolute_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
      3.0

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks": of the expected entropy, in released code.
    """
    checks.check_same_shape("student", student, "teacher", teacher)
    checks.check_floating("student", student)
    checks.check_floating("teacher", teacher)
    off = student - teacher
    # The derivative of jnp.abs at 0 is 1.
    return jnp.sum(off * jax.lax.stop_gradient(jnp.sign(off)))


def logit_square_error(student_logits: Array, teacher_logits: Array) -> Array:
    r"""Half the squared distance between logits, summed over classes.

    .. math:: E = \tfrac{1}{2} \lVert z^f - z^t \rVert^2

    A teacher that is an average of probabilities has logits only up to a constant:
    give its log-probabilities less their mean. One that is sure (a log-probability of minus
    infinity) has none: the loss is infinite, or NaN once the mean is taken off.

    Args:
      student_logits: `[C]`, before the softmax. Gradients flow through.
      teacher_logits: `[C]`. Gradients flow through.

    Returns:
      A scalar.

    Raises:
      ValueError: if an argument is not a vector, or the shapes differ.

    Example:
      >>> float(logit_square_error(jnp.array([1.0, -1.0]), jnp.array([0.0, 0.0])))
      1.0

    Reference:
      Ba and Caruana (2014), "Do deep nets really need to be deep?",
      arXiv:1312.6184, (1): the mean over examples is left to the caller.
    """
    checks.check_rank("student_logits", student_logits, 1)
    checks.check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    return square_error(student_logits, teacher_logits)


def soft_target(student_logits: Array, teacher_logits: Array, *, temperature: float) -> Array:
    r"""Hinton's soft-target loss: T² times the KL divergence at temperature T, in nats.

    .. math:: E = T^2 D\big(\mathrm{softmax}(z^t / T) \,\|\, \mathrm{softmax}(z^f / T)\big)

    As T grows it tends to :math:`\tfrac{1}{2C} \lVert \bar z^f - \bar z^t \rVert^2`
    with logits centred over the C classes; it is summed so that it keeps its precision
    on the way.

    Args:
      student_logits: `[C]`. Gradients flow through.
      teacher_logits: `[C]`; log-probabilities will do, since constants cancel.
        Gradients flow through.
      temperature: T > 0, dimensionless.

    Returns:
      A scalar, 0 where the two agree up to a constant.

    Raises:
      ValueError: if an argument is not a vector, the shapes differ, or T <= 0.

    Example:
      >>> z = jnp.array([1.0, 2.0, 3.0])
      >>> print(f"{soft_target(z + 5.0, z, temperature=2.0):.4f}")
      0.0000

    Reference:
      Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural
      network", arXiv:1503.02531, section 2. Deviation: the teacher's entropy, which
      is constant in the student, is taken off, so that the minimum is 0.
    """
    checks.check_rank("student_logits", student_logits, 1)
    checks.check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    checks.check_positive("temperature", temperature)
    student_log_probs = _tempered(student_logits, temperature)
    teacher_log_probs = _tempered(teacher_logits, temperature)
    return temperature**2 * _uniform_based_kl(student_log_probs, teacher_log_probs)


def soft_target_with_label(
    student_logits: Array,
    teacher_logits: Array,
    label: Array,
    *,
    temperature: float,
    label_weight: float,
) -> Array:
    r"""Soft targets mixed with the hard label, in nats.

    .. math:: E = (1 - \lambda) E_{\mathrm{soft}} - \lambda \log f_y(x \mid \theta)

    Args:
      student_logits: `[C]`. Gradients flow through.
      teacher_logits: `[C]`. Gradients flow through.
      label: integer scalar in [0, C). Out of range gives NaN: under jit nothing
        raises.
      temperature: T > 0, of the soft part alone.
      label_weight: λ in [0, 1].

    Returns:
      A scalar.

    Raises:
      ValueError: as `soft_target`; or if λ is outside [0, 1] (unless traced) or `label`
        not scalar.
      TypeError: if `label` is not an integer.

    Example:
      >>> z = jnp.zeros(2)
      >>> f = soft_target_with_label(z, z, jnp.array(0), temperature=2.0, label_weight=0.5)
      >>> print(f"{f:.4f}")
      0.3466

    Reference:
      Hinton, Vinyals and Dean (2015), section 2.
    """
    checks.check_rank("label", label, 0)
    if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
        raise TypeError(f"label must be an integer, got {jnp.result_type(label)}.")
    checks.check_weight("label_weight", label_weight)
    soft = soft_target(student_logits, teacher_logits, temperature=temperature)
    log_probs = jax.nn.log_softmax(student_logits)
    hard = -log_probs.at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return (1 - label_weight) * soft + label_weight * hard


def _tempered(logits: Array, temperature: float) -> Array:
    r"""Log-softmax of logits / T, plus log C: small, and precise, where T is large.

    With :math:`u` the centred logits over T it is :math:`u - \log \frac{1}{C} \sum_i e^{u_i}`.
    """
    # The maximum first: that of infinite logits is no mean.
    scaled = (logits - jax.lax.stop_gradient(jnp.max(logits))) / temperature
    finite = jnp.where(jnp.isneginf(scaled), 0.0, scaled)
    is_small = jnp.all(scaled > -1.0)
    centred = jnp.where(is_small, finite - jnp.mean(finite), 0.0)
    precise = centred - jnp.log1p(jnp.mean(jnp.expm1(centred)))
    return jnp.where(is_small, precise, jax.nn.log_softmax(scaled) + jnp.log(float(logits.size)))


def _uniform_based_kl(student: Array, teacher: Array) -> Array:
    r"""KL divergence, precise where the two are close, of distributions given by log(C p).

    As both sum to one, :math:`D = \sum_i t_i (e^{d_i} - 1 - d_i)` with
    :math:`d = \log f - \log t`: no term is negative, and a small one is not the
    difference of large ones. Where d is not small the terms are :math:`f - t - t d`.
    """
    present = teacher != -jnp.inf
    teacher = jnp.where(present, teacher, 0.0)
    student_probs = jnp.exp(student) / student.size
    teacher_probs = jnp.where(present, jnp.exp(teacher), 0.0) / student.size
    difference = jnp.where(present, student - teacher, 0.0)
    is_small = jnp.abs(difference) < 0.5
    small = jnp.where(is_small, difference, 0.0)
    close = teacher_probs * _expm1_less_identity(small)
    apart = student_probs - teacher_probs * (1 + difference)
    return jnp.sum(jnp.where(is_small & present, close, apart))


def _expm1_less_identity(d: Array) -> Array:
    """exp(d) - 1 - d for |d| < 1/2, by its Taylor series of ten terms."""
    total = jnp.ones_like(d)
    for n in range(11, 2, -1):
        total = 1 + d / n * total
    return 0.5 * jnp.square(d) * total
