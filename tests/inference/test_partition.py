"""Estimators of log Z against enumeration: an RBM summed out, a mixture of Gaussians."""

import json
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from kd import inference
from kd.inference import Proposal

NUM_VISIBLE, NUM_HIDDEN = 8, 12


class World(NamedTuple):
    """All states of an RBM and of a factorised proposal, with their exact log-densities."""

    params: dict
    rates: np.ndarray
    states: np.ndarray
    log_potential: np.ndarray
    log_q: np.ndarray

    @property
    def log_z(self):
        return special.logsumexp(self.log_potential)

    @property
    def log_weights(self):
        return self.log_potential - self.log_q

    def draw(self, rng, num, *, of):
        log_p = self.log_q if of == "proposal" else self.log_potential - self.log_z
        return rng.choice(len(self.states), num, p=np.exp(log_p) / np.sum(np.exp(log_p)))


def make_world(scale=0.5):
    rng = np.random.default_rng(0)
    w = scale * rng.normal(size=(NUM_VISIBLE, NUM_HIDDEN))
    a, b = rng.normal(size=NUM_VISIBLE), rng.normal(size=NUM_HIDDEN)
    states = (np.arange(2**NUM_VISIBLE)[:, None] >> np.arange(NUM_VISIBLE)) & 1
    log_potential = states @ a + np.sum(np.logaddexp(0, b + states @ w), axis=1)
    p = np.exp(log_potential - special.logsumexp(log_potential))
    rates = 0.9 * (p @ states) + 0.05
    log_q = states @ np.log(rates) + (1 - states) @ np.log1p(-rates)
    return World({"w": w, "a": a, "b": b}, rates, states, log_potential, log_q)


WORLD = make_world()


def log_potential_fn(x):
    """The RBM of `WORLD` on the device."""
    w, a, b = (jnp.asarray(WORLD.params[n], x.dtype) for n in "wab")
    return x @ a + jnp.sum(jax.nn.softplus(x @ w + b[None]), axis=-1)


def sample_bernoulli(key, num):
    rates = jnp.asarray(WORLD.rates, jnp.result_type(float))
    return (jax.random.uniform(key, (num, rates.size)) < rates[None]).astype(rates.dtype)


def log_bernoulli(x):
    rates = jnp.asarray(WORLD.rates, jnp.result_type(float))
    return x @ jnp.log(rates) + (1 - x) @ jnp.log1p(-rates)


BERNOULLI = Proposal(log_bernoulli, sample_bernoulli)


def weights_of(rng, num, of):
    return WORLD.log_weights[WORLD.draw(rng, num, of=of)]


