"""Finished runs of the study, each made once a session, by the first test that asks for it."""

import fcntl
import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import study_runs  # noqa: E402

from experiments.compress_ensemble import settings as study_settings  # noqa: E402


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    """One folder for all the processes of the session."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs"


def succeed_once(folder: Path, settings: dict, succeed) -> study_runs.Finished:
    """A run in `folder`; another process that asks for it waits for the one that makes it."""
    folder.mkdir(exist_ok=True, parents=True)
    kept = folder / "finished.json"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            made = succeed(folder / "run", settings)
            kept.write_text(json.dumps({"stdout": made.stdout, "stderr": made.stderr}))
        texts = json.loads(kept.read_text())
    return study_runs.Finished(folder / "run", settings, returncode=0, **texts)


@pytest.fixture(scope="session")
def run_one(runs_folder):
    """One condition, one repeat; in a process of its own, as a user's."""
    return succeed_once(runs_folder / "one", study_runs.ONE, study_runs.succeed)


@pytest.fixture(scope="session")
def run_two(runs_folder):
    """Two conditions, two repeats, a checkpoint at every step: never interrupted."""
    return succeed_once(runs_folder / "two", study_runs.TWO, study_runs.succeed_here)


@pytest.fixture(scope="session")
def run_all(runs_folder):
    """Every loss on every generator."""
    with study_runs.unverified_exports():
        return succeed_once(runs_folder / "all", study_runs.ALL, study_runs.succeed_here)


@pytest.fixture(scope="session")
def run_own(runs_folder):
    """A data set of one's own, `--grid`, soft targets with labels, TensorBoard."""
    # A name that a figure would take for mathematics, and a table for markup.
    path = runs_folder / "own" / "my $x_$ [b] data.npz"

    def succeed(workdir, settings):
        study_runs.write_npz(path)
        return study_runs.succeed_here(workdir, settings)

    # A grid of one loss and one generator.
    grid = {"LOSSES": ("soft_target",), "GENERATORS": ("dataset",)}
    with mock.patch.multiple(study_settings, **grid), study_runs.unverified_exports():
        return succeed_once(path.parent, study_runs.OWN | {"dataset": path}, succeed)
