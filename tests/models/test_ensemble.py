"""kd.models.ensemble: the log of the mean of softmaxes, its Jacobian, and its edges."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.derivatives import input_jacobian
from kd.models import MLP, ensemble_log_probs, init_members

SIZES = (4, 5, 3)


def logits_fn(params, x):
    hidden = jnp.tanh(jnp.reshape(x, -1) @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def make_members(num_members, scale=1.0):
    members = [oracles.tanh_params(seed, SIZES, scale=scale) for seed in range(num_members)]
    x = np.random.default_rng(9).normal(size=4)
    return members, jax.tree.map(lambda *leaves: jnp.array(np.stack(leaves)), *members), x


@given(
    num_members=st.sampled_from([1, 2, 5]),
    num_classes=st.sampled_from([2, 10]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_log_of_the_mean_of_the_softmaxes(num_members, num_classes, scale, seed):
    logits = scale * np.random.default_rng(seed).normal(size=(num_members, num_classes))
    expected = oracles.ensemble_log_probs(logits)
    run = lambda logits: ensemble_log_probs(lambda z, x: z * x, logits, jnp.ones(()))
    with jax.enable_x64(True):
        np.testing.assert_allclose(run(jnp.array(logits)), expected, rtol=1e-10, atol=1e-12)
        assert abs(np.sum(np.exp(run(jnp.array(logits)))) - 1) < 1e-12
    single = run(jnp.array(logits, jnp.float32))
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


def test_probabilities_are_averaged_and_not_logits():
    logits = jnp.array([[0.0, 10.0], [10.0, 0.0], [0.0, 10.0]])
    got = ensemble_log_probs(lambda z, x: z * x, logits, jnp.ones(()))
    np.testing.assert_allclose(jnp.exp(got), [1 / 3, 2 / 3], atol=1e-4)


def test_input_jacobian_is_the_posterior_weighted_mean_of_the_members(x64):
    members, stacked, x = make_members(3)
    fn = lambda x: ensemble_log_probs(logits_fn, stacked, x)
    member_fns = [
        lambda x, params=params: oracles.log_softmax(oracles.tanh_network(params, x))
        for params in members
    ]
    probs = np.exp([member_fn(x) for member_fn in member_fns])
    weights = probs / probs.sum(axis=0)
    jacobians = np.stack([oracles.central_jacobian(member_fn, x) for member_fn in member_fns])
    expected = np.einsum("mc,mcd->cd", weights, jacobians)
    np.testing.assert_allclose(input_jacobian(fn, jnp.array(x)), expected, rtol=1e-7, atol=1e-9)


def test_one_member_is_that_member(x64):
    members, stacked, x = make_members(1)
    fn = lambda x: ensemble_log_probs(logits_fn, stacked, x)
    member_fn = lambda x: oracles.log_softmax(oracles.tanh_network(members[0], x))
    np.testing.assert_allclose(fn(jnp.array(x)), member_fn(x), rtol=1e-12)
    np.testing.assert_allclose(
        input_jacobian(fn, jnp.array(x)), oracles.central_jacobian(member_fn, x), atol=1e-8
    )


@pytest.mark.parametrize(
    "logits",
    [
        [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]],
        [[1e4, -1e4, -1e4], [1e4, -1e4, -1e4]],
        [[1e4, -1e4, 0.0], [0.1, 0.2, 0.3]],
    ],
)
def test_extreme_logits_give_the_exact_value_and_finite_gradients(logits):
    run = lambda logits, x: ensemble_log_probs(lambda z, x: z * x, logits, x)
    value = run(jnp.array(logits), jnp.ones(()))
    member_log_probs = oracles.log_softmax(np.array(logits))
    top = member_log_probs.max(axis=0)
    expected = top + np.log(np.mean(np.exp(member_log_probs - top), axis=0))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    gradients = jax.jacrev(run, argnums=(0, 1))(jnp.array(logits), jnp.ones(()))
    for gradient in gradients:
        assert np.all(np.isfinite(gradient)), gradient


def test_jit_eager_vmap_and_loop_agree():
    _, stacked, _ = make_members(3)
    stacked = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stacked)
    xs = jnp.array(np.random.default_rng(3).normal(size=(5, 2, 2)), jnp.float32)
    fn = lambda x: ensemble_log_probs(logits_fn, stacked, x)
    loop = np.stack([fn(x) for x in xs])
    np.testing.assert_allclose(jax.vmap(fn)(xs), loop, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(fn))(xs), loop, rtol=1e-5)


def test_init_members_are_the_inits_of_the_split_keys():
    model = MLP(hidden_sizes=(5,), num_outputs=3)
    init_fn = jax.jit(lambda key: model.init(key, jnp.zeros(4)))
    key = jax.random.key(0)
    members = init_members(init_fn, key, 3)
    for i, member_key in enumerate(jax.random.split(key, 3)):
        jax.tree.map(
            lambda leaf, one: np.testing.assert_allclose(leaf[i], one, rtol=1e-6),  # noqa: B023
            members,
            init_fn(member_key),
        )
    for leaf in jax.tree.leaves(members):
        assert len(leaf) == 3 and len(np.unique(leaf)) == leaf.size
    jax.tree.map(np.testing.assert_array_equal, members, init_members(init_fn, key, 3))
    other = init_members(init_fn, jax.random.key(1), 3)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: not np.any(a == b), members, other)))


def test_raises():
    with pytest.raises(ValueError, match="num_members must be at least 1, got 0"):
        init_members(lambda key: jax.random.normal(key, (2,)), jax.random.key(0), 0)
    uneven = {"w": jnp.zeros((2, 3)), "b": jnp.zeros((3, 3))}
    message = "member_params must hold arrays with one common length, got shapes [(2, 3), (3, 3)]"
    with pytest.raises(ValueError, match=re.escape(message)):
        ensemble_log_probs(lambda p, x: p["w"] + p["b"], uneven, jnp.ones(3))