# Each estimator of log Z itself, as a function of a generator and a number of samples.
ESTIMATORS = {
    "importance": lambda rng, n: inference.importance_sampling(weights_of(rng, n, "proposal")),
    "reverse": lambda rng, n: inference.reverse_importance_sampling(weights_of(rng, n, "target")),
    "bridge": lambda rng, n: inference.bridge_sampling(
        weights_of(rng, n, "proposal"), weights_of(rng, n, "target")
    ),
    "bridge, unequal": lambda rng, n: inference.bridge_sampling(
        weights_of(rng, n // 4, "proposal"), weights_of(rng, n, "target")
    ),
}
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def assert_coverage(results, truth):
    """As many intervals hold the truth as their name says: a binomial test of the counts."""
    errors = np.array([(result.value - truth) / result.stderr for result in results])
    within_one = int(np.sum(np.abs(errors) < 1))
    expected = stats.norm.cdf(1) - stats.norm.cdf(-1)
    assert stats.binomtest(within_one, len(errors), expected).pvalue > 1e-3, within_one
    missed = sum(not result.low <= truth <= result.high for result in results)
    outside = 2 * stats.norm.sf(3)
    test = stats.binomtest(missed, len(errors), outside, alternative="greater")
    assert test.pvalue > 1e-3, missed


@each_estimator
def test_estimates_hold_the_enumerated_log_z_as_often_as_they_say(name):
    rng = np.random.default_rng(1)
    results = [ESTIMATORS[name](rng, 1000) for _ in range(400)]
    assert_coverage(results, WORLD.log_z)
    assert max(abs(result.value - WORLD.log_z) for result in results) < 0.5
    assert abs(ESTIMATORS[name](rng, 100_000).value - WORLD.log_z) < 0.02


def test_the_bridge_is_the_surest():
    rng = np.random.default_rng(2)
    stderr = {name: ESTIMATORS[name](rng, 10_000).stderr for name in ESTIMATORS}
    assert stderr["bridge"] < 0.9 * min(stderr["importance"], stderr["reverse"])


@pytest.mark.parametrize("of", ["proposal", "target"])
def test_bounds_are_the_enumerated_means_on_their_sides(of):
    rng = np.random.default_rng(3)
    bound = {"proposal": inference.kl_lower_bound, "target": inference.kl_upper_bound}[of]
    log_p = WORLD.log_q if of == "proposal" else WORLD.log_potential - WORLD.log_z
    exact = np.sum(np.exp(log_p) * WORLD.log_weights)
    assert_coverage([bound(weights_of(rng, 300, of)) for _ in range(600)], exact)
    sure = bound(weights_of(rng, 20_000, of))
    if of == "proposal":
        assert exact < WORLD.log_z and sure.high < WORLD.log_z
    else:
        assert exact > WORLD.log_z and sure.low > WORLD.log_z
    # The gaps are the two divergences, by enumeration too.
    target = special.softmax(WORLD.log_potential)
    q = np.exp(WORLD.log_q)
    gap = stats.entropy(q, target) if of == "proposal" else stats.entropy(target, q)
    assert abs(exact - WORLD.log_z) == pytest.approx(gap, rel=1e-9)


def test_results_by_hand():
    """Weights 1, 2, 3: mean 2, standard deviation 1."""
    logs = np.log([1.0, 2.0, 3.0])
    error = 1 / np.sqrt(3) / 2
    result = inference.importance_sampling(logs)
    np.testing.assert_allclose(result.value, np.log(2), rtol=1e-14)
    np.testing.assert_allclose(result.stderr, error, rtol=1e-14)
    np.testing.assert_allclose(
        [result.low, result.high], np.log([2 - 6 * error, 2 + 6 * error]), rtol=1e-12
    )
    assert result.num_samples == 3 and result.num_infinite == 0
    assert result.effective_samples == pytest.approx(36 / 14)
    inverse = inference.reverse_importance_sampling(-logs)
    np.testing.assert_allclose(
        [inverse.value, inverse.low, inverse.high],
        [-result.value, -result.high, -result.low],
        rtol=1e-14,
    )
    assert inverse[4:] == result[4:] and inverse.stderr == result.stderr
    for bound in (inference.kl_lower_bound, inference.kl_upper_bound):
        mean = bound([1.0, 2.0, 3.0])
        np.testing.assert_allclose(mean[:4], [2, 2 * error, 2 - 6 * error, 2 + 6 * error])
        assert mean[4:] == (3, 3.0, 0)


def test_a_lower_end_that_is_not_positive_is_minus_infinity():
    logs = np.array([0.0, 0.0, 50.0])
    assert inference.importance_sampling(logs).low == -np.inf
    assert np.isfinite(inference.importance_sampling(logs).high)
    assert inference.reverse_importance_sampling(-logs).high == np.inf
    bridge = inference.bridge_sampling([-1.0, -60.0, -60.0], [1.0, 0.0, 0.5])
    assert bridge.thesis_low == -np.inf and np.isfinite(bridge.thesis_high)
    bridge = inference.bridge_sampling([1.0, 0.0, 0.5], [1.0, 60.0, 60.0])
    assert bridge.thesis_high == np.inf and np.isfinite(bridge.thesis_low)


def bridge_by_fixed_point(log_q, log_p, num_iterations):
    """The thesis's own iteration, in the linear domain, with shares."""
    n, m = len(log_q), len(log_p)
    z = 1.0
    for _ in range(num_iterations):
        over_q = np.exp(log_q) / (n * z + m * np.exp(log_q))
        over_p = 1 / (n * z + m * np.exp(log_p))
        z = np.mean(over_q) / np.mean(over_p)
    return z, over_q, over_p


@pytest.mark.parametrize(("num_q", "num_p"), [(50, 50), (20, 300), (300, 20)])
def test_bridge_is_the_thesis_fixed_point_and_its_interval(num_q, num_p):
    rng = np.random.default_rng(4)
    log_q, log_p = weights_of(rng, num_q, "proposal"), weights_of(rng, num_p, "target")
    result = inference.bridge_sampling(log_q, log_p)
    z, over_q, over_p = bridge_by_fixed_point(log_q, log_p, 500)
    assert result.is_converged and result.num_iterations < 10
    np.testing.assert_allclose(result.value, np.log(z), rtol=1e-10)
    ends = []
    for values in (over_q, over_p):
        error = 3 * np.std(values, ddof=1) / np.sqrt(len(values))
        ends.append(np.log([np.mean(values) - error, np.mean(values) + error]))
    np.testing.assert_allclose(result.thesis_low, ends[0][0] - ends[1][1], rtol=1e-8)
    np.testing.assert_allclose(result.thesis_high, ends[0][1] - ends[1][0], rtol=1e-8)
    assert result.thesis_low < result.low < result.high < result.thesis_high
    for effective, values in (
        (result.effective_proposal, over_q),
        (result.effective_target, over_p),
    ):
        np.testing.assert_allclose(effective, np.sum(values) ** 2 / np.sum(values**2), rtol=1e-8)
    assert (result.num_proposal, result.num_target) == (num_q, num_p)


def gaussians_apart(distance, num):
    """Log-weights of two unit Gaussians: the truth is log Z = 0."""
    rng = np.random.default_rng(5)
    ratio = lambda x: distance * (x - distance / 2)
    return ratio(rng.normal(size=num)), ratio(distance + rng.normal(size=num))


def test_bridge_with_little_overlap():
    result = inference.bridge_sampling(*gaussians_apart(6, 4000))
    assert result.is_converged and result.low < 0 < result.high
    assert result.effective_proposal < 200 and result.effective_target < 200
    stopped = inference.bridge_sampling(*gaussians_apart(6, 4000), max_iterations=1)
    assert not stopped.is_converged and stopped.num_iterations == 1
    loose = inference.bridge_sampling(*gaussians_apart(6, 4000), tolerance=0.1)
    assert loose.is_converged and loose.num_iterations < result.num_iterations
    assert loose.value == pytest.approx(result.value, abs=0.1)


def test_bridge_converges_where_the_fixed_point_swings():
    log_q, log_p = gaussians_apart(12, 20)
    assert np.max(log_q) < np.min(log_p)
    plain = [np.log(bridge_by_fixed_point(log_q, log_p, n)[0]) for n in (100, 101)]
    assert abs(plain[0] - plain[1]) > 0.1
    result = inference.bridge_sampling(log_q, log_p)
    assert result.is_converged and result.num_iterations < 15
    # The swing's middle, where the equation holds.
    assert result.value == pytest.approx(np.mean(plain), abs=0.01)


def test_bridge_stands_weights_without_overlap():
    """Only the largest of one side and the smallest of the other count: here by hand.

    The two means are exp(-1e4) / (5 s_q Z) and exp(-1e4) / (7 s_p), with shares 5 / 12 and
    7 / 12, and Z is their ratio: its square is (7 / 5)^2.
    """
    proposal, target = np.linspace(-2e4, -1e4, 5), np.linspace(1e4, 2e4, 7)
    result = inference.bridge_sampling(proposal, target)
    assert result.is_converged and result.value == pytest.approx(np.log(7 / 5), abs=1e-6)
    with pytest.raises(ValueError, match="all lie above log_weights_target, by 20000 nats"):
        inference.bridge_sampling(target, proposal)
    # Two samples a side may well lie so by chance.
    near = inference.bridge_sampling(np.array([0.2, 0.3]), np.array([0.0, 0.1]))
    assert np.isfinite(near.value)


@each_estimator
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_a_constant_in_the_potential_is_a_constant_in_the_estimate(name, shift, monkeypatch):
    plain = ESTIMATORS[name](np.random.default_rng(6), 500)
    shifted_world = WORLD._replace(log_potential=WORLD.log_potential + shift)
    monkeypatch.setitem(globals(), "WORLD", shifted_world)
    shifted = ESTIMATORS[name](np.random.default_rng(6), 500)
    np.testing.assert_allclose(shifted.value - shift, plain.value, atol=1e-9)
    np.testing.assert_allclose(shifted.low - shift, plain.low, atol=1e-9)
    np.testing.assert_allclose(shifted.high - shift, plain.high, atol=1e-9)
    np.testing.assert_allclose(shifted.stderr, plain.stderr, rtol=1e-7)


def test_a_perfect_proposal_gives_log_z_and_no_error(x64):
    """The target itself as proposal: every weight is Z."""
    log_z = WORLD.log_z

    def sample(key, num):
        index = jax.random.categorical(key, jnp.asarray(WORLD.log_potential), shape=(num,))
        return jnp.asarray(WORLD.states, jnp.float64)[index]

    perfect = Proposal(lambda x: log_potential_fn(x) - log_z, sample)
    forward = inference.proposal_log_weights(jax.random.key(0), log_potential_fn, perfect, 20)
    backward = inference.target_log_weights(
        log_potential_fn, perfect, sample(jax.random.key(1), 30)
    )
    for result in (
        inference.kl_lower_bound(forward),
        inference.importance_sampling(forward),
        inference.kl_upper_bound(backward),
        inference.reverse_importance_sampling(backward),
        inference.bridge_sampling(forward, backward),
    ):
        np.testing.assert_allclose(result[:4], [log_z, 0, log_z, log_z], atol=1e-13)
    assert inference.importance_sampling(np.full(7, 3.25))[:6] == (3.25, 0, 3.25, 3.25, 7, 7)


# 3 N(-2, 1) + 5 N(2, 1/4), and a Gaussian that covers both.
MASSES, CENTRES, SPREADS = np.array([3.0, 5.0]), np.array([-2.0, 2.0]), np.array([1.0, 0.5])


def log_mixture(x):
    z = (x[:, None] - CENTRES[None]) / SPREADS[None]
    scale = np.log(MASSES / SPREADS) - 0.5 * np.log(2 * np.pi)
    return jax.nn.logsumexp(scale[None] - 0.5 * z**2, axis=1)


WIDE = Proposal(
    lambda x: -0.5 * (x / 3) ** 2 - np.log(3) - 0.5 * np.log(2 * np.pi),
    lambda key, num: 3 * jax.random.normal(key, (num,)),
)


@pytest.mark.parametrize("is_double", [False, True])
def test_a_continuous_density_of_known_integral(is_double):
    rng = np.random.default_rng(7)
    which = rng.choice(2, 20_000, p=MASSES / np.sum(MASSES))
    samples = rng.normal(CENTRES[which], SPREADS[which])
    with jax.enable_x64(is_double):
        forward = inference.proposal_log_weights(jax.random.key(0), log_mixture, WIDE, 20_000)
        backward = inference.target_log_weights(log_mixture, WIDE, jnp.asarray(samples))
    lower, upper = inference.kl_lower_bound(forward), inference.kl_upper_bound(backward)
    assert lower.high < np.log(8) < upper.low
    for result in (
        inference.importance_sampling(forward),
        inference.bridge_sampling(forward, backward),
    ):
        assert result.low < np.log(8) < result.high
        assert abs(result.value - np.log(8)) < 0.05


@pytest.mark.parametrize("block_size", [1, 7, 30, 1000])
def test_log_weights_are_the_enumerated_ones_whatever_the_block(block_size, x64):
    index = np.random.default_rng(8).integers(len(WORLD.states), size=30)
    found = inference.target_log_weights(
        log_potential_fn, BERNOULLI, WORLD.states[index] + 0.0, block_size=block_size
    )
    assert found.dtype == np.float64 and isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, WORLD.log_weights[index], rtol=1e-12)
    eager = log_potential_fn(jnp.asarray(WORLD.states[index] + 0.0))
    np.testing.assert_allclose(found + WORLD.log_q[index], eager, rtol=1e-12)


