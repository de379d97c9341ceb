"""kd.losses.derivatives: exact value by loops, and the estimator by enumeration and by its law."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from kd import losses
from kd.derivatives import input_jacobian, input_vjp

SHAPES = st.sampled_from([(2,), (3, 4), (5, 2, 2), (1, 3)])
SIZES = (4, 5, 3)


def network(params, x):
    hidden = jnp.tanh(jnp.reshape(x, -1) @ params["w1"] + params["b1"])
    return jax.nn.log_softmax(hidden @ params["w2"] + params["b2"])


def problem(dtype=jnp.float64):
    student, teacher = (
        jax.tree.map(lambda leaf: jnp.array(leaf, dtype), oracles.tanh_params(seed, SIZES))
        for seed in (0, 1)
    )
    x = jnp.array(np.random.default_rng(2).normal(size=4), dtype)
    return student, teacher, x


def exact_loss(student, teacher, x):
    return losses.derivative_square_error(
        input_jacobian(lambda x: network(student, x), x),
        input_jacobian(lambda x: network(teacher, x), x),
    )


def estimate(student, teacher, x, key, num_projections=1):
    return losses.projected_derivative_square_error(
        lambda x: network(student, x),
        lambda x: network(teacher, x),
        x,
        key,
        num_projections=num_projections,
    )


@given(shape=SHAPES, seed=st.integers(0, 2**16))
def test_value_and_gradients_match_the_numpy_loop(shape, seed):
    f, t = np.random.default_rng(seed).normal(size=(2, *shape))
    with jax.enable_x64(True):
        value, (df, dt) = jax.value_and_grad(losses.derivative_square_error, argnums=(0, 1))(
            jnp.array(f), jnp.array(t)
        )
    np.testing.assert_allclose(value, oracles.derivative_square_error(f, t), rtol=1e-12)
    np.testing.assert_allclose(df, (f - t) / shape[0], rtol=1e-12)
    np.testing.assert_allclose(dt, (t - f) / shape[0], rtol=1e-12)


def test_exact_loss_of_two_networks_is_that_of_their_numpy_jacobians(x64):
    student, teacher, x = problem()
    jacobians = [
        oracles.central_jacobian(
            lambda x, params=params: oracles.log_softmax(oracles.tanh_network(params, x)),
            np.array(x),
        )
        for params in (student, teacher)
    ]
    expected = oracles.derivative_square_error(*jacobians)
    np.testing.assert_allclose(exact_loss(student, teacher, x), expected, rtol=1e-8)


@given(shape=SHAPES, num_projections=st.sampled_from([1, 3]), seed=st.integers(0, 2**16))
def test_projected_square_error_matches_the_numpy_loop(shape, num_projections, seed):
    num_classes = shape[0]
    rng = np.random.default_rng(seed)
    f, t = rng.normal(size=(2, *shape))
    signs = rng.choice([-1.0, 1.0], size=(num_projections, num_classes))
    expected = 0.0
    for v in signs:
        gap = sum(s * (a - b) for s, a, b in zip(v, f, t, strict=True))
        expected += np.sum(gap**2) / (2 * num_classes * num_projections)
    with jax.enable_x64(True):
        got = losses.projected_square_error(
            jnp.tensordot(signs, f, 1), jnp.tensordot(signs, t, 1), num_classes=num_classes
        )
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@given(shape=SHAPES, seed=st.integers(0, 2**16))
def test_mean_over_all_sign_vectors_is_the_exact_loss(shape, seed):
    """E[v vᵀ] = 1 holds exactly over the 2^C vectors of signs."""
    f, t = np.random.default_rng(seed).normal(size=(2, *shape))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=shape[0])))

    def one(v):
        vjps = [jnp.tensordot(v, jacobian, 1)[None] for jacobian in (f, t)]
        return losses.projected_square_error(*vjps, num_classes=shape[0])

    with jax.enable_x64(True):
        got = np.mean(jax.vmap(one)(jnp.array(signs)))
        all_at_once = losses.projected_square_error(
            jnp.tensordot(signs, f, 1), jnp.tensordot(signs, t, 1), num_classes=shape[0]
        )
    expected = oracles.derivative_square_error(f, t)
    np.testing.assert_allclose([got, all_at_once], expected, rtol=1e-12)


@pytest.mark.parametrize("num_projections", [1, 4])
def test_the_estimator_is_the_projected_loss_of_random_signs(num_projections, x64):
    student, teacher, x = problem()
    key = jax.random.key(3)
    signs = jax.random.rademacher(key, (num_projections, 3), dtype=x.dtype)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    vjps = [
        jnp.stack([input_vjp(lambda x, params=params: network(params, x), x, v) for v in signs])
        for params in (student, teacher)
    ]
    expected = losses.projected_square_error(*vjps, num_classes=3)
    got = estimate(student, teacher, x, key, num_projections)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_the_estimator_and_its_gradient_are_unbiased(x64):
    student, teacher, x = problem()
    flat, unravel = ravel_pytree(student)
    directions = jnp.array(np.random.default_rng(4).normal(size=(3, flat.size)))

    def value_and_slopes(loss_fn):
        value, gradient = jax.value_and_grad(lambda flat: loss_fn(unravel(flat)))(flat)
        return jnp.concatenate([value[None], directions @ gradient])

    keys = jax.random.split(jax.random.key(5), 4096)
    draws = jax.jit(jax.vmap(lambda key: value_and_slopes(lambda p: estimate(p, teacher, x, key))))(
        keys
    )
    exact = value_and_slopes(lambda p: exact_loss(p, teacher, x))
    error = np.std(draws, axis=0) / np.sqrt(len(keys))
    assert np.all(error > 0) and np.all(error < 0.05 * np.max(np.abs(exact)))
    assert np.all(np.abs(np.mean(draws, axis=0) - exact) < 4 * error)


def test_variance_falls_as_one_over_the_projections(x64):
    student, teacher, x = problem()
    keys = jax.random.split(jax.random.key(6), 4096)

    def variance(num_projections):
        return np.var(
            jax.jit(jax.vmap(lambda key: estimate(student, teacher, x, key, num_projections)))(keys)
        )

    one = variance(1)
    for num_projections in (2, 8):
        assert 0.9 < one / (num_projections * variance(num_projections)) < 1.1


@pytest.mark.parametrize("num_projections", [1, 3])
def test_teacher_equal_to_student_gives_zero_and_zero_gradient(num_projections):
    student, teacher, x = problem(jnp.float32)
    key = jax.random.key(7)
    for loss_fn in (
        exact_loss,
        lambda s, t, x: estimate(s, t, x, key, num_projections),
    ):
        value, gradients = jax.value_and_grad(loss_fn, argnums=(0, 1, 2))(student, student, x)
        assert value == 0.0
        for leaf in jax.tree.leaves(gradients):
            np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
        assert loss_fn(student, teacher, x) > 1e-3


@pytest.mark.parametrize("scales", [(1e4, 1.0), (1.0, 1e4), (1e4, 1e4), (1e4, -1e4)])
def test_saturated_networks_give_finite_values_and_gradients(scales):
    """Logits of ±1e4: an input derivative of log f is large there, never NaN."""
    weights = jnp.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.5]])

    def linear(scale):
        return lambda x: jax.nn.log_softmax(scale * (x @ weights))

    def both(student_scale, teacher_scale, x):
        f, t = linear(student_scale), linear(teacher_scale)
        exact = losses.derivative_square_error(input_jacobian(f, x), input_jacobian(t, x))
        signs = jnp.ones((1, 3))
        vjps = [jax.vmap(lambda v: input_vjp(fn, x, v))(signs) for fn in (f, t)]  # noqa: B023
        direct = losses.projected_square_error(*vjps, num_classes=3)
        drawn = losses.projected_derivative_square_error(f, t, x, jax.random.key(0))
        return jnp.stack([exact, direct, drawn])

    args = (*map(jnp.float32, scales), jnp.array([1.0, -1.0]))
    jacobians = []
    for scale in scales:
        probs = oracles.softmax(scale * np.array(args[2]) @ np.array(weights))
        jacobians.append(scale * (np.array(weights).T - (np.array(weights) @ probs)[None]))
    values = both(*args)
    np.testing.assert_allclose(values[0], oracles.derivative_square_error(*jacobians), rtol=1e-5)
    assert np.all(np.isfinite(values))
    for leaf in jax.tree.leaves(jax.jacrev(both, argnums=(0, 1, 2))(*args)):
        assert np.all(np.isfinite(leaf))


def test_jit_eager_vmap_and_loop_agree():
    student, teacher, _ = problem(jnp.float32)
    xs = jnp.array(np.random.default_rng(8).normal(size=(2, 4)), jnp.float32)
    keys = jax.random.split(jax.random.key(9), 2)
    grad = jax.value_and_grad
    for fn in (
        grad(lambda p, x, key: exact_loss(p, teacher, x)),
        grad(lambda p, x, key: estimate(p, teacher, x, key, 2)),
    ):
        loop = [fn(student, x, key) for x, key in zip(xs, keys, strict=True)]
        expected = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
        batched = jax.vmap(fn, in_axes=(None, 0, 0))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            jax.jit(batched)(student, xs, keys),
            expected,
        )


def test_raises():
    exact, projected = losses.derivative_square_error, losses.projected_square_error
    message = "student_jacobian and teacher_jacobian must have the same shape, got (2, 3) and (3,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        exact(jnp.zeros((2, 3)), jnp.zeros(3))
    with pytest.raises(ValueError, match="student_jacobian must have a class axis"):
        exact(jnp.array(0.0), jnp.array(0.0))
    message = "student_vjps and teacher_vjps must have the same shape, got (1, 3) and (2, 3)"
    with pytest.raises(ValueError, match=re.escape(message)):
        projected(jnp.zeros((1, 3)), jnp.zeros((2, 3)), num_classes=2)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        projected(jnp.zeros((1, 3)), jnp.zeros((1, 3)), num_classes=0)
    with pytest.raises(TypeError, match="num_classes must be an integer, got 2.0"):
        projected(jnp.zeros((1, 3)), jnp.zeros((1, 3)), num_classes=2.0)


def test_the_estimator_raises():
    def run(student_fn, teacher_fn, **settings):
        return losses.projected_derivative_square_error(
            student_fn, teacher_fn, jnp.ones(3), jax.random.key(0), **settings
        )

    with pytest.raises(ValueError, match="num_projections must be at least 1, got 0"):
        run(jnp.sin, jnp.sin, num_projections=0)
    message = "student_fn(x) and teacher_fn(x) must have the same shape, got (3,) and (2,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        run(jnp.sin, lambda x: x[:2])
    with pytest.raises(ValueError, match=re.escape("student_fn(x) must have rank 1, got shape ()")):
        run(jnp.sum, jnp.sum)


def test_no_class_is_refused():
    empty = jnp.zeros((0, 3))
    with pytest.raises(ValueError, match="number of classes must be at least 1, got 0"):
        losses.derivative_square_error(empty, empty)
