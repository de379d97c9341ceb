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
from experiments.benchmarks import densities
from experiments.flags import resolve
from experiments.rbm_to_nade import estimates, tables
from experiments.rbm_to_nade.estimates import exact_log_z, gibbs_samples
from experiments.rbm_to_nade.inputs import reference_log_z, warn_of_another_order
from experiments.rbm_to_nade.settings import LOSSES, PIXEL_ORDERS, Settings
from experiments.rbm_to_nade.study import (
    Teacher,
    _objective,
    _phases,
    find_offset,
    make_optimizer,
    train_nade,
)
from kd.data import BinaryDataset, binary, load_binary, load_rbm
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
    "reference_log_z": "7.25",
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
        *(".lock", ".seal.json", "config.json", "metrics.csv", "summary.json"),
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
        expected = logs[codes].mean()
        assert run.values()["rbm.log_prob"] == pytest.approx(expected - log_z, abs=1e-4)
        assert run.values()["rbm.log_prob[reference]"] == pytest.approx(expected - 7.25, abs=1e-4)


def test_the_rbm_is_left_as_the_file_that_the_study_reads(run, inputs):
    given, left = (load_rbm(folder / "rbm.npz")["params"] for folder in (inputs[0], run.path))
    for name, x in given.items():
        np.testing.assert_array_equal(left[name], x.astype(np.float32))


def test_the_table_at_the_end(run):
    shown = run.stdout[: run.stdout.index("Look at")]  # A path may be long.
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    all_words = ("│ exact ", "lower bound, kl 12", "bridge, se_then_kl 12", "by --reference_log_z")
    for words in all_words:
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
        (
            {"reference_log_z": "about 7"},
            "--reference_log_z must be a number; got 'about 7'.",
        ),
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


def net_and_teacher():
    """A NADE and an RBM of 5 variables, and five vectors of zeros and ones."""
    rng = np.random.default_rng(2)
    shapes = {"w": (4, 3), "c": (3,), "u": (5, 3), "b": (5,)}
    params = {"params": {name: rng.normal(size=shape) for name, shape in shapes.items()}}
    of_rbm = {"w": rng.normal(size=(5, 2)), "a": rng.normal(size=5), "b": rng.normal(size=2)}
    return params, Teacher(RBM(5, 2), {"params": of_rbm}, False), rng.integers(2, size=(5, 5))


def loss_by_loops(loss, params, teacher, x, offset):
    """Mean of minus log p(x), or of half the square of log p(x) - log p̄(x) + c."""
    w, c, u, b = (np.asarray(params["params"][name], np.float64) for name in "wcub")
    of_rbm = [np.asarray(teacher.params["params"][name], np.float64) for name in "wab"]
    total = 0.0
    for row in np.asarray(x, np.float64):
        log_prob, a = 0.0, c
        for d, value in enumerate(row):
            p = special.expit(u[d] @ special.expit(a) + b[d])
            log_prob += np.log(p if value else 1 - p)
            a = a + w[d] * value if d < len(w) else a
        potential = row @ of_rbm[1] + np.sum(np.log1p(np.exp(row @ of_rbm[0] + of_rbm[2])))
        total += -log_prob if loss == "kl" else 0.5 * (log_prob - potential + offset) ** 2
    return total / len(x)


@pytest.mark.parametrize("offset", [3.5, -2.0])
@pytest.mark.parametrize(("loss", "dtype"), [("kl", np.uint8), ("kl", float), ("se", float)])
def test_objectives_by_value(loss, dtype, offset, x64):
    params, teacher, x = net_and_teacher()
    objective = _objective(loss, NADE(5, 3), teacher, offset)
    expected = loss_by_loops(loss, params, teacher, x, offset)
    value = objective(params, {"x": jnp.asarray(x, dtype)})  # The images of `data` are bytes.
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("loss", "changes", "expected"),
    [
        ("kl", {}, [("nade[kl,7]", "kl", 50)]),
        ("se", {}, [("nade[se,7]", "se", 50)]),
        ("data", {}, [("nade[data,7]", "kl", 50)]),
        ("se_then_kl", {}, [("nade[se_then_kl,7,se]", "se", 5), ("nade[se_then_kl,7]", "kl", 45)]),
        (
            "se_then_kl",
            {"se_fraction": "0.5"},
            [("nade[se_then_kl,7,se]", "se", 25), ("nade[se_then_kl,7]", "kl", 25)],
        ),
        ("se_then_kl", {"num_iterations": "1"}, [("nade[se_then_kl,7,se]", "se", 1)]),
    ],
)
def test_the_parts_of_a_training(loss, changes, expected):
    settings = resolve(Settings, "quick", {"num_iterations": "50"} | changes)
    assert _phases(settings, loss, 7) == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_has_the_loss_the_offset_and_the_rate_of_its_parts(loss):
    """Where each part begins, as far as its first step shows it."""
    _, teacher, x = net_and_teacher()
    settings = resolve(
        Settings,
        "quick",
        {"optimizer": "adam", "learning_rate": "0.01", "num_iterations": "50", "se_fraction": "0.4"}
        | {"num_chains": "20", "burn_in": "2"},
    )
    seen = []

    def fit(phase, key, stream, update, state, num_steps, **options):
        moved, metrics = update.apply(state, {"x": jnp.asarray(x, jnp.float32)})
        steps = jax.tree.map(lambda a, b: np.abs(a - b).max(), moved.params, state.params)
        seen.append((phase, float(metrics["loss"]), max(jax.tree.leaves(steps)), num_steps))
        return types.SimpleNamespace(student=state)

    run = types.SimpleNamespace(settings=settings, key=lambda name: jax.random.key(0), fit=fit)
    teacher = teacher._replace(params=jax.tree.map(jnp.float32, teacher.params))
    images = BinaryDataset(x.repeat(4, 0).astype(np.uint8), x.astype(np.uint8))
    _, params = train_nade(run, teacher, images, loss, 3, 1.5)
    at = {"se": 0.01, "kl": 0.01 * (1 - 20 / 50)} if loss == "se_then_kl" else {loss: 0.01}
    assert len(seen) == len(at) and sum(entry[-1] for entry in seen) == 50
    for (phase, value, step, _), (kind, rate) in zip(seen, at.items(), strict=True):
        kind = "kl" if kind == "data" else kind
        expected = loss_by_loops(kind, params, teacher, x, 1.5)
        assert value == pytest.approx(expected, rel=1e-4), phase
        # Adam's first step is as long as its rate, in every direction.
        assert step == pytest.approx(rate, rel=1e-3), phase


