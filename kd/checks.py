"""Checks of static facts, made at trace time; each error names the argument and both values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SUM_TOLERANCE = 0.05  # Of probabilities: in bfloat16 they may sum to that much more or less than 1.


class NotFiniteError(ValueError):
    """Values are NaN or infinite that must not be."""


def check_rank(name: str, value: Any, rank: int) -> None:
    """Raises ValueError unless `value` has `rank` axes."""
    if jnp.ndim(value) != rank:
        raise ValueError(f"{name} must have rank {rank}, got shape {jnp.shape(value)}.")


def check_array(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is an array."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}.")


def check_shape(name: str, value: Any, shape: Sequence[int]) -> None:
    """Raises ValueError unless `value` has that shape."""
    if jnp.shape(value) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {jnp.shape(value)}.")


def check_same_shape(name: str, value: Any, other_name: str, other: Any) -> None:
    """Raises ValueError unless the two shapes are equal: nothing here broadcasts."""
    if jnp.shape(value) != jnp.shape(other):
        raise ValueError(
            f"{name} and {other_name} must have the same shape, "
            f"got {jnp.shape(value)} and {jnp.shape(other)}."
        )


def log_probs_or_nan(log_probs: jax.Array) -> jax.Array:
    """`[..., C]` as they are, NaN where their exponentials do not sum to 1.

    For traced values, on which nothing can be raised. NaN ends a run, so that nothing is learned
    from logits which were given for log-probabilities.
    """
    sums = jnp.sum(jnp.exp(log_probs.astype(jnp.float32)), axis=-1, keepdims=True)
    return jnp.where(jnp.abs(sums - 1) < SUM_TOLERANCE, log_probs, jnp.nan)


def check_floating(name: str, value: Any) -> None:
    """Raises TypeError unless `value` has a floating dtype."""
    try:
        dtype = jnp.result_type(value)
    except TypeError:  # Of a list, say, or an array of objects.
        found = f"one of {value.dtype}s" if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"{name} must be an array, got {found}.") from None
    if value is None:  # Which is a floating type to jax.
        raise TypeError(f"{name} must be an array, got None.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be floating, got {dtype}.")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless the Python or concrete scalar is finite and > 0.

    Traced values pass: under jit nothing can be raised.
    """
    if isinstance(value, jax.core.Tracer):
        return
    check_number(name, value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and positive, got {value}.")


def check_number(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is one real number."""
    if np.ndim(value) or np.asarray(value).dtype.kind not in "biuf":
        raise TypeError(f"{name} must be one number, got {value!r}.")


def check_count(name: str, value: int, *, at_least: int = 1, at_most: int | None = None) -> None:
    """Raises TypeError unless `value` is an int, ValueError unless it is in range."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < at_least or (at_most is not None and value > at_most):
        upper = "" if at_most is None else f" and at most {at_most}"
        raise ValueError(f"{name} must be at least {at_least}{upper}, got {value}.")


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError unless 0 < value <= 1 (NaN is refused too)."""
    if not isinstance(value, jax.core.Tracer):
        check_number(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}.")


def check_weight(name: str, value: float) -> None:
    """Raises ValueError unless 0 <= value <= 1; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}.")


def check_permutation(name: str, value: Sequence[int], size: int) -> None:
    """Raises ValueError unless `value` is a vector of the integers 0, ..., size - 1, each once."""
    try:
        found = np.asarray(value)
    except ValueError:  # Rows of different lengths.
        found = np.zeros(())
    is_vector = found.ndim == 1 and found.dtype.kind in "iu"
    if not is_vector or sorted(found.tolist()) != list(range(size)):
        raise ValueError(f"{name} must be a permutation of 0, ..., {size - 1}; got {value}.")


def check_last_axis(name: str, value: Any, size: int) -> None:
    """Raises ValueError unless the last axis of `value` has `size` entries."""
    if jnp.shape(value)[-1:] != (size,):
        raise ValueError(f"{name} must have shape [..., {size}], got {jnp.shape(value)}.")


def check_binary(name: str, value: Any) -> None:
    """Raises ValueError unless `value` holds zeros and ones alone; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    value = np.asarray(value)  # In NumPy: under jit, JAX would trace even what is concrete.
    if not np.all((value == 0) | (value == 1)):
        raise ValueError(f"{name} must hold zeros and ones alone.")


def nan_unless_binary(value: jax.Array, x: Any) -> jax.Array:
    """`value` `[...]`, NaN where a traced `x` `[..., I]` holds anything but zeros and ones.

    Under jit `check_binary` can raise nothing: what would be a plausible number is made one
    that every loop and estimator refuses.
    """
    if not isinstance(x, jax.core.Tracer):
        return value
    return jnp.where(jnp.all((x == 0) | (x == 1), axis=-1), value, jnp.nan)


def check_finite(name: str, value: Any) -> None:
    """Raises NotFiniteError, a ValueError, unless all are finite; traced values pass."""
    if not isinstance(value, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(value))):
        raise NotFiniteError(f"{name} must be finite.")


def check_indices(name: str, value: Any, size: int) -> None:
    """Raises ValueError unless `value` holds integers from 0 to size - 1; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    value = np.asarray(value)
    if value.dtype.kind not in "iu" or np.any((value < 0) | (value >= size)):
        raise ValueError(f"{name} must hold integers in [0, {size}).")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}.")


def check_key(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is one typed random key."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or jnp.ndim(value):
        found = type(value).__name__ if dtype is None else f"{dtype}{list(jnp.shape(value))}"
        raise TypeError(f"{name} must be one typed key, as of jax.random.key(0); got {found}.")


def check_numeric(name: str, tree: Any) -> None:
    """Raises TypeError for leaves that are no numbers, ValueError for integers that jax would wrap.

    Without double precision jax has integers of 32 bits.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            continue
        leaf = np.asarray(leaf)
        if leaf.dtype.kind not in "biufc":
            raise TypeError(f"{name} must hold numbers, got {leaf.dtype}.")
        if leaf.dtype.kind in "iu" and leaf.size:
            limits = jnp.iinfo(jax.dtypes.canonicalize_dtype(leaf.dtype))
            if leaf.max() > limits.max or leaf.min() < limits.min:
                raise ValueError(f"{name} holds integers beyond {limits.dtype}, as {leaf.max()}.")


def check_type(name: str, value: Any, kind: type) -> None:
    """Raises TypeError unless `value` is a `kind`."""
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise TypeError(f"{name} must be of type {wanted}, got {type(value).__name__}.")


def entry_of(batch: Mapping[str, Any], name: str) -> Any:
    """The batch's entry, an array; ValueError with the names there are, if it has none."""
    if name not in batch:
        raise ValueError(f"a batch has no {name!r}; it has {', '.join(sorted(batch))}.")
    check_array(name, batch[name])
    return batch[name]


def check_same_length(name: str, tree: Any) -> int:
    """Returns the common leading length of all leaves of `tree`.

    Raises:
      ValueError: if there is no leaf, a leaf is a scalar, or lengths differ or are 0.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1 or () in lengths:
        found = sorted(jnp.shape(leaf) for leaf in jax.tree.leaves(tree))
        raise ValueError(f"{name} must hold arrays with one common length, got shapes {found}.")
    (length,) = lengths.pop()
    if length == 0:
        raise ValueError(f"{name} must hold at least one example, got none.")
    return length