def test_proposals_are_sampled_and_evaluated_in_blocks():
    shapes, drawn = [], []

    def potential(x):
        shapes.append(x.shape)
        jax.debug.callback(lambda x: drawn.append(np.array(x)), x, ordered=True)
        return log_potential_fn(x)

    run = lambda seed, fn: inference.proposal_log_weights(
        jax.random.key(seed), fn, BERNOULLI, 50, block_size=8
    )
    found = run(0, potential)
    jax.effects_barrier()
    # One shape, traced once; seven blocks; the last six samples of the last are dropped.
    assert shapes == [(8, NUM_VISIBLE)] and found.shape == (50,)
    assert [x.shape for x in drawn] == [(8, NUM_VISIBLE)] * 7
    index = np.concatenate(drawn)[:50].astype(int) @ (1 << np.arange(NUM_VISIBLE))
    np.testing.assert_allclose(found, WORLD.log_weights[index], rtol=1e-5, atol=1e-5)
    assert len({x.tobytes() for x in drawn}) == 7
    np.testing.assert_array_equal(run(0, log_potential_fn), found)
    assert np.any(run(1, log_potential_fn) != found)


def test_both_layers_together():
    samples = WORLD.states[WORLD.draw(np.random.default_rng(9), 5000, of="target")]
    forward = inference.proposal_log_weights(jax.random.key(2), log_potential_fn, BERNOULLI, 5000)
    backward = inference.target_log_weights(
        log_potential_fn, BERNOULLI, jnp.asarray(samples, jnp.float32)
    )
    result = inference.bridge_sampling(forward, backward)
    assert result.low < WORLD.log_z < result.high and abs(result.value - WORLD.log_z) < 0.05
    result = inference.importance_sampling(forward)
    assert result.low < WORLD.log_z < result.high and abs(result.value - WORLD.log_z) < 0.05


