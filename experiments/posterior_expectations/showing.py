"""The tables at the end of a run."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.posterior_expectations import toy
from experiments.posterior_expectations.settings import FITTED, TEACHER, Settings, Student
from experiments.posterior_expectations.tables import (
    COSTS,
    DRAW_SIZE,
    KINDS,
    TIMED_INPUTS,
    TOP,
    frontier,
    has_costs,
    name_of,
)

MOST_GROUPS = 3  # With tables of their own; more are crossed.
MAIN = (("nll", 4), ("accuracy", 2), ("ece", 4), ("entropy_mae", 4))
HEADER = ["", "NLL", "accuracy %", "ECE", "MAE of E H"]


class Shown(NamedTuple):
    """The rows of a run.

    Attributes:
      settings: of it.
      by_name: its rows.
    """

    settings: Settings
    by_name: report.RowsByName

    @property
    def names(self) -> list[str]:
        """Of the teacher and the students."""
        students = self.settings.students()
        fitted = [FITTED] if any(student.kind == "dirichlet" for student in students) else []
        return [TEACHER, *fitted, *(student.name for student in students)]

    def cell(self, figure: str, group: str, name: str, digits: int) -> str:
        """A figure with its error, or a dash."""
        return report.pm(self.by_name.get(f"{figure}[{group},{name}]"), digits)

    def line(self, name: str, group: str, figures: Any) -> list[str]:
        """A row of a table."""
        return [name, *(self.cell(figure, group, name, digits) for figure, digits in figures)]


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables."""
    shown = Shown(settings, report.RowsByName(summary, workdir))
    groups = list(dict.fromkeys(name_of(chain) for chain in settings.chains()))
    if settings.dataset == toy.NAME:
        _show_toy(shown, groups[0])
    elif len(groups) > MOST_GROUPS:
        _show_crosses(shown)
    else:
        for group in groups:
            _show_group(shown, group)
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} chains.")
    report.print_end(summary, workdir)


def _show_toy(shown: Shown, group: str) -> None:
    """Divergences from the reference."""
    lines = [shown.line(name, group, [("kl", 4)]) for name in shown.names]
    lines.insert(0, [toy.PLUG_IN, report.pm(shown.by_name[f"kl[{toy.PLUG_IN}]"], 4)])
    report.print_table("KL from NUTS, nats, over the square", ["", "KL"], lines)
    r_hat = shown.by_name["reference.r_hat"]["value"]
    if r_hat > toy.MOST_R_HAT:
        print(f"NUTS's own chains disagree: R-hat {r_hat:.3f}.")


def _show_group(shown: Shown, group: str) -> None:
    """Of one kind of chain: everything."""
    rate, size = group.split(",")
    title = f"mask {rate}, {'all' if size == '0' else size} examples"
    lines = [shown.line(name, group, MAIN) for name in shown.names]
    report.print_table(title, HEADER, lines)
    if has_costs(shown.settings):
        _show_costs(shown, group)
    judged = [name for name in shown.names if f"ndcg.total[{group},{name}]" in shown.by_name]
    if not judged[1:]:
        return
    for place in shown.settings.outside:
        figures = [(f"{what}.{place}.{kind}", 3) for what in ("auroc", "fpr95") for kind in KINDS]
        lines = [shown.line(name, group, figures) for name in judged]
        header = ["", "AUROC, total", "knowledge", "FPR95, total", "knowledge"]
        report.print_table(f"telling {place} from the test", header, lines)
    figures = [(f"{what}.{kind}", 3) for kind in KINDS for what in ("ndcg", "ndcg_random")]
    lines = [shown.line(name, group, figures) for name in judged[1:]]
    header = ["", "total", "random", "knowledge", "random"]
    report.print_table(f"nDCG@{TOP} of {DRAW_SIZE} test inputs", header, lines)


def _show_crosses(shown: Shown) -> None:
    """Masks by sizes, a table for each figure."""
    chains = shown.settings.chains()
    rates = list(dict.fromkeys(chain.mask_rate for chain in chains))
    sizes = list(dict.fromkeys(chain.train_size for chain in chains))
    header = ["mask", *(f"{size:,}" if size else "all" for size in sizes)]

    def cross(title: str, figure: str, name: str, baseline: str | None = None) -> None:
        lines = []
        for rate in rates:
            cells = []
            for size in sizes:
                row = shown.by_name.get(f"{figure}[{rate:g},{size},{name}]")
                if row is not None and baseline:
                    other = shown.by_name[f"{figure}[{rate:g},{size},{baseline}]"]
                    row = row | {"value": row["value"] - other["value"], "stderr": None}
                cells.append(report.pm(row, 4))
            lines.append([f"{rate:g}", *cells])
        report.print_table(title, header, lines)

    cross("teacher's NLL, nats, by masks and examples", "nll", TEACHER)
    for student in shown.settings.students():
        if _has(shown, "nll", student):
            cross(f"{student.name}: NLL less the teacher's", "nll", student.name, TEACHER)
        if _has(shown, "entropy_mae", student):
            cross(f"{student.name}: MAE of the expected entropy", "entropy_mae", student.name)


def _has(shown: Shown, figure: str, student: Student) -> bool:
    return any(
        f"{figure}[{name_of(chain)},{student.name}]" in shown.by_name
        for chain in shown.settings.chains()
    )


def _show_costs(shown: Shown, group: str) -> None:
    """NLL beside what a prediction costs; a star where no cheaper student is as good."""
    found = [
        (name, *(shown.by_name[f"{figure}[{group},{name}]"]["value"] for figure in ("nll", *COSTS)))
        for name in shown.names
        if all(f"{figure}[{group},{name}]" in shown.by_name for figure in ("nll", "flops"))
    ]
    if not found:
        return
    losses = np.array([one[1] for one in found])
    stars = [
        set(frontier(np.array([one[2 + index] for one in found]), losses).tolist())
        for index in range(len(COSTS))
    ]
    lines = []
    for index, (name, nll, *cost) in enumerate(found):
        cells = (f"{cost[0]:,.0f}", f"{cost[1] / 1e3:,.0f}", f"{cost[2]:.2f}")
        marked = [c + ("*" if index in s else " ") for c, s in zip(cells, stars, strict=True)]
        lines.append([name, f"{nll:.4f}", *marked])
    report.print_table("what a student costs", ["", "NLL", "parameters", "kFLOP", "ms"], lines)
    print(f"* no cheaper student is as good; the time is of {TIMED_INPUTS} inputs at once.")
