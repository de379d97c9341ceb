"""Finished runs of the study, made once a session, two at a time, and shared by the tests."""

import concurrent.futures
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import study_runs  # noqa: E402


class Runs:
    """Runs by name, each started when first asked for, or early, when a worker is free."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pool = concurrent.futures.ThreadPoolExecutor(2)
        self._futures = {}

    def submit(self, name: str, fn, *arguments, **options) -> concurrent.futures.Future:
        if name not in self._futures:
            self._futures[name] = self._pool.submit(fn, *arguments, **options)
        return self._futures[name]

    def start(self, name: str) -> concurrent.futures.Future:
        workdir, cache = self.folder / name / "run", self.folder / name / "cache"
        workdir.parent.mkdir(exist_ok=True)
        settings, options = {
            "one": (study_runs.ONE, {"cache": cache, "fills_cache": True}),
            "two": (study_runs.TWO, {"cache": cache, "fills_cache": True}),
            "all": (study_runs.ALL, {"is_hasty": True, "code": study_runs.ALL_CODE}),
            "own": (study_runs.OWN, {"is_hasty": True, "code": study_runs.OWN_CODE}),
        }[name]
        if name == "own":
            # A name that a figure would take for mathematics, and a table for markup.
            path = workdir.parent / "my $x_$ [b] data.npz"
            settings = settings | {"dataset": study_runs.write_npz(path)}
        return self.submit(name, study_runs.succeed, workdir, settings, **options)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("runs"))
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
