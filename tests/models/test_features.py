"""Features: the layers' own outputs, by name, of any module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kd import models
from kd.models import features_of, layers_of


def made(model, x, seed=0):
    return model.init(jax.random.key(seed), x)


def test_of_a_perceptron_by_hand():
    model = models.MLP((4, 3), 2, activation_fn=nn.tanh)
    x = jnp.array([0.5, -1.0])
    params = made(model, x)
    found = features_of(model)(params, x)
    h = np.asarray(x)
    for index in range(3):
        layer = params["params"][f"Dense_{index}"]
        before = h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        np.testing.assert_allclose(found[f"Dense_{index}"], before, rtol=1e-5)
        h = np.tanh(before)
        if index < 2:
            np.testing.assert_allclose(found[f"hidden_{index}"], h, rtol=1e-5)
    np.testing.assert_array_equal(found["output"], model.apply(params, x))
    assert set(found) == {
        *("Dense_0", "Dense_1", "Dense_2", "hidden_0", "hidden_1", "output"),
    }


def test_of_convolutions_after_pooling():
    model = models.CNN((3, 2), (5,), 2, kernel_size=3)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 12, 12, 1)), jnp.float32)
    params = made(model, x[0])
    found = jax.vmap(lambda one: features_of(model)(params, one))(x)
    assert {name: value.shape[1:] for name, value in found.items()} == layers_of(
        model, params, x[0]
    )
    assert found["Conv_0"].shape == (2, 5, 5, 3) and found["Conv_1"].shape == (2, 1, 1, 2)
    # What comes after the last pooling is made of it.
    flat = np.asarray(found["Conv_1"]).reshape(2, -1)
    layer = params["params"]["Dense_0"]
    hidden = np.maximum(flat @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    np.testing.assert_allclose(found["hidden_0"], hidden, rtol=1e-5, atol=1e-6)


def test_dropout_is_in_the_features_where_it_is_in_the_network():
    model = models.MLP((50,), 2, dropout_rate=0.5)
    x = jnp.ones(3)
    params = made(model, x)
    fn = features_of(model, ["hidden_0", "Dense_0"])
    plain = fn(params, x)
    np.testing.assert_array_equal(plain["hidden_0"], nn.relu(plain["Dense_0"]))
    dropped = fn(params, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    kept = dropped["hidden_0"] != 0
    assert 5 < int(jnp.sum(kept)) < int(jnp.sum(plain["hidden_0"] != 0))
    np.testing.assert_allclose(dropped["hidden_0"][kept], 2 * plain["hidden_0"][kept], rtol=1e-6)


def test_hidden_units_of_binary_models():
    x = jnp.array([1.0, 0.0, 1.0])
    rbm = models.RBM(3, 4)
    params = made(rbm, x)
    expected = jax.nn.sigmoid(rbm.hidden_logits(params, x))
    np.testing.assert_allclose(features_of(rbm)(params, x)["hidden"], expected, rtol=1e-6)
    nade = models.NADE(3, 4, ordering=(2, 0, 1))
    params = made(nade, x)
    weights = params["params"]
    logits = weights["c"] + x[jnp.array([2, 0])] @ weights["w"]
    np.testing.assert_allclose(
        features_of(nade)(params, x)["hidden"], jax.nn.sigmoid(logits), rtol=1e-6
    )


def test_members_of_bags_average_to_the_answer():
    x = jnp.array([1.0, 0.5, -2.0])
    bag = models.SigmoidBag(4)
    params = made(bag, x)
    found = features_of(bag)(params, x)
    members = jax.nn.sigmoid(params["params"]["w"] @ x)
    np.testing.assert_allclose(found["members"], members, rtol=1e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(found["output"]), jnp.mean(members), rtol=1e-5)
    bag = models.SoftmaxBag(4, 3)
    params = made(bag, x)
    found = features_of(bag)(params, x)
    members = jax.nn.softmax(params["params"]["w"] @ x)
    assert members.shape == (4, 3)
    np.testing.assert_allclose(found["members"], members, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(found["output"]), jnp.mean(members, axis=0), rtol=1e-5)


def test_components_of_a_mixture_given_the_input():
    mixture = models.GaussianMixture(2, 1)
    params = mixture.from_moments(
        jnp.array([0.25, 0.75]), jnp.array([[0.0], [3.0]]), jnp.ones((2, 1, 1))
    )
    found = features_of(mixture)(params, jnp.array([1.0]))
    densities = np.array([0.25, 0.75]) * stats.norm(loc=[0.0, 3.0]).pdf(1.0)
    np.testing.assert_allclose(found["components"], densities / densities.sum(), rtol=1e-5)
    np.testing.assert_allclose(found["output"], np.log(densities.sum()), rtol=1e-5)


class Twice(nn.Module):
    """A module of another's making: one layer called twice, another within a submodule."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(x.size, name="shared")
        inner = models.MLP((2,), 3, name="inner")
        return {"answer": inner(layer(layer(x))), "input": x}


