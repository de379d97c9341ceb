"""experiments.logistic_regression: runs on points and real data, resumed; problems, gaps."""

import json
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from PIL import Image
from scipy import integrate, special, stats
from sklearn import datasets

from experiments.chains import divergence
from experiments.flags import UserError, resolve
from experiments.logistic_regression import approximations, chains, problems, study, tables
from experiments.logistic_regression.settings import Settings
from experiments.run import Run
from kd import inference, training
from kd.export import load_student

MODULE = "experiments.logistic_regression"
TINY = {
    "num_samples": 400,
    "num_chains": 2,
    "burn_in": 50,
    "num_members": 3,
    "num_iterations": 30,
    "num_repeats": 2,
    "num_inputs": 200,
}
POINTS = TINY | {"input_variance": "10,100"}
WINE = TINY | {"dataset": "wine", "input_variance": 1, "loss": "dse"}
KINDS = [
    f"{mode},{loss},{variance}"
    for variance in (10, 100)
    for mode in ("batch", "online")
    for loss in ("ce", "dse")
]
OTHERS = list(tables.OTHERS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("logistic_regression") / "run"
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, POINTS, module=MODULE)


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    path = tmp_path_factory.mktemp("logistic_regression") / "wine"
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, WINE, module=MODULE)


# Runs.


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    assert {path.name for path in (finished.path / "figures").iterdir()} == {
        *("setup.png", "training.png", "surfaces-10.png", "surfaces-100.png")
    }
    for path in (finished.path / "figures").iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5
    assert {path.name for path in (finished.path / "student").iterdir()} == {
        kind.replace(",", "-") + ".0" for kind in KINDS
    }


def test_rows_of_every_kind(finished):
    values = finished.values()
    for kind in KINDS + OTHERS:
        for place in ("inputs_10", "inputs_100", "square"):
            mean, most = values[f"mean_gap.{place}[{kind}]"], values[f"max_gap.{place}[{kind}]"]
            assert 0 < mean < most < 1
    # Another sampler's predictions are the nearest, and Laplace's far away.
    assert values["mean_gap.square[hmc]"] < 0.05 < values["mean_gap.square[laplace]"]
    assert values["cost.bytes[student]"] == 3 * 2 * 4
    assert values["cost.bytes[mcmc]"] == 400 * 2 * 4 and values["cost.bytes[ep]"] == 6 * 8
    assert values["r_hat"] < 1.3 and 10 < values["ess"] < 800
    metrics = finished.metrics()
    for kind in KINDS:
        rows = metrics[f"student[{kind}]"]
        variance = kind.rsplit(",", 1)[-1]
        assert int(rows[-1]["step"]) == 30
        found = values[f"mean_gap.inputs_{variance}[{kind}]"]
        assert float(rows[-1]["gap"]) == pytest.approx(found, rel=1e-4)


def test_the_tables_fit(finished, wine):
    for run in (finished, wine):
        shown = run.stdout[: run.stdout.index("Look at")]
        assert max(map(len, shown.splitlines())) <= 80, shown
    assert f"{finished.values()['mean_gap.square[batch,dse,100]']:.4f} ±" in finished.stdout
    assert f"{wine.values()['accuracy[mcmc]']:.2f}" in wine.stdout


def test_an_exported_student_has_the_gap_it_says(finished):
    """By NumPy: means of sigmoids of the exported weights and of the bag's checkpoint."""
    samples = study_runs.checkpointed_student(finished.path, "bag")["kept"]
    x = tables.square().astype(float)
    expected = oracles.sigmoid(x @ np.asarray(samples, float).T).mean(1)
    gaps = []
    student = load_student(finished.path / "student" / "batch-ce-10.0")
    found = np.exp(np.asarray(student(jnp.asarray(x, jnp.float32)), float))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    weights = np.asarray(student.params["params/w"], float)
    np.testing.assert_allclose(found[:, 1], oracles.sigmoid(x @ weights.T).mean(1), atol=1e-5)
    gaps.append(np.abs(found[:, 1] - expected).mean())
    # Of the two students the row has the mean.
    rows = {row["name"]: row for row in finished.summary()["rows"]}
    row = rows["mean_gap.square[batch,ce,10]"]
    assert gaps[0] == pytest.approx(row["value"], abs=1.01 * row["stderr"] + 1e-6)


