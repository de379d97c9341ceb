"""experiments.posterior_expectations: runs, resumed; figures of merit, faults."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs
from PIL import Image

from experiments.flags import resolve
from experiments.posterior_expectations import networks, students, study, tables
from experiments.posterior_expectations.settings import Chain, Settings, Student
from kd import data, metrics
from kd.export import load_student

MODULE = "experiments.posterior_expectations"
TINY = {"num_steps": 60, "burn_in": 20, "thin": 5, "test_thin": 4, "num_repeats": 2}
ONE = TINY | {"student": "both", "estimator": "running", "num_repeats": 1}
FOUR = [f"{kind},{one},1x1" for kind in ("both", "dirichlet") for one in ("current", "running")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("posterior_expectations") / "run"
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, TINY, module=MODULE)


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert figures == {"training-0.29-0.png", "entropies-0.29-0.png"}
    for name in figures:
        pixels = np.asarray(Image.open(finished.path / "figures" / name).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5
    names = {path.name for path in (finished.path / "student").iterdir()}
    assert names == {f"{name},0.29,0,0".replace(",", "-") for name in FOUR}
    shown = finished.stdout[finished.stdout.index("mask 0.29") :]
    assert max(map(len, shown[: shown.index("Look at")].splitlines())) <= 80


def test_rows_of_teacher_and_students(finished):
    values = finished.values()
    for name in ["teacher", *FOUR]:
        for figure in ("nll", "accuracy", "ece", "brier", "entropy_mae"):
            assert f"{figure}[0.29,0,{name}]" in values
        for kind in ("total", "knowledge"):
            assert 0 <= values[f"auroc.permuted.{kind}[0.29,0,{name}]"] <= 1
            ndcg = values[f"ndcg.{kind}[0.29,0,{name}]"]
            assert 0 < values[f"ndcg_random.{kind}[0.29,0,{name}]"] < 1 and 0 < ndcg <= 1 + 1e-9
    assert values["entropy_mae[0.29,0,teacher]"] == 0
    assert values["ndcg.total[0.29,0,teacher]"] == pytest.approx(1)
    rows = finished.metrics()["chain[0.29,0,1]"]
    assert int(rows[-1]["step"]) == 12 and float(rows[-1]["teacher.samples"]) == 3


def test_an_exported_student_has_the_likelihood_it_says(finished):
    """The mean of the row over two chains is near the first's, by its file and NumPy alone."""
    settings = resolve(Settings, "quick", {k: str(v) for k, v in TINY.items()})
    chain = settings.chains()[0]
    dataset, _ = study.data_of(settings, data.load("digits"), chain)
    student = load_student(finished.path / "student" / "both-running-1x1-0.29-0-0")
    log_probs = np.asarray(student(jnp.asarray(dataset.test_x)), float)
    nll = -log_probs[np.arange(len(log_probs)), dataset.test_y].mean()
    last = finished.metrics()[f"chain[{chain.name}]"][-1]
    assert float(last["both,running,1x1.nll"]) == pytest.approx(nll, rel=1e-4)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    """In a burn-in, and beside the chain."""
    path = tmp_path / "run"
    for phase in ("burn_in-chain-0.29-0-0", "chain-0.29-0-0"):
        process = study_runs.start(path, ONE | {"checkpoint_seconds": 0}, module=MODULE)
        stopped = study_runs.interrupt(
            process, lambda phase=phase: study_runs.checkpoints(path, phase), signal.SIGKILL
        )
        assert stopped.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()
    with study_runs.unverified_exports():
        resumed = study_runs.succeed_here(path, ONE, module=MODULE)
        whole = study_runs.succeed_here(tmp_path / "whole", ONE, module=MODULE)
    study_runs.assert_same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"experiment": 5}, "--experiment must be 1 | 2 | 3 | 4; got '5'."),
        ({"student": "teacher"}, "--student must be predictive | entropy | both | dirichlet"),
        ({"outside": "lsun"}, "unknown data set 'lsun'"),
        ({"num_steps": 10, "thin": 20}, "--num_steps must be at least --thin; got 10."),
        ({"train_size": 5000}, "5,000 training examples are asked for, of 1,200."),
        ({"cache_gb": 1e-9}, "the estimates at 1,200 examples would take"),
        ({"mask_rate": 1.5}, "--mask_rate"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    assert expected in study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)


def test_a_teacher_that_diverges_names_the_step_size(tmp_path):
    line = study_runs.refusal(tmp_path / "run", TINY | {"step_size": 10}, module=MODULE)
    assert "the chain diverged" in line and "--step_size=10 is too large for sgld" in line


