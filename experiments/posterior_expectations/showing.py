"""The tables at the end of a run."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.posterior_expectations import toy
from experiments.posterior_expectations.settings import FITTED, TEACHER, Chain, Settings, Student
from experiments.posterior_expectations.tables import (
    COSTS,
    DRAW_SIZE,
    DRAWS,
    KINDS,
    TIMED_INPUTS,
    TOP,
    frontier,
    has_costs,
    labels,
    name_of,
    place_of,
    title_of,
)

MOST_GROUPS = 3  # With tables of their own; more are crossed.
WITH_ERROR = ("nll", "accuracy", "kl")
MAIN = (("nll", 4), ("accuracy", 2), ("ece", 4), ("entropy_mae", 4))
HEADER = ["", "NLL", "accuracy %", "ECE", "entropy MAE"]


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

    @property
    def pairs(self) -> list[str]:
        """Of two students together."""
        return [student.name for student in self.settings.pairs()]

    def cell(self, figure: str, group: str, name: str, digits: int) -> str:
        """A figure, the main ones with their error, or a dash."""
        row = self.by_name.get(f"{figure}[{group},{name}]")
        if row is not None and figure not in WITH_ERROR:
            row = row | {"stderr": None}
        return report.pm(row, digits)

    def line(self, name: str, group: str, figures: Any) -> list[str]:
        """A row of a table."""
        cells = [self.cell(figure, group, name, digits) for figure, digits in figures]
        return [labels(self.settings).get(name, name), *cells]


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables."""
    shown = Shown(settings, report.RowsByName(summary, workdir))
    groups = {name_of(chain): chain for chain in settings.chains()}
    if settings.dataset == toy.NAME:
        _show_toy(shown, next(iter(groups)))
    elif len(groups) > MOST_GROUPS or (settings.experiment == "2" and len(groups) > 1):
        _show_crosses(shown)
    else:
        for chain in groups.values():
            _show_group(shown, chain)
    _show_notes(settings)
    report.print_end(summary, workdir)


def _show_notes(settings: Settings) -> None:
    """What names and figures mean."""
    students = settings.students()
    common = {
        part: {getattr(student, part) for student in students} for part in ("kind", "estimator")
    }
    kinds = set(common["kind"])
    same = [next(iter(values)) for values in common.values() if len(values) == 1]
    if same and len(students) > 1:
        print(f"Every student: {', '.join(same)}.")
    if len({student.widths for student in students}) > 1:
        print("1x2: one times the teacher's channels, two times its units.")
    if len(common["estimator"]) > 1:
        print("current: learned from the current sample; running: from running means.")
    if settings.pairs() and settings.dataset != toy.NAME:
        print("pair: a student of the predictive distribution and one of the entropy, together.")
    if "both" in kinds:
        print("both: of the entropy all learn running means.")
    if "dirichlet" in kinds:
        print(f"{FITTED}: the likeliest at each input, given the teacher's answers.")
    if any(student.strength for student in students):
        print("lambda: of the group lasso, after which the student was pruned and fine-tuned.")
    if settings.dataset == toy.NAME:
        print(
            f"{toy.PLUG_IN}: the teacher's network, trained on the twenty points without a prior."
        )
        if settings.num_repeats > 1:
            print(f"± is one standard error over {settings.num_repeats} chains.")
        return
    print("entropy MAE: of each test input's expected entropy, from the teacher's, nats.")
    over = f" and {settings.num_repeats} chains" if settings.num_repeats > 1 else ""
    print(f"± is one standard error over test inputs{over}. Brier scores, AUPR,")
    print("areas under risk by coverage, and the other errors are in summary.json.")


def _show_toy(shown: Shown, group: str) -> None:
    """Divergences from the reference."""
    lines = [shown.line(name, group, [("kl", 4)]) for name in shown.names]
    lines.insert(0, [toy.PLUG_IN, report.pm(shown.by_name[f"kl[{toy.PLUG_IN}]"], 4)])
    report.print_table("KL from NUTS, nats, over the square", ["", "KL"], lines)
    r_hat = shown.by_name["reference.r_hat"]["value"]
    if r_hat > toy.MOST_R_HAT:
        print(f"NUTS's own chains disagree: R-hat {r_hat:.3f}.")


