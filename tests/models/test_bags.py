"""Bags of linear classifiers against plain NumPy means of sigmoids and softmaxes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd.models import SigmoidBag, SoftmaxBag


def weights(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def log_odds(w, x):
    p = np.mean(oracles.sigmoid(w @ x))
    return np.log(p) - np.log1p(-p)


def test_log_odds_of_the_mean(x64):
    w, x = weights(7, 3), weights(3, seed=1)
    bag, params = SigmoidBag(7), {"params": {"w": jnp.asarray(w)}}
    value, slope = jax.value_and_grad(lambda x: bag.apply(params, x))(jnp.asarray(x))
    np.testing.assert_allclose(value, log_odds(w, x), rtol=1e-12)
    np.testing.assert_allclose(
        slope, oracles.central_jacobian(lambda x: log_odds(w, x), x), rtol=1e-7
    )


def test_one_member_is_a_logistic_regression():
    w, x = jnp.array([[2.0, -1.0]]), jnp.array([0.3, 0.8])
    found = SigmoidBag(1).apply({"params": {"w": w}}, x)
    assert float(found) == pytest.approx(float(w[0] @ x), rel=1e-5)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_far_from_the_data_all_stays_finite(scale):
    """All members certain: their log-odds are the least certain one's, less log S or so."""
    w = jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]])
    bag = SigmoidBag(3)

    def fn(w, x):
        return bag.apply({"params": {"w": w}}, x)

    x = jnp.array([scale, 0.0])
    value, slopes = jax.value_and_grad(fn, argnums=(0, 1))(w, x)
    assert float(value) == pytest.approx(np.sign(scale) * (1e4 + np.log(3)), rel=1e-6)
    assert all(jnp.isfinite(slope).all() for slope in slopes)


def test_log_probabilities_of_the_mean(x64):
    w, x = weights(4, 3, 2), weights(2, seed=1)
    bag = SoftmaxBag(4, 3)
    found = bag.apply({"params": {"w": jnp.asarray(w)}}, jnp.asarray(x))
    expected = np.log(np.mean([oracles.softmax(one @ x) for one in w], axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert float(jnp.sum(jnp.exp(found))) == pytest.approx(1, abs=1e-12)


def test_two_classes_are_a_bag_of_sigmoids(x64):
    w, x = weights(5, 2, seed=3), weights(2, seed=4)
    pairs = np.stack([np.zeros_like(w), w], axis=1)
    log_probs = SoftmaxBag(5, 2).apply({"params": {"w": jnp.asarray(pairs)}}, jnp.asarray(x))
    logit = SigmoidBag(5).apply({"params": {"w": jnp.asarray(w)}}, jnp.asarray(x))
    assert float(log_probs[1] - log_probs[0]) == pytest.approx(float(logit), rel=1e-12)


def test_starts_as_the_released_code():
    for bag, count in ((SigmoidBag(4000), 4000), (SoftmaxBag(1000, 4), 4000)):
        w = bag.init(jax.random.key(0), jnp.zeros(2))["params"]["w"]
        assert w.size == 2 * count and float(jnp.var(w)) == pytest.approx(1 / 3, rel=0.06)


def test_raises():
    for make in (lambda: SigmoidBag(0), lambda: SoftmaxBag(0, 2)):
        with pytest.raises(ValueError, match="num_members must be at least 1, got 0"):
            make()
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        SoftmaxBag(1, 1)
    for make in (lambda: SigmoidBag(1.5), lambda: SoftmaxBag(1.5, 2), lambda: SoftmaxBag(2, 1.5)):
        with pytest.raises(TypeError, match="must be an integer, got 1.5"):
            make()
    for bag in (SigmoidBag(2), SoftmaxBag(2, 3)):
        with pytest.raises(ValueError, match="x must have rank 1"):
            bag.init(jax.random.key(0), jnp.zeros((2, 2)))
