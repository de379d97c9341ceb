"""Checkpoints: verified on restore, so that a torn one falls back to the one before."""

import contextlib
import hashlib
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from kd import checks
from kd.files import write_atomically
from kd.types import PyTree

_LOG = logging.getLogger(__name__)


class Checkpointer:
    """Saves a pytree of arrays (typed keys included) now and then, and restores the newest.

    A checkpoint is a directory `step_<n>` written by orbax, and a file
    `step_<n>.json` with the size and SHA-256 of each of its files, written last. A
    checkpoint without that file was never finished; one that disagrees with it was
    damaged: both are passed over, the second with a warning.

    Args:
      directory: created if missing.
      every_seconds: the least time between two saves; 0 saves at every chance.
      keep: how many newest checkpoints stay.

    Raises:
      ValueError: if `keep` < 1 or `every_seconds` < 0.
    """

    def __init__(self, directory: str | Path, *, every_seconds: float = 30.0, keep: int = 2):
        checks.check_count("keep", keep)
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0, got {every_seconds}.")
        self._directory = Path(directory).absolute()
        self._every_seconds = every_seconds
        self._keep = keep
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether `every_seconds` have passed since the last save."""
        return time.monotonic() - self._last >= self._every_seconds

    def save(self, step: int, state: PyTree) -> None:
        """Writes `state`, blocking until it is on disk; then drops the oldest.

        Raises:
          OSError: when the disk refuses; checkpoints written before stay whole.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"step_{step:09d}"
        with _interrupts_deferred():
            self._remove(path)
            try:
                ocp.save(path, state)
            except Exception as error:  # orbax wraps some failed writes in its own types.
                self._remove(path)
                raise OSError(f"could not write the checkpoint {path.name}: {error}") from error
            manifest = path.with_suffix(".json")
            write_atomically(manifest, json.dumps(_digests(path), indent=0).encode())
        for old in self._finished()[: -self._keep]:
            self._remove(old)
        self._last = time.monotonic()

    def restore(self, template: PyTree, *, tidy: bool = True) -> PyTree | None:
        """The newest whole checkpoint in the form of `template`, or None if there is none.

        Args:
          template: a pytree of arrays with the structure and shapes to expect; values are cast
            to its dtypes.
          tidy: whether to remove checkpoints that are damaged or were never finished;
            false to look into a directory in which another process may be saving.
        """
        if not self._directory.exists():
            return None
        finished = self._finished()
        whole = {path for f in finished for path in (f, f.with_suffix(".json"))}
        for stray in set(self._directory.glob("step_*")) - whole if tidy else ():
            _delete(stray)  # What a killed save left behind; others' files stay.
        for path in reversed(finished):
            if _is_whole(path):
                with _interrupts_deferred():
                    return jax.block_until_ready(ocp.load(path, template))
            _LOG.warning("checkpoint %s is damaged; falling back to the one before it.", path.name)
            if tidy:
                self._remove(path)
        return None

    def _finished(self) -> list[Path]:
        return [p.with_suffix("") for p in sorted(self._directory.glob("step_*.json"))]

    def _remove(self, path: Path) -> None:
        path.with_suffix(".json").unlink(missing_ok=True)
        _delete(path)


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Holds Ctrl-C back to the end of the block.

    orbax, when interrupted, leaves threads that wait for ever, and Python waits for them.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught = []
    signal.signal(signal.SIGINT, lambda *arguments: caught.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[0])


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digests(directory: Path) -> dict[str, list]:
    """Size and SHA-256 of every file under `directory`, by relative name."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): [path.stat().st_size, _sha256(path)] for path in files
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path) -> bool:
    try:
        return json.loads(path.with_suffix(".json").read_text()) == _digests(path)
    except (OSError, ValueError):
        return False
