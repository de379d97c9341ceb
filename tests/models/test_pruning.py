"""Group lasso and pruning: norms in NumPy, the proximal step, smaller networks that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import models
from kd.models import CNN, MLP, group_lasso, group_norms, mask_units, prune, shrink_groups

NETWORKS = {
    "mlp": (MLP((6, 5), 3), (4,)),
    "cnn": (CNN((4, 3), (6, 5), 3, kernel_size=2), (9, 10, 2)),
    "linear": (MLP((), 3), (4,)),
}
hidden = pytest.mark.parametrize("name", ["mlp", "cnn"])


def network(name, seed=0):
    model, shape = NETWORKS[name]
    return model, model.init(jax.random.key(seed), jnp.zeros(shape)), shape


def with_small_groups(params, numbers, size=1e-5):
    """Some units of every hidden layer with small weights and large biases."""
    layers = {}
    for layer, leaves in params["params"].items():
        kernel, bias = np.array(leaves["kernel"]), np.array(leaves["bias"]) + 0.7
        if layer in group_norms(params):
            kernel[..., numbers] *= size / np.abs(kernel[..., numbers]).max()
        layers[layer] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return {"params": layers}


@hidden
def test_norms_are_of_all_incoming_weights(name):
    _, params, _ = network(name)
    norms, total = group_norms(params), 0.0
    assert len(norms) == len(params["params"]) - 1
    for layer, found in norms.items():
        kernel = np.asarray(params["params"][layer]["kernel"], float)
        expected = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        total += expected.sum()
    assert float(group_lasso(params)) == pytest.approx(total, rel=1e-5)


def test_the_gradient_is_finite_where_a_group_is_zero():
    _, params, _ = network("mlp")
    silent = shrink_groups(params, 100.0)
    slope = jax.grad(group_lasso)(silent)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    assert not np.any(slope["params"]["Dense_0"]["kernel"])


@hidden
@pytest.mark.parametrize("amount", [0.0, 0.3, 1.1])
def test_the_proximal_step_solves_its_problem(name, amount):
    """The least a |x| + |x - y|^2 / 2 of all points on a fine grid along y, group by group."""
    _, params, _ = network(name)
    shrunk, zeros = shrink_groups(params, amount), 0
    for layer in group_norms(params):
        before = np.asarray(params["params"][layer]["kernel"], float)
        after = np.asarray(shrunk["params"][layer]["kernel"], float)
        for unit in range(before.shape[-1]):
            y, x = before[..., unit].ravel(), after[..., unit].ravel()
            norm = np.linalg.norm(y)
            objective = lambda s, n=norm: amount * s * n + (s - 1) ** 2 * n**2 / 2
            best = min(objective(s) for s in np.linspace(0, 1, 2001))
            scale = np.linalg.norm(x) / norm
            np.testing.assert_allclose(x, scale * y, atol=1e-6)
            assert objective(scale) <= best + 1e-6
            zeros += not x.any()
    biases = lambda tree: [layer["bias"] for layer in tree["params"].values()]
    jax.tree.map(np.testing.assert_array_equal, biases(params), biases(shrunk))
    assert (zeros > 0) == (amount > 1)


def test_groups_whose_squares_underflow_are_shrunk_to_zero():
    model, params, _ = network("mlp")
    layers = params["params"]
    tiny = {"params": {**layers, "Dense_0": jax.tree.map(lambda x: 1e-23 * x, layers["Dense_0"])}}
    assert not np.any(shrink_groups(tiny, 0.1)["params"]["Dense_0"]["kernel"])
    assert np.any(shrink_groups(tiny, 0.0)["params"]["Dense_1"]["kernel"])


def test_weights_that_are_nan_have_norms_that_are():
    model, params, _ = network("mlp")
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    assert all(np.isnan(norms).all() for norms in group_norms(broken).values())
    assert np.isnan(group_lasso(shrink_groups(params, -1.0)))


@hidden
def test_parameters_that_do_not_fit_each_other_are_refused(name):
    model, params, _ = network(name)
    layers = params["params"]
    first, last = next(iter(layers)), list(layers)[-1]
    for part in ("kernel", "bias"):
        rest = {key: value for key, value in layers[last].items() if key != part}
        with pytest.raises(ValueError, match=f"a kernel and a bias in {last}"):
            prune(model, {"params": {**layers, last: rest}}, 0.0)
    kernel = layers[last]["kernel"]
    for changed, message in (
        ({"kernel": jnp.concatenate([kernel, kernel[:1]])}, f"{last} reads"),
        ({"bias": jnp.zeros(1)}, f"{last}'s bias must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            prune(model, {"params": {**layers, last: {**layers[last], **changed}}}, 0.0)
    empty = {"params": {**layers, first: jax.tree.map(jnp.zeros_like, layers[first])}}
    with pytest.raises(ValueError, match=f"{first} has no weights left, and no threshold"):
        prune(model, empty, 1e-3)


@hidden
@pytest.mark.parametrize("numbers", [[0], [1, 2], [0, 2]])
def test_a_pruned_network_says_what_the_masked_one_says(name, numbers):
    """Units that are silent but for their biases, in every layer at once."""
    model, params, shape = network(name)
    params = with_small_groups(params, numbers)
    with jax.enable_x64(True):  # Sums of fewer terms are rounded otherwise.
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        found, masked = prune(model, double, 1e-4), mask_units(double, 1e-4)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(20, *shape)))
        expected = jax.vmap(lambda x: model.apply(masked, x))(x)
        answers = jax.vmap(lambda x: found.model.apply(found.params, x))(x)
        assert answers.dtype == jnp.float64
        np.testing.assert_allclose(answers, expected, atol=1e-12, rtol=1e-12)
    for layer, kept in found.kept.items():
        size = params["params"][layer]["kernel"].shape[-1]
        assert kept.tolist() == [unit for unit in range(size) if unit not in numbers]
    fresh = jax.tree.map(jnp.shape, found.model.init(jax.random.key(0), jnp.zeros(shape)))
    assert jax.tree.map(jnp.shape, found.params) == fresh


@hidden
def test_nothing_goes_that_is_large(name):
    model, params, shape = network(name)
    found = prune(model, params, 0.0)
    for widths in ("channels", "hidden_sizes"):
        assert tuple(getattr(found.model, widths, ())) == tuple(getattr(model, widths, ()))
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_raises():
    model, params, _ = network("mlp")
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        prune(model, params, -1)
    with pytest.raises(ValueError, match="threshold must be at least 0, got nan"):
        prune(model, params, float("nan"))
    with pytest.raises(ValueError, match="would remove a whole layer") as error:
        prune(model, params, 100.0)
    most = float(str(error.value).rsplit(" ", 1)[1].rstrip("."))
    kept = prune(model, params, 0.999 * most).kept
    assert min(len(units) for units in kept.values()) == 1
    with pytest.raises(ValueError, match="model must be a kd.models.MLP or CNN, got SigmoidBag"):
        prune(models.SigmoidBag(3), params, 0.1)
    for other in ({}, {"params": {"w": jnp.ones(2)}}, jnp.ones(3)):
        with pytest.raises(ValueError, match="params must be those of a kd.models.MLP or CNN"):
            group_norms(other)


def test_a_threshold_that_is_the_largest_weight_is_refused():
    """Single precision's 0.1 is more than 0.1."""
    model, params, _ = network("mlp")
    layer = params["params"]["Dense_0"]
    layer["kernel"] = jnp.full_like(layer["kernel"], 0.1)
    assert prune(model, params, 0.1).model.hidden_sizes[0] == 6
    with pytest.raises(ValueError, match="just below 0.10000000149"):
        prune(model, params, float(np.float32(0.1)))


def test_networks_that_are_broken_or_others_are_refused():
    model = MLP((5,), 3)
    params = model.init(jax.random.key(0), jnp.zeros(4))
    broken = jax.tree.map(lambda leaf: leaf.at[..., 0].set(jnp.nan), params)
    for call in (lambda: prune(model, broken, 0.1), lambda: mask_units(broken, 0.1)):
        with pytest.raises(ValueError, match="Dense_0's .* must be finite"):
            call()
    for other in (MLP((7,), 3), MLP((5, 5), 3), MLP((5,), 9), CNN((5,), (), 3)):
        with pytest.raises(ValueError, match="params must be of the model's layers"):
            prune(other, params, 0.0)
    for threshold in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="threshold must be at least 0"):
            mask_units(params, threshold)
    grown = shrink_groups(params, -1.0)["params"]["Dense_0"]["kernel"]
    assert np.isnan(grown).all()
