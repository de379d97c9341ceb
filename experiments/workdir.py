"""A run's directory: who may write in it, what it was made with, and its metrics."""

import contextlib
import csv
import fcntl
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import jax

from experiments.flags import UserError
from kd.files import write_atomically

_LOG = logging.getLogger(__name__)
LOCK, SEAL = ".lock", ".seal.json"
# What a run that has begun leaves, with its config.json.
OWNED = {
    "checkpoints",
    "coverage.json",
    "draws",
    "estimates.json",
    "figures",
    "metrics.csv",
    "offset.json",
    "rbm.npz",
    "student",
    "summary.json",
    "tensorboard",
}
TICK_SECONDS = 2.0
MOST_LETTERS = 200  # Of a value that is shown.
NUMERICS = ("enable_x64", "default_prng_impl", "default_matmul_precision")
ROW_NUMBERS, ROW_MAYBE = ("value", "repeats"), ("stderr", "paper")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Workdir:
    """A directory held by one process, for one run of one experiment with fixed settings.

    Args:
      path: created if missing.
      experiment: the study's name.
      preset: "quick" or "paper".
      settings: every resolved setting, JSON-like. A directory made with others is
        refused.
      inputs: a digest of what each input holds, by name; None where it is not known.
        A directory made from others is refused.

    Raises:
      UserError: if the directory cannot be written (and holds no finished run, which can
        be read all the same), another process holds it, or it
        belongs to another experiment or other settings.
    """

    def __init__(
        self,
        path: Path,
        *,
        experiment: str,
        preset: str,
        settings: dict[str, Any],
        inputs: dict[str, str | None] | None = None,
    ):
        self.path = Path(path)
        self._config = {
            "experiment": experiment,
            "preset": preset,
            "settings": json.loads(json.dumps(settings)),
            "inputs": inputs or {},
        }
        self._identity = [experiment, preset, self._config["settings"]]
        self._lock = self._acquire()
        try:
            self._check_config()
        except BaseException:
            self._let_go()
            raise
        self._seconds_before = self._read_seconds()
        self._start = time.monotonic()
        self._last_tick = self._start

    def begin(self) -> None:
        """Writes `config.json`, unless it is there: from here on the directory is this run's."""
        if self._lock is None:
            raise UserError(f"--workdir {self.path} cannot be written; choose another.")
        if not (self.path / "config.json").exists():
            self.write_json("config.json", self._config | _environment())

    def leave(self) -> None:
        """Removes the directory again if nothing has begun in it, and lets go of it."""
        with contextlib.suppress(OSError):
            if {path.name for path in self.path.iterdir()} == {LOCK}:
                (self.path / LOCK).unlink()
                self.path.rmdir()
        self._let_go()

    def file(self, *parts: str) -> Path:
        """A path below the directory, its parent created."""
        path = self.path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        content = _read_json(path, "remove it, and the same command makes it again")
        rows = content.get("rows")
        lacks = None
        if not rows or not isinstance(rows, list) or not all(_is_row(row) for row in rows):
            lacks = "rows"
        elif not _is_number(content.get("seconds")):
            lacks = "seconds"
        elif self._seal().get("summary") != self._digest(content):
            lacks = "seal of this run"
        if lacks:
            raise UserError(
                f"{path} is damaged (no {lacks}); remove it, and the same command makes it again."
            )
        return content

    def write_summary(self, content: dict[str, Any], products: Sequence[str]) -> None:
        """Writes `summary.json`, and before it its seal and those of all files in `products`."""
        seal = {"summary": self._digest(content), "products": self._digests(products)}
        self.write_json(SEAL, seal)
        self.write_json("summary.json", content)

    def lost(self) -> list[str]:
        """Files that a finished run made, and that are gone or changed since; or whole folders."""
        made = _dict(self._seal().get("products"))
        lost = {name for name, digest in made.items() if _sha256(self.path / name) != digest}
        folders: dict[str, set[str]] = {}
        for name in made:
            folders.setdefault(name.split("/")[0], set()).add(name)
        found = []
        for folder, names in folders.items():
            found += [folder] if names <= lost else sorted(names & lost)
        return found

    def _seal(self) -> dict[str, Any]:
        """That of a finished run; empty where it is not to be read."""
        try:
            return _dict(json.loads((self.path / SEAL).read_text()))
        except (OSError, ValueError, RecursionError):
            return {}

    def _digests(self, folders: Sequence[str]) -> dict[str, str | None]:
        """Of all files in them, by path."""
        files = sorted(file for one in folders for file in (self.path / one).rglob("*"))
        names = [file.relative_to(self.path).as_posix() for file in files if file.is_file()]
        return {name: _sha256(self.path / name) for name in names}

    def _digest(self, summary: dict[str, Any]) -> str:
        """Of a summary, and of the run that it belongs to."""
        text = json.dumps([self._identity, summary], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def seconds(self) -> float:
        """Time spent on the run so far, in this process and those before it."""
        return self._seconds_before + time.monotonic() - self._start

    def tick(self) -> None:
        """Keeps `seconds` for a process that goes on after a kill; cheap to call often."""
        if time.monotonic() - self._last_tick > TICK_SECONDS:
            self._last_tick = time.monotonic()
            write_atomically(self.path / ".seconds", f"{self.seconds():.1f}".encode())

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes `name` atomically."""
        write_atomically(self.file(name), (json.dumps(content, indent=2) + "\n").encode())

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _acquire(self) -> IO[str] | None:
        """The lock, held; or None where nothing can be written: a finished run is still shown."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / LOCK, "a")  # noqa: SIM115 (held until the process ends)
        except OSError as error:
            with contextlib.suppress(OSError):
                if (self.path / "summary.json").exists():
                    return None
            raise UserError(
                f"--workdir {self.path} cannot be written ({error.strerror}); choose another."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise UserError(
                f"another process is running in --workdir {self.path}; wait for it, or choose "
                "another workdir."
            ) from error
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(self.path / LOCK)):
                return lock
        # Another process has just left, and taken the directory with it.
        lock.close()
        return self._acquire()

    def _read_seconds(self) -> float:
        try:
            seconds = float((self.path / ".seconds").read_text())
        except (OSError, ValueError):
            return 0.0
        return seconds if 0 <= seconds < math.inf else 0.0

    def _check_config(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            remains = sorted(OWNED & {entry.name for entry in self.path.iterdir()})
            if remains:
                raise UserError(
                    f"--workdir {self.path} holds {remains[0]} but no config.json, so whose it is "
                    "cannot be told; choose another."
                )
            return
        config = _read_json(path)
        if config.get("experiment") != self._config["experiment"]:
            raise UserError(
                f"--workdir {self.path} holds a run of {_shown(repr(config.get('experiment')))}; "
                "choose another."
            )
        there, here = _dict(config.get("settings")), self._config["settings"]
        differing = [
            f"{_shown(name)} ({_shown(there.get(name, 'absent'))} there, "
            f"{_shown(here.get(name, 'absent'))} here)"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        ]
        if differing:
            raise UserError(
                f"--workdir {self.path} holds a run with other settings: {', '.join(differing)}; "
                "give the same, or choose another workdir."
            )
        there = _dict(config.get("inputs"))
        for name, digest in self._config["inputs"].items():
            if digest is not None and there.get(name) != digest:
                raise UserError(
                    f"--workdir {self.path} holds a run on another {name}: its content has changed "
                    "since; bring the old one back, or choose another workdir."
                )
        if config.get("numerics", _numerics()) != _numerics():
            raise UserError(
                f"--workdir {self.path} holds a run with other numerics: {config['numerics']} "
                f"there, {_numerics()} here; set them so again, or choose another workdir."
            )
        self._warn_of_changes(config)

    def _warn_of_changes(self, config: dict[str, Any]) -> None:
        now = _environment()
        changed = [name for name in ("versions", "devices") if config.get(name) != now[name]]
        if changed:
            _LOG.warning(
                "%s began with other %s: what is done from here on may differ in bits.",
                self.path,
                " and ".join(changed),
            )


def _shown(value: Any) -> str:
    """What a file says, for a line of a terminal: whatever it is, short and without control."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


class MetricsLog:
    """`metrics.csv`: one row a logged step of a phase, with true step numbers.

    Rows are flushed as they come, and those of a phase stand together. When a phase is
    gone on with after a kill, its rows from the first new step on are dropped before
    that row is written, so that the file is the one an uninterrupted run writes.

    Args:
      path: of the CSV; what is there is kept, a torn last line excepted.
      columns: names of the figures, besides `phase` and `step`.
    """

    def __init__(self, path: Path, columns: list[str]):
        self._path = path
        self._columns = ["phase", "step", *columns]
        self._rows = self._read()
        self._started: set[str] = set()
        self._rewrite()

    def rows(self, phase: str) -> list[dict[str, float]]:
        """The rows of a phase, in order; empty figures are left out."""
        return [
            {name: float(value) for name, value in row.items() if name != "phase" and value != ""}
            for row in self._rows.get(phase, [])
        ]

    def empty(self, phase: str) -> None:
        """Drops the rows of a phase, which keeps its place."""
        if phase in self._rows:
            self._rows[phase] = []
            self._rewrite()

    def write(self, phase: str, step: int, figures: dict[str, float]) -> None:
        """Appends a row.

        Raises:
          ValueError: for a figure that is no column.
        """
        unknown = figures.keys() - set(self._columns)
        if unknown:
            raise ValueError(f"no column for {sorted(unknown)}.")
        rows = self._rows.setdefault(phase, [])
        num_before = len(rows)
        if phase not in self._started:
            self._started.add(phase)
            rows[:] = [row for row in rows if int(row["step"]) < step]
        is_at_end = len(rows) == num_before and phase == next(reversed(self._rows))
        row = {name: "" for name in self._columns} | {"phase": phase, "step": str(step)}
        row |= {name: repr(float(value)) for name, value in figures.items()}
        rows.append(row)
        if not is_at_end:
            self._rewrite()
            return
        try:
            with open(self._path, "a", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _read(self) -> dict[str, list[dict[str, str]]]:
        """The rows of each phase, in the order in which the phases began."""
        if not self._path.exists():
            return {}
        text = self._path.read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole))
        rows = {}
        try:
            if reader.fieldnames != self._columns:
                return {}
            for row in filter(_is_whole, reader):
                rows.setdefault(row["phase"], []).append(row)
        except csv.Error:
            return {}
        return rows

    def _rewrite(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for rows in self._rows.values() for row in rows)
        write_atomically(self._path, text.getvalue().encode())


def _is_whole(row: dict[str, Any]) -> bool:
    try:
        int(row["step"])
        [float(v) for k, v in row.items() if k not in ("phase", "step") and v != ""]
    except (TypeError, ValueError):
        return False
    return None not in row


def _sha256(path: Path) -> str | None:
    """Of a file; None where there is none that can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {"name", *ROW_NUMBERS, *ROW_MAYBE} <= row.keys():
        return False
    needed = [row[name] for name in ROW_NUMBERS]
    others = [row[name] for name in ROW_MAYBE if row[name] is not None]
    return isinstance(row["name"], str) and all(_is_number(x) for x in needed + others)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_json(path: Path, way_out: str = "choose another workdir") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {way_out}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {way_out}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (no JSON object); {way_out}.")
    return content


def _numerics() -> dict[str, Any]:
    """What JAX's own switches say that decides bits."""
    return {name: getattr(jax.config, f"jax_{name}") for name in NUMERICS}


def _environment() -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
        "numerics": _numerics(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[1]
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
