"""Logistic-Gaussian integrals, predictions and Laplace's posterior, against brute force."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats
from sklearn.linear_model import LogisticRegression

from kd.inference import laplace, logistic, logistic_integrals
from kd.inference.logistic import METHODS, Gaussian, logistic_log_probs, predict_logistic
from kd.inference.logistic_integrals import log_expected_sigmoid, mackay_moments, tilted_moments

SCALES = [1e-6, 1e-2, 0.3, 1.0, 3.0, 10.0, 40.0, 100.0, 300.0, 1e3]
MEANS = [0.0, 0.02, 0.5, 2.0, 9.0, 35.0, 100.0, 300.0, 2500.0, 1e4]
PANEL_NODES, PANEL_WEIGHTS = np.polynomial.legendre.leggauss(24)


def brute_moments(m, s):
    """Log Z, mean less m, variance, slope, curvature: 15,000 nodes on panels about mode and 0."""
    v = s**2
    low, high = 0.0, v  # The mode less m, where (z - m) / s² = 1 - σ(z), by bisection.
    for _ in range(200):
        mode = (low + high) / 2
        low, high = (low, mode) if mode / v > special.expit(-m - mode) else (mode, high)
    spread = 12 * s * np.concatenate([[0.0], np.geomspace(1e-4, 2, 250)])
    edges = [centre + sign * spread for centre in (0, -m - mode) for sign in (-1, 1)]
    edges = np.unique(np.clip(np.concatenate(edges), -12 * s, 12 * s))
    half = np.diff(edges)[:, None] / 2
    d = (edges[:-1, None] + half + half * PANEL_NODES).ravel()
    z = m + mode + d
    logs = special.log_expit(z) - (mode + d) ** 2 / (2 * v)
    peak = np.max(logs)
    w = np.exp(logs - peak) * (half * PANEL_WEIGHTS).ravel()
    log_z = peak + np.log(np.sum(w)) - np.log(2 * np.pi * v) / 2
    w /= np.sum(w)
    centre = w @ d
    rest = special.expit(-z)
    slope = w @ rest
    curvature = w @ (rest * special.expit(z)) - w @ (rest - slope) ** 2
    return log_z, mode + centre, w @ (d - centre) ** 2, slope, curvature


@pytest.mark.parametrize("scale", SCALES)
def test_moments_to_ten_digits_from_narrow_to_flat_and_far_out(scale):
    """Z, 1 - Z, variance and slope relative; the mean to the spread."""
    means = np.array([sign * m for m in MEANS for sign in (-1, 1)])
    found = tilted_moments(means, np.full(means.shape, scale**2))
    np.testing.assert_array_equal(
        log_expected_sigmoid(means, np.full(means.shape, scale**2)), found.log_normalizer
    )
    for i, m in enumerate(means):
        log_z, shift, variance, slope, curvature = brute_moments(m, scale)
        atol = max(1e-11, 1e-15 * abs(m))  # Of log Z: the rounding of m.
        np.testing.assert_allclose(found.log_normalizer[i], log_z, rtol=0, atol=atol)
        np.testing.assert_allclose(found.variance[i], variance, rtol=1e-10)
        atol = 1e-10 * np.sqrt(variance) + 1e-15 * abs(m)
        np.testing.assert_allclose(found.mean[i], m + shift, rtol=0, atol=atol)
        if m <= 3 * scale:  # Beyond, brute force's nodes miss what the slope is made of.
            np.testing.assert_allclose(found.slope[i], slope, rtol=1e-10)
            atol = 1e-13 * min(0.25, 1 / scale**2)
            np.testing.assert_allclose(found.curvature[i], curvature, rtol=1e-10, atol=atol)


def test_what_is_known_in_closed_form():
    scale = np.array([1e-6, 1.0, 50.0, 1e3])
    np.testing.assert_allclose(log_expected_sigmoid(0 * scale, scale**2), -np.log(2), rtol=1e-13)
    # Far out on the left σ(z) = exp(z): the normaliser of a log-normal, the Gaussian shifted.
    m, v = np.array([-1e4, -3000.0]), np.array([1.0, 2500.0])
    found = tilted_moments(m, v)
    np.testing.assert_allclose(found.log_normalizer, m + v / 2, rtol=1e-14)
    np.testing.assert_allclose(found.mean, m + v, rtol=1e-13)
    np.testing.assert_allclose(found.variance, v, rtol=1e-12)
    # The upper tail is representable where 1 - Z is not.
    np.testing.assert_allclose(
        log_expected_sigmoid(np.array([600.0]), np.array([4.0])), -np.exp(-598.0), rtol=1e-11
    )


def test_a_variance_of_zero_is_the_limit():
    m = np.array([-800.0, -1.0, 0.0, 2.0, 800.0])
    found = tilted_moments(m, np.zeros(5))
    np.testing.assert_allclose(found.log_normalizer, special.log_expit(m), rtol=1e-11)
    np.testing.assert_allclose(found.mean, m, rtol=0, atol=1e-100)
    np.testing.assert_array_equal(found.variance, np.zeros(5))
    np.testing.assert_allclose(found.slope, special.expit(-m), rtol=1e-11)
    variance = special.expit(m) * special.expit(-m)
    np.testing.assert_allclose(found.curvature, variance, rtol=1e-11)


@pytest.mark.parametrize("moments_fn", [tilted_moments, mackay_moments])
def test_slope_and_curvature_are_the_central_differences_of_log_z(moments_fn):
    m, s = (a.ravel() for a in np.meshgrid([-30.0, -4.0, -0.5, 0.0, 1.0, 6.0], [0.1, 1, 8, 60]))
    h = 1e-3 * np.hypot(1, s)
    below, at, above = (moments_fn(m + sign * h, s**2) for sign in (-1, 0, 1))
    slope = (above.log_normalizer - below.log_normalizer) / (2 * h)
    curvature = -(above.slope - below.slope) / (2 * h)
    np.testing.assert_allclose(at.slope, slope, rtol=1e-5)
    np.testing.assert_allclose(at.curvature, curvature, rtol=1e-4, atol=1e-9)
    # The moments are those that the derivatives imply.
    np.testing.assert_allclose(at.mean, m + s**2 * at.slope, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(at.variance, s**2 - s**4 * at.curvature, rtol=1e-10)


def test_mackay_by_hand():
    """κ² = 1/2 at s² = 8 / π; at m = √2 log 3, Z = 3/4."""
    m, v = np.sqrt(2) * np.log(3), 8 / np.pi
    found = mackay_moments(np.array(m), np.array(v))
    np.testing.assert_allclose(found.log_normalizer, np.log(0.75), rtol=1e-14)
    np.testing.assert_allclose(found.slope, 0.25 / np.sqrt(2), rtol=1e-14)
    np.testing.assert_allclose(found.curvature, 0.5 * 0.1875, rtol=1e-14)
    assert mackay_moments(np.zeros(1), np.full(1, 1e12)).variance / 1e12 > 1 - 2 / np.pi


margins = st.tuples(st.floats(-1e4, 1e4), st.floats(-7, 3).map(lambda e: 10.0 ** (2 * e)))


@given(margins, st.sampled_from([tilted_moments, mackay_moments]))
def test_moments_obey_their_bounds_and_mirror(margin, moments_fn):
    mean, variance = np.array([margin[0], -margin[0]]), np.full(2, margin[1])
    found = moments_fn(mean, variance)
    z = np.exp(found.log_normalizer)
    np.testing.assert_allclose(np.sum(z), 1, rtol=1e-12)
    assert all(np.isfinite(value).all() for value in found)
    assert np.all((found.variance > 0) & (found.variance <= variance * (1 + 1e-9)))
    assert np.all((found.slope >= 0) & (found.slope <= 1 + 1e-12) & (found.curvature >= 0))
    # The mean of the density of the logistic distribution is even in m.
    np.testing.assert_allclose(*(z * found.slope), rtol=1e-9, atol=1e-300)


def test_shapes_and_blocks():
    rng = np.random.default_rng(0)
    m, v = rng.normal(size=(3, 700)) * 10, np.exp(3 * rng.normal(size=(3, 700)))
    found = tilted_moments(m, v)
    assert m.size > 2 * logistic_integrals.BLOCK
    assert all(value.shape == (3, 700) and value.dtype == np.float64 for value in found)
    for i, j in [(0, 0), (1, 324), (1, 323), (2, 699)]:  # Alone, with its own number of nodes.
        for value, alone in zip(found, tilted_moments(m[i, j], v[i, j]), strict=True):
            assert alone.shape == ()
            np.testing.assert_allclose(value[i, j], alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("fn", [log_expected_sigmoid, tilted_moments, mackay_moments])
@pytest.mark.parametrize(
    "mean, variance, message",
    [
        (np.zeros(2), np.zeros(3), r"same shape, got \(2,\) and \(3,\)"),
        (np.zeros(0), np.zeros(0), r"mean must not be empty, got shape \(0,\)"),
        (np.array([np.nan]), np.ones(1), "mean must be finite"),
        (np.zeros(1), np.array([np.inf]), "variance must be finite"),
        (np.zeros(2), np.array([1.0, -0.5]), "variance must not be negative, got -0.5"),
    ],
)
def test_integrals_refuse(fn, mean, variance, message):
    with pytest.raises(ValueError, match=message):
        fn(mean, variance)


POSTERIOR = Gaussian(np.array([1.0, -0.5]), np.array([[3.0, 1.0], [1.0, 2.0]]))


def quad_prediction(margin, scale):
    """By QUADPACK over the standard normal, in pieces about the sigmoid's step."""
    integrand = lambda t: special.expit(margin + scale * t) * stats.norm.pdf(t)
    cuts = np.unique(np.clip((np.array([-30, -5, 0, 5, 30]) - margin) / scale, -9, 9))
    ends = np.unique([-9, 9, *cuts])
    pieces = [
        integrate.quad(integrand, a, b, epsabs=1e-13, epsrel=1e-11)[0]
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]
    return np.sum(pieces)


