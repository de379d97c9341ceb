"""Feature priors: the divergence by hand, their products, and what is sampled under one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import inference, models, samplers, streams
from kd.losses import features
from kd.samplers import sample

MODEL = models.MLP((4, 3), 2)
FEATURES_FN = models.features_of(MODEL)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)


def params_of(seed):
    return MODEL.init(jax.random.key(seed), X[0])


def layers(seed):
    return jax.vmap(lambda x: FEATURES_FN(params_of(seed), x))(X)


def test_two_layers_and_two_teachers():
    """Teachers of other widths than the student's."""
    wide = jnp.asarray(np.random.default_rng(1).normal(size=(6, 9)), jnp.float32)
    deep = layers(2)["hidden_0"]
    one = inference.feature_log_prior(FEATURES_FN, X, {"hidden_0": wide, "hidden_1": deep})
    other = inference.feature_log_prior(FEATURES_FN, X[:4], {"hidden_1": wide[:4]}, strength=0.3)
    found = layers(0)
    expected = -sum(
        features.gaussian_process_kl(found[own], teacher)
        for own, teacher in (("hidden_0", wide), ("hidden_1", deep))
    )
    assert float(one(params_of(0))) == pytest.approx(float(expected), rel=1e-5)
    expected += -0.3 * features.gaussian_process_kl(found["hidden_1"][:4], wide[:4])
    assert float(one(params_of(0)) + other(params_of(0))) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_two_experts_that_agree_are_one_at_twice_the_strength(x64):
    """Of other widths, whose features have the same products."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(6, 5))
    turn = np.linalg.qr(rng.normal(size=(15, 15)))[0]
    other = np.concatenate([one, one, one], axis=1) @ turn
    priors = [
        inference.feature_log_prior(FEATURES_FN, X, {"hidden_1": jnp.asarray(told)}, strength=a)
        for told, a in ((one, 0.7), (other, 0.7), (one, 1.4))
    ]
    first, second, twice = (jax.value_and_grad(fn)(params_of(0)) for fn in priors)
    both = jax.tree.map(jnp.add, first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), both, twice)


def test_two_teachers_of_one_layer_leave_it_their_harmonic_mean(x64):
    """There both priors' slopes cancel, and around it both together are less probable."""
    rng = np.random.default_rng(0)
    index, strengths, jitter = jnp.arange(4), (1.0, 3.0), 1e-6
    teachers = [jnp.asarray(rng.normal(size=(4, 5))) for _ in range(2)]
    kernels = [np.asarray(one @ one.T) / 5 for one in teachers]
    precisions = [a * np.linalg.inv(k) for a, k in zip(strengths, kernels, strict=True)]
    harmonic = sum(strengths) * np.linalg.inv(sum(precisions))
    divergence_fn = partial(features.gaussian_process_kl, jitter=jitter)
    priors = [
        inference.feature_log_prior(
            *(lambda h, i: {"h": h[i]}, index, {"h": teacher}),
            strength=strength,
            divergence_fn=divergence_fn,
        )
        for strength, teacher in zip(strengths, teachers, strict=True)
    ]
    both = lambda h: priors[0](h) + priors[1](h)
    best = jnp.asarray(np.linalg.cholesky(harmonic)) * 2.0  # Their width is 4.
    value, slope = jax.value_and_grad(both)(best)
    alone = jax.grad(priors[0])(best)
    assert np.max(np.abs(slope)) < 1e-3 * np.max(np.abs(alone))
    for seed in range(10):
        off = np.random.default_rng(seed).normal(size=(4, 4))
        assert float(both(best + 0.1 * jnp.asarray(off))) < float(value)
    for strength, kernel in zip(strengths, kernels, strict=True):
        assert np.linalg.eigvalsh(4 * kernel / strength - harmonic).min() > 0


def test_slices_of_a_layer_learn_of_one_teacher_each(x64):
    """Of teachers that vary in other inputs: together both, where one slice has what they share."""
    index, teachers = jnp.arange(3), [jnp.eye(3)[:, :2], jnp.eye(3)[:, 1:]]
    in_slices = inference.feature_log_prior(
        *(lambda h, i: {"a": h[i, :2], "b": h[i, 2:]}, index),
        dict(zip("ab", teachers, strict=True)),
    )
    known = jnp.concatenate(teachers, axis=1)
    assert float(in_slices(known)) == pytest.approx(0.0, abs=1e-9)
    as_one = [
        inference.feature_log_prior(lambda h, i: {"h": h[i]}, index, {"h": t}) for t in teachers
    ]
    shared = jnp.eye(3)[:, 1:2] @ jnp.full((1, 4), 2**0.5) / 2**0.5
    assert float(sum(one(shared) for one in as_one)) > float(sum(one(known) for one in as_one))


