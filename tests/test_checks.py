"""kd.checks: what passes, what is refused, and what the message says."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import checks


def refused(kind, message, call, *args, **kwargs):
    with pytest.raises(kind, match=re.escape(message)):
        call(*args, **kwargs)


def test_check_rank():
    checks.check_rank("a", jnp.zeros((2, 3)), 2)
    checks.check_rank("a", 1.0, 0)
    refused(
        ValueError,
        "a must have rank 1, got shape (2, 3).",
        checks.check_rank,
        "a",
        jnp.zeros((2, 3)),
        1,
    )
    refused(ValueError, "a must have rank 1, got shape ().", checks.check_rank, "a", 1.0, 1)


def test_check_same_shape():
    checks.check_same_shape("a", jnp.zeros((2, 3)), "b", np.ones((2, 3)))
    for other in (jnp.zeros((3, 2)), jnp.zeros((1, 3)), jnp.zeros(3), 0.0):
        message = f"a and b must have the same shape, got (2, 3) and {jnp.shape(other)}."
        refused(ValueError, message, checks.check_same_shape, "a", jnp.zeros((2, 3)), "b", other)


def test_check_floating():
    for value in (jnp.zeros(2), jnp.zeros(2, jnp.bfloat16), 1.0, np.float32(1)):
        checks.check_floating("a", value)
    for value, dtype in [(jnp.arange(2), "int32"), (jnp.zeros(2, bool), "bool"), (1j, "complex64")]:
        refused(TypeError, f"a must be floating, got {dtype}.", checks.check_floating, "a", value)
    for value, found in (
        ([1.0], "list"),
        (None, "None"),
        (np.array([None]), "one of objects"),
    ):
        refused(TypeError, f"a must be an array, got {found}.", checks.check_floating, "a", value)


def test_check_array():
    for value in (np.zeros(2), jnp.zeros(()), np.float32(1)):
        checks.check_array("a", value)
    for value in (1.0, [1.0], {"b": np.zeros(2)}):
        kind = type(value).__name__
        refused(TypeError, f"a must be an array, got {kind}.", checks.check_array, "a", value)


def test_check_key():
    checks.check_key("a", jax.random.key(0))
    for value, found in [
        (0, "int"),
        (jnp.zeros(2, jnp.uint32), "uint32[2]"),
        (jax.random.split(jax.random.key(0)), "key<fry>[2]"),
    ]:
        message = f"a must be one typed key, as of jax.random.key(0); got {found}."
        refused(TypeError, message, checks.check_key, "a", value)


def test_check_positive():
    for value in (1, 0.5, np.float32(2), jnp.array(3.0)):
        checks.check_positive("a", value)
    for value in (0, 0.0, -1, float("nan"), float("inf"), jnp.array(-1.0)):
        refused(
            ValueError,
            f"a must be finite and positive, got {value}.",
            checks.check_positive,
            "a",
            value,
        )


def test_check_positive_lets_traced_values_pass():
    @jax.jit
    def double(a):
        checks.check_positive("a", a)
        return 2 * a

    assert double(-1.0) == -2.0


def test_check_count():
    for value in (1, np.int64(3)):
        checks.check_count("a", value)
    checks.check_count("a", 0, at_least=0)
    checks.check_count("a", 4, at_most=4)
    refused(ValueError, "a must be at least 1, got 0.", checks.check_count, "a", 0)
    message = "a must be at least 1 and at most 4, got 5."
    refused(ValueError, message, checks.check_count, "a", 5, at_most=4)
    for value in (1.0, True, "1", None):
        refused(TypeError, f"a must be an integer, got {value!r}.", checks.check_count, "a", value)


def test_check_fraction():
    for value in (1e-9, 0.5, 1, 1.0):
        checks.check_fraction("a", value)
    for value in (0, -0.1, 1.001, float("nan")):
        refused(ValueError, f"a must be in (0, 1], got {value}.", checks.check_fraction, "a", value)


def test_check_weight():
    for value in (0, 1, 0.25, jnp.array(0.5)):
        checks.check_weight("a", value)
    for value in (-0.1, 1.001, float("nan")):
        refused(ValueError, f"a must be in [0, 1], got {value}.", checks.check_weight, "a", value)
    jax.jit(lambda a: checks.check_weight("a", a))(2.0)


def test_check_permutation():
    checks.check_permutation("a", (2, 0, 1), 3)
    checks.check_permutation("a", np.array([0]), 1)
    for value in (
        *((0, 1), (0, 1, 1), (1, 2, 3), (0, 1, 2, 3)),
        *([0.0, 1.0, 2.0], [2, None, 1], 3, [True, False, True]),
        *([[0, 1, 2]], [[0, 1], [2]]),
    ):
        message = f"a must be a permutation of 0, ..., 2; got {value}."
        refused(ValueError, message, checks.check_permutation, "a", value, 3)


def test_check_shape():
    checks.check_shape("a", np.zeros((2, 3)), [2, 3])
    refused(
        ValueError,
        "a must have shape (2, 3), got (3,).",
        checks.check_shape,
        "a",
        np.zeros(3),
        (2, 3),
    )


def test_nan_unless_binary():
    x = jnp.array([[0.0, 1.0], [0.5, 1.0], [jnp.nan, 0.0]])
    value = jnp.arange(3.0)
    np.testing.assert_array_equal(checks.nan_unless_binary(value, x), value)
    np.testing.assert_array_equal(jax.jit(checks.nan_unless_binary)(value, x), [0, np.nan, np.nan])


def test_check_last_axis():
    checks.check_last_axis("a", jnp.zeros((2, 3)), 3)
    checks.check_last_axis("a", np.zeros(3), 3)
    for value in (jnp.zeros((3, 2)), jnp.zeros(()), jnp.zeros((3, 1))):
        message = f"a must have shape [..., 3], got {jnp.shape(value)}."
        refused(ValueError, message, checks.check_last_axis, "a", value, 3)


def test_check_binary():
    for value in (jnp.array([0.0, 1.0]), np.array([True, False]), jnp.zeros((0, 3)), 1):
        checks.check_binary("a", value)
    for value in (jnp.array([0.0, 0.5]), jnp.array([2, 1]), jnp.array([jnp.nan])):
        message = "a must hold zeros and ones alone."
        refused(ValueError, message, checks.check_binary, "a", value)
    jax.jit(lambda a: checks.check_binary("a", a))(2.0)


def test_check_indices():
    for value in (jnp.array([0, 2]), [1], np.zeros(0, int)):
        checks.check_indices("a", value, 3)
    for value in (jnp.array([0, 3]), [-1], np.array([0.0, 1.0])):
        refused(ValueError, "a must hold integers in [0, 3).", checks.check_indices, "a", value, 3)
    jax.jit(lambda a: checks.check_indices("a", a, 3))(5)


def test_check_finite():
    for value in (jnp.array([0.0, -1.0]), np.array([2]), jnp.zeros((0, 3)), 1):
        checks.check_finite("a", value)
    for value in (jnp.array([0.0, jnp.inf]), np.array([[np.nan]]), -np.inf):
        refused(ValueError, "a must be finite.", checks.check_finite, "a", value)
    jax.jit(lambda a: checks.check_finite("a", a))(np.inf)


def test_concrete_arrays_are_checked_under_jit_too():
    """A function that is traced may have captured a data set, which is not."""
    for check, good, bad in (
        (checks.check_binary, jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0])),
        (checks.check_finite, jnp.array([0.0, 1.0]), jnp.array([0.0, jnp.nan])),
    ):
        jax.jit(lambda: check("a", good))()  # noqa: B023
        with pytest.raises(ValueError, match="a must"):
            jax.jit(lambda: check("a", bad))()  # noqa: B023


def test_check_choice():
    checks.check_choice("a", None, (None, "b"))
    refused(
        ValueError, "a must be one of None, b; got 'c'.", checks.check_choice, "a", "c", (None, "b")
    )


def test_check_same_length():
    assert checks.check_same_length("a", {"x": jnp.zeros((3, 2)), "y": np.zeros(3)}) == 3
    message = "a must hold arrays with one common length, got shapes [(2,), (3, 1)]."
    refused(ValueError, message, checks.check_same_length, "a", [jnp.zeros((3, 1)), jnp.zeros(2)])
    refused(ValueError, "got shapes [()]", checks.check_same_length, "a", [jnp.array(1.0)])
    refused(
        ValueError,
        "got shapes [(), (2,)]",
        checks.check_same_length,
        "a",
        [jnp.array(1.0), jnp.zeros(2)],
    )
    refused(ValueError, "got shapes []", checks.check_same_length, "a", {})
    message = "a must hold at least one example, got none."
    refused(ValueError, message, checks.check_same_length, "a", {"x": jnp.zeros((0, 3))})


@pytest.mark.parametrize("value", ["2", None, [1.0], np.ones(2), 1j])
def test_what_is_no_number_is_named(value):
    for check in (checks.check_positive, checks.check_fraction):
        with pytest.raises(TypeError, match="rate must be one number, got"):
            check("rate", value)
