"""Checkpoints: verified on restore, so that a torn one falls back to the one before."""

import contextlib
import hashlib
import json
import logging
import re
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
from kd.training.fit import CheckpointMismatchError
from kd.types import PyTree

_LOG = logging.getLogger(__name__)
# What a save makes, finished or not; other files in the directory are somebody else's.
_OURS = re.compile(r"step_(\d{9,})(\.json(\.partial)?|\.orbax-checkpoint-tmp.*)?")


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

        Raises:
          CheckpointMismatchError: if the newest whole one does not fit `template`.
          OSError: if one cannot be read; nothing is removed for that.
        """
        finished = self._finished()
        whole = {path for f in finished for path in (f, f.with_suffix(".json"))}
        for stray in set(self._entries()) - whole if tidy else ():
            _delete(stray)  # What a killed save left behind; others' files stay.
        for path in reversed(finished):
            if _is_whole(path):
                try:
                    with _interrupts_deferred():
                        return jax.block_until_ready(ocp.load(path, template))
                except (ValueError, TypeError) as error:
                    raise CheckpointMismatchError(
                        f"the checkpoint {path} is of another kind of run: other shapes, "
                        "another structure, or other random keys."
                    ) from error
            way_out = "the start" if path == finished[0] else "the one before it"
            _LOG.warning("checkpoint %s is damaged; falling back to %s.", path.name, way_out)
            if tidy:
                self._remove(path)
        return None

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint that was finished, whole or not, if there is one."""
        finished = self._finished()
        return _step_of(finished[-1]) if finished else None

    def clear(self) -> None:
        """Removes every checkpoint."""
        for path in self._entries():
            _delete(path)

    def _entries(self) -> list[Path]:
        if not self._directory.exists():
            return []
        return [path for path in self._directory.iterdir() if _OURS.fullmatch(path.name)]

    def _finished(self) -> list[Path]:
        manifests = [path for path in self._entries() if path.suffix == ".json"]
        return sorted((path.with_suffix("") for path in manifests), key=_step_of)

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


def _step_of(path: Path) -> int:
    return int(_OURS.fullmatch(path.name)[1])


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
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
    """Whether a checkpoint is as its manifest says. One that cannot be read is not damaged."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text())
        return bool(manifest) and path.is_dir() and manifest == _digests(path)
    except (FileNotFoundError, ValueError, RecursionError):
        return False
