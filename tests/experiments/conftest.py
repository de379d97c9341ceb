"""Finished runs of the study, made once a session, two at a time, and shared by the tests."""

import concurrent.futures
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import study_runs  # noqa: E402
from study_runs import TINY  # noqa: E402

from experiments.compress_ensemble.settings import GENERATORS, LOSSES  # noqa: E402


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
# a time; a checkpoint at each of 36 + 8 + 16 + 16 steps.
TWO = TINY | {
    "loss": "ce,dse_projected",
    "num_repeats": 2,
    "batch_size": 200,
    "teacher_epochs": 6,
    "direct_epochs": 8,
    "student_epochs": 16,
    "checkpoint_seconds": 0,
}
ALL = TINY | {
    "loss": ",".join(LOSSES),
    "generator": ",".join(GENERATORS),
    "num_repeats": 1,
    "teacher_epochs": 0.2,
    "direct_epochs": 0.5,
    "student_epochs": 0.5,
}
RUN = f"import runpy; runpy.run_module('{study_runs.MODULE}', run_name='__main__')\n"
# Twelve exports, believed as they are written: that they are verified is tested elsewhere.
ALL_CODE = "from kd.export import writing; writing.verify = lambda *_, **__: None\n" + RUN
# A data set of one's own, the grid (of one loss and one generator), TensorBoard.
OWN = TINY | {
    "grid": "true",
    "num_repeats": 2,
    "batch_size": 10,
    "temperature": 2,
    "label_weight": 0.25,
    "tensorboard": "true",
}
OWN_CODE = (
    "from experiments.compress_ensemble import settings\n"
    "settings.LOSSES, settings.GENERATORS = ('soft_target',), ('dataset',)\n" + RUN
)


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
            "one": (ONE, {"cache": cache, "fills_cache": True}),
            "two": (TWO, {"cache": cache, "fills_cache": True}),
            "all": (ALL, {"is_hasty": True, "code": ALL_CODE}),
            "own": (OWN, {"is_hasty": True, "code": OWN_CODE}),
        }[name]
        if name == "own":
            settings = settings | {"dataset": write_npz(workdir.parent / "own.npz")}
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