# Settings and data.


def test_every_experiment_has_chains_and_students_of_its_own():
    found = {
        experiment: resolve(Settings, "paper", {"experiment": experiment, "num_repeats": "1"})
        for experiment in "1234"
    }
    assert len(found["2"].chains()) == 24 and found["1"].chains() == [Chain(0.0, 0, 0)]
    assert found["4"].chains() == [Chain(0.29, 0, 0)]
    assert {one.kind for one in found["2"].students()} == {"predictive", "entropy"}
    assert {one.kind for one in found["4"].students()} == {"both", "dirichlet"}
    given = {
        "experiment": "3",
        "model": "cnn",
        "channel_multiplier": "1,2",
        "unit_multiplier": "1,4",
    }
    assert len(resolve(Settings, "paper", given).students()) == 8


def test_masks_are_drawn_once_and_apart():
    settings = resolve(Settings, "quick", {})
    digits, chain = data.load("digits"), settings.chains()[0]
    found, unlabelled = study.data_of(settings, digits, chain)
    again, _ = study.data_of(settings, digits, chain)
    np.testing.assert_array_equal(found.train_x, again.train_x)
    assert not np.array_equal(found.train_x, unlabelled)
    share = np.mean(study.masked(settings, np.ones((50, 28, 28, 1)), chain, "test") == 0)
    assert share == pytest.approx(0.29, abs=0.01)
    # 15 pixels, as in the paper.
    assert share == pytest.approx((15 / 28) ** 2)
    few = chain._replace(train_size=100)
    dataset, inputs = study.data_of(settings, digits, few)
    assert len(dataset.train_x) == 100 and len(inputs) == 1200


def test_networks_are_the_papers():
    count = lambda model, shape: sum(
        leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0), jnp.zeros(shape)))
    )
    for name, shape, size in (
        ("fcnn", (28, 28, 1), 478_410),
        ("cnn", (28, 28, 1), 29_880),
        ("cnn_cifar", (32, 32, 3), 184_808),
    ):
        settings = resolve(Settings, "paper", {"model": name})
        assert count(networks.build(settings, 10), shape) == size
        both = networks.of_student(settings, Student("both", "running", 2.0, 0.5), 10)
        assert (
            both.num_outputs == 11 and both.hidden_sizes[0] == networks.HIDDEN_SIZES[name][0] // 2
        )


def test_readings_of_outputs():
    outputs = np.random.default_rng(0).normal(size=(5, 4))
    both = Student("both", "current", 1, 1)
    log_probs = students.log_probs_of(both, outputs)
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1)
    found = students.uncertainties_of(both, outputs)
    np.testing.assert_allclose(found.data, np.log1p(np.exp(outputs[:, 3])))
    np.testing.assert_allclose(found.total, -np.sum(np.exp(log_probs) * log_probs, axis=1))
    dirichlet = students.uncertainties_of(both._replace(kind="dirichlet"), outputs)
    np.testing.assert_allclose(dirichlet, metrics.dirichlet_uncertainties(outputs))
    for kind in ("predictive", "entropy"):
        assert students.uncertainties_of(both._replace(kind=kind), outputs) is None
    np.testing.assert_allclose(
        students.entropy_of(both._replace(kind="entropy"), outputs[:, :1]),
        np.log1p(np.exp(outputs[:, 0])),
    )


def test_temperature_falls_in_the_second_third():
    settings = resolve(Settings, "quick", {"temperature": "10", "num_steps": "3000", "thin": "10"})
    found = [
        float(students.temperature_at(settings, jnp.array(s))) for s in (0, 100, 150, 200, 299)
    ]
    np.testing.assert_allclose(found, [10, 10, 5.5, 1, 1])


def test_figures_of_merit_by_hand():
    rng = np.random.default_rng(0)
    probs, entropy = rng.dirichlet(np.ones(3), size=120), rng.uniform(0.1, 0.5, size=120)
    labels = rng.integers(3, size=120)
    teacher = study.Judged(np.log(probs), entropy, {"test": metrics.uncertainties(probs, entropy)})
    other = teacher._replace(entropy=entropy + 0.25)
    found = tables.figures_of({"teacher": teacher, "other": other}, "other", labels, 0)
    assert found["entropy_mae"] == pytest.approx(0.25)
    assert found["nll"] == pytest.approx(-np.log(probs[np.arange(120), labels]).mean())
    assert found["accuracy"] == pytest.approx(100 * np.mean(probs.argmax(1) == labels))
    assert found["ndcg.total"] == pytest.approx(1)
