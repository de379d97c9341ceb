"""What a run tells: rows, the summary, the table at the end, progress."""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from experiments.flags import UserError
from experiments.workdir import MetricsLog
from kd.metrics import Estimate

WIDTH = 80
MOST_SHOWN = 120  # Characters of figures on a plain line.
PLAIN_SECONDS = 5.0


class Row(NamedTuple):
    """One final figure of a run, as it stands in `summary.json`.

    Attributes:
      name: dotted, with the condition in brackets where there are several.
      value: the figure.
      stderr: one standard error, or None where there is none.
      repeats: independent trainings behind it.
      unit: for instance "nats".
      paper: the paper's figure, or None.
    """

    name: str
    value: float
    stderr: float | None
    repeats: int
    unit: str
    paper: float | None = None


def row(name: str, estimate: Estimate, unit: str, *, scale: float = 1.0, paper=None) -> Row:
    """A row from an `Estimate`, scaled into its unit."""
    return Row(name, scale * estimate.value, scale * estimate.stderr, estimate.repeats, unit, paper)


def mean_row(name: str, values: np.ndarray, unit: str) -> Row:
    """The mean of independent repeats, with its standard error where there are several."""
    count = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    return Row(name, float(np.mean(values)), error, count, unit)


class Progress:
    """Progress of a phase, and its rows in `metrics.csv` (and TensorBoard).

    A bar on a terminal; elsewhere a plain line every few seconds.

    Args:
      phase: its name.
      num_steps: of the phase.
      log: where rows go.
      writer: a TensorBoard writer, or None.
    """

    def __init__(self, phase: str, num_steps: int, log: MetricsLog, writer: Any = None):
        self._phase, self._num_steps, self._log, self._writer = phase, num_steps, log, writer
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=num_steps, desc=phase, ncols=WIDTH, disable=not self._is_terminal, leave=True
        )
        self._last = time.monotonic()

    def __call__(self, step: int, figures: dict[str, Any]) -> None:
        """Takes a row from `kd.training.fit`; figures of several replicas are averaged."""
        figures = {name: float(np.mean(value)) for name, value in figures.items()}
        self._log.write(self._phase, step, figures)
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(f"{self._phase}/{name}", value, step)
        shown = _line(
            f"{name} {value:.4g}" for name, value in figures.items() if _is_shown(name, value)
        )
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(shown[: WIDTH // 2], refresh=False)
        now = time.monotonic()
        if not self._is_terminal and (step == self._num_steps or now - self._last > PLAIN_SECONDS):
            self._last = now
            say(self._phase, f"{step:>7}/{self._num_steps}  {shown}")

    def goes_on(self, step: int) -> None:
        """Says that the phase was at `step` already, before this process."""
        if self._is_terminal:
            self._bar.update(step - self._bar.n)
        elif step == self._num_steps:
            say(self._phase, f"{step:>7}/{self._num_steps}  done before")
        else:
            say(self._phase, f"{step:>7}/{self._num_steps}  goes on from here")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()


def say(phase: str, line: str) -> None:
    """A line of the log, of a phase."""
    print(f"{phase:<24} {line}", flush=True)


def _line(parts: Iterable[str]) -> str:
    """As many of them as make a line that can be read; all are in `metrics.csv`."""
    shown = ""
    for part in parts:
        if len(shown) + len(part) > MOST_SHOWN:
            return f"{shown}  ..."
        shown = f"{shown}  {part}" if shown else part
    return shown


def _is_shown(name: str, value: float) -> bool:
    """Whether a figure is worth a place on the line, as a count of mishaps is if there are any."""
    return not name.endswith("_stderr") and not (name.startswith("num_") and value == 0)


def summary(experiment: str, preset: str, seconds: float, rows: Sequence[Row]) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        "experiment": experiment,
        "preset": preset,
        "seconds": round(seconds, 1),
        "rows": [row._asdict() for row in rows],
    }


class RowsByName(dict[str, dict[str, Any]]):
    """The rows of a summary by name; one that must be there and is not is a `UserError`.

    Args:
      summary: the content of `summary.json`.
      workdir: where it lies.
    """

    def __init__(self, summary: dict[str, Any], workdir: Path):
        super().__init__((row["name"], row) for row in summary["rows"])
        self._path = workdir / "summary.json"

    def __missing__(self, name: str) -> NoReturn:
        raise UserError(
            f"{self._path} is damaged (no row {name}); remove it, and the same command makes it "
            "again."
        )


def print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Prints a table that fits 80 columns; the first column is text, the others numbers."""
    console = Console(width=WIDTH)
    # A table's own title would wrap at its width; a string's brackets would be taken for markup.
    console.print(Text(title, style="bold"))
    table = Table()
    for index, name in enumerate(header):
        if index == 0:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def pm(row: dict[str, Any] | None, digits: int) -> str:
    """`value ± stderr` of a row of a summary, or a dash."""
    if row is None:
        return "–"
    error = "" if row["stderr"] is None else f" ± {row['stderr']:.{digits}f}"
    return f"{row['value']:.{digits}f}{error}"


def print_end(summary: dict[str, Any], workdir: Path, students: str = "the students") -> None:
    """The last lines of a run: how long it took, and where things lie, each on its own line."""
    print(f"{summary['seconds']:.0f} s. Look at the figures, and at {students}, in")
    print(workdir / "figures")
    print(workdir / "student")
