"""kd.training.proximal: the lasso's solution, exact zeros, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Lasso

from kd import models
from kd.training import proximal


def soft_threshold(params, amount):
    return jax.tree.map(
        lambda leaf: jnp.sign(leaf) * jnp.maximum(jnp.abs(leaf) - amount, 0.0), params
    )


def test_proximal_gradient_descent_finds_the_lasso():
    """Scikit-learn minimises |y - X w|^2 / (2 n) + alpha |w|_1 by coordinates."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(60, 8)), rng.normal(size=60)
    y, strength, rate = x @ np.array([2.0, -1, 0, 0, 0.5, 0, 0, 0]) + 0.3 * noise, 0.2, 0.3
    expected = Lasso(alpha=strength, fit_intercept=False, tol=1e-10).fit(x, y).coef_
    optimizer = optax.chain(optax.sgd(rate), proximal(soft_threshold, strength * rate))
    slope = jax.grad(lambda w: jnp.sum((jnp.asarray(y) - jnp.asarray(x) @ w) ** 2) / 120)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(slope(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.ones(8)
    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=400)
    np.testing.assert_allclose(params, expected, atol=1e-5)
    assert np.array_equal(np.asarray(params) == 0, expected == 0) and (expected == 0).sum() >= 4


def test_whole_units_become_exactly_zero_after_any_optimizer():
    model = models.MLP((6,), 3)
    params = model.init(jax.random.key(0), jnp.zeros(4))
    optimizer = optax.chain(optax.adam(1e-3), proximal(models.shrink_groups, 0.05))
    state = optimizer.init(params)
    for seed in range(60):
        grads = jax.tree.map(
            lambda leaf, seed=seed: jax.random.normal(jax.random.key(seed), leaf.shape), params
        )
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    norms = models.group_norms(params)["Dense_0"]
    assert np.all(np.asarray(norms) == 0)
    assert np.any(np.asarray(params["params"]["Dense_1"]["kernel"]) != 0)


def test_the_amount_may_follow_a_schedule():
    optimizer = proximal(soft_threshold, lambda count: jnp.where(count < 2, 0.5, 0.0))
    params = jnp.array([2.0])
    state, seen = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update(jnp.zeros(1), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params[0]))
    assert seen == [1.5, 1.0, 1.0, 1.0] and int(state.count) == 4


@pytest.mark.parametrize("amount", [-0.1, float("nan"), float("inf")])
def test_an_amount_that_is_none_is_refused(amount):
    with pytest.raises(ValueError, match="amount must be finite and positive"):
        proximal(soft_threshold, amount)


def test_a_step_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="prox_fn must be a function, got 3"):
        proximal(3, 0.1)


def test_parameters_are_needed():
    optimizer = proximal(soft_threshold, 0.0)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(jnp.zeros(1), optimizer.init(jnp.zeros(1)))
