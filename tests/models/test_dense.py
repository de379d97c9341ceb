"""Dense layers at every position, as one matrix under `vmap`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.models.dense import flat_dot_general

RNG = np.random.default_rng(0)
# What a layer is given, its weights, and how many axes are contracted.
CASES = [
    ((4, 3), (3, 5), 1),
    ((2, 4, 3), (3, 5, 2), 1),
    ((4, 2, 3), (2, 3, 5), 2),
    ((3,), (3, 5), 1),
]


def axes(left, count):
    rank = len(left)
    return (tuple(range(rank - count, rank)), tuple(range(count))), ((), ())


def products(case, left, right, fn):
    return fn(left, right, axes(case[0], case[2]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_xla_has_it(case, x64):
    """Values, gradients and derivatives along a direction, of one input and under every `vmap`."""
    left, right = RNG.normal(size=(6, *case[0])), RNG.normal(size=(6, *case[1]))

    def everything(fn):
        one = lambda left, right: products(case, left, right, fn)
        loss = lambda left, right: jnp.sum(jnp.sin(one(left, right)))
        batched = lambda left, right: jnp.sum(jnp.sin(jax.vmap(one, (0, None))(left, right)))
        return {
            "one": jax.value_and_grad(loss, (0, 1))(left[0], right[0]),
            "inputs": jax.value_and_grad(batched, (0, 1))(left, right[0]),
            "another axis": jax.vmap(one, (1, None))(np.moveaxis(left, 0, 1), right[0]),
            "each input's": jax.vmap(jax.grad(loss, 1), (0, None))(left, right[0]),
            "networks": jax.vmap(loss, (None, 0))(left[0], right),
            "both": jax.vmap(jax.grad(loss, (0, 1)))(left, right),
            "along": jax.jvp(batched, (left, right[0]), (left + 1, right[1])),
        }

    found, expected = everything(flat_dot_general), everything(jax.lax.dot_general)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_a_batch_is_one_matrix():
    layer = nn.Dense(5, dot_general=flat_dot_general)
    params = layer.init(jax.random.key(0), jnp.ones((4, 3)))
    text = str(jax.make_jaxpr(jax.vmap(lambda x: layer.apply(params, x)))(jnp.ones((7, 4, 3))))
    assert "f32[28,5] = dot_general" in text


def test_other_contractions_are_xlas_own():
    left, right = jnp.asarray(RNG.normal(size=(2, 3, 4))), jnp.asarray(RNG.normal(size=(2, 4, 5)))
    numbers = (((2,), (1,)), ((0,), (0,)))
    found = flat_dot_general(left, right, numbers)
    np.testing.assert_allclose(found, jnp.einsum("bij,bjk->bik", left, right), rtol=1e-6)
    numbers = (((0,), (2,)), ((), ()))
    found = flat_dot_general(left, jnp.ones((3, 4, 2)), numbers)
    np.testing.assert_array_equal(found, jax.lax.dot_general(left, jnp.ones((3, 4, 2)), numbers))