def test_predictions_of_the_three_methods():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2)) * np.exp(rng.uniform(-4, 8, size=(40, 1)))
    x = np.concatenate([x, np.zeros((1, 2))])
    margin, scale = x @ POSTERIOR.mean, np.sqrt(np.sum(x @ POSTERIOR.covariance * x, axis=1))
    exact = [quad_prediction(m, s) for m, s in zip(margin[:-1], scale[:-1], strict=True)] + [0.5]
    found = {method: predict_logistic(POSTERIOR, x, method=method) for method in METHODS}
    assert all(p.shape == (41,) and p.dtype == np.float64 for p in found.values())
    np.testing.assert_allclose(found["quadrature"], exact, rtol=1e-10)
    np.testing.assert_allclose(found["adaptive"], exact, rtol=0, atol=1e-11)
    mackay = special.expit(margin / np.sqrt(1 + np.pi * scale**2 / 8))
    np.testing.assert_allclose(found["mackay"], mackay, rtol=1e-13)
    error = np.max(np.abs(found["mackay"] - exact))
    assert 1e-3 < error < 0.018
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("scale", [1e-3, 0.5, 3.0, 40.0])
def test_log_probabilities_of_both_labels(scale):
    """Each against brute force of its own, where the other has 1 less nothing too."""
    margin = np.array([0.0, 0.3, -2.0, 35.0, -35.0, 800.0, -1e4])
    gaussian = Gaussian(np.array([1.0, 0.0]), np.diag([0.0, scale**2]))
    x = np.stack([margin, np.ones(7)], axis=1)
    found = logistic_log_probs(gaussian, x)
    exact = [[brute_moments(sign * m, scale)[0] for sign in (-1, 1)] for m in margin]
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-11)
    tail = np.exp(-800.0 + scale**2 / 2)
    if scale < 30:  # Log-normal: where double precision has 1, its logarithm is not 0.
        np.testing.assert_allclose(found[5, 1], -tail, rtol=1e-9)
    mackay = logistic_log_probs(gaussian, x, method="mackay")
    scaled = margin / np.sqrt(1 + np.pi * scale**2 / 8)
    expected = special.log_expit(np.stack([-scaled, scaled], axis=1))
    np.testing.assert_allclose(mackay, expected, rtol=1e-13)
    for method, log_probs in (("quadrature", found), ("mackay", mackay)):
        np.testing.assert_array_equal(
            predict_logistic(gaussian, x, method=method), np.exp(log_probs[:, 1])
        )