def test_results_are_plain_numbers():
    """They go to JSON as they are."""
    logs = np.array([0.0, 1.0, 0.5], np.float32)
    for result in (
        inference.importance_sampling(logs),
        inference.reverse_importance_sampling(jnp.asarray(logs)),
        inference.kl_lower_bound(logs),
        inference.kl_upper_bound(logs),
        inference.bridge_sampling(logs, logs + 1),
    ):
        assert json.loads(json.dumps(result)) == list(result)
        assert {type(figure) for figure in result} <= {float, int, bool}


def test_infinite_weights_that_an_estimator_stands_are_counted():
    """A target that excludes half of the proposal's samples has half their mean weight."""
    half = inference.importance_sampling(np.array([1.0, -np.inf, 1.0, -np.inf]))
    assert half.value == pytest.approx(1 - np.log(2)) and half.num_infinite == 2
    assert half.effective_samples == 2
    inverse = inference.reverse_importance_sampling(np.array([1.0, np.inf, 1.0, np.inf]))
    assert inverse.value == pytest.approx(1 + np.log(2)) and inverse.num_infinite == 2


def test_bridge_stands_supports_that_only_overlap():
    """p̄ = 1 on [0, 2], q = 1/2 on [1, 3]: of each, half the samples are excluded by the other."""
    rng = np.random.default_rng(10)
    x, y = rng.uniform(1, 3, 4000), rng.uniform(0, 2, 1000)
    log_q = np.where(x < 2, np.log(2), -np.inf)
    log_p = np.where(y > 1, np.log(2), np.inf)
    result = inference.bridge_sampling(log_q, log_p)
    # Z is twice the ratio of the shares in [1, 2]: the optimal bridge is constant there.
    expected = np.log(2 * np.mean(x < 2) / np.mean(y > 1))
    assert result.value == pytest.approx(expected, abs=1e-9)
    assert result.low < np.log(2) < result.high
    assert result.num_infinite == np.sum(x >= 2) + np.sum(y <= 1)


