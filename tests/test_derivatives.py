"""kd.derivatives in float64 on a tanh network: central differences, dense Jacobians and Hessians.

Not a ReLU network: its Hessian in the input is 0 almost everywhere, and a wrong
second derivative would pass.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree

from kd import derivatives, losses

SIZES = (4, 6, 3)
INPUT_SHAPES = [(4,), (2, 2), (2, 2, 1)]


@pytest.fixture(autouse=True)
def double_precision(x64):
    yield


def network(params, x):
    """The log-probabilities of `oracles.tanh_network`, in JAX."""
    hidden = jnp.tanh(jnp.reshape(x, -1) @ params["w1"] + params["b1"])
    return jax.nn.log_softmax(hidden @ params["w2"] + params["b2"])


def oracle_network(params, x):
    return oracles.log_softmax(oracles.tanh_network(params, x))


def problem(shape=(4,), seed=0):
    x = np.random.default_rng(seed + 100).normal(size=shape)
    return oracles.tanh_params(seed, SIZES), x


def close(actual, expected, rtol):
    """Relative to the largest entry of each leaf."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.max(np.abs(b))),
        actual,
        expected,
    )


@pytest.mark.parametrize("shape", INPUT_SHAPES)
def test_input_jacobian(shape):
    params, x = problem(shape)
    fn = lambda x: network(params, x)
    value, jacobian = derivatives.value_and_input_jacobian(fn, jnp.array(x))
    close(value, oracle_network(params, x), 1e-12)
    close(jacobian, oracles.central_jacobian(lambda x: oracle_network(params, x), x), 1e-8)
    close(jacobian, jax.jacfwd(fn)(jnp.array(x)), 1e-12)
    np.testing.assert_array_equal(derivatives.input_jacobian(fn, jnp.array(x)), jacobian)
    # Σ_i f_i = 1 does not depend on x.
    np.testing.assert_allclose(jnp.tensordot(jnp.exp(value), jacobian, 1), 0.0, atol=1e-14)


def test_gradients_flow_through_the_jacobian():
    params, x = problem()
    fn = lambda x: network(params, x)
    got = jax.jacrev(lambda x: derivatives.input_jacobian(fn, x))(jnp.array(x))
    close(got, jax.hessian(fn)(jnp.array(x)), 1e-12)


@pytest.mark.parametrize("shape", INPUT_SHAPES)
def test_input_vjp(shape):
    params, x = problem(shape)
    v = np.random.default_rng(1).normal(size=3)
    jacobian = oracles.central_jacobian(lambda x: oracle_network(params, x), x)
    fn = lambda x: network(params, x)
    got = derivatives.input_vjp(fn, jnp.array(x), jnp.array(v))
    close(got, np.tensordot(v, jacobian, 1), 1e-8)
    close(got, np.tensordot(v, jax.jacfwd(fn)(jnp.array(x)), 1), 1e-12)


def test_hvp_is_the_dense_hessian_and_the_difference_of_gradients():
    params, x = problem()
    x, v = jnp.array(x), jnp.array(np.random.default_rng(2).normal(size=4))
    fn = lambda x: jnp.sum(network(params, x) ** 3)
    got = derivatives.hvp(fn, x, v)
    assert np.max(np.abs(got)) > 1e-2
    close(got, jax.hessian(fn)(x) @ v, 1e-12)
    differences = oracles.central_jacobian(
        lambda x: np.array(jax.grad(fn)(jnp.array(x))), np.array(x)
    )
    close(got, differences @ np.array(v), 1e-7)


def test_hvp_over_a_pytree_of_parameters():
    params, x = problem()
    direction = oracles.tanh_params(7, SIZES)
    fn = lambda params: network(params, jnp.array(x))[0]
    got = derivatives.hvp(fn, jax.tree.map(jnp.array, params), jax.tree.map(jnp.array, direction))
    flat, unravel = ravel_pytree(params)
    hessian = jax.hessian(lambda flat: fn(unravel(flat)))(flat)
    expected = unravel(hessian @ ravel_pytree(direction)[0])
    close(got, expected, 1e-12)


