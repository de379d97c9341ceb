"""Regressors from one shape to another, by NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.models import Regressor

RNG = np.random.default_rng(0)


def applied(regressor, features):
    x = jnp.asarray(features, jnp.float32)
    params = regressor.init(jax.random.key(0), x)
    return np.asarray(regressor.apply(params, x)), jax.tree.map(np.asarray, params["params"])


@pytest.mark.parametrize("shape", [(4,), (6, 4), (3, 2, 4)])
def test_channels_are_mapped_at_each_position(shape):
    features = RNG.normal(size=(*shape[:-1], 5))
    found, layers = applied(Regressor(shape), features)
    layer = layers["Dense_0"]
    assert found.shape == shape and set(layers) == {"Dense_0"}
    np.testing.assert_allclose(found, features @ layer["kernel"] + layer["bias"], atol=1e-5)


def test_a_larger_map_is_convolved_to_the_teachers_size():
    features = RNG.normal(size=(5, 4, 2))
    found, layers = applied(Regressor((3, 3, 6)), features)
    kernel = layers["Conv_0"]["kernel"]
    assert kernel.shape == (3, 2, 2, 6)
    for i in range(3):
        for j in range(3):
            expected = np.einsum("abc,abcd->d", features[i : i + 3, j : j + 2], kernel)
            np.testing.assert_allclose(found[i, j], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (2, 6, 3), (4, 3)])
def test_other_shapes_are_one_row(shape):
    features = RNG.normal(size=(3, 3, 2))
    found, layers = applied(Regressor(shape, use_bias=False), features)
    expected = (features.ravel() @ layers["Dense_0"]["kernel"]).reshape(shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert set(layers["Dense_0"]) == {"kernel"}


def test_hidden_layers_come_first():
    features = RNG.normal(size=(3, 3, 2))
    found, layers = applied(Regressor((3, 3, 4), hidden_sizes=(8, 5)), features)
    h = features
    for index in range(2):
        layer = layers[f"Dense_{index}"]
        h = np.maximum(h @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(found, h @ layers["Dense_2"]["kernel"], atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 4), (2, 2, 4), (7,)])
def test_the_result_has_the_activation_and_hidden_layers_do_not(shape):
    """The same weights with one and without: relu or tanh of what is linear."""
    x = jnp.asarray(RNG.normal(size=(3, 3, 2)), jnp.float32)
    plain = Regressor(shape, hidden_sizes=(5,))
    params = plain.init(jax.random.key(0), x)
    linear = np.asarray(plain.apply(params, x))
    assert np.min(linear) < 0 < np.max(linear)
    for activation_fn, by_hand in ((nn.relu, lambda y: np.maximum(y, 0)), (jnp.tanh, np.tanh)):
        regressor = Regressor(shape, hidden_sizes=(5,), activation_fn=activation_fn)
        found = regressor.apply(params, x)
        np.testing.assert_allclose(found, by_hand(linear), atol=1e-6)
        own = regressor.init(jax.random.key(0), x)
        jax.tree.map(np.testing.assert_array_equal, own, params)


def test_a_single_number_is_no_feature():
    for regressor, features in ((Regressor(()), jnp.ones(3)), (Regressor((3,)), jnp.ones(()))):
        with pytest.raises(ValueError, match="must have an axis or more"):
            regressor.init(jax.random.key(0), features)