ESTIMATORS_OF_ONE = (
    inference.kl_lower_bound,
    inference.kl_upper_bound,
    inference.importance_sampling,
    inference.reverse_importance_sampling,
)
FINE = np.zeros(3)


@pytest.mark.parametrize("estimator", ESTIMATORS_OF_ONE)
@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (np.zeros((3, 1)), "log_weights must have rank 1, got shape (3, 1)"),
        (np.zeros(1), "number of log_weights must be at least 2, got 1"),
        (np.zeros(0), "number of log_weights must be at least 2, got 0"),
        (np.array([0.0, np.nan, np.nan]), "log_weights: 2 of 3 are NaN"),
    ],
)
def test_estimators_refuse(estimator, log_weights, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        estimator(log_weights)
    with pytest.raises(ValueError, match=re.escape(message.replace("weights", "weights_proposal"))):
        inference.bridge_sampling(log_weights, FINE)
    with pytest.raises(ValueError, match=re.escape(message.replace("weights", "weights_target"))):
        inference.bridge_sampling(FINE, log_weights)


@pytest.mark.parametrize(
    ("estimator", "infinity", "message"),
    [
        (inference.kl_lower_bound, np.inf, "proposal's density is 0 at its own samples"),
        (inference.kl_lower_bound, -np.inf, "the bound on log Z is minus infinity"),
        (inference.kl_upper_bound, -np.inf, "target's density is 0 at its own samples"),
        (inference.kl_upper_bound, np.inf, "the bound on log Z is infinite"),
        (inference.importance_sampling, np.inf, "proposal's density is 0 at its own samples"),
        (inference.reverse_importance_sampling, -np.inf, "target's density is 0 at its own"),
    ],
)
def test_estimators_count_the_infinite_weights_they_refuse(estimator, infinity, message):
    with pytest.raises(ValueError, match=f"log_weights: 2 of 5 are {infinity}: .*{message}"):
        estimator(np.array([0.0, infinity, 0.0, infinity, 1.0]))


def test_weights_that_are_all_zero_are_refused():
    none = np.full(4, -np.inf)
    with pytest.raises(ValueError, match="log_weights: all 4 are infinite: the weights are all 0"):
        inference.importance_sampling(none)
    with pytest.raises(ValueError, match="all 4 are infinite"):
        inference.reverse_importance_sampling(-none)
    with pytest.raises(ValueError, match="log_weights_proposal: all 4 .* there is no overlap"):
        inference.bridge_sampling(none, FINE)
    with pytest.raises(ValueError, match="log_weights_target: all 4 .* there is no overlap"):
        inference.bridge_sampling(FINE, -none)


def test_bridge_refuses():
    bad = np.array([0.0, np.inf, 1.0])
    with pytest.raises(ValueError, match="log_weights_proposal: 1 of 3 are inf: the proposal's"):
        inference.bridge_sampling(bad, FINE)
    with pytest.raises(ValueError, match="log_weights_target: 1 of 3 are -inf: the target's"):
        inference.bridge_sampling(FINE, -bad)
    with pytest.raises(ValueError, match="max_iterations must be at least 1, got 0"):
        inference.bridge_sampling(FINE, FINE, max_iterations=0)
    with pytest.raises(ValueError, match="tolerance must be finite and positive, got 0"):
        inference.bridge_sampling(FINE, FINE, tolerance=0)


@pytest.mark.parametrize("apart", [0.5, 2.0, 6.0])
def test_bridge_refuses_swapped_sides(apart):
    sides = gaussians_apart(apart, 2000)
    inference.bridge_sampling(*sides)
    with pytest.raises(ValueError, match=r"log_weights_proposal have the mean .*they are swapped"):
        inference.bridge_sampling(*sides[::-1])


def test_bridge_stands_sides_in_either_order_by_rounding_or_chance(x64):
    """Of a perfect proposal both means are log Z, but for the last digits."""
    rng = np.random.default_rng(0)
    weights = 451.0 + 1e-4 * rng.normal(size=(2, 10_000))
    weights[0] += 1e-4
    inference.bridge_sampling(*weights)
    for _ in range(200):
        inference.bridge_sampling(*rng.normal(size=(2, 20)))


ZEROS = jnp.zeros((4, NUM_VISIBLE))


def evaluate_both_ways(log_potential_fn, log_prob):
    proposal = Proposal(log_prob, lambda key, num: jnp.zeros((num, NUM_VISIBLE)))
    yield lambda: inference.target_log_weights(log_potential_fn, proposal, ZEROS)
    yield lambda: inference.proposal_log_weights(jax.random.key(0), log_potential_fn, proposal, 4)


def constant(value):
    return lambda x: jnp.full(len(x), value)


@pytest.mark.parametrize(
    ("potential", "log_prob", "message"),
    [
        (constant(jnp.nan), constant(0.0), "log_potential_fn: 4 of 4 are NaN"),
        (constant(jnp.inf), constant(0.0), "log_potential_fn: 4 of 4 are inf: a log-density"),
        (constant(0.0), constant(jnp.nan), "proposal.log_prob: 4 of 4 are NaN"),
        (constant(0.0), constant(jnp.inf), "proposal.log_prob: 4 of 4 are inf: a log-density"),
        (lambda x: x, constant(0.0), "log_potential_fn must give shape (4,), got (4, 8)"),
        (constant(0.0), lambda x: 0.0, "proposal.log_prob must give shape (4,), got ()"),
    ],
)
def test_log_weights_refuse_what_is_no_log_density(potential, log_prob, message):
    for run in evaluate_both_ways(potential, log_prob):
        with pytest.raises(ValueError, match=re.escape(message)):
            run()


def test_a_density_of_zero_at_its_own_samples_is_refused_and_elsewhere_infinite():
    at_target, at_proposal = evaluate_both_ways(constant(-jnp.inf), constant(0.0))
    with pytest.raises(ValueError, match="log_potential_fn: 4 of 4 are -inf: the target's density"):
        at_target()
    np.testing.assert_array_equal(at_proposal(), np.full(4, -np.inf))
    at_target, at_proposal = evaluate_both_ways(constant(0.0), constant(-jnp.inf))
    np.testing.assert_array_equal(at_target(), np.full(4, np.inf))
    with pytest.raises(ValueError, match="proposal.log_prob: 4 of 4 are -inf: the proposal's"):
        at_proposal()


def test_what_is_no_array_of_samples_is_refused():
    for samples in (lambda key, num: (jnp.zeros((num, 2)), 1), lambda key, num: jnp.zeros(2)):
        proposal = Proposal(constant(0.0), samples)
        with pytest.raises(ValueError, match=r"proposal.sample must give an array \[3, ...\], got"):
            inference.proposal_log_weights(jax.random.key(0), constant(0.0), proposal, 3)


def test_log_weights_refuse_counts_and_keys():
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="key must be one typed key"):
        inference.proposal_log_weights(jnp.zeros(2), log_potential_fn, BERNOULLI, 4)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        inference.proposal_log_weights(key, log_potential_fn, BERNOULLI, 0)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        inference.proposal_log_weights(key, log_potential_fn, BERNOULLI, 4, block_size=0)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        inference.target_log_weights(log_potential_fn, BERNOULLI, ZEROS, block_size=0)
    with pytest.raises(ValueError, match="samples must hold at least one example"):
        inference.target_log_weights(log_potential_fn, BERNOULLI, ZEROS[:0])
