"""experiments.logistic_regression: runs on points and real data, resumed; problems, gaps."""

import json
import signal
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from logistic_oracles import (
    assert_gaps,
    assert_scores,
    bag_log_probs,
    exact_moments,
    expectation_propagation,
    gaussian_probs,
    halves,
    laplace,
    mackay_moments,
    mackay_probs,
    mean_probs,
)
from PIL import Image
from scipy import special
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
LOSS_NAMES = ("cross-entropy", "derivatives")


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


def test_rows_are_named_in_the_words_of_the_figures(finished, wine):
    """Students by the variance of their inputs, the others at those of the first."""
    shown, values = cells(finished.stdout), finished.values()
    names = [name for name, *_ in shown]
    students = [f"{mode}, {loss}" for mode in ("batch", "online") for loss in LOSS_NAMES]
    others = [tables.NAMES[name] for name in OTHERS]
    assert names[:15] == ["inputs 10:", *students, *others, "inputs 100:", *students]
    assert names[15:] == ["400 samples", "a student", *others]
    for index, kind, variance in ((1, "batch,ce,10", 10), (6, "ep_thesis", 10)):
        assert float(shown[index][1].split()[0]) == pytest.approx(
            values[f"mean_gap.inputs_{variance}[{kind}]"], abs=5e-5
        )
    assert float(shown[14][4]) == pytest.approx(values["max_gap.square[online,dse,100]"], abs=5e-4)
    found = cells(wine.stdout)
    names = ["batch, derivatives", "online, derivatives", "Hamiltonian Monte Carlo"]
    assert [name for name, *_ in found[:3]] == names
    assert [name for name, *_ in found[3:7]] == ["400 samples", *names]


def cells(stdout):
    """The tables that were printed, one after another, line by line."""
    lines = [line.split("│")[1:-1] for line in stdout.splitlines() if "│" in line]
    return [[cell.strip() for cell in line] for line in lines]


def test_the_widest_tables_fit(capsys, tmp_path, finished):
    """Gaps near 1, many samples, three variances; and divergences are told of how many."""
    settings = Settings(input_variance=(10.0, 100.0, 12345.0), num_samples=10_000_000)
    summary = finished.summary()
    for row in list(summary["rows"]):
        if row["name"].startswith(("mean_gap", "max_gap")):
            row |= {"value": 0.98765, "stderr": row["stderr"] and 0.12345}
            new = row["name"].replace("inputs_100", "inputs_12345").replace(",100]", ",12345]")
            summary["rows"].append(row | {"name": new})
        if row["name"] == "num_divergences.hmc":
            row["value"] = 7
    tables.show(summary, settings, tmp_path)
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80 and "…" not in shown
    assert "7 of 10,000,000 steps diverged" in shown
    assert len(cells(shown)) == 3 * 5 + 5 + 7


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


def chains_of(run, name):
    """The draws that a run left, `[C, S, ...]`."""
    with np.load(run.path / "draws" / f"{name}.npz") as file:
        return np.asarray(file["w"], float)


def test_rows_of_the_chains(finished, wine):
    """What both samplers' draws are worth: the worst weight's, by NumPy."""
    for run, shape in ((finished, (2, 200, 2)), (wine, (2, 200, 3, 14))):
        worth = {}
        for name in ("posterior", "hmc"):
            draws = chains_of(run, name)
            assert draws.shape == shape
            series = draws.reshape(*draws.shape[:2], -1)
            worth[name] = [
                [fn(one) for one in np.moveaxis(series, -1, 0)]
                for fn in (oracles.split_r_hat, oracles.effective_samples)
            ]
        for row, value in (
            ("r_hat", max(worth["posterior"][0])),
            ("ess", min(worth["posterior"][1])),
            ("r_hat.hmc", max(worth["hmc"][0])),
        ):
            assert run.values()[row] == pytest.approx(value, rel=1e-6), row
        # The bag is those draws, batch by batch of both chains.
        kept = study_runs.checkpointed_student(run.path, "bag")["kept"]
        batches = np.asarray(kept, float).reshape(100, 2, 2, *shape[2:])
        for chain, draws in enumerate(chains_of(run, "posterior")):
            np.testing.assert_array_equal(draws, np.concatenate(batches[:, chain]))


def test_gaps_of_the_other_sampler_by_value(finished):
    bag = study_runs.checkpointed_student(finished.path, "bag")["kept"]
    draws = chains_of(finished, "hmc").reshape(-1, 2)
    for place, x in compared_inputs(POINTS).items():
        assert_gaps(finished, place, "hmc", mean_probs(draws, x)[None], mean_probs(bag, x))
    assert finished.values()["cost.bytes[hmc]"] == 400 * 2 * 4


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
    """Of the bag, of a kind of student and of the other sampler, on scikit-learn's data."""
    _, _, x, y = halves(datasets.load_wine)
    bag = study_runs.checkpointed_student(wine.path, "bag")["kept"]
    students = study_runs.checkpointed(wine.path, "student-online-dse-1")["params"]["w"]
    assert np.shape(bag) == (400, 3, 14) and np.shape(students) == (2, 3, 3, 14)
    hamiltonian = chains_of(wine, "hmc").reshape(-1, 3, 14)
    expected = mean_probs(bag, x)
    for kind, bags in (("mcmc", [bag]), ("online,dse,1", students), ("hmc", [hamiltonian])):
        log_probs = np.stack([bag_log_probs(weights, x) for weights in bags])
        assert_scores(wine, kind, log_probs, y)
        if kind != "mcmc":
            assert_gaps(wine, "test", kind, np.exp(log_probs), expected)


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
        ({"input_variance": 1e300}, "--input_variance must be a number and > 0 and <= 1000000.0"),
        ({"minibatch": 8}, "--minibatch is of sgld and sghmc, not of slice."),
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


