"""The binary, end to end: the files it promises, and every figure in them computed again."""

import itertools
import json
import math
import shutil
import struct

import numpy as np
import oracles
import pytest
import safetensors.numpy
import study_runs
from PIL import Image
from sklearn import metrics as sklearn_metrics

from experiments.compress_ensemble.settings import LOSSES, Settings
from experiments.flags import resolve
from kd import data, metrics
from kd.export import load_student

CLASSIFIER_ROWS = ("accuracy", "log_prob", "brier", "ece")
SIZES = ("train_examples", "test_examples")
COSTS = ("parameters", "flops", "latency[1]", "latency[256]")


# Models out of the run's files, with nothing of the study.


def network_log_probs(params, x):
    """A network with one hidden layer of ReLUs, in float64."""
    layers = [
        {k: np.asarray(v, np.float64) for k, v in params[name].items()} for name in sorted(params)
    ]
    h = x.reshape(len(x), -1).astype(np.float64)
    for layer in layers[:-1]:
        h = np.maximum(h @ layer["kernel"] + layer["bias"], 0.0)
    return oracles.log_softmax(h @ layers[-1]["kernel"] + layers[-1]["bias"])


def checkpointed(path, phase):
    """The networks of a phase's last checkpoint, one by one."""
    stacked = study_runs.checkpointed(path, phase)["params"]
    num_networks = len(stacked["Dense_0"]["bias"])
    return [
        {name: {key: value[i] for key, value in layer.items()} for name, layer in stacked.items()}
        for i in range(num_networks)
    ]


def ensemble_log_probs(networks, x):
    return np.log(np.mean([np.exp(network_log_probs(params, x)) for params in networks], axis=0))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def teacher_log_probs(run_one, digits):
    return ensemble_log_probs(checkpointed(run_one.path, "teacher"), digits.test_x)


# A finished run.


def test_a_run_leaves_what_it_promises_and_nothing_else(run_one):
    assert {path.name for path in run_one.path.iterdir()} - {".seconds"} == {
        ".lock",
        ".seal.json",
        "config.json",
        "metrics.csv",
        "summary.json",
        "figures",
        "checkpoints",
        "student",
    }
    assert {path.name for path in (run_one.path / "student").iterdir()} == {
        "student.json",
        "student.safetensors",
        "student.stablehlo",
    }
    assert {path.name for path in (run_one.path / "figures").iterdir()} == {
        "training-0.2.png",
        "derivatives.png",
    }
    assert {path.name for path in (run_one.path / "checkpoints").iterdir()} == {
        "teacher",
        "direct-0.2",
        "student-ce-dataset-0.2",
    }
    assert run_one.stderr == ""


def test_no_file_is_a_pickle(run_two):
    """Whatever its name: a pickle of protocol 2 or later begins with 0x80 and the number."""
    files = [path for path in run_two.path.rglob("*") if path.is_file()]
    assert len(files) > 50
    for path in files:
        assert path.suffix not in (".pkl", ".pickle", ".npy", ".npz", ".partial")
        assert path.read_bytes()[:2] not in [bytes([0x80, protocol]) for protocol in range(2, 6)]


def test_config_has_every_setting_resolved(run_one):
    config = json.loads((run_one.path / "config.json").read_text())
    given = {k: str(v) for k, v in run_one.settings.items() if k in Settings.__dataclass_fields__}
    expected = resolve(Settings, "quick", given)
    assert config["experiment"] == "compress_ensemble" and config["preset"] == "quick"
    assert config["settings"] == json.loads(json.dumps(vars(expected)))
    assert config["settings"]["num_members"] == 2  # Given.
    assert config["settings"]["batch_size"] == 20  # The preset's.


# 1200 training examples in batches of 20: 60 steps an epoch; a fifth of them, 12.
STEPS = {"teacher": 4 * 60, "direct[0.2]": 2 * 12, "student[ce,dataset,0.2]": 4 * 12}
POINTS = {"teacher": 6, "direct[0.2]": 40, "student[ce,dataset,0.2]": 40}


