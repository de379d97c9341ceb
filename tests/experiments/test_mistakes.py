"""A user's mistake is one line on stderr that says what to do, and never a traceback."""

import dataclasses
import inspect
import json
import shutil

import numpy as np
import pytest
import study_runs
from study_runs import TINY, one_line, write_npz

from experiments.compress_ensemble.settings import Settings
from experiments.flags import resolve
from kd import data


def npz(name, changes=(), dtype=np.float32):
    return lambda folder: {
        "dataset": write_npz(folder / f"{name}.npz", dtype=dtype, changes=changes)
    }


def corrupt(folder):
    path = write_npz(folder / "corrupt.npz")
    content = bytearray(path.read_bytes())
    content[500] ^= 0xFF
    path.write_bytes(content)
    return {"dataset": path}


def below_a_file(folder):
    (folder / "file").write_text("mine")
    return {"workdir": folder / "file" / "run"}


def of_other_settings(folder, run_one):
    """The finished run itself: it may be read, and is refused before that."""
    return run_one.settings | {"workdir": run_one.path, "seed": 1, "num_members": 3}


def of_another_study(folder):
    (folder / "run").mkdir()
    config = {"experiment": "compress_chain", "settings": {}}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    return {}


def of_changed_data(folder):
    """It was begun, and then the file was written again."""
    path = write_npz(folder / "changed.npz")
    given = TINY | {"dataset": path, "loss": "ce", "num_repeats": 1}
    settings = resolve(Settings, "quick", {name: str(value) for name, value in given.items()})
    config = {"experiment": "compress_ensemble", "settings": dataclasses.asdict(settings)}
    config["inputs"] = {"dataset": data.fingerprint(str(path))}
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(json.dumps(config))
    write_npz(folder / "changed.npz", seed=1)
    return {"dataset": path}


def borrowing_another_ensemble(folder, run_one):
    return run_one.settings | {"teacher_from": run_one.path, "num_members": 3, "batch_size": 10}


def borrowing_an_unfinished_one(folder, run_two):
    """The lender's last checkpoint but one is its newest."""
    shutil.copytree(run_two.path, folder / "lender")
    newest = study_runs.checkpoints(folder / "lender", "teacher")[-1]
    newest.with_suffix(".json").unlink()
    shutil.rmtree(newest)
    return run_two.settings | {"teacher_from": folder / "lender"}


def borrowing_a_damaged_one(folder, run_one):
    shutil.copytree(run_one.path, folder / "lender")
    newest = study_runs.checkpoints(folder / "lender", "teacher")[-1]
    file = study_runs.largest_file(newest)
    file.write_bytes(file.read_bytes()[:-1])
    return run_one.settings | {"teacher_from": folder / "lender"}


def given(**settings):
    return lambda folder: settings


# What is wrong, and what the line must say. `{folder}` is where the run was to be.
CASES = {
    "no such data set": (
        lambda folder: {"dataset": "mnist", "data_dir": folder / "nothing"},
        "no prepared copy of mnist under {folder}/nothing: set --data_dir or TFDS_DATA_DIR",
    ),
    "unknown data set": (given(dataset="minst"), "unknown data set 'minst': expected digits, "),
    "no such file": (given(dataset="no/such.npz"), "no/such.npz: no such file."),
    "corrupt file": (corrupt, "train_x of {folder}/corrupt.npz could not be read: Bad CRC-32"),
    "NaN pixels": (
        npz("nan", [("test_x", 3, np.nan)]),
        "{folder}/nan.npz: test_x holds 20 NaN or infinite values; clean them",
    ),
    "bad labels": (
        npz("labels", [("test_y", 3, 9)]),
        "{folder}/labels.npz: test_y must lie in [0, 3), got 0 to 9.",
    ),
    "batch too large": (
        given(batch_size=2000),
        "--batch_size 2000 is more than the 40 training examples there are; lower it, or raise "
        "--train_fraction.",
    ),
    "batch too large for the fraction": (
        given(train_fraction=0.01),
        "--batch_size 20 is more than the 2 training examples there are",
    ),
    "nothing left": (
        given(train_fraction=0.0001),
        "a fraction of 0.0001 of 200 training examples leaves none; raise it.",
    ),
    "labels where there are none": (
        given(loss="soft_target", generator="noise", label_weight=0.5),
        "--label_weight needs labels, and --generator=noise has none: give 0.",
    ),
    "workdir below a file": (
        below_a_file,
        "--workdir {folder}/file/run cannot be written (Not a directory); choose another.",
    ),
    "workdir of another study": (
        of_another_study,
        "--workdir {folder}/run holds a run of 'compress_chain'; choose another.",
    ),
    "workdir of other settings": (
        of_other_settings,
        "holds a run with other settings: num_members (2 there, 3 here), seed (0 there, 1 here); "
        "give the same, or choose another workdir.",
    ),
    "workdir of changed data": (
        of_changed_data,
        "--workdir {folder}/run holds a run on another dataset: its content has changed since; ",
    ),
    "another ensemble": (
        borrowing_another_ensemble,
        " has another ensemble: num_members, batch_size differ.",
    ),
    "unfinished ensemble": (
        borrowing_an_unfinished_one,
        "--teacher_from {folder}/lender has not finished its ensemble.",
    ),
    "damaged ensemble": (
        borrowing_a_damaged_one,
        "--teacher_from {folder}/lender has not finished its ensemble.",
    ),
    "no ensemble": (
        lambda folder: {"teacher_from": folder / "nobody"},
        "--teacher_from {folder}/nobody holds no run of this study.",
    ),
}


