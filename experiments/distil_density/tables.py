"""The study's figures of merit: KL divergences from the teachers."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import report
from experiments.distil_density.quadrature import Quadrature, gaussian_bound
from experiments.distil_density.settings import Settings
from experiments.distil_density.teachers import Teacher
from experiments.report import Row
from kd.types import PyTree

FLOOR = "floor"


class Trained(NamedTuple):
    """R students trained in the same way.

    Attributes:
      params: with a leading axis R.
      kl: `[R]`, nats: D(teacher || student).
    """

    params: PyTree
    kl: np.ndarray

    def best_params(self) -> PyTree:
        """Of the student with the least divergence."""
        return jax.tree.map(lambda leaf: leaf[int(np.argmin(self.kl))], self.params)


class Results(NamedTuple):
    """All that was found of one teacher.

    Attributes:
      teacher: it.
      quadrature: its density on a grid.
      floor: the best student, trained on with that itself.
      students: by route.
    """

    teacher: Teacher
    quadrature: Quadrature
    floor: Trained
    students: dict[str, Trained]


def mean_and_error(kl: np.ndarray) -> tuple[float, float | None]:
    """Mean over repeats, and its standard error if there are several."""
    error = float(np.std(kl, ddof=1) / np.sqrt(len(kl))) if len(kl) > 1 else None
    return float(np.mean(kl)), error


def best_loss(result: Results) -> str:
    """The route with the least mean KL divergence."""
    return min(result.students, key=lambda loss: np.mean(result.students[loss].kl))


def rows(settings: Settings, results: dict[str, Results]) -> list[Row]:
    """All final figures of a run."""
    found = []
    for name, result in results.items():
        log_z = result.quadrature.log_z
        bound = gaussian_bound(result.teacher, result.quadrature)
        found += [
            Row(f"log_z[{name}]", log_z, None, 1, "nats"),
            Row(f"log_z_bound[{name}]", bound, None, 1, "nats"),
            Row(f"offset[{name}]", log_z - settings.offset_gap, None, 1, "nats"),
        ]
        for loss, trained in {FLOOR: result.floor, **result.students}.items():
            value, error = mean_and_error(trained.kl)
            repeats = len(trained.kl)
            found.append(Row(f"kl[{loss},{name}]", value, error, repeats, "nats"))
            best = float(np.min(trained.kl))
            found.append(Row(f"kl_best[{loss},{name}]", best, None, repeats, "nats"))
    return found


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the table at the end of a run."""
    by_name = report.RowsByName(summary, workdir)
    lines = []
    for teacher in settings.teacher:
        floor = by_name[f"kl[{FLOOR},{teacher}]"]
        lines.append(
            [f"{teacher}, floor", report.pm(floor, 5), "–", _best(by_name, FLOOR, teacher)]
        )
        for loss in settings.loss:
            row = by_name[f"kl[{loss},{teacher}]"]
            gap = f"{row['value'] - floor['value']:+.5f}"
            lines.append(
                [f"{teacher}, {loss}", report.pm(row, 5), gap, _best(by_name, loss, teacher)]
            )
    title = f"D(teacher || student), nats, after {settings.num_samples:,} samples"
    header = ["", "KL", "gap to the floor", "best of them"]
    if settings.num_repeats == 1:
        header, lines = header[:-1], [line[:-1] for line in lines]
    report.print_table(title, header, lines)
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} students.", end=" ")
    print("The floor is the best student of all,\ntrained on with the teacher's own density.")
    report.print_end(summary, workdir, "the best students")


def _best(by_name: dict[str, Any], loss: str, teacher: str) -> str:
    return f"{by_name[f'kl_best[{loss},{teacher}]']['value']:.5f}"