# The final figures, from checkpoints alone.


def mean_probs(weights, x):
    """Of classifiers' weights `[S, D]` or `[S, C, D]` at inputs `[M, D]`: `[M, C]`."""
    weights = np.asarray(weights, float)
    if weights.ndim == 2:
        weights = np.stack([np.zeros_like(weights), weights], axis=1)
    return oracles.softmax(np.einsum("scd,md->smc", weights, x)).mean(axis=0)


def assert_row(summary, name, values, *, rel=2e-4):
    """A row has the mean of students' values, its standard error, and how many they are."""
    (row,) = [row for row in summary["rows"] if row["name"] == name]
    assert row["value"] == pytest.approx(np.mean(values), rel=rel, abs=2e-6), name
    assert row["repeats"] == len(values), name
    if len(values) == 1:
        assert row["stderr"] is None, name
    else:
        expected = np.std(values, ddof=1) / np.sqrt(len(values))
        assert row["stderr"] == pytest.approx(expected, rel=1e-3, abs=2e-6), name


def assert_gaps(run, place, kind, probs, expected, **options):
    """Rows of gaps between students' predictions `[R, M, C]` and the bag's `[M, C]`."""
    gaps = np.abs(probs - expected).reshape(len(probs), -1)
    for name, values in (("mean_gap", gaps.mean(axis=1)), ("max_gap", gaps.max(axis=1))):
        assert_row(run.summary(), f"{name}.{place}[{kind}]", values, **options)


def compared_inputs(settings):
    """The inputs at which the points' predictions are compared, by place."""
    settings = resolve(Settings, "quick", {name: str(value) for name, value in settings.items()})
    run = Run(settings, options=None, workdir=None, log=None, writer=None)
    found = tables.places(run, problems.load(settings))
    axis = np.linspace(-8, 8, 81)
    np.testing.assert_allclose(
        found["square"], [[x, y] for y in axis for x in axis], atol=1e-6, rtol=0
    )
    return {place: np.asarray(x, float) for place, x in found.items()}


@pytest.mark.parametrize("kind", ["batch,ce,10", "online,dse,100"])
def test_gaps_of_students_by_value(finished, kind):
    """By NumPy, over the square and over the inputs of each variance."""
    bag = study_runs.checkpointed_student(finished.path, "bag")["kept"]
    phase = "student-" + kind.replace(",", "-")
    students = study_runs.checkpointed(finished.path, phase)["params"]["w"]
    assert np.shape(students) == (2, 3, 2)
    exported = load_student(finished.path / "student" / (kind.replace(",", "-") + ".0"))
    np.testing.assert_array_equal(exported.params["params/w"], students[0])
    for place, x in compared_inputs(POINTS).items():
        probs = np.stack([mean_probs(student, x) for student in students])
        assert_gaps(finished, place, kind, probs, mean_probs(bag, x))


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


@pytest.mark.parametrize(
    ("name", "fit_fn", "probs_fn"),
    [
        ("laplace", laplace, gaussian_probs),
        ("ep", lambda *given: expectation_propagation(*given, exact_moments), gaussian_probs),
        ("ep_mackay", lambda *given: expectation_propagation(*given, mackay_moments), mackay_probs),
    ],
    ids=["laplace", "ep", "ep_mackay"],
)
def test_gaps_of_gaussians_by_value(finished, name, fit_fn, probs_fn):
    """Posteriors and predictions by NumPy and SciPy, under a prior of variance 100."""
    bag = study_runs.checkpointed_student(finished.path, "bag")["kept"]
    gaussian = fit_fn(problems.POINTS, problems.LABELS, 100.0)
    for place, x in compared_inputs(POINTS).items():
        ones = probs_fn(*gaussian, x)
        probs = np.stack([1 - ones, ones], axis=1)
        # The run's factors stop within 1e-4 of their fixed point.
        rel = 2e-4 if name == "laplace" else 2e-3
        assert_gaps(finished, place, name, probs[None], mean_probs(bag, x), rel=rel)