# Of these nothing is printed, and no directory is left behind.
KNOWN_AT_ONCE = (
    "no such file",
    "batch too large",
    "batch too large for the fraction",
    "nothing left",
    "NaN pixels",
)


def settings_of(case, folder, request):
    """A run's settings, its workdir among them, in a new folder."""
    make = CASES[case][0]
    names = [name for name in inspect.signature(make).parameters if name.startswith("run_")]
    own = {"dataset": write_npz(folder / "own.npz"), "loss": "ce", "num_repeats": 1}
    runs = {name: request.getfixturevalue(name) for name in names}
    return {"workdir": folder / "run"} | TINY | own | make(folder, **runs)


def refused(settings):
    settings = dict(settings)
    workdir = settings.pop("workdir")
    return study_runs.refusal(workdir, settings)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line(case, tmp_path, request, caplog):
    settings = settings_of(case, tmp_path, request)
    workdir = settings.pop("workdir")
    failed = study_runs.run_here(workdir, settings)
    assert failed.returncode == 1
    assert CASES[case][1].format(folder=tmp_path) in one_line(
        "".join(f"{x}\n" for x in failed.stderr.splitlines() if not x.startswith("warning: "))
    )
    # Only the checkpoint that was damaged on purpose is warned of.
    assert len(caplog.records) == (case == "damaged ensemble")
    assert not (tmp_path / "run" / "summary.json").exists()
    if case in KNOWN_AT_ONCE:
        assert failed.stdout == ""
        assert not (tmp_path / "run").exists()


def test_a_refused_workdir_is_left_as_it_was(tmp_path, request, run_one):
    refused(settings_of("workdir of other settings", tmp_path, request))
    config = json.loads((run_one.path / "config.json").read_text())
    assert config["settings"]["seed"] == 0
    refused(settings_of("workdir below a file", tmp_path, request))
    assert (tmp_path / "file").read_text() == "mine"
    refused(settings_of("workdir of another study", tmp_path, request))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.json"}


def test_a_cache_too_small_and_a_larger_one_that_mends_it(run_one, tmp_path):
    """`--cache_gb` decides no result: the run goes on, to the bits of one that had enough."""
    path = tmp_path / "run"
    # As if it had been killed before its student: the ensemble and the baseline are there.
    shutil.copytree(run_one.path, path)
    (path / "summary.json").unlink()
    shutil.rmtree(path / "checkpoints" / "student-ce-dataset-0.2")
    refused = study_runs.refusal(path, run_one.settings | {"cache_gb": 1e-6})
    # 240 examples of 10 log-probabilities of 4 bytes.
    assert refused.startswith(
        "error: the teacher's labels would take 9.6 kB, and --cache_gb allows 1e-06: raise it"
    )
    assert not (path / "summary.json").exists()
    done = study_runs.succeed_here(path, run_one.settings | {"cache_gb": 1e-5})
    assert "240 examples: 9.6 kB of 1e-05 GB allowed" in done.stdout
    study_runs.assert_same_bits(done, run_one)
