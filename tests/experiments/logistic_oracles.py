"""Logistic regression in NumPy and SciPy: predictions, posteriors, and what rows must say of them.

Weights are `[S, D]` of two classes, `[S, C, D]` of more; nothing here shares code with the study.
"""

import numpy as np
import oracles
import study_runs
from scipy import integrate, special, stats


def mean_probs(weights, x):
    """Of classifiers' weights `[S, D]` or `[S, C, D]` at inputs `[M, D]`: `[M, C]`."""
    weights = np.asarray(weights, float)
    if weights.ndim == 2:
        weights = np.stack([np.zeros_like(weights), weights], axis=1)
    return oracles.softmax(np.einsum("scd,md->smc", weights, x)).mean(axis=0)


def assert_gaps(run, place, kind, probs, expected, **options):
    """Rows of gaps between students' predictions `[R, M, C]` and the bag's `[M, C]`."""
    gaps = np.abs(probs - expected).reshape(len(probs), -1)
    for name, values in (("mean_gap", gaps.mean(axis=1)), ("max_gap", gaps.max(axis=1))):
        study_runs.assert_row(run.summary(), f"{name}.{place}[{kind}]", values, **options)


def laplace(x, y, prior_variance):
    """Mode and inverse curvature, by Newton's method."""
    mean, prior = np.zeros(x.shape[1]), np.eye(x.shape[1]) / prior_variance
    for _ in range(50):
        p = special.expit(x @ mean)
        precision = prior + (p * (1 - p) * x.T) @ x
        mean = mean + np.linalg.solve(precision, x.T @ (y - p) - prior @ mean)
    return mean, np.linalg.inv(precision)


def exact_moments(mean, variance):
    """Mean and variance of a Gaussian times a sigmoid, on a grid."""
    t = np.linspace(-10, 10, 2001)
    z = mean + np.sqrt(variance) * t
    weights = special.expit(z) * np.exp(-(t**2) / 2)
    weights /= weights.sum()
    return weights @ z, weights @ (z - weights @ z) ** 2


def mackay_moments(mean, variance):
    """The same, as if its integral were the sigmoid of the scaled mean."""
    scale = 1 / np.sqrt(1 + np.pi * variance / 8)
    rest = special.expit(-scale * mean)
    return (
        mean + variance * scale * rest,
        variance - (variance * scale) ** 2 * rest * (1 - rest),
    )


def expectation_propagation(x, y, prior_variance, moments_fn):
    """Twenty sweeps; the Gaussian without a factor is made afresh each time."""
    signed, prior = np.where(y == 1, 1, -1)[:, None] * x, np.eye(x.shape[1]) / prior_variance
    precisions, shifts = np.zeros((2, len(x)))

    def gaussian():
        covariance = np.linalg.inv(prior + (precisions * signed.T) @ signed)
        return covariance @ (shifts @ signed), covariance

    for n in list(range(len(x))) * 20:
        precisions[n] = shifts[n] = 0
        mean, covariance = gaussian()
        m, v = signed[n] @ mean, signed[n] @ covariance @ signed[n]
        new_m, new_v = moments_fn(m, v)
        precisions[n], shifts[n] = 1 / new_v - 1 / v, new_m / new_v - m / v
    return gaussian()


def gaussian_probs(mean, covariance, x):
    """Of label 1 under a Gaussian over the weights, by adaptive quadrature (3.47)."""
    margin, scale = x @ mean, np.sqrt(np.sum(x @ covariance * x, axis=1))
    return integrate.quad_vec(
        lambda t: special.expit(margin + scale * t) * stats.norm.pdf(t),
        *(-10, 10),
        epsabs=1e-8,
        norm="max",
    )[0]


def mackay_probs(mean, covariance, x):
    """The same by MacKay's formula (3.48)."""
    variance = np.sum(x @ covariance * x, axis=1)
    return special.expit(x @ mean / np.sqrt(1 + np.pi * variance / 8))


def bag_log_probs(weights, x):
    """Logs of a bag's mean probabilities, `[S, D]` or `[S, C, D]` at `[M, D]`: `[M, C]`."""
    weights = np.asarray(weights, float)
    if weights.ndim == 2:
        weights = np.stack([np.zeros_like(weights), weights], axis=1)
    members = oracles.log_softmax(np.einsum("scd,md->smc", weights, x))
    return special.logsumexp(members, axis=0) - np.log(len(weights))


def gaussian_log_probs(mean, covariance, x):
    """Of both labels under a Gaussian over the weights, by the trapezoid rule on logarithms."""
    margin, scale = x @ mean, np.sqrt(np.sum(x @ covariance * x, axis=1))
    t = np.linspace(-30, 30, 6001)
    z = margin[:, None] + scale[:, None] * t
    log_mass = stats.norm.logpdf(t) + np.log(t[1] - t[0])
    return np.stack(
        [special.logsumexp(special.log_expit(sign * z) + log_mass, axis=1) for sign in (-1, 1)],
        axis=1,
    )


def mackay_log_probs(mean, covariance, x):
    """The same by MacKay's formula (3.48)."""
    scaled = x @ mean / np.sqrt(1 + np.pi * np.sum(x @ covariance * x, axis=1) / 8)
    return special.log_expit(np.stack([-scaled, scaled], axis=1))


def halves(load_fn):
    """Scikit-learn's data as seed 0 divides them: inputs and labels to learn from, and held out.

    Standardised by the first half, with a column of ones.
    """
    found = load_fn()
    order = np.random.default_rng(0).permutation(len(found.target))
    train, test = np.split(order, [len(order) // 2])
    x = (found.data - found.data[train].mean(axis=0)) / found.data[train].std(axis=0)
    x = np.column_stack([x, np.ones(len(x))])
    return x[train], found.target[train], x[test], found.target[test]


def assert_scores(run, kind, log_probs, labels, *, rel=2e-4):
    """Rows of the held-out scores of predictors, from their log-probabilities `[R, M, C]`."""
    right = [100 * np.mean(one.argmax(axis=1) == labels) for one in log_probs]
    study_runs.assert_row(run.summary(), f"accuracy[{kind}]", right)
    chosen = [one[np.arange(len(labels)), labels].mean() for one in log_probs]
    study_runs.assert_row(run.summary(), f"log_prob[{kind}]", chosen, rel=rel)
