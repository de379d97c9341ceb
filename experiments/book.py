"""Figures that take long to make, each kept in a file of the workdir as soon as it is made."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.workdir import Workdir

Figures = dict[str, float | int | bool]


def has_value(name: str, figures: Any) -> bool:
    """Whether figures hold a finite `value`, whatever their name."""
    del name
    value = figures.get("value") if isinstance(figures, dict) else None
    return isinstance(value, float) and bool(np.isfinite(value))


class Book:
    """Figures by name, in a file: a run that goes on makes only those that are missing.

    Args:
      workdir: of the run.
      file: its name there; it must be one that a run owns (`workdir.OWNED`).
      is_sound: `(name, figures)` to whether what the file has under a name is believed; what
        is not, and what a damaged file lost, is made again.

    Attributes:
      found: those asked for so far, in that order.
    """

    def __init__(
        self, workdir: Workdir, file: str, *, is_sound: Callable[[str, Any], bool] = has_value
    ):
        self._workdir, self._file = workdir, file
        self.found: dict[str, Figures] = {}
        self._before: dict[str, Figures] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            for name, figures in json.loads((workdir.path / file).read_text()).items():
                if is_sound(name, figures):
                    self._before[name] = figures

    def forget(self, name: str, *, unless: Figures) -> None:
        """Has figures made anew that differ from what is known better."""
        if self._before.get(name) != unless:
            self._before.pop(name, None)

    def keep(self, name: str, make_fn: Callable[[], dict[str, Any]]) -> Figures:
        """The figures of that name, made now if there are none."""
        if name in self._before:
            self.found[name] = self._before.pop(name)
        else:
            self.found[name] = {key: _plain(value) for key, value in make_fn().items()}
            self._workdir.write_json(self._file, self.found | self._before)
        return self.found[name]


def _plain(value: Any) -> float | int | bool:
    return value if isinstance(value, (bool, int)) else float(value)