def _show_group(shown: Shown, chain: Chain) -> None:
    """Of one kind of chain: everything."""
    group = name_of(chain)
    title = title_of(chain, shown.by_name[f"masked[{group}]"]["value"])
    lines = [shown.line(name, group, MAIN) for name in shown.names]
    report.print_table(title, HEADER, lines)
    if has_costs(shown.settings):
        _show_costs(shown, group)
    every = [*shown.names, *shown.pairs]
    judged = [name for name in every if f"ndcg.total[{group},{name}]" in shown.by_name]
    if not judged[1:]:
        return
    for place in shown.settings.outside:
        figures = [(f"{what}.{place}.{kind}", 3) for what in ("auroc", "fpr95") for kind in KINDS]
        lines = [shown.line(name, group, figures) for name in judged]
        header = ["", "AUROC, total", "knowledge", "FPR95, total", "knowledge"]
        report.print_table(f"telling {place_of(place)} from the test", header, lines)
    lines = [
        [
            labels(shown.settings).get(name, name),
            *(cell for kind in KINDS for cell in _ranked(shown, group, name, kind)),
        ]
        for name in judged[1:]
    ]
    header = ["", "total", "random", "knowledge", "random"]
    count = int(shown.by_name["data.test_examples"]["value"])
    report.print_table(f"nDCG@{min(TOP, count)}, gains the teacher's own", header, lines)
    print(f"Means ± standard deviations over {DRAWS} draws of {min(DRAW_SIZE, count)} test inputs.")


def _ranked(shown: Shown, group: str, name: str, kind: str) -> list[str]:
    """A student's gain with its deviation over draws, and a random order's."""
    cells = [
        shown.cell(f"{figure}.{kind}", group, name, 3)
        for figure in ("ndcg", "ndcg_std", "ndcg_random")
    ]
    return [f"{cells[0]} ± {cells[1]}", cells[2]]


def _show_crosses(shown: Shown) -> None:
    """Masks by sizes, a table for each figure."""
    chains = shown.settings.chains()
    rates = list(dict.fromkeys(chain.mask_rate for chain in chains))
    sizes = list(dict.fromkeys(chain.train_size for chain in chains))
    header = ["masked", *(f"{size:,}" if size else "all" for size in sizes)]
    named = labels(shown.settings)

    def cross(title: str, figure: str, name: str, baseline: str | None = None) -> None:
        lines = []
        for rate in rates:
            cells = []
            for size in sizes:
                row = shown.by_name.get(f"{figure}[{rate:g},{size},{name}]")
                if row is not None:
                    row = row | {"stderr": None}
                if row is not None and baseline:
                    other = shown.by_name[f"{figure}[{rate:g},{size},{baseline}]"]
                    row = row | {"value": row["value"] - other["value"]}
                cells.append(report.pm(row, 4))
            share = shown.by_name[f"masked[{rate:g},{sizes[0]}]"]["value"]
            lines.append([f"{100 * share:.3g} %", *cells])
        report.print_table(title, header, lines)

    cross("teacher's NLL, nats, by masks and examples", "nll", TEACHER)
    for student in shown.settings.students():
        if _has(shown, "nll", student):
            title = f"{named[student.name]}: NLL less the teacher's"
            cross(title, "nll", student.name, TEACHER)
        if _has(shown, "entropy_mae", student):
            title = f"{named[student.name]}: MAE of the expected entropy"
            cross(title, "entropy_mae", student.name)


def _has(shown: Shown, figure: str, student: Student) -> bool:
    return any(
        f"{figure}[{name_of(chain)},{student.name}]" in shown.by_name
        for chain in shown.settings.chains()
    )


def _show_costs(shown: Shown, group: str) -> None:
    """NLL beside what a prediction costs; a star where no cheaper student is as good."""
    found = [
        (
            name,
            *(
                shown.by_name[f"{figure}[{group},{name}]"]["value"]
                for figure in ("nll", "units", *COSTS)
            ),
        )
        for name in shown.names
        if all(f"{figure}[{group},{name}]" in shown.by_name for figure in ("nll", "flops"))
    ]
    if not found:
        return
    losses = np.array([one[1] for one in found])
    stars = [
        set(frontier(np.array([one[3 + index] for one in found]), losses).tolist())
        for index in range(len(COSTS))
    ]
    lines = []
    for index, (name, nll, units, *cost) in enumerate(found):
        cells = (f"{cost[0]:,.0f}", f"{cost[1] / 1e3:,.0f}", f"{cost[2]:.2f}")
        marked = [c + ("*" if index in s else " ") for c, s in zip(cells, stars, strict=True)]
        lines.append([labels(shown.settings)[name], f"{nll:.4f}", f"{units:,.0f}", *marked])
    header = ["", "NLL", "units", "parameters", "kFLOP", "ms"]
    report.print_table("what a student costs", header, lines)
    print("units: hidden, and channels. * No cheaper student is as good; the time is of")
    print(f"{TIMED_INPUTS} inputs at once.")
    _show_whole(shown, {name: units for name, _, units, *_ in found})


def _show_whole(shown: Shown, units: dict[str, float]) -> None:
    """Students that pruning left as they were."""
    sizes = {student: units.get(student.name) for student in shown.settings.students()}
    whole = [
        labels(shown.settings)[student.name]
        for student, size in sizes.items()
        if student.strength and size and size == sizes.get(student._replace(strength=0.0))
    ]
    if whole:
        print(f"Pruning removed nothing of: {'; '.join(whole)}.")
