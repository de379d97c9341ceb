"""Distances between inputs, by NumPy's loops."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd.losses.features import contrastive, distance_absolute_error, pairwise_distances

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(5, 3)), 3 * RNG.normal(size=(5, 4))
LABELS = np.array([0, 2, 0, 1, 2])


def distances(h):
    return np.array([[np.linalg.norm(a - b) for b in h] for a in h])


def error(student):
    off = np.abs(distances(student) - distances(TEACHER))
    return off[~np.eye(5, dtype=bool)].mean()


def drawn(student):
    """`contrastive` pair by pair, with a margin of 2."""
    total = 0.0
    for i, a in enumerate(student):
        for j, b in enumerate(student):
            if i != j:
                d = np.linalg.norm(a - b)
                total += 0.5 * (d**2 if LABELS[i] == LABELS[j] else max(0, 2 - d) ** 2)
    return total / 20


@pytest.mark.parametrize(
    "loss, by_hand",
    [
        (lambda s: distance_absolute_error(s, jnp.asarray(TEACHER)), error),
        (lambda s: contrastive(s, jnp.asarray(LABELS), margin=2.0), drawn),
    ],
    ids=["distance_absolute_error", "contrastive"],
)
def test_value_and_gradient_by_loops(loss, by_hand, x64):
    value, slope = jax.value_and_grad(loss)(jnp.asarray(STUDENT))
    assert float(value) == pytest.approx(by_hand(STUDENT), rel=1e-10)
    flat = lambda x: np.array([by_hand(x.reshape(STUDENT.shape))])
    steps = oracles.central_jacobian(flat, STUDENT.ravel())[0].reshape(STUDENT.shape)
    np.testing.assert_allclose(slope, steps, rtol=1e-5, atol=1e-8)


def test_distances_far_from_zero_and_of_duplicates():
    """Of features around 1,000 the distances are as good as around 0; of equal ones they are 0."""
    h = jnp.asarray(np.concatenate([STUDENT, STUDENT[:1]]), jnp.float32)
    np.testing.assert_allclose(pairwise_distances(h), distances(h), atol=1e-5)
    np.testing.assert_allclose(pairwise_distances(h + 1000), distances(h), atol=2e-3)
    assert pairwise_distances(h)[0, 5] == 0
    slope = jax.grad(lambda h: jnp.sum(pairwise_distances(h)))(h)
    assert np.all(np.isfinite(slope))


def test_what_counts_as_equal():
    """Single precision: closer than 0.2 % of their norm after centring, and of slope 0."""
    pairs = lambda gap: jnp.array([[1.0, 0.0], [1.0, gap], [-1.0, 0.0], [-1.0, gap]])
    assert float(pairwise_distances(pairs(2.2e-3))[0, 1]) == pytest.approx(2.2e-3, rel=0.05)
    assert pairwise_distances(pairs(1.8e-3))[0, 1] == 0
    assert jax.grad(lambda gap: pairwise_distances(pairs(gap))[0, 1])(1.8e-3) == 0


def test_equal_distances_cost_nothing_and_nothing_flows_into_a_teacher():
    h = jnp.asarray(TEACHER, jnp.float32)
    turned = h @ jnp.asarray(np.linalg.qr(RNG.normal(size=(4, 4)))[0], jnp.float32) + 1
    assert float(distance_absolute_error(turned, h)) == pytest.approx(0, abs=1e-5)
    assert float(distance_absolute_error(2 * h, h)) > 1  # It knows the scale.
    slope = jax.grad(distance_absolute_error, argnums=1)(jnp.asarray(STUDENT, jnp.float32), h)
    assert not np.any(slope)


def test_classes_apart_by_more_than_the_margin_cost_nothing():
    h = jnp.array([[0.0], [0.0], [5.0]])
    labels = jnp.array([1, 1, 0])
    value, slope = jax.value_and_grad(contrastive)(h, labels)
    assert value == 0 and not np.any(slope)
    assert float(contrastive(h, jnp.array([1, 0, 0]), margin=1.0)) == pytest.approx((1 + 25) / 6)


def test_refusals():
    h = jnp.ones((3, 2)).at[0].set(0.0)
    with pytest.raises(ValueError, match="a batch of one input has no relations"):
        distance_absolute_error(h[:1], h[:1])
    with pytest.raises(ValueError, match="the same at all 3 inputs"):
        distance_absolute_error(h, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="of the same inputs, got 3 of the one's and 2"):
        distance_absolute_error(h, h[:2])
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        contrastive(h, jnp.array([0, 1]))
    with pytest.raises(TypeError, match="labels must be integers"):
        contrastive(h, jnp.ones(3))
    with pytest.raises(ValueError, match="margin must be finite and positive"):
        contrastive(h, jnp.array([0, 1, 1]), margin=0.0)


def test_no_slope_where_all_distances_are_equal():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    assert not np.any(jax.grad(distance_absolute_error)(features, features))
