"""Metrics of classifiers, against scikit-learn and plain loops."""

import math

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from kd import metrics


def predictions(seed, num_examples=300, num_classes=4, scale=2.0):
    """Log-probabilities `[N, C]`, and labels `[N]` drawn from them.

    Such predictions are calibrated, so that the gaps of the bins have both signs.
    """
    rng = np.random.default_rng(seed)
    log_probs = oracles.log_softmax(scale * rng.normal(size=(num_examples, num_classes)))
    labels = np.argmax(log_probs + rng.gumbel(size=log_probs.shape), -1)
    return log_probs, labels


@given(st.integers(0, 10**6), st.integers(2, 12))
def test_accuracy_is_scikit_learns(seed, num_classes):
    log_probs, labels = predictions(seed, num_classes=num_classes)
    correct = metrics.correct(log_probs, labels)
    assert correct.shape == labels.shape and set(correct) <= {0.0, 1.0}
    expected = sklearn_metrics.accuracy_score(labels, log_probs.argmax(-1))
    assert correct.mean() == pytest.approx(expected, abs=1e-12)


def test_correct_example_by_example():
    log_probs = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
    assert metrics.correct(log_probs, np.array([0, 1, 1])).tolist() == [1.0, 0.0, 1.0]


@given(st.integers(0, 10**6), st.integers(2, 12))
def test_label_log_prob_is_minus_scikit_learns_log_loss(seed, num_classes):
    log_probs, labels = predictions(seed, num_classes=num_classes)
    expected = -sklearn_metrics.log_loss(labels, np.exp(log_probs), labels=range(num_classes))
    actual = metrics.label_log_prob(log_probs, labels)
    assert actual.mean() == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(actual, [p[y] for p, y in zip(log_probs, labels, strict=True)])


def test_label_log_prob_is_not_clipped():
    """scikit-learn clips probabilities; a log-probability of -1e4 is what it is."""
    log_probs = oracles.log_softmax([[1e4, 0.0], [0.0, 0.0]])
    assert metrics.label_log_prob(log_probs, np.array([1, 1]))[0] == -1e4


@given(st.integers(0, 10**6))
def test_brier_score_of_two_classes_is_twice_scikit_learns(seed):
    log_probs, labels = predictions(seed, num_classes=2)
    expected = 2 * sklearn_metrics.brier_score_loss(labels, np.exp(log_probs[:, 1]))
    assert metrics.brier_score(log_probs, labels).mean() == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 10**6), st.integers(2, 12))
def test_brier_score_is_the_plain_loop(seed, num_classes):
    log_probs, labels = predictions(seed, num_examples=40, num_classes=num_classes)
    expected = [
        sum((math.exp(p) - (c == label)) ** 2 for c, p in enumerate(row))
        for row, label in zip(log_probs, labels, strict=True)
    ]
    np.testing.assert_allclose(metrics.brier_score(log_probs, labels), expected, rtol=1e-12)


def test_brier_score_at_its_ends():
    log_probs = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    assert metrics.brier_score(log_probs, np.array([0, 1])).tolist() == [0.0, 2.0]


def loop_ece(log_probs, labels, num_bins):
    """Guo et al. (2017), (3), with bins ((m-1)/M, m/M]."""
    total = 0.0
    for m in range(1, num_bins + 1):
        hits, confidences = [], []
        for row, label in zip(log_probs, labels, strict=True):
            confidence = math.exp(max(row))
            if (m - 1) / num_bins < confidence <= m / num_bins:
                confidences.append(confidence)
                hits.append(float(np.argmax(row) == label))
        if hits:
            gap = abs(sum(hits) / len(hits) - sum(confidences) / len(confidences))
            total += len(hits) / len(labels) * gap
    return total


@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0.1, 5.0))
def test_calibration_error_is_the_plain_loop(seed, num_bins, scale):
    log_probs, labels = predictions(seed, scale=scale)
    actual = metrics.expected_calibration_error(log_probs, labels, num_bins=num_bins)
    assert actual == pytest.approx(loop_ece(log_probs, labels, num_bins), abs=1e-12)
    assert 0 <= actual <= 1


def test_calibration_error_has_fifteen_bins():
    log_probs, labels = predictions(3)
    actual = metrics.expected_calibration_error(log_probs, labels)
    assert actual == pytest.approx(loop_ece(log_probs, labels, 15), abs=1e-12)
    assert abs(actual - loop_ece(log_probs, labels, 10)) > 1e-3


def test_calibration_error_of_known_cases():
    # Sure and right, sure and wrong: the two ends.
    sure = np.array([[0.0, -np.inf]] * 4)
    assert metrics.expected_calibration_error(sure, np.zeros(4, int)) == 0.0
    assert metrics.expected_calibration_error(sure, np.ones(4, int)) == 1.0
    # 3 of 4 right at a confidence of 0.75 is calibrated.
    fair = np.log([[0.75, 0.25]] * 4)
    assert metrics.expected_calibration_error(fair, np.array([0, 0, 0, 1])) == pytest.approx(0)
    # Within a bin over- and underconfidence cancel; in two bins they do not.
    log_probs = np.log([[0.6, 0.4], [0.9, 0.1]])
    labels = np.array([0, 1])
    one, many = (metrics.expected_calibration_error(log_probs, labels, num_bins=n) for n in (1, 10))
    assert one == pytest.approx(abs(0.5 - 0.75)) and many == pytest.approx((0.4 + 0.9) / 2)