@pytest.mark.parametrize("shape", INPUT_SHAPES)
def test_r_technique_is_the_gradient_of_the_composed_loss(shape):
    params, x = problem(shape)
    params, x = jax.tree.map(jnp.array, params), jnp.array(x)
    teacher_params, _ = problem(seed=1)
    teacher = oracles.central_jacobian(lambda x: oracle_network(teacher_params, x), np.array(x))

    def jacobian_loss_fn(jacobian):
        return losses.derivative_square_error(jacobian, jnp.array(teacher))

    def composed(params):
        return jacobian_loss_fn(derivatives.input_jacobian(lambda x: network(params, x), x))

    expected = jax.grad(composed)(params)
    got = derivatives.loss_gradient_by_r_technique(network, jacobian_loss_fn, params, x)
    # Each leaf has something to say: the last bias moves no input derivative of a logit,
    # but it does one of a log-probability.
    assert min(np.max(np.abs(leaf)) for leaf in expected.values()) > 1e-4
    close(got, expected, 1e-10)


def test_the_composed_gradient_is_a_difference_of_losses():
    """The whole chain against NumPy alone: a network, a Jacobian and a loss, all differenced."""
    params, x = problem()
    teacher_params, _ = problem(seed=1)
    teacher = oracles.central_jacobian(lambda x: oracle_network(teacher_params, x), x)

    def oracle_loss(w1):
        fn = lambda x: oracle_network({**params, "w1": w1}, x)
        return oracles.derivative_square_error(oracles.central_jacobian(fn, x, step=1e-4), teacher)

    got = derivatives.loss_gradient_by_r_technique(
        network,
        lambda jacobian: losses.derivative_square_error(jacobian, jnp.array(teacher)),
        jax.tree.map(jnp.array, params),
        jnp.array(x),
    )
    close(got["w1"], oracles.central_jacobian(oracle_loss, params["w1"], step=1e-4), 1e-6)


def test_jit_eager_vmap_and_loop_agree():
    params, _ = problem()
    xs = jnp.array(np.random.default_rng(3).normal(size=(2, 4)))
    v = jnp.array([1.0, -2.0, 0.5])
    cases = {
        "jacobian": lambda x: derivatives.value_and_input_jacobian(lambda x: network(params, x), x),
        "vjp": lambda x: derivatives.input_vjp(lambda x: network(params, x), x, v),
        "hvp": lambda x: derivatives.hvp(lambda x: network(params, x)[1], x, x),
        "r": lambda x: derivatives.loss_gradient_by_r_technique(
            network, lambda jacobian: jnp.sum(jacobian**2), jax.tree.map(jnp.array, params), x
        ),
    }
    for fn in cases.values():
        loop = jax.tree.map(lambda *leaves: np.stack(leaves), *[fn(x) for x in xs])
        close(jax.jit(jax.vmap(fn))(xs), loop, 1e-12)


def test_raises():
    with pytest.raises(TypeError, match="x must be floating, got int"):
        derivatives.value_and_input_jacobian(lambda x: x * 1.0, jnp.arange(3))
    with pytest.raises(TypeError, match="x must be floating, got int"):
        derivatives.input_jacobian(lambda x: x * 1.0, jnp.arange(3))
    message = re.escape("fn(x) must have rank 1, got shape (2, 2)")
    with pytest.raises(ValueError, match=message):
        derivatives.value_and_input_jacobian(lambda x: jnp.outer(x, x), jnp.ones(2))
    with pytest.raises(ValueError, match=re.escape("fn(x) must have rank 1, got shape ()")):
        derivatives.input_jacobian(jnp.sum, jnp.ones(2))
    message = re.escape("v and fn(x) must have the same shape, got (2,) and (3,)")
    with pytest.raises(ValueError, match=message):
        derivatives.input_vjp(jnp.sin, jnp.ones(3), jnp.ones(2))