def test_any_module_and_its_modules():
    x = jnp.arange(3.0)
    model = Twice()
    params = made(model, x)
    found = features_of(model)(params, x)
    assert set(found) == {
        *("shared", "shared[1]", "inner/Dense_0", "inner/Dense_1", "inner/hidden_0", "inner"),
        *("output['answer']", "output['input']"),
    }
    layer = params["params"]["shared"]
    np.testing.assert_allclose(
        found["shared[1]"], found["shared"] @ layer["kernel"] + layer["bias"], rtol=1e-5
    )
    np.testing.assert_array_equal(found["inner"], found["output['answer']"])


def test_asking_changes_no_answer_and_no_parameter():
    model = models.MLP((4,), 2)
    params = made(model, jnp.ones(3))
    assert set(params) == {"params"}
    slope = jax.grad(lambda p: features_of(model, ["hidden_0"])(p, jnp.ones(3))["hidden_0"].sum())
    own = slope(params)["params"]
    assert np.any(own["Dense_0"]["kernel"]) and not np.any(own["Dense_1"]["kernel"])


def test_raises():
    model = models.MLP((4,), 2)
    params = made(model, jnp.ones(3))
    with pytest.raises(ValueError, match="MLP has no layer 'hidden_1'; it has Dense_0, Dense_1"):
        jax.eval_shape(features_of(model, ["hidden_1"]), params, jnp.ones(3))
    with pytest.raises(TypeError, match="names must be a list"):
        features_of(model, "hidden_0")
    with pytest.raises(TypeError, match="each of names must be of type str, got list"):
        features_of(model, [["hidden_0"]])
    with pytest.raises(TypeError, match="model"):
        features_of(lambda params, x: x)


def test_a_layer_that_is_named_as_the_answer_is_refused():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.softmax(nn.Dense(3, name="output")(x))

    params = Model().init(jax.random.key(0), jnp.ones(2))
    with pytest.raises(ValueError, match="two layers of Model are named 'output'"):
        features_of(Model())(params, jnp.ones(2))


SMALL = {
    "CNN": (models.CNN((2,), (3,), 2, kernel_size=3), (6, 6, 1)),
    "GaussianMixture": (models.GaussianMixture(2, 3), (3,)),
    "LSTM": (models.LSTM(7, 4, num_layers=1, num_outputs=2), None),
    "MLP": (models.MLP((4,), 2), (3,)),
    "NADE": (models.NADE(3, 4), (3,)),
    "RBM": (models.RBM(3, 4), (3,)),
    "Regressor": (models.Regressor((2, 2, 3)), (4,)),
    "ResNet": (models.ResNet(2, (1,), (8,)), (6, 6, 1)),
    "SigmoidBag": (models.SigmoidBag(4), (3,)),
    "SoftmaxBag": (models.SoftmaxBag(4, 3), (3,)),
    "Transformer": (models.Transformer(7, 4, num_layers=1, num_heads=2, num_outputs=2), None),
}


def test_every_module_is_there():
    found = [getattr(models, name) for name in models.__all__]
    modules = {m.__name__ for m in found if isinstance(m, type) and issubclass(m, nn.Module)}
    assert modules == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_every_module_has_features(name):
    """Of the shapes that are said, besides the answer itself, and with gradients."""
    model, shape = SMALL[name]
    x = jnp.array([1, 2, 3]) if shape is None else jnp.ones(shape)
    params = made(model, x)
    found = features_of(model)(params, x)
    assert {layer: value.shape for layer, value in found.items()} == layers_of(model, params, x)
    assert len(found) > 1
    np.testing.assert_allclose(found["output"], model.apply(params, x), rtol=1e-6)
    hidden = [layer for layer in found if layer != "output"]
    total = lambda p: sum(jnp.sum(value) for value in features_of(model, hidden)(p, x).values())
    slopes = jax.tree.leaves(jax.grad(total)(params))
    assert any(np.any(slope) for slope in slopes)