def test_held_out_scores_by_value(wine):
    """Of the bag and of a kind of student, in NumPy, on scikit-learn's data."""
    found = datasets.load_wine()
    train, test = np.split(np.random.default_rng(0).permutation(178), [89])
    x = (found.data - found.data[train].mean(axis=0)) / found.data[train].std(axis=0)
    x, y = np.column_stack([x, np.ones(178)])[test], found.target[test]
    bag = study_runs.checkpointed_student(wine.path, "bag")["kept"]
    students = study_runs.checkpointed(wine.path, "student-online-dse-1")["params"]["w"]
    assert np.shape(bag) == (400, 3, 14) and np.shape(students) == (2, 3, 3, 14)
    expected = mean_probs(bag, x)
    probs = np.stack([mean_probs(student, x) for student in students])
    assert_gaps(wine, "test", "online,dse,1", probs, expected)
    for kind, found in (("mcmc", expected[None]), ("online,dse,1", probs)):
        right = [100 * np.mean(one.argmax(axis=1) == y) for one in found]
        assert_row(wine.summary(), f"accuracy[{kind}]", right)
        log_probs = [np.log(one[np.arange(len(y)), y]).mean() for one in found]
        assert_row(wine.summary(), f"log_prob[{kind}]", log_probs)


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
        assert_row(summary, f"log_prob[{name}]", chosen.mean(axis=1), rel=1e-5)
        right = 100 * np.mean(log_probs.argmax(axis=-1) == y, axis=1)
        assert_row(summary, f"accuracy[{name}]", right)
        # Of the other class too, whichever is the certain one.
        np.testing.assert_allclose(predictions[name, "test"], log_probs, rtol=1e-5, atol=1e-4)


def test_real_data_of_three_classes(wine):
    values = wine.values()
    for kind in ("mcmc", "batch,dse,1", "online,dse,1", "hmc"):
        assert 50 < values[f"accuracy[{kind}]"] <= 100 and values[f"log_prob[{kind}]"] < 0
    assert "mean_gap.test[ep]" not in values and "mean_gap.square[hmc]" not in values
    assert values["cost.bytes[mcmc]"] == 400 * 3 * 14 * 4
    config = json.loads((wine.path / "config.json").read_text())
    assert config["settings"]["dataset"] == "wine"


def test_a_run_killed_again_and_again_ends_with_the_same_bits(wine, tmp_path):
    """In a burn-in, while the bag is filled, and in the middle of a student beside a chain."""
    path = tmp_path / "run"
    for phase in ("burn_in-bag", "bag", "student-online-dse-1"):
        process = study_runs.start(path, WINE | {"checkpoint_seconds": 0}, module=MODULE)
        stopped = study_runs.interrupt(
            process, lambda phase=phase: study_runs.checkpoints(path, phase), signal.SIGKILL
        )
        assert stopped.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()
    with study_runs.unverified_exports():
        resumed = study_runs.succeed_here(path, WINE, module=MODULE)
    study_runs.assert_same_bits(resumed, wine)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"num_samples": 500}, "--num_samples must be a multiple of 100 x --num_chains = 200"),
        ({"dataset": "iris"}, "--dataset must be points | breast_cancer | wine; got 'iris'."),
        ({"loss": "mse"}, "--loss must be ce | dse; got 'mse'."),
        ({"input_variance": 0}, "--input_variance"),
        ({"sampler": "nuts"}, "--sampler must be slice | sgld | sghmc; got 'nuts'."),
        ({"step_size": 0}, "--step_size"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    line = study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)
    assert expected in line and not (tmp_path / "run").exists()