def test_adaptive_quadrature_does_not_step_over_the_step():
    """Margins of a spread up to 1e5: without cuts about it the error was 3e-4, unnoticed."""
    rng = np.random.default_rng(2)
    scale = np.exp(rng.uniform(-9, 12, size=500))
    margin = scale * rng.uniform(-12, 12, size=500)
    with jax.enable_x64(True):
        found = np.asarray(logistic._adaptive(margin, scale))
    exact = np.exp(log_expected_sigmoid(margin, scale**2))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11)


def test_predictions_of_a_point_mass_are_the_sigmoid():
    x = np.array([[1.0, 2.0], [-3.0, 4.0]])
    gaussian = Gaussian(POSTERIOR.mean, np.zeros((2, 2)))
    for method in METHODS:
        found = predict_logistic(gaussian, x, method=method)
        np.testing.assert_allclose(found, special.expit(x @ POSTERIOR.mean), rtol=1e-11)


@pytest.mark.parametrize(
    "gaussian, x, method, message",
    [
        (POSTERIOR, np.ones((3, 2)), "monte carlo", "method must be one of quadrature, .*'monte"),
        (POSTERIOR, np.ones(2), "mackay", r"x must have rank 2, got shape \(2,\)"),
        (POSTERIOR, np.ones((3, 1)), "mackay", r"x must have shape \[..., 2\], got \(3, 1\)"),
        (POSTERIOR, np.ones((0, 2)), "mackay", r"x must hold at least one .*\(0, 2\)"),
        (POSTERIOR, np.full((1, 2), np.inf), "mackay", "x must be finite"),
        (Gaussian(np.ones((1, 2)), np.eye(2)), np.ones((1, 2)), "mackay", "mean must have rank 1"),
        (Gaussian(np.ones(2), np.eye(3)), np.ones((1, 2)), "mackay", r"shape \(2, 2\), got \(3, 3"),
        (Gaussian(np.ones(1), np.full((1, 1), np.nan)), np.ones((1, 1)), "mackay", "finite"),
        (
            Gaussian(np.ones(2), np.array([[1.0, 0.5], [0.0, 1.0]])),
            np.ones((1, 2)),
            "mackay",
            "gaussian.covariance must be symmetric, got correlations that differ by 0.5",
        ),
        (
            Gaussian(np.ones(2), np.diag([1.0, -1.0])),
            np.ones((1, 2)),
            "mackay",
            "positive semi-definite, got correlations with the eigenvalue -1",
        ),
    ],
)
def test_predictions_refuse(gaussian, x, method, message):
    for fn in (predict_logistic, logistic_log_probs):
        with pytest.raises(ValueError, match=message):
            fn(gaussian, x, method=method)


