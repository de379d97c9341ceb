"""kd.models.MLP: the forward pass by loops, and the law of the initial weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd.models import MLP


def dense_layers(params):
    layers = params["params"]
    return [layers[f"Dense_{i}"] for i in range(len(layers))]


@pytest.mark.parametrize("shape", [(4,), (2, 2), (2, 2, 1), (1, 4)])
def test_forward_is_the_numpy_network_for_any_input_shape(shape, x64):
    model = MLP(hidden_sizes=(6,), num_outputs=3, activation_fn=jnp.tanh)
    x = jnp.array(np.random.default_rng(0).normal(size=shape))
    params = model.init(jax.random.key(0), x)
    first, second = dense_layers(params)
    expected = oracles.tanh_network(
        {"w1": first["kernel"], "b1": first["bias"], "w2": second["kernel"], "b2": second["bias"]},
        np.array(x),
    )
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-6)


@pytest.mark.parametrize("hidden_sizes", [(), (5,), (5, 4), (3, 3, 3)])
def test_hidden_layers_are_rectified_and_the_last_is_not(hidden_sizes):
    model = MLP(hidden_sizes=hidden_sizes, num_outputs=6)
    x = np.random.default_rng(1).normal(size=4).astype(np.float32)
    params = model.init(jax.random.key(1), jnp.array(x))
    layers = dense_layers(params)
    assert [layer["bias"].size for layer in layers] == [*hidden_sizes, 6]
    h = x
    for i, layer in enumerate(layers):
        h = [
            sum(w * v for w, v in zip(column, h, strict=True)) + b
            for column, b in zip(np.array(layer["kernel"]).T, np.array(layer["bias"]), strict=True)
        ]
        if i + 1 < len(layers):
            h = [max(v, 0.0) for v in h]
    np.testing.assert_allclose(model.apply(params, jnp.array(x)), h, rtol=1e-4, atol=1e-6)


def test_activation_and_batches():
    linear = MLP(hidden_sizes=(5,), num_outputs=2, activation_fn=lambda x: x)
    x = jnp.array(np.random.default_rng(2).normal(size=(7, 3)), jnp.float32)
    params = linear.init(jax.random.key(2), x[0])
    first, second = dense_layers(params)
    weights = np.array(first["kernel"]) @ np.array(second["kernel"])
    bias = np.array(first["bias"]) @ np.array(second["kernel"]) + np.array(second["bias"])
    got = jax.jit(jax.vmap(lambda x: linear.apply(params, x)))(x)
    np.testing.assert_allclose(got, np.array(x) @ weights + bias, rtol=1e-4, atol=1e-5)
    sigmoid = MLP(hidden_sizes=(5,), num_outputs=2, activation_fn=nn.sigmoid)
    assert not np.allclose(sigmoid.apply(params, x[0]), got[0])


def test_weights_and_biases_start_normal_with_variance_one_over_fan_in_plus_one():
    num_inputs, num_hidden = 24, 4000
    model = MLP(hidden_sizes=(num_hidden, 8), num_outputs=4000)
    params = model.init(jax.random.key(3), jnp.zeros(num_inputs))
    fan_ins = [num_inputs, num_hidden, 8]
    tested = 0
    for fan_in, layer in zip(fan_ins, dense_layers(params), strict=True):
        for name in ("kernel", "bias"):
            z = np.ravel(layer[name]).astype(np.float64) * np.sqrt(fan_in + 1)
            if z.size < 4000:
                continue
            tested += 1
            # Moments of a standard normal and the standard errors of their estimates; the
            # fourth tells a normal from the truncated normal and the uniform of other inits.
            for power, moment, deviation in [(1, 0, 1), (2, 1, 2**0.5), (4, 3, 96**0.5)]:
                error = abs(np.mean(z**power) - moment)
                assert error < 4 * deviation / np.sqrt(z.size), (fan_in, name, power)
    assert tested == 5


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_scales_what_is_left_and_is_off_by_default(rate):
    """One hidden layer, read off by an identity: a share of its units is 0, the others larger."""
    model = MLP((2000,), 2000, dropout_rate=rate)
    x = jnp.ones(3)
    params = model.init(jax.random.key(0), x)
    last = {"kernel": jnp.eye(2000), "bias": jnp.zeros(2000)}
    params = {"params": {"Dense_0": params["params"]["Dense_0"], "Dense_1": last}}
    whole = np.asarray(model.apply(params, x))
    np.testing.assert_array_equal(whole, MLP((2000,), 2000).apply(params, x))
    rngs = {"dropout": jax.random.key(1)}
    found = np.asarray(model.apply(params, x, deterministic=False, rngs=rngs))
    is_dropped = (found == 0) & (whole > 0)
    assert abs(is_dropped[whole > 0].mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / 900)
    np.testing.assert_allclose(found[~is_dropped], whole[~is_dropped] / (1 - rate), rtol=1e-6)


def test_a_rate_that_is_none_is_refused():
    model = MLP((3,), 2, dropout_rate=1.5)
    with pytest.raises(ValueError, match=r"dropout_rate must be in \[0, 1\], got 1.5"):
        model.init(jax.random.key(0), jnp.ones(3))