@pytest.mark.parametrize("start", [0, 40])
def test_adam_ends_at_rest(start):
    """Its rate falls linearly to 0 over all parts; ADADELTA's steps do not fall."""
    sizes = {}
    for name in ("adadelta", "adam"):
        given = {"optimizer": name, "learning_rate": "0.01", "num_iterations": "100"}
        optimizer = make_optimizer(resolve(Settings, "quick", given), start)
        params = jnp.zeros(())
        state, sizes[name] = optimizer.init(params), []
        for _ in range(101 - start):
            update, state = optimizer.update(jnp.ones(()), state, params)
            sizes[name].append(-float(update))
    np.testing.assert_allclose(sizes["adam"], 0.01 * np.linspace(1, 0, 101)[start:], atol=1e-6)
    assert sizes["adadelta"][-1] > sizes["adadelta"][0] > 0


@pytest.mark.parametrize("num", [2, 14_499, 14_500])
def test_temperatures(num):
    """Evenly spaced, but for as many as Salakhutdinov and Murray had; the same backwards."""
    expected = np.arange(num) / (num - 1)
    if num == 14_500:
        edges, sizes = (0, 0.5, 0.9, 1), (500, 4000, 9999)
        parts = zip(edges[:-1], edges[1:], sizes, strict=True)
        expected = [low + (high - low) * i / n for low, high, n in parts for i in range(n)] + [1]
    settings = types.SimpleNamespace(ais_steps=num, ais_chains=2)
    run = types.SimpleNamespace(settings=settings, key=lambda name: jax.random.key(0))
    _, teacher, x = net_and_teacher()
    for name, samples in (("", None), ("reverse_", jnp.zeros((2, 5)))):
        name = f"{name}annealed_importance_sampling"
        with mock.patch.object(estimates.inference, name) as stand_in:
            estimates._ais(run, teacher, x, "ais", samples)
        betas = stand_in.call_args.args[2]
        np.testing.assert_allclose(betas, expected, atol=1e-12)


def test_the_gradient_of_nade_needs_little_memory():
    """Far less than an I x J array an example, by the benchmark's own bars."""
    rows = densities.nade_memory()
    assert len(rows) == 2 and all(0 < row.value <= row.bar for row in rows), rows


def test_no_offset_is_sought_where_no_loss_needs_one():
    settings = resolve(Settings, "quick", {"loss": "kl,data", "offset": "3"})
    assert reference_log_z(settings) is None
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
        | {"thesis_low": -0.5, "thesis_high": 2.5}
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
    warn_of_another_order(teacher, jnp.asarray(other if is_other else x))
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


@pytest.mark.parametrize("name", ["exact", "ais"])
def test_the_error_of_log_z_adds_to_that_of_the_rbms_mean(name):
    teacher = Teacher(RBM(2, 1), {"params": {"w": np.zeros((2, 1)), "b": np.zeros(1)}}, True)
    rest = {"low": 0.0, "high": 2.0, "num_samples": 9, "effective_samples": 5.0}
    found = {"ais": {"value": 1.0, "stderr": 0.5, **rest}}
    if name == "exact":
        found = {"exact": {"value": 1.5, "stderr": 0.0, "low": 1.5, "high": 1.5}} | found
    potentials = np.array([-3.0, -1.0, 2.0, 5.0])
    made = tables.rows(
        teacher, None, found, ({}, 0), {("kl", 3): potentials}, potentials, published=-2.0
    )
    rows = {row.name: row for row in made}
    of_mean = np.std(potentials, ddof=1) / 2
    log_z, error = (1.5, 0.0) if name == "exact" else (1.0, 0.5)
    row, other = rows["rbm.log_prob"], rows["rbm.log_prob[reference]"]
    assert row.value == pytest.approx(0.75 - log_z)
    assert row.stderr == pytest.approx((of_mean**2 + error**2) ** 0.5, rel=1e-12)
    assert other.value == pytest.approx(2.75) and other.stderr == pytest.approx(of_mean)
    assert rows["nade.log_prob[kl,3]"].stderr == pytest.approx(of_mean)


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
