"""Tiny runs of the study in processes of their own, and how to compare two of them."""

import contextlib
import csv
import dataclasses
import importlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from experiments.compress_ensemble.settings import LOSSES
from experiments.flags import Options, UserError, resolve

ROOT = Path(__file__).parents[2]
MODULE = "experiments.compress_ensemble"
PATIENCE = 600  # Seconds that any one process may take on a busy machine.
TINY = {
    "dataset": "digits",
    "num_members": 2,
    "teacher_hidden": 8,
    "student_hidden": 4,
    "teacher_epochs": 1,
    "direct_epochs": 2,
    "student_epochs": 4,
    "train_fraction": 0.2,
}


def write_npz(path, *, seed=0, dtype=np.uint8, changes=()):
    """A small data set of one's own: three classes of 4 x 5 images."""
    rng = np.random.default_rng(seed)
    means = rng.integers(40, 215, size=(3, 4, 5))
    arrays = {}
    for split, size in (("train", 200), ("test", 50)):
        labels = rng.integers(3, size=size)
        pixels = means[labels] + rng.normal(scale=40, size=(size, 4, 5))
        arrays[f"{split}_x"] = np.clip(pixels, 0, 255).astype(dtype)
        arrays[f"{split}_y"] = labels
    for key, index, value in changes:
        arrays[key][index] = value
    np.savez(path, **arrays)
    return path


# The least there is: one condition, one repeat.
ONE = TINY | {"loss": "ce", "num_repeats": 1, "teacher_epochs": 4}
# For interruptions: two conditions, of which one asks the teacher as it goes, ten batches at
# a time; a checkpoint at each of 12 + 8 + 14 + 14 steps.
TWO = TINY | {
    "loss": "ce,dse_projected",
    "num_repeats": 2,
    "batch_size": 200,
    "teacher_epochs": 2,
    "direct_epochs": 8,
    "student_epochs": 14,
    "checkpoint_seconds": 0,
}
GENERATORS = ("dataset", "noise")  # The others, which train a model first, have a run of their own.
ALL = TINY | {
    "loss": ",".join(LOSSES),
    "generator": ",".join(GENERATORS),
    "num_repeats": 1,
    "teacher_epochs": 0.2,
    "direct_epochs": 0.5,
    "student_epochs": 0.5,
}
RUN = f"import runpy; runpy.run_module('{MODULE}', run_name='__main__')\n"
# A data set of one's own, the grid (of one loss and one generator), TensorBoard.
OWN = TINY | {
    "grid": "true",
    "num_repeats": 2,
    "batch_size": 10,
    "temperature": 2,
    "label_weight": 0.25,
    "tensorboard": "true",
}


def flags_of(settings: dict) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def environment() -> dict[str, str]:
    """Of a run on the CPU, which finds the programs that this process has compiled.

    It adds none: it may be killed, and what it tears the next one would complain of.
    """
    return os.environ | {
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9",
    }


