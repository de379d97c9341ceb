"""Losses over sequences: by loops over the positions there, and blind to all others."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd.losses.features import (
    attention_square_error,
    flow_square_error,
    hidden_square_error,
    position_gram_square_error,
)

RNG = np.random.default_rng(0)
MASK = np.array([True, True, False, True])
HERE = [0, 1, 3]
SCORES = RNG.normal(size=(2, 3, 4, 4))
STATES = RNG.normal(size=(2, 4, 3))
OTHERS = RNG.normal(size=(2, 4, 5))
WIDE = RNG.normal(size=(4, 6))


def attention_by_hand(s, t):
    return np.mean([(s[h, i, j] - t[h, i, j]) ** 2 for h in range(3) for i in HERE for j in HERE])


def hidden_by_hand(s, t):
    return np.mean([(s[i, d] - t[i, d]) ** 2 for i in HERE for d in range(3)])


def gram_by_hand(s, t):
    entries = [
        (s[i] @ s[j] / s.shape[1] - t[i] @ t[j] / t.shape[1]) ** 2 for i in HERE for j in HERE
    ]
    return np.mean(entries)


def flow_by_hand(s, t):
    flows = [sum(np.outer(a[i], b[i]) for i in HERE) / 3 for a, b in (s, t)]
    return np.mean((flows[0] - flows[1]) ** 2)


CASES = {
    "attention": (attention_square_error, attention_by_hand, SCORES[0], SCORES[1]),
    "hidden": (hidden_square_error, hidden_by_hand, STATES[0], STATES[1]),
    "gram": (position_gram_square_error, gram_by_hand, STATES[0], WIDE),
    "flow": (
        *(flow_square_error, flow_by_hand),
        *((STATES[0], OTHERS[0]), (STATES[1], OTHERS[1])),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def as_arrays(tree, dtype=None):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


@cases
def test_value_and_gradient_by_loops(name, x64):
    loss, by_hand, student, teacher = CASES[name]
    value, slope = jax.value_and_grad(loss)(as_arrays(student), as_arrays(teacher), MASK)
    assert float(value) == pytest.approx(by_hand(student, teacher), rel=1e-10)
    leaves, structure = jax.tree.flatten(student)
    for index, leaf in enumerate(leaves):

        def flat(x, index=index, shape=leaf.shape):
            given = [*leaves[:index], x.reshape(shape), *leaves[index + 1 :]]
            return np.array([by_hand(jax.tree.unflatten(structure, given), teacher)])

        steps = oracles.central_jacobian(flat, leaf.ravel())[0].reshape(leaf.shape)
        found = jax.tree.leaves(slope)[index]
        np.testing.assert_allclose(found, steps, rtol=1e-6, atol=1e-8)


@cases
@pytest.mark.parametrize("filler", [0.0, 1e30, np.inf, np.nan])
def test_padding_changes_no_bit(name, filler):
    loss, _, *pair = CASES[name]
    plain = jax.value_and_grad(loss)(*as_arrays(pair, jnp.float32), MASK)

    def padded(x):
        axes = (1, 2) if x.ndim == 3 else (0,)
        for axis in axes:
            x = np.moveaxis(np.array(x), axis, 0)
            x[2] = filler
            x = np.moveaxis(x, 0, axis)
        return x

    found = jax.value_and_grad(loss)(*as_arrays(jax.tree.map(padded, pair), jnp.float32), MASK)
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@cases
@pytest.mark.parametrize("length", [5, 40])
def test_a_longer_batch_changes_roundings_alone(name, length):
    """More padding behind: the same value, the same slopes, and none at what is not there."""
    loss, _, *pair = CASES[name]
    plain = jax.value_and_grad(loss)(*as_arrays(pair, jnp.float32), MASK)

    def longer(x):
        axes = (1, 2) if x.ndim == 3 else (0,)
        ends = [(0, length - x.shape[axis] if axis in axes else 0) for axis in range(x.ndim)]
        return np.pad(np.asarray(x), ends, constant_values=7.0)

    mask = np.pad(MASK, (0, length - len(MASK)))
    given = as_arrays(jax.tree.map(longer, pair), jnp.float32)
    value, slopes = jax.value_and_grad(loss)(*given, mask)
    assert float(value) == pytest.approx(float(plain[0]), rel=1e-5)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(
            one, np.where(longer(np.ones(other.shape)) == 7, 0, longer(other)), atol=1e-5
        ),
        *(slopes, plain[1]),
    )


@cases
def test_an_empty_sequence_costs_nothing(name):
    loss, _, *pair = CASES[name]
    value, slope = jax.value_and_grad(loss)(*as_arrays(pair, jnp.float32), np.zeros(4, bool))
    assert float(value) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(slope))


@cases
def test_no_gradient_flows_into_a_teacher(name):
    loss, _, *pair = CASES[name]
    slope = jax.grad(loss, argnums=1)(*as_arrays(pair, jnp.float32), MASK)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))


@cases
def test_raises(name):
    loss, _, *pair = CASES[name]
    student, teacher = as_arrays(pair, jnp.float32)
    with pytest.raises(ValueError, match="mask must have shape"):
        loss(student, teacher, np.ones(3, bool))
    with pytest.raises(TypeError, match="mask must be boolean or integers, got float"):
        loss(student, teacher, np.where(MASK, 0.0, -np.inf))
    with pytest.raises(TypeError, match="must be floating"):
        loss(as_arrays(student, jnp.int32), teacher, MASK)
    longer = jax.tree.map(lambda x: jnp.concatenate([x, x], axis=-2), teacher)
    with pytest.raises(ValueError, match="shape"):
        loss(student, longer, MASK)


@cases
@pytest.mark.parametrize("who", [0, 1])
def test_tokens_that_are_not_finite(name, who):
    loss, _, *pair = CASES[name]
    pair = [as_arrays(one, jnp.float32) for one in pair]
    pair[who] = jax.tree.map(lambda x: x.at[..., 1, 0].set(jnp.nan), pair[who])
    message = f"the {('student', 'teacher')[who]}'s features where there are tokens must be finite"
    with pytest.raises(ValueError, match=message):
        loss(*pair, MASK)
    assert np.isnan(jax.jit(loss)(*pair, MASK))


@cases
def test_states_of_nothing(name):
    loss, _, *pair = CASES[name]
    nothing = [jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], 0)), one) for one in pair]
    with pytest.raises(ValueError, match="must hold a number or more|must have shape"):
        loss(*nothing, MASK)


def test_other_widths_want_a_projection():
    with pytest.raises(ValueError, match="put a projection between"):
        hidden_square_error(jnp.ones((4, 3)), jnp.ones((4, 5)), MASK)
    with pytest.raises(ValueError, match="numbers of heads"):
        attention_square_error(jnp.ones((2, 4, 4)), jnp.ones((3, 4, 4)), MASK)


def test_half_precision_has_sums_of_single():
    # A GPU sums in another order, and may be off by a bit.
    tol = {"rel": 0 if jax.default_backend() == "cpu" else 1e-6, "abs": 0}
    mask = jnp.ones(300, bool)
    states = jnp.full((300, 4), 60, jnp.float16)
    zeros = jnp.zeros_like(states)
    assert float(hidden_square_error(5 * states, zeros, mask)) == pytest.approx(300**2, **tol)
    gram = position_gram_square_error(states, zeros, mask)
    assert float(gram) == pytest.approx(3600.0**2, **tol)
    flow = flow_square_error((states, states), (zeros, zeros), mask)
    assert float(flow) == pytest.approx(3600.0**2, **tol)
    scores = states[None, :, :1] * jnp.ones((1, 1, 300), jnp.float16)
    attention = attention_square_error(5 * scores, 0 * scores, mask)
    assert float(attention) == pytest.approx(300**2, **tol)


@pytest.mark.parametrize("count", [1, 3])
def test_a_flow_is_between_two_layers(count):
    states = (jnp.ones((4, 2)),) * count
    with pytest.raises(ValueError, match=f"student must be the states of two layers, got {count}"):
        flow_square_error(states, states, jnp.ones(4, bool))
