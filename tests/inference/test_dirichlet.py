"""fit_dirichlet: its own parameters back, the likelihood's maximum, what will not do."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from kd.inference import fit_dirichlet


def means_of(alpha):
    return special.digamma(alpha) - special.digamma(alpha.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_concentrations_come_back(num_classes):
    """From the exact means, small and large, alike and most unlike."""
    rng = np.random.default_rng(num_classes)
    alpha = np.exp(rng.uniform(np.log(0.02), np.log(300), size=(200, num_classes)))
    np.testing.assert_allclose(fit_dirichlet(means_of(alpha)), alpha, rtol=1e-6)


def test_the_maximum_of_the_samples_likelihood():
    rng = np.random.default_rng(0)
    samples = rng.dirichlet([0.4, 1.5, 3.0], size=50)
    found = fit_dirichlet(np.log(samples).mean(0))

    def loss(log_alpha):
        return -np.sum(stats.dirichlet.logpdf(samples.T, np.exp(log_alpha)))

    best = optimize.minimize(loss, np.zeros(3), method="BFGS")
    np.testing.assert_allclose(found, np.exp(best.x), rtol=1e-3)
    assert loss(np.log(found)) <= best.fun + 1e-9


def test_its_mean_is_not_the_samples():
    """Of points that are nearly corners it is further from them than its samples are."""
    samples = np.array([[0.998, 0.001, 0.001]] * 9 + [[0.001, 0.998, 0.001]])
    alpha = fit_dirichlet(np.log(samples).mean(0))
    mean = alpha / alpha.sum()
    assert mean[0] < samples.mean(0)[0] - 0.1 and mean[2] > 10 * samples.mean(0)[2]


def test_samples_that_are_all_one_keep_their_shares():
    """Also nearly one-hot ones, and in single precision."""
    one_hot = np.full(10, 1e-4)
    one_hot[0] = 1 - one_hot[1:].sum()
    for probs in ([0.5, 0.3, 0.2], [0.9, 0.05, 0.05], np.full(10, 0.1), one_hot):
        for dtype in (np.float64, np.float32):
            alpha = fit_dirichlet(np.log(np.array(probs, dtype)))
            np.testing.assert_allclose(alpha / alpha.sum(), probs, rtol=1e-4)
            assert alpha.sum() == pytest.approx((len(probs) - 1) / 2e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ([np.log(0.5)], "at least two classes"),
        ([-1.0, np.nan], "must be finite"),
        ([-1.0, -np.inf], "must be finite"),
        ([0.5, 0.5], "must be of probabilities"),
    ],
)
def test_what_will_not_do(means, message):
    with pytest.raises(ValueError, match=message):
        fit_dirichlet(np.array(means))


def test_samples_that_are_all_one_beside_others_warn_of_nothing(recwarn):
    """However long the others take."""
    wide = np.array([-700.0, -1e-3, -30.0])
    found = fit_dirichlet(np.stack([np.log([0.2, 0.3, 0.5]), wide]))
    np.testing.assert_allclose(found[1], fit_dirichlet(wide), rtol=1e-9)
    assert np.isfinite(found).all() and not recwarn.list