def test_another_divergence():
    teacher = layers(1)["hidden_0"]
    prior = inference.feature_log_prior(
        *(FEATURES_FN, X, {"hidden_0": teacher}),
        divergence_fn=features.gaussian_process_wasserstein,
    )
    expected = -features.gaussian_process_wasserstein(layers(0)["hidden_0"], teacher)
    assert float(prior(params_of(0))) == pytest.approx(float(expected), rel=1e-6)


def test_sampled_under_the_prior_features_are_those_of_a_gaussian_process_posterior():
    """A scale alone: its density is known, and its mean by quadrature.

    Features s * phi of a teacher phi have K_s = s^2 K_t, so that under the prior log p(s) =
    -alpha (N / 2) (s^2 - 1 - log s^2), up to the jitter; times a likelihood of s itself.
    """
    phi = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8)), jnp.float32)
    index = jnp.arange(5)
    features_fn = lambda s, i: {"phi": jnp.exp(s["log_scale"]) * phi[i]}
    log_prior_fn = inference.feature_log_prior(features_fn, index, {"phi": phi}, strength=0.4)
    log_density = lambda u: log_prior_fn({"log_scale": u}) - 0.5 * ((u - 0.5) / 0.4) ** 2
    data = {"x": jnp.zeros((1, 1))}
    log_posterior = samplers.minibatch_log_posterior(
        log_prior_fn, lambda s, one: -0.5 * ((s["log_scale"] - 0.5) / 0.4) ** 2, num_examples=1
    )
    sampler = samplers.sgld(log_posterior, streams.resample(data, 1), step_size=0.01)
    draws = sample(
        *(jax.random.key(0), sampler, {"log_scale": jnp.array(0.0)}),
        num_samples=40_000,
        burn_in=500,
    )
    grid = jnp.linspace(-3, 3, 2001)
    weights = jax.nn.softmax(jax.vmap(log_density)(grid))
    mean = float(jnp.sum(weights * grid))
    # By hand: the jitter is a thousandth.
    points = np.asarray(grid)
    by_hand = -0.4 * 2.5 * (np.exp(2 * points) - 1 - 2 * points)
    by_hand -= 0.5 * ((points - 0.5) / 0.4) ** 2
    by_hand = np.exp(by_hand - by_hand.max())
    assert mean == pytest.approx(np.sum(by_hand * points) / by_hand.sum(), abs=0.01)
    found = np.asarray(draws.position["log_scale"])
    assert found.mean() == pytest.approx(mean, abs=0.04)
    spread = float(jnp.sqrt(jnp.sum(weights * (grid - mean) ** 2)))
    assert found.std() == pytest.approx(spread, rel=0.1)


def test_raises():
    teacher = {"hidden_0": layers(1)["hidden_0"]}
    with pytest.raises(ValueError, match="the number of layers"):
        inference.feature_log_prior(FEATURES_FN, X, {})
    with pytest.raises(ValueError, match="strength"):
        inference.feature_log_prior(FEATURES_FN, X, teacher, strength=0.0)
    with pytest.raises(ValueError, match="teacher's 'hidden_0' has 6 inputs, and x 5"):
        inference.feature_log_prior(FEATURES_FN, X[:5], teacher)
    for x, told, error in (
        (X, {"hidden_0": 1.0}, ValueError),
        (X[0, 0], teacher, ValueError),
        ([[1.0]], teacher, TypeError),
        (X, {"hidden_0": None}, TypeError),
    ):
        with pytest.raises(error, match=r"must be (\[N, ...\]|an array)"):
            inference.feature_log_prior(FEATURES_FN, x, told)
    for told, what in (
        (jnp.ones((6, 3)), "the same at all 6"),
        (jnp.full((6, 3), np.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=f"teacher's 'hidden_0' .*{what}"):
            inference.feature_log_prior(FEATURES_FN, X, {"hidden_0": told})
    each = inference.feature_log_prior(
        FEATURES_FN, X, teacher, divergence_fn=lambda one, other: one[:, 0]
    )
    with pytest.raises(ValueError, match="the divergence of a layer must have rank 0"):
        each(params_of(0))
    bare = inference.feature_log_prior(lambda params, x: x, X, teacher)
    with pytest.raises(TypeError, match="what features_fn returns must be of type Mapping"):
        bare(params_of(0))
    prior = inference.feature_log_prior(FEATURES_FN, X, {"hidden_9": teacher["hidden_0"]})
    with pytest.raises(ValueError, match="no layer 'hidden_9'; it has Dense_0"):
        prior(params_of(0))


def test_nothing_flows_into_a_teacher_whatever_the_divergence():
    def total(teacher):
        log_prior_fn = inference.feature_log_prior(
            *(FEATURES_FN, X, {"hidden_0": teacher}),
            divergence_fn=lambda student, teacher: jnp.sum((student - teacher) ** 2),
        )
        return log_prior_fn(params_of(0))

    assert not np.any(jax.grad(total)(layers(1)["hidden_0"]))
