"""Finished runs of the study, made once a session, two at a time, and shared by the tests."""

import concurrent.futures
import fcntl
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import study_runs  # noqa: E402

WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # None where one process runs all tests.


class Runs:
    """Runs by name, each started when first asked for, or early, when a thread is free.

    Attributes:
      folder: of the session's runs, which every process of the session sees.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._pool = concurrent.futures.ThreadPoolExecutor(1 if WORKER else 2)
        self._futures = {}

    def submit(self, name: str, fn, *arguments, **options) -> concurrent.futures.Future:
        if name not in self._futures:
            self._futures[name] = self._pool.submit(fn, *arguments, **options)
        return self._futures[name]

    def start(self, name: str) -> concurrent.futures.Future:
        workdir, cache = self.folder / name / "run", self.folder / name / "cache"
        workdir.parent.mkdir(exist_ok=True, parents=True)
        settings, options = {
            "one": (study_runs.ONE, {"cache": cache, "fills_cache": True}),
            "two": (study_runs.TWO, {"cache": cache, "fills_cache": True}),
            "all": (study_runs.ALL, {"code": study_runs.ALL_CODE}),
            "own": (study_runs.OWN, {"code": study_runs.OWN_CODE}),
        }[name]
        if name == "own":
            # A name that a figure would take for mathematics, and a table for markup.
            settings = settings | {"dataset": workdir.parent / "my $x_$ [b] data.npz"}
        return self.submit(name, _succeed_once, workdir, settings, **options)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _succeed_once(workdir: Path, settings: dict, **options) -> study_runs.Finished:
    """A run that the first process to ask for it makes, while the others wait."""
    kept = workdir.parent / "finished.json"
    with open(workdir.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            if isinstance(settings["dataset"], Path):
                study_runs.write_npz(settings["dataset"])
            made = study_runs.succeed(workdir, settings, **options)
            kept.write_text(json.dumps({"stdout": made.stdout, "stderr": made.stderr}))
        texts = json.loads(kept.read_text())
    return study_runs.Finished(workdir, settings, returncode=0, cache=options.get("cache"), **texts)


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    made = Runs((base.parent if WORKER else base) / "runs")
    needed = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    for name in ("two", "one", "all", "own"):
        if f"run_{name}" in needed:
            made.start(name)
    yield made
    made.close()


@pytest.fixture(scope="session")
def run_one(runs):
    """One condition, one repeat."""
    return runs.start("one").result()


@pytest.fixture(scope="session")
def run_two(runs):
    """Two conditions, two repeats, a checkpoint at every step: never interrupted."""
    return runs.start("two").result()


@pytest.fixture(scope="session")
def run_all(runs):
    """Every loss on every generator."""
    return runs.start("all").result()


@pytest.fixture(scope="session")
def run_own(runs):
    """A data set of one's own, `--grid`, soft targets with labels, TensorBoard."""
    return runs.start("own").result()
