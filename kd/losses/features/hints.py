"""Features matched one by one, of one input."""

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single
from kd.types import Array


def hint(student: Array, teacher: Array) -> Array:
    r"""Half the squared distance from a student's features to a teacher's, of one input.

    .. math:: E = \tfrac{1}{2} \lVert r(h_s(x)) - h_t(x) \rVert^2

    Args:
      student: any shape: its features, or what a regressor r makes of them where they are of
        another shape (`kd.models.Regressor`). Gradients flow through.
      teacher: the same shape. No gradients.

    Returns:
      A scalar, summed over features.

    Raises:
      ValueError: if the shapes differ, or hold nothing, or values that are known are not finite.
      TypeError: if one is not floating.

    Example:
      >>> float(hint(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
      2.5

    Reference:
      Romero, Ballas, Kahou, Chassang, Gatta and Bengio (2015), "FitNets: hints for thin deep
      nets", (3).
    """
    _check_alike(student, teacher)
    student, teacher = at_least_single(student), at_least_single(teacher)
    return 0.5 * jnp.sum(jnp.square(student - jax.lax.stop_gradient(teacher)))


def attention_transfer(student: Array, teacher: Array, *, power: float = 2.0) -> Array:
    r"""Squared distance of normalised maps of where two layers are active, of one input.

    .. math:: E = \left\lVert \frac{q_s}{\lVert q_s \rVert} - \frac{q_t}{\lVert q_t \rVert}
       \right\rVert^2, \qquad q = \sum_c |h_c|^p

    Args:
      student: `[..., C_s]`, with channels last. Gradients flow through; none where all is 0.
      teacher: `[..., C_t]`, the same but for channels. No gradients.
      power: p, finite, at least 1.

    Returns:
      A scalar, in [0, 2]: no entry of a map is negative.

    Raises:
      ValueError: if the shapes differ in more than channels, or have no position; if values that
        are known are not finite; for a power less than 1.
      TypeError: if one is not floating.

    Example:
      >>> one, other = jnp.zeros((2, 3)).at[0].set(1.0), jnp.zeros((2, 1)).at[1].set(4.0)
      >>> float(attention_transfer(one, other))  # Active at different positions.
      2.0

    Reference:
      Zagoruyko and Komodakis (2017), "Paying more attention to attention", (2), squared; their
      code has the mean over positions.
    """
    for name, value in (("student", student), ("teacher", teacher)):
        checks.check_floating(f"the {name}'s features", value)
    shapes = jnp.shape(student), jnp.shape(teacher)
    if shapes[0][:-1] != shapes[1][:-1] or len(shapes[0]) < 2 or 0 in shapes[0] + shapes[1]:
        raise ValueError(
            f"maps must be [..., C] of the same positions, got shapes {shapes[0]} and {shapes[1]}."
        )
    _check_finite(student, teacher)
    if not isinstance(power, jax.core.Tracer):
        checks.check_positive("power", power)
        if not power >= 1:
            raise ValueError(f"power must be at least 1, got {power}.")
    pair = at_least_single(student), jax.lax.stop_gradient(at_least_single(teacher))
    maps = [_normalised(one, power) for one in pair]
    return jnp.sum(jnp.square(maps[0] - maps[1]))


def _normalised(features: Array, power: float) -> Array:
    # Of a largest entry of 1 no power overflows, and not all vanish; the map's scale is taken off.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(features)))
    is_dead = largest == 0
    features = features / jnp.where(is_dead, 1.0, largest)
    found = jnp.sum(_powers(features, power), axis=-1).ravel()
    square = jnp.where(is_dead, 1.0, jnp.sum(found**2))
    return jnp.where(is_dead, 0.0, found * jax.lax.rsqrt(square))


def _powers(features: Array, power: float) -> Array:
    if not isinstance(power, jax.core.Tracer) and power == 2:
        return jnp.square(features)
    # The derivative of jnp.abs at 0 is 1.
    return (features * jax.lax.stop_gradient(jnp.sign(features))) ** power


def _check_alike(student: Array, teacher: Array) -> None:
    """Raises for shapes that differ, saying what to do, for integers and what is not finite."""
    checks.check_floating("the student's features", student)
    checks.check_floating("the teacher's features", teacher)
    if jnp.shape(student) != jnp.shape(teacher):
        raise ValueError(
            f"the student's features must have the teacher's shape {jnp.shape(teacher)}, got "
            f"{jnp.shape(student)}: put a regressor between, as kd.models.Regressor."
        )
    if not jnp.size(student):
        raise ValueError(f"there must be a feature or more, got shape {jnp.shape(student)}.")
    _check_finite(student, teacher)


def _check_finite(student: Array, teacher: Array) -> None:
    checks.check_finite("the student's features", student)
    checks.check_finite("the teacher's features", teacher)