def start(
    workdir: Path,
    settings: dict,
    *,
    module: str = MODULE,
    code: str | None = None,
) -> subprocess.Popen:
    """Starts a run; `code` is a program that ends by running the module."""
    program = ["-c", code] if code else ["-m", module]
    return subprocess.Popen(
        [sys.executable, *program, f"--workdir={workdir}", *flags_of(settings)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run left."""

    path: Path
    settings: dict
    returncode: int
    stdout: str
    stderr: str

    def summary(self) -> dict:
        return json.loads((self.path / "summary.json").read_text())

    def values(self) -> dict[str, float]:
        return {row["name"]: row["value"] for row in self.summary()["rows"]}

    def metrics(self) -> dict[str, list[dict[str, str]]]:
        """The rows of `metrics.csv` by phase."""
        phases = {}
        with open(self.path / "metrics.csv", newline="") as file:
            for row in csv.DictReader(file):
                phases.setdefault(row["phase"], []).append(row)
        return phases


def run(workdir: Path, settings: dict, **options) -> Finished:
    """A run from start to end, whatever its end."""
    process = start(workdir, settings, **options)
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return Finished(workdir, settings, process.returncode, stdout, stderr)


def succeed(workdir: Path, settings: dict, **options) -> Finished:
    result = run(workdir, settings, **options)
    assert result.returncode == 0, result.stderr
    return result


def interrupt(
    process: subprocess.Popen, when: Callable[[], bool], number: int = signal.SIGKILL
) -> subprocess.CompletedProcess:
    """Sends a signal as soon as `when()` holds, which must be before the process ends."""
    deadline = time.monotonic() + PATIENCE
    try:
        while not when():
            assert process.poll() is None, f"it ended first: {process.communicate()}"
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_here(
    workdir: Path, settings: dict, *, module: str = MODULE, preset: str = "quick"
) -> Finished:
    """As `run`, in this process, which has its imports and its compiled programs already."""
    settings_class = importlib.import_module(f"{module}.settings").Settings
    names = {field.name for field in dataclasses.fields(settings_class)}
    given = {name: str(value) for name, value in settings.items() if name in names}
    options = {name: value for name, value in settings.items() if name not in names}
    stdout, stderr, returncode = io.StringIO(), io.StringIO(), 0
    handler = logging.StreamHandler(stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(stdout):
            importlib.import_module(f"{module}.study").run(
                preset, resolve(settings_class, preset, given), Options(workdir, **options)
            )
    except UserError as error:
        stderr.write(f"error: {error}\n")
        returncode = 1
    finally:
        logging.getLogger().removeHandler(handler)
    return Finished(workdir, settings, returncode, stdout.getvalue(), stderr.getvalue())


def succeed_here(workdir: Path, settings: dict, **options) -> Finished:
    result = run_here(workdir, settings, **options)
    assert result.returncode == 0, result.stderr
    return result


def unverified_exports():
    """Exports are believed as they are written: each would be run by a process of its own."""
    return mock.patch("kd.export.writing.verify")


def refusal(workdir: Path, settings: dict, **options) -> str:
    """The line with which a study refuses to run, after its warnings."""
    result = run_here(workdir, settings, **options)
    assert result.returncode == 1, result.stdout
    lines = result.stderr.splitlines()
    return one_line("".join(f"{x}\n" for x in lines if not x.startswith("warning: ")))


def one_line(stderr: str) -> str:
    """The error of a run that failed as it should: one line, and no traceback."""
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


def students(path: Path) -> dict[str, bytes]:
    """The weights of every exported student, by folder."""
    found = sorted((path / "student").rglob("student.safetensors"))
    return {str(file.parent.relative_to(path)): file.read_bytes() for file in found}


def lasting_rows(run: Finished) -> list[dict]:
    """The rows of a summary that do not depend on the clock."""
    return [row for row in run.summary()["rows"] if "latency" not in row["name"]]


def assert_same_bits(run: Finished, reference: Finished) -> None:
    """Weights, metrics and final figures are those of the other run, to the bit."""
    assert students(run.path) == students(reference.path) != {}
    ours, theirs = ((r.path / "metrics.csv").read_text() for r in (run, reference))
    assert ours == theirs
    assert lasting_rows(run) == lasting_rows(reference)


def kill_again_and_again(path: Path, settings: dict, phases: Sequence[str], **options) -> None:
    """Kills a run within each phase, as soon as it has a checkpoint there: it is left undone.

    After the same run from start to end in this process it has nothing to compile.
    """
    for phase in phases:
        process = start(path, settings | {"checkpoint_seconds": 0}, **options)
        stopped = interrupt(process, lambda phase=phase: bool(checkpoints(path, phase)))
        assert stopped.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()


def checkpoints(path: Path, phase: str) -> list[Path]:
    """Finished checkpoints of a phase, the newest last, without their suffix."""
    folder = path / "checkpoints" / phase
    return [manifest.with_suffix("") for manifest in sorted(folder.glob("step_*.json"))]


def checkpointed(path: Path, phase: str) -> dict:
    """The parameters in a phase's last checkpoint."""
    return checkpointed_student(path, phase)["params"]


def checkpointed_student(path: Path, phase: str) -> dict:
    """The update's state in a phase's last checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # orbax would rather have a template.
        return ocp.load(checkpoints(path, phase)[-1])["student"]


def unfinished(path: Path, phase: str) -> list[Path]:
    """Checkpoints of a phase that are being written, or were when a kill came."""
    folder = path / "checkpoints" / phase
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    finished = {name for name in names if name.endswith(".json")}
    return [folder / n for n in names if n not in finished and f"{n}.json" not in finished]


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def assert_row(summary: dict, name: str, values, *, rel: float = 2e-4) -> None:
    """A row has the mean of students' values, its standard error, and how many they are."""
    (row,) = [row for row in summary["rows"] if row["name"] == name]
    assert row["value"] == pytest.approx(np.mean(values), rel=rel, abs=2e-6), name
    assert row["repeats"] == len(values), name
    if len(values) == 1:
        assert row["stderr"] is None, name
    else:
        expected = np.std(values, ddof=1) / np.sqrt(len(values))
        assert row["stderr"] == pytest.approx(expected, rel=1e-3, abs=2e-6), name