def test_log_probabilities_have_no_adaptive_quadrature():
    """Its error is absolute: of a small probability nothing would be left."""
    with pytest.raises(ValueError, match="method must be one of quadrature, mackay; got 'adaptive"):
        logistic_log_probs(POSTERIOR, np.ones((1, 2)), method="adaptive")


def make_data(num=40, num_dims=3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(num, num_dims))
    y = (rng.random(num) < special.expit(2 * x[:, 0] - x[:, -1])).astype(int)
    a = rng.normal(size=(num_dims, num_dims))
    return x, y, a @ a.T + np.eye(num_dims)


def log_joint(w, x, y, prior):
    prior = stats.multivariate_normal(np.zeros(len(w)), prior)
    return np.sum(special.log_expit((2 * y - 1) * (x @ w))) + prior.logpdf(w)


def central(fn, w, h=1e-4):
    """Gradient by central differences, one row an entry of `w`."""
    return np.array([(fn(w + h * e) - fn(w - h * e)) / (2 * h) for e in np.eye(len(w))])


def test_laplace_is_at_the_mode_with_the_curvature_there():
    x, y, prior = make_data()
    found = laplace.logistic_laplace(x, y, prior_covariance=prior)
    assert found.is_converged and found.num_iterations < 10
    log_p = lambda w: log_joint(w, x, y, prior)
    gradient = lambda w: x.T @ (y - special.expit(x @ w)) - np.linalg.solve(prior, w)
    np.testing.assert_allclose(central(log_p, found.mean), gradient(found.mean), atol=1e-7)
    np.testing.assert_allclose(gradient(found.mean), 0, atol=1e-12)
    hessian = -central(gradient, found.mean)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(hessian), rtol=1e-6)
    evidence = log_p(found.mean) + 1.5 * np.log(2 * np.pi) - np.linalg.slogdet(hessian)[1] / 2
    np.testing.assert_allclose(found.log_evidence, evidence, rtol=1e-7)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 1e4])
def test_laplace_finds_scikit_learns_mode(variance):
    x, y, _ = make_data()
    model = LogisticRegression(
        C=variance, fit_intercept=False, tol=1e-12, solver="newton-cholesky", max_iter=1000
    )
    found = laplace.logistic_laplace(x, y, prior_covariance=variance)
    np.testing.assert_allclose(found.mean, model.fit(x, y).coef_[0], rtol=1e-6)