def test_chains_that_spread_beyond_the_prior_are_one_line():
    """Minibatches and a step too large for their noise: finite all along, and wrong."""
    settings = resolve(Settings, "quick", {"sampler": "sghmc", "minibatch": "4"})
    draws = np.random.default_rng(0).normal(size=(2, 500, 3)) * np.array([1.0, 9.9, 4.0])
    study.check_spread(draws, settings)
    draws[..., 1] *= 2
    with pytest.raises(
        UserError, match="--step_size=0.1 is too large for sghmc with --minibatch=4"
    ):
        study.check_spread(draws, settings)


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


@pytest.fixture(scope="module")
def dense_grid():
    """Weights on a grid and their posterior masses under a prior of variance 100."""
    side = np.linspace(-70, 70, 1001)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    log_p = -0.5 * np.sum(grid**2, axis=1) / 100
    for x, y in zip(problems.POINTS, problems.LABELS, strict=True):
        log_p += special.log_expit((2 * y - 1) * (grid @ x))
    return grid, special.softmax(log_p)


def hamiltonian_draws(settings, folder):
    run = Run(settings, None, SimpleNamespace(file=folder.joinpath), None, None)
    folder.joinpath("draws").mkdir()
    found = approximations.hamiltonian(run, problems.load(settings))
    assert found.r_hat < 1.01 and found.num_divergences < 0.005 * settings.num_samples
    return found.samples.reshape(4, -1, 2)


def slice_draws(settings, folder):
    stream = chains.stream(problems.load(settings), settings, settings.num_samples, 4)
    init_key, burn_key, key = jax.random.split(jax.random.key(0), 3)
    state, _ = stream.next(burn_key, stream.init(init_key))
    return np.asarray(stream.next(key, state)[1]["w"]).reshape(4, -1, 2)


@pytest.mark.parametrize("draws_fn", [slice_draws, hamiltonian_draws])
def test_both_samplers_have_the_law_of_a_dense_grid(draws_fn, dense_grid, tmp_path):
    """Moments of the weights and predictions, to four standard errors by effective samples."""
    grid, masses = dense_grid
    assert masses.max() < 1e-3  # Fine, and, as the prior has it, wide enough.
    settings = resolve(Settings, "quick", {"num_samples": "8000", "burn_in": "1000"})
    draws = np.asarray(draws_fn(settings, tmp_path), float)
    places = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, -4.0], [-2.0, 6.0], [0.3, 0.3]])

    def functions(w):
        moments = [w, w**2, w[..., :1] * w[..., 1:]]
        return np.concatenate([*moments, special.expit(w @ places.T)], axis=-1)

    expected, found = masses @ functions(grid), functions(draws)
    for k, value in enumerate(expected):
        ess = oracles.effective_samples(found[..., k])
        assert ess > 200
        error = found[..., k].std() / np.sqrt(ess)
        assert abs(found[..., k].mean() - value) < 4 * error, (k, value, error)


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


@pytest.mark.parametrize("loss", ["ce", "dse"])
@pytest.mark.parametrize("mode", ["batch", "online"])
def test_rates_of_students_fall_linearly_to_zero(mode, loss):
    """Step t of T moves by minus 0.5 (1 - t / T) times the gradient; the last by 0.5 / T."""
    num_steps = 4
    given = {
        "num_iterations": num_steps,
        "learning_rate": 0.5,
        "num_repeats": 2,
        "num_samples": 400,
    }
    settings = resolve(Settings, "quick", {name: str(value) for name, value in given.items()})
    problem, phases = problems.load(settings), []

    def fit(phase, key, stream, update, state, num_steps, **options):
        phases.append((stream, update, state, num_steps))
        return SimpleNamespace(student=state)

    run = SimpleNamespace(settings=settings, key=lambda phase: jax.random.key(0), fit=fit)
    samples = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    study.train_students(run, problem, study.Bag(samples, 1.0, 400.0), mode, loss, 10.0)
    ((stream, update, state, asked),) = phases
    assert asked == num_steps and state.params["params"]["w"].shape == (2, 10, 2)
    state = jax.tree.map(lambda leaf: leaf[0], state)
    _, batch = jax.jit(stream.next)(jax.random.key(1), stream.init(jax.random.key(2)))
    gradient_fn = jax.jit(jax.grad(study.objective_of(problem, mode, loss)))
    apply_fn = jax.jit(update.apply)
    for step in range(num_steps):
        before = state.params["params"]["w"]
        gradient = gradient_fn(state.params, batch)["params"]["w"]
        state, _ = apply_fn(state, batch)
        assert float(jnp.linalg.norm(gradient)) > 1e-3
        expected = -0.5 * (1 - step / num_steps) * gradient
        moved = state.params["params"]["w"] - before
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-6)