def test_metrics_have_true_steps(run_one):
    phases = run_one.metrics()
    assert list(phases) == list(STEPS)
    for phase, rows in phases.items():
        num_steps = STEPS[phase]
        steps = [int(row["step"]) for row in rows]
        points = np.geomspace(10, num_steps, POINTS[phase]).round().astype(int)
        log_every = max(1, num_steps // 100)
        assert steps == sorted(set(range(log_every, num_steps + 1, log_every)) | set(points))
        assert [int(r["step"]) for r in rows if r["accuracy"]] == sorted(set(points))
        for row in rows:
            assert math.isfinite(float(row["loss"]))
            assert (row["accuracy"] == "") == (row["log_prob"] == "")
    # The checkpoint that stays is of the last step.
    for phase, name in [("teacher", "teacher"), ("direct[0.2]", "direct-0.2")]:
        last = study_runs.checkpoints(run_one.path, name)[-1]
        assert last.name == f"step_{STEPS[phase]:09d}"


def test_training_gets_somewhere(run_one):
    """The ensemble learns digits, and the student the ensemble's values."""
    phases = run_one.metrics()
    assert float(phases["teacher"][-1]["accuracy"]) > 75
    for rows in phases.values():
        losses = [float(row["loss"]) for row in rows]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_last_point_of_a_curve_is_the_final_figure(run_one):
    values = run_one.values()
    for phase, rows in run_one.metrics().items():
        who = phase.split("[")[0]
        assert float(rows[-1]["accuracy"]) == pytest.approx(values[f"{who}.accuracy"], rel=1e-9)
        assert float(rows[-1]["log_prob"]) == pytest.approx(values[f"{who}.log_prob"], rel=1e-9)


def test_the_summary_names_every_figure_without_brackets(run_one):
    """One condition and one fraction: nothing has to be told apart."""
    summary = run_one.summary()
    assert list(summary) == ["experiment", "preset", "seconds", "rows"]
    assert summary["experiment"] == "compress_ensemble" and summary["preset"] == "quick"
    assert 0 < summary["seconds"] < study_runs.PATIENCE
    names = [row["name"] for row in summary["rows"]]
    assert names == [
        *(f"data.{key}" for key in SIZES),
        *(f"teacher.{key}" for key in CLASSIFIER_ROWS),
        *(f"direct.{key}" for key in (*CLASSIFIER_ROWS, "agreement")),
        *(f"student.{key}" for key in (*CLASSIFIER_ROWS, "agreement")),
        "student_minus_direct.accuracy",
        "student_minus_direct.log_prob",
        *(f"teacher.{key}" for key in COSTS),
        *(f"student.{key}" for key in COSTS),
    ]
    units = {row["name"]: row["unit"] for row in summary["rows"]}
    assert units.pop("student_minus_direct.accuracy") == "points"
    for name, unit in units.items():
        key = name.split(".")[1]
        assert unit == {
            "log_prob": "nats",
            "brier": "",
            "parameters": "",
            "flops": "per example",
            "latency[1]": "ms",
            "latency[256]": "ms",
            "train_examples": "",
            "test_examples": "",
        }.get(key, "%")
    for row in summary["rows"]:
        assert set(row) == {"name", "value", "stderr", "repeats", "unit", "paper"}
        assert row["paper"] is None  # The thesis has no figures on digits.
        assert row["repeats"] == 1
        assert (row["stderr"] is None) == (row["name"].split(".")[1] in (*COSTS, *SIZES))


def check_classifier(run, who, log_probs, labels, name=""):
    """The rows of a model trained once, from its predictions, by scikit-learn and by hand."""
    rows = {row["name"]: row for row in run.summary()["rows"]}

    def check(key, value, per_example=None, scale=1.0):
        row = rows[f"{who}.{key}{name}"]
        assert row["value"] == pytest.approx(scale * value, rel=1e-4, abs=1e-6)
        if per_example is not None:
            stderr = np.std(per_example, ddof=1) / math.sqrt(len(labels))
            assert row["stderr"] == pytest.approx(scale * stderr, rel=1e-3, abs=1e-9)

    log_probs = oracles.log_softmax(log_probs)  # They were summed in float32.
    probs, predicted = np.exp(log_probs), log_probs.argmax(-1)
    accuracy = sklearn_metrics.accuracy_score(labels, predicted)
    check("accuracy", accuracy, predicted == labels, 100)
    check(
        "log_prob",
        -sklearn_metrics.log_loss(labels, probs, labels=range(probs.shape[1])),
        log_probs[np.arange(len(labels)), labels],
    )
    distances = np.sum((probs - np.eye(probs.shape[1])[labels]) ** 2, -1)
    check("brier", distances.mean(), distances)
    check("ece", metrics.expected_calibration_error(log_probs, labels), scale=100)
    assert rows[f"{who}.ece{name}"]["stderr"] > 0


def test_teacher_rows_are_those_of_the_averaged_probabilities(run_one, digits, teacher_log_probs):
    """The ensemble averages probabilities: averaged logits would give other figures."""
    check_classifier(run_one, "teacher", teacher_log_probs, digits.test_y)
    members = checkpointed(run_one.path, "teacher")
    assert len(members) == 2
    logits = np.mean([network_log_probs(params, digits.test_x) for params in members], axis=0)
    geometric = oracles.log_softmax(logits)[np.arange(597), digits.test_y].mean()
    assert abs(run_one.values()["teacher.log_prob"] - geometric) > 1e-3


def test_student_rows_are_those_of_the_exported_student(run_one, digits, teacher_log_probs):
    student = load_student(run_one.path / "student")
    assert student.metadata == {
        "experiment": "compress_ensemble",
        "condition": ["ce", "dataset", 0.2],
        "dataset": "digits",
        "input_range": [0.0, 1.0],
    }
    log_probs = np.asarray(student(digits.test_x), np.float64)
    check_classifier(run_one, "student", log_probs, digits.test_y)
    agreed = np.mean(log_probs.argmax(-1) == teacher_log_probs.argmax(-1))
    assert run_one.values()["student.agreement"] == pytest.approx(100 * agreed, rel=1e-6)
    # And what was exported is what was trained.
    (trained,) = checkpointed(run_one.path, "student-ce-dataset-0.2")
    np.testing.assert_allclose(log_probs, network_log_probs(trained, digits.test_x), atol=1e-4)


def test_direct_rows_and_the_paired_difference(run_one, digits, teacher_log_probs):
    (trained,) = checkpointed(run_one.path, "direct-0.2")
    direct = network_log_probs(trained, digits.test_x)
    check_classifier(run_one, "direct", direct, digits.test_y)
    agreed = np.mean(direct.argmax(-1) == teacher_log_probs.argmax(-1))
    rows = {row["name"]: row for row in run_one.summary()["rows"]}
    assert rows["direct.agreement"]["value"] == pytest.approx(100 * agreed, rel=1e-6)

    student = np.asarray(load_student(run_one.path / "student")(digits.test_x), np.float64)
    of_label = np.arange(597), digits.test_y
    for key, difference, scale in [
        ("log_prob", student[of_label] - direct[of_label], 1),
        (
            "accuracy",
            (student.argmax(-1) == digits.test_y) * 1.0 - (direct.argmax(-1) == digits.test_y),
            100,
        ),
    ]:
        row = rows[f"student_minus_direct.{key}"]
        assert row["value"] == pytest.approx(scale * difference.mean(), rel=1e-3, abs=1e-5)
        stderr = np.std(difference, ddof=1) / math.sqrt(597)
        assert row["stderr"] == pytest.approx(scale * stderr, rel=1e-3)


def test_costs(run_one):
    values = run_one.values()
    # One hidden layer on 64 pixels: 8 units for each of 2 members, 4 for the student.
    sizes = {"teacher": (2, 8), "student": (1, 4)}
    for who, (num_networks, hidden) in sizes.items():
        num_weights = num_networks * (64 * hidden + hidden * 10)
        assert values[f"{who}.parameters"] == num_weights + num_networks * (hidden + 10)
        # A multiplication and an addition a weight, and less than that again for the rest.
        assert 2 * num_weights <= values[f"{who}.flops"] <= 4 * num_weights
        assert 0 < values[f"{who}.latency[1]"] < 1e3
    weights = safetensors.numpy.load_file(run_one.path / "student/student.safetensors")
    assert sum(leaf.size for leaf in weights.values()) == values["student.parameters"]


def test_figures_are_pictures_with_something_in_them(run_one):
    for path in (run_one.path / "figures").glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 300
            pixels = np.asarray(image.convert("L"), float)
        assert 0.005 < np.mean(pixels < 250) < 0.9


def test_the_table_at_the_end(run_one):
    values = run_one.values()
    lines = run_one.stdout.splitlines()
    table = [line for line in lines[len(STEPS) :] if str(run_one.path) not in line]
    assert max(map(len, table)) <= 80
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in lines if "│" in line]
    by_name = {row[0]: row[1:] for row in cells}
    for name, who in [
        ("teacher, 2 nets", "teacher"),
        ("direct, 20%", "direct"),
        ("ce, dataset, 20%", "student"),
    ]:
        accuracy, gap, log_prob, ece = by_name[name]
        assert float(accuracy.split(" ± ")[0]) == round(values[f"{who}.accuracy"], 2)
        assert float(log_prob.split(" ± ")[0]) == round(values[f"{who}.log_prob"], 3)
        assert float(ece) == round(values[f"{who}.ece"], 1)
        if who != "teacher":
            difference = values[f"{who}.accuracy"] - values["teacher.accuracy"]
            assert gap == f"{difference:+.2f}"
    # Plain lines elsewhere than on a terminal: each phase says its end.
    for phase, num_steps in STEPS.items():
        assert any(line.startswith(phase) and f"{num_steps}/{num_steps} " in line for line in lines)