def test_laplace_takes_half_steps_where_full_ones_go_astray():
    x = np.array([[-0.03, 0.15], [12.4, -63.1], [2.4, 8.5], [0.7, -0.5], [-2.8, -1.4]])
    y = np.array([0, 1, 1, 1, 0])
    gradient = lambda w: x.T @ (y - special.expit(x @ w)) - w / 1e4
    hessian = lambda w: (x.T * special.expit(x @ w) * special.expit(-x @ w)) @ x + np.eye(2) / 1e4
    w = np.zeros(2)
    for _ in range(30):
        w = w + np.linalg.solve(hessian(w), gradient(w))
    assert np.max(np.abs(gradient(w))) > 1e-3
    found = laplace.logistic_laplace(x, y, prior_covariance=1e4, max_iterations=30)
    assert found.is_converged
    np.testing.assert_allclose(gradient(found.mean), 0, atol=1e-11)


def test_laplace_cut_short_says_so():
    x, y, prior = make_data()
    found = laplace.logistic_laplace(x, y, prior_covariance=prior, max_iterations=2)
    assert not found.is_converged and found.num_iterations == 2
    assert np.isfinite(found.mean).all() and np.isfinite(found.log_evidence)


BAD = [
    ({"x": np.ones(4)}, "x must have rank 2"),
    ({"x": np.ones((0, 2)), "y": np.ones(0)}, r"x must hold at least one .* got \(0, 2\)"),
    ({"x": np.ones((4, 0))}, r"x must hold at least one .* got \(4, 0\)"),
    ({"x": np.array([[1.0, np.nan]] * 4)}, "x must be finite"),
    ({"x": np.full((4, 2), 1e200)}, r"x is too large for this prior, up to 1e\+200"),
    ({"y": np.ones((4, 1))}, r"y must have rank 1, got shape \(4, 1\)"),
    ({"y": np.ones(3)}, "same length, got 4 and 3"),
    ({"y": np.array([-1, 1, 1, -1])}, "y must hold zeros and ones alone"),
    ({"y": np.array([0, 1, np.nan, 1])}, "y must hold zeros and ones alone"),
    ({"prior_covariance": 0.0}, "prior_covariance must be finite and positive, got 0.0"),
    ({"prior_covariance": np.ones(2)}, r"prior_covariance must have shape \(2, 2\), got \(2,\)"),
    ({"prior_covariance": np.eye(3)}, r"prior_covariance must have shape \(2, 2\), got \(3, 3\)"),
    ({"prior_covariance": np.full((2, 2), np.nan)}, "prior_covariance must be finite"),
    ({"prior_covariance": np.array([[1, 0.1], [0.3, 1]])}, "must be symmetric, .* 0.2"),
    ({"prior_covariance": np.ones((2, 2))}, "must be positive definite, got correlations"),
    ({"prior_covariance": np.diag([1.0, 0.0])}, "must be positive definite, .* eigenvalue 0"),
    ({"tolerance": 0.0}, "tolerance must be finite and positive, got 0.0"),
]


@pytest.mark.parametrize("change, message", [*BAD, ({"max_iterations": 0}, "at least 1, got 0")])
def test_laplace_refuses(change, message):
    arguments = {"x": np.eye(4, 2), "y": np.array([0, 1, 1, 0]), "prior_covariance": 1.0}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        laplace.logistic_laplace(arguments.pop("x"), arguments.pop("y"), **arguments)
    with pytest.raises(TypeError, match="max_iterations must be an integer, got 2.0"):
        laplace.logistic_laplace(
            np.ones((1, 1)), np.ones(1), prior_covariance=1.0, max_iterations=2.0
        )


def test_priors_of_weights_in_far_units_are_fine():
    """Eigenvalues 1e20 apart are no want of rank."""
    x, y, _ = make_data()
    units = np.array([1e-10, 1.0, 1e10])
    plain = laplace.logistic_laplace(x, y, prior_covariance=np.eye(3))
    found = laplace.logistic_laplace(x / units, y, prior_covariance=np.diag(units**2))
    np.testing.assert_allclose(found.mean, plain.mean * units, rtol=1e-9)
    np.testing.assert_allclose(
        found.covariance, plain.covariance * np.outer(units, units), rtol=1e-9
    )
