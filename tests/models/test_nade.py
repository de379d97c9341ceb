"""kd.models.NADE: against loops and enumeration, and its derivative against autodiff's."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from kd.derivatives import hvp
from kd.models import NADE

V, H = 6, 4
ORDERINGS = [None, (3, 1, 0, 5, 2, 4)]
EVERY = np.array(list(itertools.product([0.0, 1.0], repeat=V)))


def random_params(nade, seed=0, scale=1.0):
    """Weights large enough for every unit to matter."""
    shapes = jax.eval_shape(nade.init, jax.random.key(0), np.zeros(nade.num_visible))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.array(scale * rng.normal(size=leaf.shape)) for leaf in leaves])


def conditionals_by_loop(nade, params, x):
    """(4.37)-(4.42), one variable at a time, in the places of the variables."""
    w, c, u, b = (np.array(params["params"][name]) for name in "wcub")
    ordering = range(nade.num_visible) if nade.ordering is None else nade.ordering
    a, found = c.astype(float), np.empty(nade.num_visible)
    for d, place in enumerate(ordering):
        found[place] = oracles.sigmoid(u[d] @ oracles.sigmoid(a) + b[d])
        if d < nade.num_visible - 1:
            a = a + w[d] * x[place]
    return found


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_conditionals_and_log_prob_by_loops(ordering, x64):
    nade = NADE(V, H, ordering)
    params = random_params(nade)
    conditionals = np.array([conditionals_by_loop(nade, params, x) for x in EVERY])
    np.testing.assert_allclose(nade.conditionals(params, EVERY), conditionals, rtol=1e-12)
    expected = np.sum(np.log(np.where(EVERY == 1, conditionals, 1 - conditionals)), -1)
    for any_mode in (False, True):
        found = nade.log_prob(params, EVERY, any_mode=any_mode)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(nade.apply(params, EVERY), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_sum_to_one(size, seed, x64):
    nade = NADE(size, 3)
    every = np.array(list(itertools.product([0.0, 1.0], repeat=size)))
    total = jnp.sum(jnp.exp(nade.log_prob(random_params(nade, seed, 3.0), every)))
    assert abs(float(total) - 1) < 1e-10


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_a_conditional_depends_on_what_is_before_it_alone(ordering, x64):
    nade = NADE(V, H, ordering)
    params = random_params(nade)
    order = np.arange(V) if ordering is None else np.array(ordering)
    base = np.array(nade.conditionals(params, EVERY[0]))
    for d, place in enumerate(order):
        flipped = np.array(nade.conditionals(params, EVERY[0] + np.eye(V)[place]))
        changed = flipped != base
        assert changed[order[d + 1 :]].all() and not changed[order[: d + 1]].any()


def test_the_conditional_of_a_prefix_is_its_share_of_the_probability(x64):
    """p(x_d = 1 | x_<d) from sums over everything after it."""
    nade = NADE(V, H, ORDERINGS[1])
    params = random_params(nade)
    probs = np.exp(nade.log_prob(params, EVERY))
    x = EVERY[37]
    found = np.array(nade.conditionals(params, x))
    for d, place in enumerate(nade.ordering):
        before = list(nade.ordering[:d])
        agrees = np.all(EVERY[:, before] == x[before], axis=1)
        share = probs[agrees & (EVERY[:, place] == 1)].sum() / probs[agrees].sum()
        assert found[place] == pytest.approx(share, rel=1e-10)


@pytest.mark.parametrize("shape", [(V,), (1, V), (5, V), (2, 3, V), (0, V)])
def test_batches_of_any_shape(shape, x64):
    nade = NADE(V, H)
    params = random_params(nade)
    x = jnp.array(np.random.default_rng(0).integers(0, 2, size=shape).astype(float))
    flat = x.reshape(-1, V)
    log_prob = jax.jit(lambda x: nade.log_prob(params, x))
    alone = np.array([log_prob(one) for one in flat])
    together = nade.log_prob(params, x)
    assert together.shape == shape[:-1]
    np.testing.assert_allclose(together.ravel(), alone, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(log_prob)(flat), alone, rtol=1e-12)
    # The inputs captured, the parameters traced.
    np.testing.assert_allclose(jax.jit(lambda p: nade.log_prob(p, flat))(params), alone, rtol=1e-12)
    assert nade.conditionals(params, x).shape == shape


# Derivatives.


def weighted(nade, **options):
    """A function of the parameters and the inputs whose cotangents all differ."""
    return lambda params, x: jnp.sum(
        jnp.cos(nade.log_prob(params, x, **options)) * jnp.arange(1.0, len(x) + 1)
    )


def assert_close(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance)


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_the_gradient_is_autodiffs(ordering, x64):
    nade = NADE(V, H, ordering)
    params, x = random_params(nade), EVERY[5:20]
    found = jax.jit(jax.grad(weighted(nade), (0, 1)))(params, x)
    expected = jax.jit(jax.grad(weighted(nade, any_mode=True), (0, 1)))(params, x)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(found))


def test_the_gradient_is_that_of_central_differences(x64):
    nade = NADE(V, H)
    params, x = random_params(nade), EVERY[11]
    leaves, structure = jax.tree.flatten(params)
    slopes = jax.tree.leaves(jax.grad(nade.log_prob)(params, x))
    for index, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):

        @jax.jit
        def value(changed, index=index):
            return nade.log_prob(
                structure.unflatten([*leaves[:index], changed, *leaves[index + 1 :]]), x
            )

        np.testing.assert_allclose(slope, oracles.central_jacobian(value, leaf), atol=1e-8)


def test_one_variable_alone(x64):
    nade = NADE(1, H)
    params = random_params(nade)
    x = np.array([[0.0], [1.0]])
    assert_close(
        jax.grad(weighted(nade))(params, x),
        jax.grad(weighted(nade, any_mode=True))(params, x),
        rtol=1e-10,
    )


def test_second_derivatives_go_through_the_hand_written_one(x64):
    """Forward over reverse, reverse over reverse, and per-example gradients."""
    nade = NADE(V, H)
    params, x = random_params(nade), EVERY[5:20]
    ours, plain = weighted(nade), weighted(nade, any_mode=True)
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(1.0, leaf.size + 1)).reshape(leaf.shape), params
    )
    products = [
        jax.jit(lambda params, fn=fn: hvp(lambda params: fn(params, x), params, direction))(params)
        for fn in (ours, plain)
    ]
    assert_close(*products, rtol=1e-9, atol=1e-11)

    def dot_gradient(fn):
        def inner(params):
            slope = jax.grad(fn)(params, x)
            return sum(map(jnp.vdot, jax.tree.leaves(slope), jax.tree.leaves(direction)))

        return jax.jit(jax.grad(inner))(params)

    assert_close(dot_gradient(ours), products[1], rtol=1e-9, atol=1e-11)
    gradient = jax.jit(jax.grad(nade.log_prob))
    each = jax.vmap(gradient, (None, 0))(params, x)
    alone = [gradient(params, one) for one in x]
    assert_close(each, jax.tree.map(lambda *leaves: np.stack(leaves), *alone), rtol=1e-10)


def test_any_mode_is_derived_forward_too(x64):
    nade = NADE(V, H)
    params, x = random_params(nade), jnp.array(EVERY[5])
    direction = jax.tree.map(jnp.ones_like, params)
    _, forward = jax.jvp(lambda p: nade.log_prob(p, x, any_mode=True), (params,), (direction,))
    slope = jax.grad(nade.log_prob)(params, x)
    assert float(forward) == pytest.approx(
        sum(float(leaf.sum()) for leaf in jax.tree.leaves(slope))
    )
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda p: nade.log_prob(p, x), (params,), (direction,))


def test_single_precision_gradients_over_a_thousand_variables():
    """Activations recomputed backwards drift by rounding alone."""
    nade = NADE(1000, 30)
    params = nade.init(jax.random.key(0), jnp.zeros(1000))
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (8, 1000)).astype(jnp.float32)
    found = jax.jit(jax.grad(weighted(nade)))(params, x)
    expected = jax.jit(jax.grad(weighted(nade, any_mode=True)))(params, x)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max()) < 1e-5


def test_memory_of_the_backward_pass_does_not_hold_every_activation():
    size, hidden, batch = 400, 300, 50
    nade = NADE(size, hidden)
    params = nade.init(jax.random.key(0), jnp.zeros(size))
    x = jnp.zeros((batch, size))

    def temporary_bytes(**options):
        fn = jax.jit(jax.grad(lambda params, x: jnp.sum(nade.log_prob(params, x, **options))))
        return fn.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    activations = 4 * batch * size * hidden
    assert temporary_bytes(any_mode=True) > activations
    assert temporary_bytes() < 6 * weights + 10 * 4 * batch * (size + hidden) < activations / 2


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits_give_finite_values_and_gradients(scale):
    nade = NADE(V, H)
    params = random_params(nade, scale=scale)
    x = EVERY.astype(np.float32)
    value, slope = jax.jit(jax.value_and_grad(lambda p: jnp.sum(nade.log_prob(p, x))))(params)
    assert jnp.isfinite(value) and value < 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


# Sampling.


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_samples_have_the_models_law(ordering):
    nade = NADE(V, H, ordering)
    params = random_params(nade, scale=0.5)
    x, conditionals = nade.sample(params, jax.random.key(2), 100_000)
    assert set(np.unique(x)) == {0.0, 1.0}
    counts = np.bincount((np.array(x) @ 2 ** np.arange(V - 1, -1, -1)).astype(int), minlength=2**V)
    probs = np.exp(np.array(nade.log_prob(params, EVERY), float))
    assert len(x) * probs.min() > 5
    assert stats.chisquare(counts, len(x) * probs / probs.sum()).pvalue > 1e-4
    np.testing.assert_allclose(conditionals, nade.conditionals(params, x), rtol=1e-5)


def test_samples_are_decided_by_the_key():
    nade = NADE(V, H)
    params = random_params(nade)
    first, again, other = (nade.sample(params, jax.random.key(k), 50)[0] for k in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_jit_is_eager():
    nade = NADE(V, H, ORDERINGS[1])
    params, x = random_params(nade), EVERY[3:9].astype(np.float32)
    np.testing.assert_allclose(
        jax.jit(nade.log_prob)(params, x), nade.log_prob(params, x), rtol=1e-5
    )
    eager = nade.sample(params, jax.random.key(0), 20)
    jitted = jax.jit(lambda params, key: nade.sample(params, key, 20))(params, jax.random.key(0))
    np.testing.assert_array_equal(jitted[0], eager[0])


# Initialisation and errors.


def test_initial_weights_have_the_thesiss_law():
    nade = NADE(200, 99)
    params = nade.init(jax.random.key(0), jnp.zeros(200))["params"]
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "w": (199, 99),
        "c": (99,),
        "u": (200, 99),
        "b": (200,),
    }
    for name, variance in (("w", 1 / 200), ("c", 1 / 200), ("u", 1 / 100), ("b", 1 / 100)):
        z = np.ravel(params[name]) / variance**0.5
        assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("any_mode", [False, True])
def test_traced_inputs_that_are_not_binary_give_nan(any_mode):
    nade = NADE(3, 2)
    params = nade.init(jax.random.key(0), jnp.zeros(3))
    x = jnp.array([[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
    found = jax.jit(lambda x: nade.log_prob(params, x, any_mode=any_mode))(x)
    assert float(found[0]) == pytest.approx(float(nade.log_prob(params, x[0])), rel=1e-6)
    assert np.isnan(found[1])


def test_raises():
    nade = NADE(3, 2)
    params = nade.init(jax.random.key(0), jnp.zeros(3))
    for method in (nade.log_prob, nade.conditionals):
        with pytest.raises(ValueError, match=re.escape("x must have shape [..., 3], got (2, 4)")):
            method(params, jnp.zeros((2, 4)))
        with pytest.raises(ValueError, match=r"x must have shape \[..., 3\], got \(\)"):
            method(params, 0.0)
        for bad in (0.5, 2.0, -1.0, np.nan):
            with pytest.raises(ValueError, match="x must hold zeros and ones alone"):
                method(params, jnp.array([0.0, bad, 1.0]))
        other = NADE(4, 2).init(jax.random.key(0), jnp.zeros(4))
        with pytest.raises(Exception, match=r"shape"):
            method(other, jnp.zeros(3))
    with pytest.raises(ValueError, match=re.escape("params: w must have shape (2, 2), got (3, 2)")):
        nade.sample(other, jax.random.key(0), 1)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        nade.sample(params, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="params must be finite"):
        nade.sample(jax.tree.map(lambda x: x * jnp.nan, params), jax.random.key(0), 1)
    for ordering in ((0, 1), (0, 1, 1), (1, 2, 3)):
        message = f"ordering must be a permutation of 0, ..., 2; got {ordering}"
        with pytest.raises(ValueError, match=re.escape(message)):
            NADE(3, 2, ordering)
    assert hash(NADE(3, 2, [1, 2, 0])) == hash(NADE(3, 2, np.array([1, 2, 0])))
    assert NADE(3, 2, [1, 2, 0]) == NADE(3, 2, (1, 2, 0))
    for sizes in ((0, 2), (3, 0)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            NADE(*sizes)