# A finished run, asked for again.


def snapshot(path):
    return {
        file: (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def test_a_finished_run_is_shown_and_not_redone(run_one):
    before = snapshot(run_one.path)
    again = study_runs.succeed_here(run_one.path, run_one.settings)
    assert snapshot(run_one.path) == before
    assert again.stderr == ""
    # The table alone, to the letter: no phase's progress before it.
    assert run_one.stdout.endswith(again.stdout)
    assert again.stdout.startswith("digits, 1,200 training and 597 test examples")


def test_a_finished_run_that_cannot_be_written_is_shown(run_one, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run_one.path, path)
    (path / ".lock").unlink()
    (path / ".lock").mkdir()  # As good as a file system that is read-only.
    again = study_runs.succeed_here(path, run_one.settings)
    assert again.stderr == "" and again.stdout.startswith("digits, 1,200 training")
    shutil.rmtree(path / "student")
    refused = study_runs.run_here(path, run_one.settings)
    warning, error = refused.stderr.splitlines()
    assert refused.returncode == 1 and warning.endswith("lost its student, made again now.")
    assert error.startswith(f"error: --workdir {path} cannot be written")


def test_a_finished_run_that_lost_its_student_makes_it_again(run_one, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run_one.path, path)
    shutil.rmtree(path / "student")
    again = study_runs.succeed_here(path, run_one.settings)
    assert again.stderr == f"warning: {path} lost its student, made again now.\n"
    assert again.stdout.count("done before") == 3
    study_runs.assert_same_bits(again, run_one)


# Several conditions.


def test_names_have_brackets_where_there_are_several_conditions(run_two):
    names = [row["name"] for row in run_two.summary()["rows"]]
    of_students = [n for n in names if n.startswith("student") and n.split(".")[1] not in COSTS]
    conditions = ("[ce,dataset,0.2]", "[dse_projected,dataset,0.2]")
    assert of_students == [
        f"{who}.{key}{condition}"
        for condition in conditions
        for who, key in [
            *(("student", key) for key in (*CLASSIFIER_ROWS, "agreement")),
            ("student_minus_direct", "accuracy"),
            ("student_minus_direct", "log_prob"),
        ]
    ]
    # One fraction and one teacher: none for these.
    assert {"direct.accuracy", "teacher.accuracy"} <= set(names)


def test_every_repeat_counts(run_two, digits):
    """Both repeats are in the figure and its error; the first is the one exported."""
    rows = {row["name"]: row for row in run_two.summary()["rows"]}
    for loss in ("ce", "dse_projected"):
        networks = checkpointed(run_two.path, f"student-{loss}-dataset-0.2")
        log_probs = np.stack([network_log_probs(params, digits.test_x) for params in networks])
        hits = log_probs.argmax(-1) == digits.test_y
        row = rows[f"student.accuracy[{loss},dataset,0.2]"]
        # Students that learn from one stream of batches count as one training.
        is_independent = loss == "ce"
        expected = metrics.estimate(hits, is_independent=is_independent)
        assert row["repeats"] == (2 if is_independent else 1)
        assert row["value"] == pytest.approx(100 * hits.mean(), rel=1e-6)
        assert row["stderr"] == pytest.approx(100 * expected.stderr, rel=1e-6)
        student = load_student(run_two.path / "student" / f"{loss}-dataset-0.2")
        np.testing.assert_allclose(student(digits.test_x), log_probs[0], atol=1e-4)
        assert np.abs(log_probs[0] - log_probs[1]).max() > 0.1


def test_every_loss_on_every_generator(run_all, digits):
    """Twelve students, all different, each with the figures of the one it exported."""
    values, phases = run_all.values(), run_all.metrics()
    weights = study_runs.students(run_all.path)
    assert len(set(weights.values())) == len(weights) == 12
    predictions = {}
    for loss, generator in itertools.product(LOSSES, study_runs.GENERATORS):
        condition = f"[{loss},{generator},0.2]"
        rows = phases[f"student{condition}"]
        assert int(rows[-1]["step"]) == 6  # Half an epoch of twelve; with noise as many.
        assert all(math.isfinite(float(row["loss"])) for row in rows)
        student = load_student(run_all.path / "student" / f"{loss}-{generator}-0.2")
        assert student.metadata["condition"] == [loss, generator, 0.2]
        log_probs = np.asarray(student(digits.test_x), np.float64)
        check_classifier(run_all, "student", log_probs, digits.test_y, condition)
        predictions[condition] = log_probs.argmax(-1)
    assert len([name for name in values if name.startswith("student.accuracy")]) == 12
    networks = checkpointed(run_all.path, "teacher")
    asked = ensemble_log_probs(networks, digits.test_x).argmax(-1)
    for condition, predicted in predictions.items():
        agreed = 100 * np.mean(predicted == asked)
        assert values[f"student.agreement{condition}"] == pytest.approx(agreed, abs=1e-6)


# A data set of one's own, and the grid.


def test_the_grid_is_run_with_one_ensemble(run_own):
    """Fractions 1 and 0.1 of 200 examples, whatever `--train_fraction` says."""
    phases = run_own.metrics()
    assert {phase: int(rows[-1]["step"]) for phase, rows in phases.items()} == {
        "teacher": 20,
        "direct[1]": 40,
        "direct[0.1]": 4,
        "student[soft_target,dataset,1]": 80,
        "student[soft_target,dataset,0.1]": 8,
    }
    names = set(run_own.values())
    for fraction in ("1", "0.1"):
        assert f"direct.accuracy[{fraction}]" in names
        assert f"student.accuracy[soft_target,dataset,{fraction}]" in names
    assert "direct.accuracy" not in names
    assert set(study_runs.students(run_own.path)) == {
        "student/soft_target-dataset-1.0",
        "student/soft_target-dataset-0.1",
    }
    figures = {path.name for path in (run_own.path / "figures").iterdir()}
    assert figures == {"training-1.png", "training-0.1.png", "derivatives.png"}


def test_an_npz_of_ones_own(run_own):
    dataset = data.load(str(run_own.settings["dataset"]))
    assert dataset.num_classes == 3
    student = load_student(run_own.path / "student/soft_target-dataset-1.0")
    assert student.input_shape == (4, 5)
    networks = checkpointed(run_own.path, "student-soft_target-dataset-1")
    assert len(networks) == 2
    np.testing.assert_allclose(
        student(dataset.test_x), network_log_probs(networks[0], dataset.test_x), atol=1e-4
    )
    teacher = ensemble_log_probs(checkpointed(run_own.path, "teacher"), dataset.test_x)
    check_classifier(run_own, "teacher", teacher, dataset.test_y)
    # Blobs this far apart are learnt at once.
    assert run_own.values()["teacher.accuracy"] > 80
    config = json.loads((run_own.path / "config.json").read_text())
    assert config["settings"]["dataset"] == str(run_own.settings["dataset"])


def events(folder):
    """(tag, step, value) of every scalar in TensorBoard's files, checked as records."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            record = content[position + 12 : position + 12 + length]
            position += 12 + length + 4
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value
        assert position == len(content)


def test_tensorboard_events_are_the_metrics(run_own):
    found = list(events(run_own.path / "tensorboard"))
    expected = [
        (f"{phase}/{name}", int(row["step"]), float(row[name]))
        for phase, rows in run_own.metrics().items()
        for row in rows
        for name in ("loss", "accuracy", "log_prob")
        if row[name]
    ]
    assert len(found) == len(expected) > 200
    for (tag, step, value), (wanted, wanted_step, wanted_value) in zip(
        found, expected, strict=True
    ):
        # TensorBoard's tags have no brackets and no commas.
        assert tag == wanted.translate(str.maketrans("[],", "___"))
        assert step == wanted_step
        assert value == pytest.approx(wanted_value, rel=1e-6)


def test_no_tensorboard_without_the_flag(run_one):
    assert not (run_one.path / "tensorboard").exists()


# A borrowed ensemble.


def test_a_borrowed_ensemble_gives_the_same_students(run_one, tmp_path):
    """To the bit; nothing in the lender's folder is touched, torn checkpoints included."""
    lender = run_one.path / "checkpoints/teacher"
    stray = lender / "step_000000999"  # As if the lender were saving just now.
    stray.mkdir()
    (stray / "half").write_bytes(b"half")
    before = snapshot(run_one.path)
    try:
        settings = run_one.settings | {"teacher_from": run_one.path}
        borrower = study_runs.succeed_here(tmp_path / "run", settings)
        assert snapshot(run_one.path) == before
    finally:
        (stray / "half").unlink()
        stray.rmdir()
    assert not (tmp_path / "run/checkpoints/teacher").exists()
    assert study_runs.students(borrower.path) == study_runs.students(run_one.path)
    assert study_runs.lasting_rows(borrower) == study_runs.lasting_rows(run_one)
    own, borrowed = run_one.metrics(), borrower.metrics()
    assert borrowed == {phase: rows for phase, rows in own.items() if phase != "teacher"}