def test_a_chain_that_diverges_is_one_line(tmp_path):
    """The prior's curvature lets no step beyond 400 be stable."""
    changed = TINY | {"sampler": "sgld", "step_size": 1e4, "loss": "ce"}
    line = study_runs.refusal(tmp_path / "run", changed, module=MODULE)
    assert "the chain diverged, by step 1 of" in line and "--step_size=10000 is too large" in line
    assert not (tmp_path / "run" / "summary.json").exists()


def test_only_the_chain_is_blamed_on_its_step_size():
    for names, expected in (
        (["log_posterior", "loss"], UserError),
        (["loss"], training.NonFiniteLossError),
    ):
        with pytest.raises(expected, match="step 7"), divergence("sgld", 0.1):
            raise training.NonFiniteLossError(7, names)


@pytest.mark.parametrize("changed", [{"sampler": "sghmc", "minibatch": 8}, {"sampler": "sgld"}])
def test_langevin_chains(changed, tmp_path):
    changed = TINY | changed | {"mode": "online", "loss": "ce", "step_size": 0.05, "thin": 2}
    with study_runs.unverified_exports():
        run = study_runs.succeed_here(tmp_path / "run", changed, module=MODULE)
    rows = run.metrics()["student[online,ce,10]"]
    assert all(-1e3 < float(row["log_posterior"]) < 0 for row in rows)


# Problems.


@pytest.mark.parametrize("sampler", ["sgld", "sghmc"])
@pytest.mark.parametrize("minibatch", [0, 12])
def test_langevin_chains_have_the_law_of_slice_sampling(sampler, minibatch):
    """Of the points' posterior, made narrow by its prior."""
    problem = problems.load(resolve(Settings, "quick", {}))
    draws = {}
    for name in ("slice", sampler):
        given = {"sampler": name, "prior_variance": 0.5, "step_size": 0.02, "burn_in": 500}
        given |= {"minibatch": minibatch, "thin": 1 if name == "slice" else 20, "friction": 0.2}
        settings = resolve(Settings, "quick", {k: str(v) for k, v in given.items()})
        stream = chains.stream(problem, settings, 8000, 4)
        init_key, key = jax.random.split(jax.random.key(0))
        draws[name] = np.asarray(stream.next(key, stream.init(init_key))[1]["w"], float)
    scale = draws["slice"].std(0)
    gaps = (draws[sampler].mean(0) - draws["slice"].mean(0)) / scale
    assert np.max(np.abs(gaps)) < 0.15
    np.testing.assert_allclose(draws[sampler].std(0), scale, rtol=0.12)


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_coordinates_are_of_laplaces_approximation(name):
    problem = problems.load(resolve(Settings, "quick", {"dataset": name}))
    chart = problem.chart(4.0)
    size = len(chart.factor)
    with jax.enable_x64(True):
        energy = lambda z: -problem.log_posterior(chart.weights(z), 4.0)
        np.testing.assert_allclose(jax.grad(energy)(jnp.zeros(size)), 0, atol=1e-4)
        np.testing.assert_allclose(jax.hessian(energy)(jnp.zeros(size)), np.eye(size), atol=1e-3)
        if problem.is_binary:
            found = inference.logistic_laplace(
                problem.train_x.astype(float), problem.train_y, prior_covariance=4.0
            )
            np.testing.assert_allclose(chart.origin, found.mean, atol=1e-3)
            covariance = chart.factor @ chart.factor.T
            np.testing.assert_allclose(covariance, found.covariance, atol=1e-3)


def test_the_points_are_those_of_the_generator():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(12, 2)) + centre for centre in ([-4, 0], [4, 0])]
    np.testing.assert_allclose(problems.POINTS, np.concatenate(x).round(3), atol=1e-9)
    drawn = rng.uniform(size=24) < oracles.sigmoid(problems.POINTS[:, 0])
    np.testing.assert_array_equal(problems.LABELS, drawn)
    # A line separates them, at the origin's two sides.
    assert ((problems.POINTS[:, 0] > 0) == problems.LABELS).all()


