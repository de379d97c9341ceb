"""The study that distils an RBM into NADEs: a tiny run, file by file, and gone on with."""

import itertools
import json
import logging
import math
import shutil
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs
from flax.traverse_util import unflatten_dict
from PIL import Image
from scipy import special

from experiments import report
from experiments.flags import resolve
from experiments.rbm_to_nade import tables
from experiments.rbm_to_nade.estimates import exact_log_z, gibbs_samples
from experiments.rbm_to_nade.settings import PIXEL_ORDERS, Settings
from experiments.rbm_to_nade.study import (
    Teacher,
    _warn_of_another_order,
    find_offset,
    make_optimizer,
)
from kd.data import binary, load_binary, load_rbm
from kd.export import load_student
from kd.models import NADE, RBM
from kd.training.checkpoint import Checkpointer

MODULE = "experiments.rbm_to_nade"
SETTINGS = {
    "loss": "kl,se_then_kl,data",
    "nade_hidden": 12,
    "num_iterations": 400,
    "num_chains": 40,
    "burn_in": 100,
    "num_samples": 500,
    "ais_steps": 200,
    "ais_chains": 50,
    "coverage_repeats": 2,
}
STUDENTS = ("kl,12", "se_then_kl,12", "data,12")
PHASES = ("nade[kl,12]", "nade[se_then_kl,12,se]", "nade[se_then_kl,12]", "nade[data,12]")
ESTIMATES = ["exact", "ais", "ais_reverse"] + [
    f"{kind}[{name}]" for name in STUDENTS for kind in ("upper", "lower", "importance", "bridge")
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An RBM of 3 x 3 pixels and images of it, drawn by enumeration."""
    folder = tmp_path_factory.mktemp("rbm")
    rng = np.random.default_rng(0)
    arrays = {"W": rng.normal(size=(9, 4)), "a": rng.normal(size=9), "b": rng.normal(size=4)}
    np.savez(folder / "rbm.npz", **arrays)
    every = np.array(list(itertools.product([0, 1], repeat=9)))
    logs = every @ arrays["a"] + np.logaddexp(0, every @ arrays["W"] + arrays["b"]).sum(1)
    probs = special.softmax(logs)
    images = {p: every[rng.choice(512, size=n, p=probs)] for p, n in (("train", 300), ("test", 80))}
    np.savez(folder / "images.npz", **images)
    return folder, every, logs


@pytest.fixture(scope="module")
def run(inputs):
    folder, _, _ = inputs
    settings = SETTINGS | {"rbm": folder / "rbm.npz", "dataset": folder / "images.npz"}
    # A checkpoint now and then, by the count of rows and not by the clock.
    rows = itertools.count(1)
    now_and_then = mock.patch.object(Checkpointer, "is_due", lambda self: next(rows) % 40 == 0)
    with now_and_then, study_runs.unverified_exports():
        return study_runs.succeed_here(folder / "run", settings, module=MODULE)


def test_a_run_leaves_what_it_promises_and_nothing_else(run):
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        *(".lock", "config.json", "metrics.csv", "summary.json"),
        *("offset.json", "estimates.json", "coverage.json", "rbm.npz"),
        *("figures", "checkpoints", "student"),
    } | (names & {".seconds"})
    figures = {path.name for path in (run.path / "figures").iterdir()}
    assert figures == {
        f"{n}.png" for n in ("training", "agreement", "log_z", "samples", "features")
    }
    for path in (run.path / "figures").iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.min() < 100 and pixels.max() == 255
    config = json.loads((run.path / "config.json").read_text())
    assert config["experiment"] == "rbm_to_nade" and set(config["inputs"]) == {"dataset", "rbm"}
    metrics = run.metrics()
    assert tuple(metrics) == PHASES
    assert [int(metrics[phase][-1]["step"]) for phase in PHASES] == [400, 40, 360, 400]


def test_the_summary_holds_every_estimate(run, inputs):
    _, every, logs = inputs
    values = run.values()
    log_z = special.logsumexp(logs)
    assert values["log_z.exact"] == pytest.approx(log_z, abs=1e-5)
    for name in ESTIMATES:
        head, bracket, rest = name.partition("[")
        low, high = (values[f"log_z.{head}.{end}{bracket}{rest}"] for end in ("low", "high"))
        assert low <= values[f"log_z.{name}"] <= high
        if head not in ("upper", "lower", "exact"):
            assert low - 0.02 < log_z < high + 0.02
    for name in STUDENTS:
        assert values[f"log_z.lower[{name}]"] < log_z < values[f"log_z.upper[{name}]"]
    assert values["offset"] == pytest.approx(logs.max(), abs=1e-4)
    assert all(row["paper"] is None for row in run.summary()["rows"])


def test_coverage_counts_the_intervals_of_fresh_estimates(run):
    estimates, fresh = (
        json.loads((run.path / f"{name}.json").read_text()) for name in ("estimates", "coverage")
    )
    assert fresh.keys() == {f"{name}#{repeat}" for name in ESTIMATES[1:] for repeat in (0, 1)}
    values = {e["value"] for found in (estimates, fresh) for e in found.values()}
    assert len(values) == len(estimates) + len(fresh)
    exact = estimates["exact"]["value"]
    for name in ESTIMATES[1:]:
        held = []
        for repeat in (0, 1):
            low, high = (fresh[f"{name}#{repeat}"][end] for end in ("low", "high"))
            held.append(
                (name.startswith("upper") or low <= exact)
                and (name.startswith("lower") or exact <= high)
            )
        assert run.values()[f"coverage.{name}"] == 50 * sum(held)


def test_exported_students_are_normalised_and_the_rows_are_theirs(run, inputs):
    folder, every, logs = inputs
    test = np.load(folder / "images.npz")["test"]
    log_z = special.logsumexp(logs)
    for name in STUDENTS:
        student = load_student(run.path / "student" / name.replace(",", "-"))
        log_probs = np.array(student(every.astype(np.float32)), float)
        assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-4)
        kl = np.sum(np.exp(logs - log_z) * (logs - log_z - log_probs))
        assert 0 < kl < 0.5
        codes = test @ 2 ** np.arange(8, -1, -1)
        assert run.values()[f"nade.log_prob[{name}]"] == pytest.approx(
            log_probs[codes].mean(), abs=1e-4
        )
        # As README has it.
        nade = NADE(**student.metadata["model"])
        again = nade.log_prob(unflatten_dict(student.params, sep="/"), every)
        np.testing.assert_allclose(again, log_probs, rtol=1e-4)
        assert student.metadata["dataset"] == "images.npz"
        assert student.metadata["pixel_order"] == "rows"
        expected = (logs - log_z)[codes].mean()
        assert run.values()["rbm.log_prob"] == pytest.approx(expected, abs=1e-4)


def test_the_rbm_is_left_as_the_file_that_the_study_reads(run, inputs):
    given, left = (load_rbm(folder / "rbm.npz")["params"] for folder in (inputs[0], run.path))
    for name, x in given.items():
        np.testing.assert_array_equal(left[name], x.astype(np.float32))


def test_the_table_at_the_end(run):
    shown = run.stdout[: run.stdout.index("Look at")]  # A path may be long.
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for words in ("│ exact ", "lower bound, kl 12", "bridge, se_then_kl 12"):
        assert sum(words in line for line in lines) == 1
    assert any(line.startswith("Held: of 2 intervals") for line in lines)
    assert "AIS is annealed importance sampling. The gap is to the exact value." in lines


def test_a_run_that_lost_its_end_goes_on_to_the_same_bits(run, inputs, tmp_path):
    """As if it had been killed in the second student, and between two estimates."""
    folder, _, _ = inputs
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    (path / "summary.json").unlink()
    shutil.rmtree(path / "student")
    newest = study_runs.checkpoints(path, "nade-se_then_kl-12")[-1]
    newest.with_suffix(".json").unlink()
    shutil.rmtree(newest)
    estimates = json.loads((path / "estimates.json").read_text())
    kept = {name: estimates[name] for name in ESTIMATES[:5]}
    # Of these none is believed: one is known better, one is no number, one lies outside its
    # interval, one has no samples, one lacks figures, one is nobody's.
    kept["exact"] = estimates["exact"] | {"value": -77.5, "low": -77.5, "high": -77.5}
    kept["ais"] = estimates["ais"] | {"value": math.nan}
    kept["upper[kl,12]"] = estimates["upper[kl,12]"] | {"low": 1e9}
    kept["lower[kl,12]"] = estimates["lower[kl,12]"] | {"num_samples": 0}
    kept["bridge[kl,12]"] = {n: estimates["bridge[kl,12]"][n] for n in estimates["exact"]}
    (path / "estimates.json").write_text(json.dumps({"foo": estimates["ais"]} | kept))
    again = study_runs.succeed_here(path, run.settings, module=MODULE)
    assert again.stdout.count("done before") == 3 and again.stdout.count("goes on from here") == 1
    study_runs.assert_same_bits(again, run)
    made = json.loads((path / "estimates.json").read_text())
    assert made.pop("foo") and made == estimates and list(made) == list(estimates)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"offset": "most"}, "--offset must be max or a number; got 'most'."),
        ({"offset": "nan"}, "--offset must be max or a number; got 'nan'."),
        ({"learning_rate": 0.1}, "--learning_rate is Adam's: it needs --optimizer=adam."),
        (
            {"rbm": "", "rbm_hidden": 21, "dataset": "digits"},
            "hidden or visible units, not 64 x 21.",
        ),
        ({"ais_chains": 501}, "--ais_chains 501 must be at most --num_samples 500"),
        ({"ais_steps": 1}, "--ais_steps must be an integer and >= 2"),
        ({"batch_size": 30}, "--batch_size 30 must divide --num_chains 40."),
        ({"rbm": "nowhere.npz"}, "nowhere.npz: no such file."),
        ({"dataset": "digits"}, "digits: train and test must have 9 pixels"),
        ({"rbm": "model.h5"}, "model.h5: expected an .npz with arrays W, a, b."),
        ({"rbm": "", "rbm_epochs": 1e300}, "--rbm_epochs 1e+300 are 1.5e+301 steps; lower it."),
    ],
    ids=lambda value: "".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(inputs, tmp_path, changes, expected):
    folder, _, _ = inputs
    settings = SETTINGS | {"rbm": folder / "rbm.npz", "dataset": folder / "images.npz"}
    path = tmp_path / "run"
    assert expected in study_runs.refusal(path, settings | changes, module=MODULE)
    assert not (tmp_path / "run").exists()


def test_an_rbm_that_single_precision_cannot_hold(tmp_path):
    arrays = {"W": np.full((9, 4), 1e300), "a": np.zeros(9), "b": np.zeros(4)}
    np.savez(tmp_path / "rbm.npz", **arrays)
    settings = SETTINGS | {"rbm": tmp_path / "rbm.npz", "dataset": "digits"}
    line = study_runs.refusal(tmp_path / "run", settings, module=MODULE)
    assert "the RBM's parameters are too large for single precision" in line


def test_chains_run_in_the_precision_of_the_rbm(x64):
    rbm = RBM(3, 2)
    teacher = Teacher(rbm, rbm.init(jax.random.key(0), jnp.zeros(3)), True)
    run = types.SimpleNamespace(
        key=lambda name: jax.random.key(1), settings=types.SimpleNamespace(burn_in=2)
    )
    x = gibbs_samples(run, teacher, "samples", 5)
    assert x.shape == (5, 3) and x.dtype == teacher.params["params"]["w"].dtype == jnp.float64


def test_adam_ends_at_rest():
    """Its rate falls linearly to 0; ADADELTA's steps do not fall."""
    sizes = {}
    for name in ("adadelta", "adam"):
        settings = resolve(Settings, "quick", {"optimizer": name, "learning_rate": "0.01"})
        optimizer = make_optimizer(settings, 100)
        params = jnp.zeros(())
        state, sizes[name] = optimizer.init(params), []
        for _ in range(101):
            update, state = optimizer.update(jnp.ones(()), state, params)
            sizes[name].append(-float(update))
    np.testing.assert_allclose(sizes["adam"], 0.01 * np.linspace(1, 0, 101), atol=1e-6)
    assert sizes["adadelta"][-1] > sizes["adadelta"][0] > 0


def test_no_offset_is_sought_where_no_loss_needs_one():
    settings = resolve(Settings, "quick", {"loss": "kl,data", "offset": "3"})
    run = types.SimpleNamespace(settings=settings)
    assert find_offset(run, None) is None
    run.settings = resolve(Settings, "quick", {"loss": "kl,se_then_kl", "offset": "3"})
    assert find_offset(run, None) == 3.0
    teacher = Teacher(RBM(2, 1), {"params": {"w": np.zeros((2, 1)), "b": np.zeros(1)}}, True)
    ends = {"low": 0.0, "high": 2.0, "num_samples": 9, "effective_samples": 5.0}
    found = {"ais": {"value": 1.0, "stderr": 0.5, **ends}}
    rows = tables.rows(teacher, None, found, ({}, 0), {("kl", 3): np.zeros(4)}, np.zeros(4))
    assert [row.name for row in rows][:2] == ["log_z.ais", "log_z.ais.low"]


@pytest.mark.parametrize("effective", [99.0, 101.0])
def test_estimates_by_few_samples_are_marked(effective, tmp_path, capsys):
    teacher = Teacher(RBM(2, 1), {"params": {"w": np.zeros((2, 1)), "b": np.zeros(1)}}, True)
    ends = {"value": 1.0, "stderr": 0.5, "low": 0.0, "high": 2.0}
    sampled = ends | {"num_samples": 10_000, "effective_samples": 10_000.0}
    found = {
        "ais": sampled,
        "lower[kl,3]": sampled,
        "importance[kl,3]": sampled | {"effective_samples": effective},
        "bridge[kl,3]": ends
        | {f"num_{side}": 10_000 for side in ("proposal", "target")}
        | {"effective_proposal": 9_000.0, "effective_target": effective},
    }
    rows = tables.rows(teacher, None, found, ({}, 0), {("kl", 3): np.zeros(4)}, np.zeros(4))
    values = {row.name: row.value for row in rows}
    assert values["log_z.importance.effective[kl,3]"] == pytest.approx(effective / 100)
    assert "log_z.lower.effective[kl,3]" not in values
    summary = json.loads(json.dumps(report.summary("rbm_to_nade", "quick", 1.0, rows)))
    tables.show(summary, tmp_path)
    shown = capsys.readouterr().out
    is_poor = effective < 100
    for name in ("importance, kl 3", "bridge, kl 3"):
        assert (f"{name}*" in shown) == is_poor
    assert ("* Less than 1 % of the samples" in shown) == is_poor
    assert "AIS*" not in shown and "lower bound, kl 3*" not in shown


def test_the_orders_of_pixels_are_those_of_the_data():
    """The settings name them again, so that `--help` imports nothing."""
    assert PIXEL_ORDERS == binary.PIXEL_ORDERS


@pytest.mark.parametrize("is_other", [False, True])
def test_pixels_in_another_order_are_noticed(is_other, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("experiments"), "propagate", True)
    x = load_binary("digits", pixel_order="rows").test.astype(np.float32)
    rates = np.clip(load_binary("digits").train.mean(0), 0.01, 0.99)
    params = {"w": jnp.zeros((64, 1)), "a": jnp.log(rates / (1 - rates)), "b": jnp.zeros(1)}
    teacher = Teacher(RBM(64, 1), {"params": params}, False)
    other = load_binary("digits", pixel_order="columns").test.astype(np.float32)
    _warn_of_another_order(teacher, jnp.asarray(other if is_other else x))
    said = [record for record in caplog.records if "--pixel_order" in record.getMessage()]
    assert len(said) == is_other


def test_an_infinite_end_is_shown_and_is_no_number_in_the_summary(tmp_path, capsys):
    teacher = Teacher(RBM(2, 1), {"params": {"w": np.zeros((2, 1)), "b": np.zeros(1)}}, True)
    found = {"exact": 1.0, "ais": 1.2}
    rest = {"stderr": 0.5, "low": -np.inf, "high": 2.0, "num_samples": 9, "effective_samples": 5.0}
    found = {name: {"value": value, **rest} for name, value in found.items()}
    rows = tables.rows(teacher, 0.0, found, ({}, 0), {("kl", 3): np.zeros(4)}, np.zeros(4))
    content = report.summary("rbm_to_nade", "quick", 1.0, rows)
    content = json.loads(json.dumps(content, allow_nan=False))
    tables.show(content, tmp_path)
    assert "│ AIS         │    1.200 │ (-inf, 2.000) │" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (13, 14)])
def test_exact_log_z_by_either_layer(shape):
    rng = np.random.default_rng(1)
    w, a, b = rng.normal(size=shape), rng.normal(size=shape[0]), rng.normal(size=shape[1])
    teacher = Teacher(RBM(*shape), {"params": {"w": w, "a": a, "b": b}}, False)
    every = np.array(list(itertools.product([0, 1], repeat=shape[0])))
    logs = every @ a + np.logaddexp(0, every @ w + b).sum(1)
    assert exact_log_z(teacher) == pytest.approx(special.logsumexp(logs), rel=1e-10)
    assert (
        exact_log_z(Teacher(None, {"params": {"w": np.zeros((30, 30)), "a": a, "b": b}}, False))
        is None
    )
