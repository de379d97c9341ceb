"""kd.models.RBM: the potential and the conditionals against sums over every hidden state."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kd.models import RBM

V, H = 4, 3
VISIBLE = np.array(list(itertools.product([0.0, 1.0], repeat=V)))
HIDDEN = np.array(list(itertools.product([0.0, 1.0], repeat=H)))


def random_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (V, H), "a": (V,), "b": (H,)}
    return {"params": {name: jnp.array(rng.normal(size=shape)) for name, shape in shapes.items()}}


def energies(params):
    """The exponent of (4.30), `[2^V, 2^H]`."""
    w, a, b = (np.array(params["params"][name], float) for name in "wab")
    return np.array([[x @ w @ h + a @ x + b @ h for h in HIDDEN] for x in VISIBLE])


def test_the_potential_sums_the_hidden_states_out(x64):
    rbm, params = RBM(V, H), random_params()
    expected = special.logsumexp(energies(params), axis=1)
    np.testing.assert_allclose(rbm.log_potential(params, VISIBLE), expected, rtol=1e-12)
    np.testing.assert_allclose(rbm.free_energy(params, VISIBLE), -expected, rtol=1e-12)
    np.testing.assert_allclose(rbm.apply(params, VISIBLE), expected, rtol=1e-12)


def test_conditionals_by_enumeration(x64):
    rbm, params = RBM(V, H), random_params()
    joint = np.exp(energies(params))
    given_x = joint @ HIDDEN / joint.sum(1, keepdims=True)
    given_h = joint.T @ VISIBLE / joint.sum(0)[:, None]
    np.testing.assert_allclose(
        jax.nn.sigmoid(rbm.hidden_logits(params, VISIBLE)), given_x, rtol=1e-12
    )
    np.testing.assert_allclose(
        jax.nn.sigmoid(rbm.visible_logits(params, HIDDEN)), given_h, rtol=1e-12
    )


def test_log_z_from_either_side(x64):
    """The sum over the visible states equals the sum over the hidden ones."""
    rbm, params = RBM(V, H), random_params(1)
    log_z = special.logsumexp(np.array(rbm.log_potential(params, VISIBLE)))
    assert log_z == pytest.approx(special.logsumexp(energies(params)), rel=1e-12)
    flipped = {name: params["params"][other] for name, other in (("a", "b"), ("b", "a"))}
    other = {"params": flipped | {"w": params["params"]["w"].T}}
    assert log_z == pytest.approx(
        special.logsumexp(np.array(RBM(H, V).log_potential(other, HIDDEN))), rel=1e-12
    )


def test_the_gradient_is_the_expected_statistics(x64):
    """d log p̄ / dW = x E[h | x]ᵀ, and so on."""
    rbm, params = RBM(V, H), random_params()
    x = VISIBLE[6]
    slope = jax.grad(rbm.log_potential)(params, jnp.array(x))["params"]
    h = np.array(jax.nn.sigmoid(rbm.hidden_logits(params, x)))
    np.testing.assert_allclose(slope["w"], np.outer(x, h), rtol=1e-12)
    np.testing.assert_allclose(slope["a"], x, rtol=1e-12)
    np.testing.assert_allclose(slope["b"], h, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_batches_of_any_shape(shape):
    rbm, params = RBM(V, H), random_params()
    x = np.random.default_rng(0).integers(0, 2, (*shape, V)).astype(np.float32)
    h = np.random.default_rng(1).integers(0, 2, (*shape, H)).astype(np.float32)
    for method, values, size in (
        (rbm.log_potential, x, ()),
        (rbm.hidden_logits, x, (H,)),
        (rbm.visible_logits, h, (V,)),
    ):
        found = method(params, values)
        assert found.shape == (*shape, *size)
        alone = [method(params, one) for one in values.reshape(-1, values.shape[-1])]
        np.testing.assert_allclose(found.reshape(-1, *size), alone, rtol=1e-5)


def test_large_weights_do_not_overflow():
    params = jax.tree.map(lambda leaf: 1e4 * leaf.astype(jnp.float32), random_params())
    value, slope = jax.value_and_grad(lambda p: jnp.sum(RBM(V, H).log_potential(p, VISIBLE)))(
        params
    )
    assert jnp.isfinite(value) and all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_initial_weights():
    params = RBM(300, 200).init(jax.random.key(0), jnp.zeros(300))["params"]
    assert params["w"].shape == (300, 200)
    assert float(jnp.std(params["w"])) == pytest.approx(0.01, rel=0.02)
    assert not params["a"].any() and not params["b"].any()
    assert params["a"].shape == (300,) and params["b"].shape == (200,)


def test_traced_inputs_that_are_not_binary_give_nan():
    rbm, params = RBM(V, H), random_params()
    x = jnp.zeros((2, V)).at[1, 0].set(0.5)
    found = jax.jit(lambda x: rbm.log_potential(params, x))(x)
    assert float(found[0]) == pytest.approx(float(rbm.log_potential(params, x[0])), rel=1e-6)
    assert np.isnan(found[1])


def test_raises():
    rbm, params = RBM(V, H), random_params()
    for method, name, size in (
        (rbm.log_potential, "x", V),
        (rbm.free_energy, "x", V),
        (rbm.hidden_logits, "x", V),
        (rbm.visible_logits, "h", H),
    ):
        message = f"{name} must have shape [..., {size}], got (2, 5)"
        with pytest.raises(ValueError, match=re.escape(message)):
            method(params, np.zeros((2, 5)))
        with pytest.raises(ValueError, match=f"{name} must hold zeros and ones alone"):
            method(params, np.full(size, 0.5))
    other = RBM(V, H + 1).init(jax.random.key(0), jnp.zeros(V))
    for method, size in ((rbm.hidden_logits, V), (rbm.visible_logits, H)):
        message = f"params: w must have shape {(V, H)}, got {(V, H + 1)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            method(other, np.zeros(size))
    for sizes in ((0, 2), (3, 0)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            RBM(*sizes)
