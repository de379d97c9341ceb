"""Uncertainties against samples, detection and ranking against scikit-learn, risks by hand."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sklearn_metrics

from kd import metrics
from kd.metrics import dirichlet_uncertainties, uncertainties

RNG = np.random.default_rng(0)


def test_of_an_ensemble_by_hand():
    members = RNG.dirichlet([0.5, 1.0, 2.0], size=(40, 6))
    entropies = -np.sum(members * np.log(members), -1)
    found = uncertainties(members.mean(0), entropies.mean(0))
    np.testing.assert_allclose(found.total, stats.entropy(members.mean(0), axis=-1))
    np.testing.assert_allclose(found.data, entropies.mean(0))
    divergences = [stats.entropy(member, members.mean(0), axis=-1) for member in members]
    np.testing.assert_allclose(found.knowledge, np.mean(divergences, 0))
    assert found.knowledge.min() > 0


def test_probabilities_of_zero_are_sure():
    found = uncertainties(np.array([[1.0, 0.0]]), np.array([0.0]))
    assert found.total[0] == 0 == found.knowledge[0]


@pytest.mark.parametrize("size", [-3.0, 0.0, 3.0])
def test_of_a_dirichlet_by_samples(size):
    z = size + RNG.normal(size=(3, 4))
    found = dirichlet_uncertainties(z)
    for row in range(3):
        drawn = RNG.dirichlet(np.exp(z[row]), size=200_000)
        entropy = stats.entropy(np.maximum(drawn, 1e-300), axis=-1)
        error = 5 * entropy.std() / np.sqrt(len(drawn))
        assert abs(found.data[row] - entropy.mean()) < error
        mean = np.exp(z[row]) / np.exp(z[row]).sum()
        assert found.total[row] == pytest.approx(stats.entropy(mean), rel=1e-9)


@pytest.mark.parametrize("size", [-800.0, -50.0, 30.0, 690.0, 1e4])
def test_of_extreme_concentrations(size):
    """Small ones: all knowledge; large ones: none, and never below 0."""
    found = dirichlet_uncertainties(size + np.array([[0.0, 0.5, -0.5]]))
    assert np.all(np.isfinite(found)) and found.knowledge[0] >= 0
    if size < 0:
        assert found.data[0] == pytest.approx(0.0, abs=1e-9)
    else:
        assert found.knowledge[0] == pytest.approx(0.0, abs=1e-9)


def test_knowledge_of_a_dirichlet_is_mutual_information_and_not_cut_off():
    """Of samples, and exactly that of digammas: no number of these is made 0."""
    z = RNG.uniform(-6, 6, size=(500, 4))
    a = np.exp(z)
    total = a.sum(1, keepdims=True)
    by_hand = np.sum(a / total * (np.log(total / a) + special.digamma(a + 1)), 1)
    by_hand -= special.digamma(total[:, 0] + 1)
    found = dirichlet_uncertainties(z).knowledge
    assert by_hand.min() > 0
    np.testing.assert_allclose(found, by_hand, rtol=1e-9, atol=1e-12)
    for row in range(3):
        drawn = np.maximum(RNG.dirichlet(a[row], size=200_000), 1e-300)
        divergences = stats.entropy(drawn, a[row] / total[row], axis=-1)
        error = 5 * divergences.std() / np.sqrt(len(drawn))
        assert abs(found[row] - divergences.mean()) < error


def test_detection_against_scikit_learn():
    own, other = RNG.normal(size=300), RNG.normal(1.0, 1.5, size=200)
    found = metrics.detection(own, other)
    labels = np.repeat([0, 1], [300, 200])
    scores = np.concatenate([own, other])
    assert found.auroc == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    pairs = other[:, None] > own  # Of no ties: the share of pairs in order.
    assert found.auroc == pytest.approx(pairs.mean())
    assert found.aupr == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
    # By counting: the share of own scores at or above the lowest of the best 95 % of the others.
    threshold = np.sort(other)[::-1][int(np.ceil(0.95 * 200)) - 1]
    assert found.fpr95 == pytest.approx(np.mean(own >= threshold))
    assert metrics.detection(own, own).auroc == pytest.approx(0.5)


def test_ranking_against_scikit_learn():
    gains = RNG.gamma(1.0, size=60)
    scores = gains + RNG.normal(size=60)
    found = metrics.ranking(gains, scores, top=7, draw_size=60, num_draws=4)
    expected = sklearn_metrics.ndcg_score(gains[None], scores[None], k=7)
    np.testing.assert_allclose(found.ndcg, expected)
    assert metrics.ranking(gains, gains, draw_size=50).ndcg.min() == pytest.approx(1.0)
    # A random order's: the mean gain, at every place, over the best.
    order = np.sort(gains)[::-1][:7]
    discounts = 1 / np.log2(np.arange(2, 9))
    chance = gains.mean() * discounts.sum() / (order * discounts).sum()
    many = metrics.ranking(gains, scores, top=7, draw_size=60, num_draws=4000).random
    assert many.mean() == pytest.approx(chance, rel=0.02)


def test_gains_that_are_alike_give_any_order_one():
    found = metrics.ranking(np.ones(50), RNG.normal(size=50), draw_size=40, num_draws=5)
    np.testing.assert_allclose(found, 1.0)
    silent = metrics.ranking(np.zeros(50), np.zeros(50), draw_size=40, num_draws=5)
    np.testing.assert_allclose(silent, 1.0)


def test_ties_are_broken_at_random():
    """Not by place, which would favour whatever a data set begins with."""
    gains = np.arange(100.0)[::-1]
    found = metrics.ranking(gains, np.zeros(100), draw_size=100, num_draws=800)
    assert found.ndcg.mean() == pytest.approx(found.random.mean(), abs=0.02)


def test_risk_by_coverage_by_hand():
    losses, scores = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.4, 0.1, 0.9, 0.2])
    coverage, risk = metrics.risk_coverage(losses, scores)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(risk, [0, 1 / 2, 2 / 3, 1 / 2])
    # Ties: what a random order of them has, whatever the order they come in.
    _, risk = metrics.risk_coverage(losses, np.array([0.3, 0.3, 0.1, 0.3]))
    np.testing.assert_allclose(risk, [0, 1 / 3, 4 / 9, 1 / 2])


@pytest.mark.parametrize("entropy", [np.nan, np.inf, -0.1])
def test_an_entropy_is_a_number_from_0(entropy):
    with pytest.raises(ValueError, match="expected_entropy must be finite and at least 0"):
        metrics.uncertainties(np.full((1, 2), 0.5), np.array([entropy]))


def test_raises():
    ones = np.ones(5)
    for call, message in (
        (lambda: uncertainties(np.ones((5, 2)), np.ones(4)), "expected_entropy must have shape"),
        (lambda: uncertainties(np.log(np.full((5, 2), 0.5)), ones), "probs must be probabilities"),
        (lambda: uncertainties(np.ones((5, 2)), ones), "probs must be probabilities"),
        (lambda: metrics.detection(ones, np.ones((2, 2))), "other_scores"),
        (lambda: metrics.detection(np.ones(0), ones), "the number of own_scores"),
        (lambda: metrics.detection(ones * np.nan, ones), "own_scores"),
        (lambda: metrics.ranking(-ones, ones, draw_size=5, top=2), "gains must be at least 0"),
        (lambda: metrics.ranking(ones, np.ones(4)), "same shape"),
        (lambda: metrics.ranking(ones, ones), "draw_size must be at least 1 and at most 5"),
        (lambda: metrics.ranking(ones, ones, draw_size=5), "top must be at least 1 and at most 5"),
        (lambda: metrics.risk_coverage(np.ones(0), np.ones(0)), "the number of losses"),
        (lambda: metrics.risk_coverage(ones, ones * np.nan), "scores"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_scores_that_are_alike_are_detected_as_chance_is():
    scores = np.arange(100.0)
    found = metrics.detection(scores, scores)
    assert found.auroc == pytest.approx(0.5) and found.fpr95 == pytest.approx(0.95)


def test_rounding_is_no_negative_knowledge():
    """Five nearly alike members in single precision: what is left is 0, not below."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 10)) + 1e-5 * rng.normal(size=(5, 2000, 10))
    probs = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
    entropy = -np.sum(probs * np.log(probs), -1, dtype=np.float32).mean(0)
    found = uncertainties(probs.mean(0), entropy)
    assert np.sum(found.knowledge == 0) > 100 and found.knowledge.min() == 0
    assert metrics.ranking(found.knowledge, found.total).ndcg.shape == (500,)
    # Of heads that contradict each other it stays.
    assert uncertainties(np.array([[0.5, 0.5]]), np.array([1.0])).knowledge[0] < -0.3
