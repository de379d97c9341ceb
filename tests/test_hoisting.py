"""kd.hoisting: the same values as jit, with captured arrays as arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr

from kd.hoisting import hoisted_jit


def constants(fn, *args):
    """The arrays inside the programs that `fn` calls."""
    outer = jax.make_jaxpr(fn)(*args)
    found, left = [], [eqn.params for eqn in outer.eqns]
    while left:
        for value in left.pop().values():
            if isinstance(value, ClosedJaxpr):
                found += value.consts
                left += [eqn.params for eqn in value.eqns]
    return found


def test_values_structure_and_captured_keys():
    """Pytrees in and out; what was captured may be a typed key."""
    weights, key = jnp.arange(6.0).reshape(2, 3), jax.random.key(3)

    def fn(state, scale):
        noise = jax.random.normal(key, (3,))
        return {"a": (state["x"] @ weights + noise, scale), "none": None}

    args = ({"x": jnp.array([1.0, -1.0])}, jnp.array(2.0))
    compiled = hoisted_jit(fn, *args)
    other = ({"x": jnp.array([3.0, 0.5])}, jnp.array(-1.0))
    for given in (args, other):
        expected, found = fn(*given), compiled(*given)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_no_captured_array_is_in_the_program():
    big = jax.random.normal(jax.random.key(0), (1000,))

    def fn(x):
        return jnp.sum(jax.lax.map(lambda i: x * big[i], jnp.arange(3)))

    x = jnp.array(2.0)
    assert any(np.shape(value) == (1000,) for value in constants(lambda x: jax.jit(fn)(x), x))
    assert not any(np.shape(value) == (1000,) for value in constants(hoisted_jit(fn, x), x))


def test_only_the_named_arguments_are_donated():
    kept, given, other = jnp.ones(4), jnp.zeros(4), jnp.ones(4)
    compiled = hoisted_jit(lambda x, y: (x + kept, y.sum()), given, other, donate_argnums=(0,))
    result, _ = compiled(given, other)
    np.testing.assert_array_equal(result, 1.0)
    assert given.is_deleted()
    assert not kept.is_deleted() and not other.is_deleted()
    np.testing.assert_array_equal(compiled(result, other)[0], 2.0)


def test_another_structure_is_refused():
    """Leaves are passed flat: those of another tree must not slip into the wrong places."""
    compiled = hoisted_jit(lambda d: d["a"] - d["b"], {"a": jnp.array(1.0), "b": jnp.array(2.0)})
    with pytest.raises(ValueError, match="'a': \\*, 'b': \\*.*got.*'b': \\*, 'c': \\*"):
        compiled({"b": jnp.array(1.0), "c": jnp.array(2.0)})
