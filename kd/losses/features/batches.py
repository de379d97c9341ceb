"""Features of a batch as every relational loss wants them."""

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.types import Array


def pair(student: Array, teacher: Array, *, centre: bool = False) -> tuple[Array, Array]:
    """Features of one batch, `[N, D_s]` and `[N, D_t]`, in at least single precision.

    Args:
      student: `[N, ...]`; gradients flow through.
      teacher: `[N, ...]`; none flow through.
      centre: whether each feature is less its mean over the batch.

    Raises:
      ValueError: for fewer than two inputs, or not as many of both, or no feature; where values
        are known, if they are not finite, or the teacher's are the same at all inputs.
      TypeError: for features that are not floating.
    """
    given = teacher
    student, teacher = single("student", student), single("teacher", teacher)
    if len(student) != len(teacher):
        raise ValueError(
            f"student and teacher must have features of the same inputs, got {len(student)} of "
            f"the one's and {len(teacher)} of the other's."
        )
    check_varied("the teacher's features", given)  # Which may be known where all else is traced.
    teacher = jax.lax.stop_gradient(teacher)
    if centre:
        student, teacher = (x - jnp.mean(x, axis=0, keepdims=True) for x in (student, teacher))
    return student, teacher


def single(name: str, features: Array) -> Array:
    """The features of one network, as `pair` has both."""
    checks.check_floating(f"the {name}'s features", features)
    shape = jnp.shape(features)
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(f"the {name}'s features must be [N, ...], got shape {shape}.")
    if shape[0] < 2:
        raise ValueError("a batch of one input has no relations between inputs: give two or more.")
    checks.check_finite(f"the {name}'s features", features)
    flat = jnp.reshape(at_least_single(features), (shape[0], -1))
    # In memory as rows, once: of a network whose batch comes last XLA transposes at every use.
    return jax.lax.optimization_barrier(flat)


def rows(features: Array) -> Array:
    """Features `[N, D]` in at least single precision; raises as `pair`, for no width too."""
    checks.check_floating("features", features)
    checks.check_rank("features", features, 2)
    if not jnp.shape(features)[1]:
        raise ValueError(f"features must be [N, D] with D >= 1, got shape {jnp.shape(features)}.")
    checks.check_finite("features", features)
    return at_least_single(features)


def at_least_single(features: Array) -> Array:
    """Half precision has no room for sums of squares: 65,504 is its largest number."""
    return jnp.asarray(features, jnp.promote_types(jnp.result_type(features), jnp.float32))


def check_labels(labels: Array) -> None:
    """Raises TypeError unless labels are integers, ValueError unless they are a vector."""
    checks.check_array("labels", labels)
    checks.check_rank("labels", labels, 1)
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(f"labels must be integers, got {jnp.result_type(labels)}.")


def check_varied(name: str, features: Array) -> None:
    """Raises ValueError if features `[N, ...]` are the same at all inputs; traced values pass."""
    if isinstance(features, jax.core.Tracer):
        return
    features = np.asarray(features)
    if np.all(features == features[:1]):
        raise ValueError(f"{name} are the same at all {len(features)} inputs: nothing to learn.")