def test_calibration_error_where_confidences_lie_on_a_boundary():
    """A bin holds its upper end: 0.5 of two classes belongs to (0.4, 0.5] of ten."""
    log_probs = np.log([[0.5, 0.5], [0.501, 0.499]])
    labels = np.array([1, 0])
    actual = metrics.expected_calibration_error(log_probs, labels, num_bins=10)
    assert actual == pytest.approx((0.5 + 0.499) / 2)


@pytest.mark.parametrize(
    ("log_probs", "num_bins", "message"),
    [
        (np.zeros((2, 3, 4)), 15, r"log_probs must have rank 2, got shape \(2, 3, 4\)"),
        (np.zeros(3), 15, r"log_probs must have rank 2, got shape \(3,\)"),
        (np.zeros((2, 3)), 0, "num_bins must be at least 1, got 0"),
        (np.zeros((2, 3)), -1, "num_bins must be at least 1, got -1"),
    ],
)
def test_calibration_error_refuses(log_probs, num_bins, message):
    with pytest.raises(ValueError, match=message):
        metrics.expected_calibration_error(log_probs, np.zeros(2, int), num_bins=num_bins)


def test_agreement_compares_classes_and_not_labels():
    student, _ = predictions(0)
    teacher, _ = predictions(1)
    expected = [float(np.argmax(f) == np.argmax(t)) for f, t in zip(student, teacher, strict=True)]
    assert metrics.agreement(student, teacher).tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert metrics.agreement(teacher, teacher).all()


@pytest.mark.parametrize(
    "metric_fn", [metrics.correct, metrics.label_log_prob, metrics.brier_score]
)
def test_repeats_are_independent(metric_fn):
    """With an axis of repeats before the examples, each repeat is as if alone."""
    log_probs = np.stack([predictions(seed)[0] for seed in range(3)])
    labels = predictions(0)[1]
    np.testing.assert_array_equal(
        metric_fn(log_probs, labels), [metric_fn(one, labels) for one in log_probs]
    )


def test_agreement_of_repeats_with_one_teacher():
    students = np.stack([predictions(seed)[0] for seed in range(3)])
    teacher, _ = predictions(9)
    np.testing.assert_array_equal(
        metrics.agreement(students, teacher), [metrics.agreement(one, teacher) for one in students]
    )


def test_float32_log_probs_are_summed_in_double():
    log_probs, labels = predictions(0)
    single = log_probs.astype(np.float32)
    assert metrics.label_log_prob(single, labels).dtype == np.float64
    assert metrics.brier_score(single, labels).dtype == np.float64
    double = single.astype(np.float64)
    np.testing.assert_array_equal(
        metrics.brier_score(single, labels), metrics.brier_score(double, labels)
    )


WITH_LABELS = [
    metrics.correct,
    metrics.label_log_prob,
    metrics.brier_score,
    metrics.expected_calibration_error,
]


@pytest.mark.parametrize("metric_fn", WITH_LABELS)
@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 1, 4], r"integers in \[0, 4\), got \[0 1 4\]"),
        ([0, -1, 2], r"integers in \[0, 4\)"),
        ([0.0, 1.0, 2.0], r"integers in \[0, 4\)"),
        ([0, 1], r"shape \(3,\) or \(3,\) to go with log_probs \(3, 4\), got \(2,\)"),
        ([[0, 1, 2]], r"got \(1, 3\)"),
        (1, r"got \(\)"),
    ],
    ids=repr,
)
def test_bad_labels_are_refused(metric_fn, labels, found):
    with pytest.raises(ValueError, match=found):
        metric_fn(predictions(0, num_examples=3)[0], np.array(labels))


def test_calibration_of_nothing_is_refused():
    with pytest.raises(ValueError, match="number of examples must be at least 1, got 0"):
        metrics.expected_calibration_error(np.zeros((0, 3)), np.zeros(0, int))


def test_probabilities_are_no_log_probabilities():
    probs, labels = np.full((3, 2), 0.5), np.zeros(3, int)
    for metric in (
        metrics.brier_score,
        metrics.label_log_prob,
        metrics.correct,
        metrics.expected_calibration_error,
    ):
        with pytest.raises(ValueError, match="log_probs must be logarithms of probabilities"):
            metric(probs, labels)


def test_nan_is_no_log_probability():
    bad, labels = np.full((3, 2), np.nan), np.zeros(3, int)
    for metric in (metrics.correct, metrics.label_log_prob, metrics.brier_score):
        with pytest.raises(ValueError, match="^log_probs must be logarithms"):
            metric(bad, labels)
    with pytest.raises(ValueError, match="^log_probs must be logarithms"):
        metrics.expected_calibration_error(bad, labels)
    with pytest.raises(ValueError, match="teacher_log_probs must be logarithms"):
        metrics.agreement(np.log(np.full((3, 2), 0.5)), bad)
