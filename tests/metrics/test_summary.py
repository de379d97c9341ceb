"""Standard errors, by hand and by simulation."""

import math

import numpy as np
import oracles
import pytest

from kd import metrics


def test_one_repeat_by_hand():
    """Mean 2.5; variance ((1.5² + 0.5² + 0.5² + 1.5²) / 3) / 4."""
    result = metrics.estimate(np.array([[1.0, 2.0, 3.0, 4.0]]))
    assert result.value == 2.5 and result.repeats == 1
    assert result.stderr == pytest.approx(math.sqrt(5 / 3 / 4), rel=1e-12)


def test_three_repeats_by_hand():
    """Means over repeats (2, 4), over examples (1, 3, 5).

    Test sampling: var(2, 4) / 2 = 2 / 2; retraining: var(1, 3, 5) / 3 = 4 / 3.
    """
    per_example = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]])
    result = metrics.estimate(per_example)
    assert result.value == 3.0 and result.repeats == 3
    assert result.stderr == pytest.approx(math.sqrt(1 + 4 / 3), rel=1e-12)


def test_the_two_parts_alone():
    # The same figure for every example: retraining only, var(1, 3) / 2 = 1.
    assert metrics.estimate(np.array([[1.0] * 5, [3.0] * 5])).stderr == pytest.approx(1.0)
    # The same for every repeat: test sampling only.
    alike = metrics.estimate(np.tile([0.0, 1.0], (4, 1)))
    assert alike.stderr == pytest.approx(metrics.estimate(np.array([[0.0, 1.0]])).stderr) == 0.5


def test_accuracy_has_the_binomial_standard_error():
    hits = np.zeros((1, 1000))
    hits[0, :900] = 1
    result = metrics.estimate(hits)
    assert result.value == pytest.approx(0.9)
    assert result.stderr == pytest.approx(math.sqrt(0.9 * 0.1 / 999), rel=1e-12)


def test_results_are_plain_numbers():
    """They go to JSON as they are."""
    result = metrics.estimate(np.ones((2, 3), np.float32))
    assert [type(figure) for figure in result] == [float, float, int]
    assert result == (1.0, 0.0, 2)


