"""What is expected, and the estimators, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd import inference

LOGITS = np.random.default_rng(0).normal(size=4)
LOG_PROBS = jnp.asarray(oracles.log_softmax(LOGITS), jnp.float32)
PROBS = oracles.softmax(LOGITS)


def test_functions_of_log_probabilities():
    np.testing.assert_allclose(inference.predictive(LOG_PROBS), PROBS, rtol=1e-6)
    # The sign that the paper leaves out.
    assert float(inference.entropy(LOG_PROBS)) == pytest.approx(-np.sum(PROBS * np.log(PROBS)))
    np.testing.assert_allclose(
        inference.marginal_variance(LOG_PROBS), PROBS * (1 - PROBS), rtol=1e-5
    )
    smoothed = inference.smoothed_log_probs(LOG_PROBS, smoothing=0.1)
    np.testing.assert_allclose(smoothed, np.log(0.9 * PROBS + 0.1 / 4), rtol=1e-5)
    np.testing.assert_array_equal(inference.smoothed_log_probs(LOG_PROBS, smoothing=0.0), LOG_PROBS)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_tempered_before_they_are_smoothed(temperature):
    roots = PROBS ** (1 / temperature)
    expected = np.log(0.9 * roots / roots.sum() + 0.1 / 4)
    for given in (temperature, jnp.float32(temperature)):
        found = inference.smoothed_log_probs(LOG_PROBS, smoothing=0.1, temperature=given)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_a_dirichlet_student_learns_is_a_running_mean_of_smoothed_logarithms():
    members = np.random.default_rng(1).dirichlet(np.full(4, 0.05), size=7)
    fn, estimator, read = inference.mean_log_probs(smoothing=0.01)
    memory = estimator.init(jax.eval_shape(fn, LOG_PROBS))
    for count, member in enumerate(members, start=1):
        value = fn(jnp.log(jnp.asarray(member, jnp.float32)))
        memory, estimate = estimator.step(memory, value[None], jnp.float32(count))
    expected = np.log(0.99 * members + 0.01 / 4).mean(0)
    np.testing.assert_allclose(read(estimate), expected, rtol=1e-5)


def test_a_class_without_probability():
    """Finite, in value and in gradient."""
    sure = jnp.array([0.0, -jnp.inf])
    assert float(inference.entropy(sure)) == 0
    assert np.all(np.isfinite(jax.grad(inference.entropy)(sure)))
    np.testing.assert_allclose(
        inference.smoothed_log_probs(sure, smoothing=0.2), np.log([0.9, 0.1]), rtol=1e-5
    )


def test_mutual_information_of_two_members():
    one, other = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    fn, estimator, read = inference.mutual_information()
    memory = estimator.init(jax.eval_shape(fn, jnp.zeros(2)))
    for count, member in enumerate((one, other), start=1):
        value = fn(jnp.log(jnp.asarray(member, jnp.float32)))
        memory, estimate = estimator.step(memory, value[None], jnp.float32(count))
    mean = (one + other) / 2
    expected = np.mean([oracles.kl_divergence(np.log(mean), np.log(p)) for p in (one, other)])
    assert float(read(estimate)) == pytest.approx(expected, rel=1e-4)


def test_a_running_mean_of_many_visits_loses_nothing():
    """A hundred thousand visits in single precision, against the mean in double."""
    estimator = inference.running_mean()
    values = np.random.default_rng(0).random(100_000).astype(np.float32)

    def visit(carry, value):
        memory, count = carry
        memory, _ = estimator.step(memory, value[None], count + 1)
        return (memory, count + 1), None

    (mean, _), _ = jax.lax.scan(visit, (jnp.float32(0), jnp.float32(0)), jnp.asarray(values))
    assert float(mean) == pytest.approx(values.mean(dtype=np.float64), rel=1e-5)


def test_running_quantiles_settle_at_the_quantiles():
    """Of a beta variable's, for three levels and two entries at once; two chains."""
    from scipy import stats

    levels = (0.1, 0.5, 0.9)
    estimator = inference.running_quantiles(levels, step_size=0.5)
    values = jnp.asarray(np.random.default_rng(0).beta([2, 5], [3, 1], size=(20_000, 2, 2)))
    memory = estimator.init(jax.ShapeDtypeStruct((2,), jnp.float32))

    def visit(carry, value):
        memory, count = carry
        memory, _ = estimator.step(memory, value, count + 1)
        return (memory, count + 1), None

    (found, _), _ = jax.lax.scan(visit, (memory, jnp.float32(0)), values.astype(jnp.float32))
    expected = [stats.beta([2, 5], [3, 1]).ppf(level) for level in levels]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_sample_that_is_nan_makes_nan_of_quantiles():
    estimator = inference.running_quantiles([0.25, 0.75])
    _, found = estimator.step(jnp.array([0.4, 0.6]), jnp.array([0.5, jnp.nan]), jnp.array(3.0))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "the number of levels"),
        (([0.0],), r"levels must be in \(0, 1\)"),
        (([0.5, float("nan")],), r"levels must be in \(0, 1\)"),
    ],
)
def test_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        inference.running_quantiles(*arguments)
    for options, what in (({"step_size": 0.0}, "step_size"), ({"power": 0.5}, "power")):
        with pytest.raises(ValueError, match=what):
            inference.running_quantiles([0.5], **options)
    with pytest.raises(ValueError, match="smoothing"):
        inference.smoothed_log_probs(LOG_PROBS, smoothing=1.5)
    with pytest.raises(ValueError, match="smoothing"):
        inference.mean_log_probs(smoothing=0.0)
    with pytest.raises(ValueError, match="temperature"):
        inference.smoothed_log_probs(LOG_PROBS, temperature=-1.0)


def test_a_scalar_is_no_distribution():
    with pytest.raises(ValueError, match="got a scalar"):
        inference.smoothed_log_probs(jnp.array(0.0))
