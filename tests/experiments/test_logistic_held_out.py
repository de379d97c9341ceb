"""experiments.logistic_regression: held-out scores of two classes, and of what is surely wrong."""

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
import study_runs
from logistic_oracles import (
    assert_gaps,
    assert_scores,
    bag_log_probs,
    exact_moments,
    expectation_propagation,
    gaussian_log_probs,
    halves,
    laplace,
    mackay_log_probs,
    mackay_moments,
)
from sklearn import datasets

from experiments.flags import resolve
from experiments.logistic_regression import approximations, problems, study, tables
from experiments.logistic_regression.settings import Settings
from kd import inference
from kd.export import load_student

MODULE = "experiments.logistic_regression"
TINY = {
    "dataset": "breast_cancer",
    "input_variance": 1,
    "loss": "ce",
    "num_samples": 400,
    "num_chains": 2,
    "burn_in": 50,
    "num_members": 3,
    "num_iterations": 30,
    "num_repeats": 1,
    "num_inputs": 50,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("held_out") / "run"
    with study_runs.unverified_exports(), mock.patch.object(approximations, "WARMUP", 200):
        return study_runs.succeed_here(path, TINY, module=MODULE)


@pytest.fixture(scope="module")
def expected(finished):
    """Log-probabilities of the mean over the bag at the held-out inputs, by NumPy."""
    bag = study_runs.checkpointed_student(finished.path, "bag")["kept"]
    assert np.shape(bag) == (400, 31)
    return bag_log_probs(bag, halves(datasets.load_breast_cancer)[2])


def test_scores_of_samples(finished, expected):
    _, _, x, y = halves(datasets.load_breast_cancer)
    assert x.shape == (285, 31)
    assert_scores(finished, "mcmc", expected[None], y)
    with np.load(finished.path / "draws" / "hmc.npz") as file:
        log_probs = bag_log_probs(file["w"].reshape(400, 31), x)
    assert_scores(finished, "hmc", log_probs[None], y)
    assert_gaps(finished, "test", "hmc", np.exp(log_probs)[None], np.exp(expected))


@pytest.mark.parametrize("mode", ["batch", "online"])
def test_scores_of_exported_students(finished, expected, mode):
    """From the exported weights in NumPy, and as the export computes them."""
    _, _, x, y = halves(datasets.load_breast_cancer)
    student = load_student(finished.path / "student" / f"{mode}-ce-1.0")
    weights = student.params["params/w"]
    assert weights.shape == (3, 31)
    log_probs = bag_log_probs(weights, x)
    exported = np.asarray(student(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(exported, log_probs, rtol=1e-4, atol=1e-5)
    assert_scores(finished, f"{mode},ce,1", log_probs[None], y)
    assert_gaps(finished, "test", f"{mode},ce,1", np.exp(log_probs)[None], np.exp(expected))


@pytest.mark.parametrize(
    ("name", "moments_fn", "log_probs_fn"),
    [
        ("laplace", None, gaussian_log_probs),
        ("ep", exact_moments, gaussian_log_probs),
        ("ep_thesis", mackay_moments, gaussian_log_probs),
        ("ep_mackay", mackay_moments, mackay_log_probs),
    ],
    ids=["laplace", "ep", "ep_thesis", "ep_mackay"],
)
def test_scores_of_gaussians(finished, expected, name, moments_fn, log_probs_fn):
    """Posteriors and predictions by NumPy and SciPy, under a prior of variance 100."""
    train_x, train_y, x, y = halves(datasets.load_breast_cancer)
    if moments_fn is None:
        gaussian = laplace(train_x, train_y, 100.0)
    else:
        gaussian = expectation_propagation(train_x, train_y, 100.0, moments_fn)
    log_probs = log_probs_fn(*gaussian, x)
    # The run's factors stop within 1e-4 of their fixed point.
    rel = 2e-4 if moments_fn is None else 2e-3
    assert_scores(finished, name, log_probs[None], y, rel=rel)
    assert_gaps(finished, "test", name, np.exp(log_probs)[None], np.exp(expected), rel=rel)


def test_scores_are_worth_their_rows(finished):
    """Those of a posterior that has learnt; of every predictor there is."""
    values = finished.values()
    for kind in ("mcmc", "batch,ce,1", "online,ce,1", *tables.OTHERS):
        assert 90 < values[f"accuracy[{kind}]"] <= 100 and -0.3 < values[f"log_prob[{kind}]"] < 0
    assert values["cost.bytes[mcmc]"] == 400 * 31 * 4
    assert values["cost.bytes[ep]"] == (31 + 31 * 31) * 8
    assert "mean_gap.square[hmc]" not in values


@pytest.mark.parametrize("num_classes", [2, 3])
def test_held_out_scores_of_what_is_certain_and_wrong(num_classes):
    """Every kind of predictor, at labels of probability 1e-40 and less: no floor, no 1 - p."""
    rng = np.random.default_rng(0)
    x = 200 * rng.normal(size=(40, 2)).astype(np.float32)
    y = rng.integers(num_classes, size=40)
    problem = problems.Problem(x[:4], y[:4], x, y, num_classes)
    centre = rng.normal(size=problem.weight_shape())
    noise = lambda *shape: 0.2 * rng.normal(size=(*shape, *centre.shape))
    samples, students, drawn = (
        (centre + noise(*shape)).astype(np.float32) for shape in ((50,), (2, 3), (7,))
    )
    bag = study.Bag(samples, 1.0, 9.0)
    others = {"hmc": approximations.Approximation(None, drawn, r_hat=1.0)}
    expected = {"mcmc": [bag.samples], "batch,ce,1": students, "hmc": [drawn]}
    expected = {k: np.stack([bag_log_probs(w, x) for w in v]) for k, v in expected.items()}
    if problem.is_binary:
        gaussian = inference.Gaussian(np.array([1.0, -0.5]), np.array([[2e-4, 1e-4], [1e-4, 1e-4]]))
        for name, method in (("ep", "quadrature"), ("ep_mackay", "mackay")):
            others[name] = approximations.Approximation(gaussian, None, method)
        expected["ep"] = gaussian_log_probs(*gaussian, x.astype(float))[None]
        expected["ep_mackay"] = mackay_log_probs(*gaussian, x.astype(float))[None]
    fitted, where = {("batch", "ce", 1.0): {"params": {"w": students}}}, {"test": x}
    predictions = tables.predict_all(problem, where, bag, fitted, others)
    settings = resolve(Settings, "quick", {})
    rows = tables.rows(settings, problem, bag, fitted, others, where, predictions)
    summary = {"rows": [row._asdict() for row in rows]}
    for name, log_probs in expected.items():
        chosen = log_probs[:, np.arange(40), y]
        assert chosen.min() < -100, name
        study_runs.assert_row(summary, f"log_prob[{name}]", chosen.mean(axis=1), rel=1e-5)
        right = 100 * np.mean(log_probs.argmax(axis=-1) == y, axis=1)
        study_runs.assert_row(summary, f"accuracy[{name}]", right)
        # Of the other class too, whichever is the certain one.
        np.testing.assert_allclose(predictions[name, "test"], log_probs, rtol=1e-5, atol=1e-4)