@pytest.mark.parametrize("name", ["points", "breast_cancer", "wine"])
def test_log_posteriors_against_numpy(name):
    settings = resolve(Settings, "quick", {"dataset": name})
    problem = problems.load(settings)
    w = np.random.default_rng(1).normal(size=problem.weight_shape())
    logits = problem.train_x.astype(float) @ w.T
    if problem.is_binary:
        logits = np.stack([np.zeros(len(logits)), logits], axis=1)
    log_probs = oracles.log_softmax(logits)
    expected = log_probs[np.arange(len(logits)), problem.train_y].sum() - (w**2).sum() / 200
    with jax.enable_x64(True):
        found = problem.log_posterior(jnp.asarray(w), 100.0)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert problem.num_classes == len(np.unique(problem.train_y)) == {"wine": 3}.get(name, 2)


def test_real_data_are_standardised_by_their_training_part():
    problem = problems.load(resolve(Settings, "quick", {"dataset": "wine"}))
    np.testing.assert_allclose(problem.train_x[:, :-1].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(problem.train_x[:, :-1].std(0), 1, atol=1e-5)
    assert (problem.train_x[:, -1] == 1).all() and (problem.test_x[:, -1] == 1).all()
    assert len(problem.train_x) + len(problem.test_x) == 178
    other = problems.load(resolve(Settings, "quick", {"dataset": "wine", "seed": "1"}))
    assert not np.array_equal(problem.train_y, other.train_y)


def test_inputs_have_the_law_they_should():
    problem = problems.load(resolve(Settings, "quick", {}))
    stream = study.inputs(problem, 20_000, 9.0)
    _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(1)))
    np.testing.assert_allclose(np.cov(np.asarray(batch["x"]).T), 9 * np.eye(2), atol=0.35)
    wine = problems.load(resolve(Settings, "quick", {"dataset": "wine"}))
    stream = study.inputs(wine, 20_000, 4.0)
    _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(1)))
    x = np.asarray(batch["x"], float)
    assert (x[:, -1] == 1).all()
    np.testing.assert_allclose(np.cov(x[:, :-1].T), 4 * np.cov(wine.train_x[:, :-1].T), atol=0.3)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_objectives_by_value(num_classes):
    """Batch and online, both losses, in NumPy with central differences."""
    problem = problems.Problem(np.zeros((1, 2)), np.zeros(1, int), None, None, num_classes)
    shape = problem.weight_shape()
    assert shape == {2: (2,), 3: (3, 2)}[num_classes]
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(4, 2)), rng.normal(size=(4, *shape))
    student, teacher = rng.normal(size=(3, *shape)), rng.normal(size=(50, *shape))

    def log_probs(members):
        return lambda x: np.log(mean_probs(members, x[None])[0])

    def expected(loss, teacher_fns):
        total = 0.0
        for one, teacher_fn in zip(x, teacher_fns, strict=True):
            t, f = np.exp(teacher_fn(one)), log_probs(student)
            if loss == "ce":
                total += oracles.cross_entropy(f(one), t)
            else:
                gaps = oracles.central_jacobian(f, one) - oracles.central_jacobian(teacher_fn, one)
                total += 0.5 * np.sum(t * np.sum(gaps**2, axis=1))
        return total / len(x)

    with jax.enable_x64(True):
        params = {"params": {"w": jnp.asarray(student)}}
        bag_fn = partial(problem.bag_log_probs, {"params": {"w": jnp.asarray(teacher)}})
        for loss in ("ce", "dse"):
            online = jax.jit(study.objective_of(problem, "online", loss))
            found = online(params, {"x": jnp.asarray(x), "w": jnp.asarray(w)})
            singles = [log_probs(one[None]) for one in w]
            assert float(found) == pytest.approx(expected(loss, singles), rel=1e-6)
            batch = {
                "x": jnp.asarray(x),
                "teacher_log_probs": jax.vmap(bag_fn)(jnp.asarray(x)),
                "teacher_jacobian": jax.vmap(jax.jacrev(bag_fn))(jnp.asarray(x)),
            }
            found = jax.jit(study.objective_of(problem, "batch", loss))(params, batch)
            assert float(found) == pytest.approx(expected(loss, 4 * [log_probs(teacher)]), rel=1e-6)