def test_a_paired_difference_is_surer_than_an_unpaired_one():
    """Two models that err on the same examples: the noise they share drops out."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=2000)
    a, b = (difficulty + 0.1 * rng.normal(size=(3, 2000)) for _ in range(2))
    b = b + 0.05
    paired = metrics.estimate(b - a)
    unpaired = math.hypot(metrics.estimate(a).stderr, metrics.estimate(b).stderr)
    assert paired.value == pytest.approx(0.05, abs=4 * paired.stderr)
    assert paired.stderr < 0.2 * unpaired
    # Independent ones gain nothing by it.
    c = rng.normal(size=(3, 2000))
    assert metrics.estimate(c - a).stderr == pytest.approx(
        math.hypot(metrics.estimate(a).stderr, metrics.estimate(c).stderr), rel=0.1
    )


def test_the_standard_error_is_the_spread_of_the_estimate():
    """Estimates from many test sets and retrainings scatter as much as each of them says."""
    rng = np.random.default_rng(1)
    values, squares = [], []
    for _ in range(400):
        skill = 0.3 * rng.normal(size=(5, 1))
        result = metrics.estimate(skill + rng.normal(size=(1, 50)))
        values.append(result.value)
        squares.append(result.stderr**2)
    # The variance of 400 draws is known to about 7 %.
    assert np.mean(squares) == pytest.approx(np.var(values), rel=0.25)


@pytest.mark.parametrize(
    ("of_repeats", "of_examples", "of_both"), [(0.0, 0.1, 0.3), (0.05, 0.3, 0.3), (0.3, 0.0, 0.1)]
)
def test_the_interaction_is_counted_once(of_repeats, of_examples, of_both):
    """Crossed random effects, whose true standard error is known."""
    rng = np.random.default_rng(3)
    num_repeats, num_examples = 4, 60
    squares = []
    for _ in range(400):
        result = metrics.estimate(
            of_repeats * rng.normal(size=(num_repeats, 1))
            + of_examples * rng.normal(size=(1, num_examples))
            + of_both * rng.normal(size=(num_repeats, num_examples))
        )
        squares.append(result.stderr**2)
    truth = of_repeats**2 / num_repeats + (of_examples**2 + of_both**2 / num_repeats) / num_examples
    # The floor at the larger part leaves a small bias upwards.
    assert np.mean(squares) == pytest.approx(truth, rel=0.2)


def test_repeats_that_share_their_batches_count_as_one():
    per_example = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]])
    result = metrics.estimate(per_example, is_independent=False)
    assert result.value == 3.0 and result.repeats == 1
    assert result.stderr == pytest.approx(math.sqrt(1 + 4), rel=1e-12)


@pytest.mark.parametrize(
    ("per_example", "message"),
    [
        (np.zeros(3), "per_example must have rank 2"),
        (np.zeros((2, 3, 1)), "per_example must have rank 2"),
        (np.zeros((3, 1)), "number of examples must be at least 2, got 1"),
    ],
)
def test_estimate_refuses(per_example, message):
    with pytest.raises(ValueError, match=message):
        metrics.estimate(per_example)


def some_predictions(num_repeats):
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=400)
    return oracles.log_softmax(rng.normal(size=(num_repeats, 400, 3))), labels


def accuracy(log_probs, labels):
    return float(np.mean(metrics.correct(log_probs, labels)))


@pytest.mark.parametrize(("num_repeats", "is_independent"), [(1, True), (4, True), (4, False)])
def test_bootstrap_of_a_mean_is_the_analytic_sum_of_two_parts(num_repeats, is_independent):
    log_probs, labels = some_predictions(num_repeats)
    hits = metrics.correct(log_probs, labels)
    bootstrap = metrics.bootstrap_estimate(
        accuracy, log_probs, labels, num_resamples=2000, is_independent=is_independent
    )
    of_examples = np.var(hits.mean(0), ddof=1) / hits.shape[1]
    of_repeats = np.var(hits.mean(1), ddof=1) if num_repeats > 1 else 0.0
    num_independent = num_repeats if is_independent else 1
    expected = math.sqrt(of_examples + of_repeats / num_independent)
    assert bootstrap.value == pytest.approx(hits.mean(), rel=1e-12)
    assert bootstrap.repeats == num_independent
    # A standard deviation from 2000 resamples is known to 1.6 %.
    assert bootstrap.stderr == pytest.approx(expected, rel=0.06)


def test_bootstrap_resamples_examples_with_their_labels():
    """A metric that looks at labels alone: the class count is binomial."""
    log_probs, labels = some_predictions(1)
    result = metrics.bootstrap_estimate(
        lambda _, labels: float(np.sum(labels == 0)), log_probs, labels, num_resamples=2000
    )
    share = np.mean(labels == 0)
    assert result.value == np.sum(labels == 0)
    assert result.stderr == pytest.approx(math.sqrt(400 * share * (1 - share)), rel=0.06)


def test_bootstrap_keeps_every_prediction_with_its_label():
    log_probs, labels = some_predictions(2)
    told = oracles.log_softmax(10.0 * np.eye(3)[labels])
    result = metrics.bootstrap_estimate(accuracy, np.stack([told, told]), labels)
    assert result == (1.0, 0.0, 2)


def test_bootstrap_is_decided_by_its_seed():
    log_probs, labels = some_predictions(1)
    first, again, other = (
        metrics.bootstrap_estimate(accuracy, log_probs, labels, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.value == other.value and first.stderr != other.stderr


def test_bootstrap_refuses():
    with pytest.raises(ValueError, match=r"log_probs must have rank 3, got shape \(400, 3\)"):
        log_probs, labels = some_predictions(1)
        metrics.bootstrap_estimate(accuracy, log_probs[0], labels)
    with pytest.raises(ValueError, match="num_resamples must be at least 2, got 1"):
        metrics.bootstrap_estimate(accuracy, log_probs, labels, num_resamples=1)
