"""The study's figures: learning, entropies case by case, masks and sizes, costs."""

from collections.abc import Sequence

import numpy as np

from experiments.plotting import STYLE, label_counts, label_thousands, label_values, plt, save
from experiments.posterior_expectations import toy
from experiments.posterior_expectations.judging import Judged
from experiments.posterior_expectations.settings import TEACHER, Chain, Settings, Student
from experiments.posterior_expectations.tables import COSTS, frontier, has_costs, name_of
from experiments.report import Row
from experiments.run import Run

BINS = np.linspace(0, 2.3, 47)
MOST_PANELS = 5
LABELS = ("parameters", "FLOP an input", "ms, 100 inputs")


def draw(run: Run, found: dict[Chain, dict[str, Judged]], rows: Sequence[Row]) -> None:
    """Writes every figure into `figures/` of the workdir."""
    settings = run.settings
    values = {row.name: row for row in rows}
    with plt.rc_context(STYLE):
        for chain, judged in found.items():
            if chain.repeat == 0:
                suffix = f"{name_of(chain).replace(',', '-')}.png"
                save(_curves(run, chain), run, f"training-{suffix}")
                if any(one.entropy is not None for n, one in judged.items() if n != TEACHER):
                    save(_entropies(judged), run, f"entropies-{suffix}")
                if has_costs(settings):
                    save(_costs(settings, name_of(chain), values), run, f"costs-{suffix}")
                if settings.dataset == toy.NAME:
                    save(toy.draw(settings, judged), run, f"{toy.NAME}.png")
        if len({name_of(chain) for chain in found}) > 1:
            save(_robustness(settings, values), run, "robustness.png")


def _curves(run: Run, chain: Chain) -> plt.Figure:
    """Test NLL of teacher and students by steps of the chain."""
    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    rows = run.log.rows(f"chain[{chain.name}]")
    names = [student.name for student in run.settings.students() if student.kind != "entropy"]
    for name in [TEACHER, *names]:
        points = [
            (row["step"], row[f"{name}.nll"])
            for row in rows
            if f"{name}.nll" in row and not (name == TEACHER and row.get("teacher.samples", 1) < 1)
        ]
        if points:
            steps, values = np.array(points).T
            style = {"color": "black", "linewidth": 2} if name == TEACHER else {}
            axis.plot(steps * run.settings.thin, values, "o-", markersize=2, label=name, **style)
    axis.set(xscale="log", yscale="log", xlabel="steps of the chain", ylabel="test NLL, nats")
    label_counts(axis)
    label_values(axis)
    axis.legend(fontsize=7)
    return figure


def _entropies(judged: dict[str, Judged]) -> plt.Figure:
    """Expected entropies of each test case, students against the teacher, and their laws."""
    names = [n for n, one in judged.items() if n != TEACHER and one.entropy is not None]
    names = names[:MOST_PANELS]
    figure, axes = plt.subplots(
        2, len(names), figsize=(0.6 + 2.3 * len(names), 4.2), squeeze=False, layout="constrained"
    )
    teacher = judged[TEACHER].entropy
    for (above, below), name in zip(axes.T, names, strict=True):
        own = judged[name].entropy
        above.plot(teacher, own, ".", markersize=1, alpha=0.4)
        above.plot([0, BINS[-1]], [0, BINS[-1]], color="black", linewidth=0.8)
        above.set(xlim=(0, BINS[-1]), ylim=(0, BINS[-1]), aspect="equal", xlabel="teacher, nats")
        above.set_title(name, fontsize=8)
        for values, colour in ((teacher, "black"), (own, "#D55E00")):
            below.hist(values, BINS, histtype="step", color=colour)
        below.set(yscale="log", xlabel="expected entropy, nats")
    axes[0, 0].set_ylabel("student, nats")
    axes[1, 0].set_ylabel("test cases")
    return figure


def _robustness(settings: Settings, values: dict[str, Row]) -> plt.Figure:
    """By masks and sizes: the teacher's NLL, the students' less it, and entropies apart."""
    sizes = list(dict.fromkeys(chain.train_size for chain in settings.chains()))
    rates = sorted({chain.mask_rate for chain in settings.chains()})
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
    students = settings.students()
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(sizes)))
    for size, colour in zip(sizes, colours, strict=True):
        label = f"{size:,} examples" if size else "all examples"
        groups = [f"{rate:g},{size}" for rate in rates]
        nll = _values(values, "nll", groups, TEACHER)
        axes[0].plot(rates, nll, "o-", color=colour, markersize=3, label=label)
        for student in students:
            style = {"color": colour, "linestyle": "-" if student.estimator == "running" else ":"}
            gap = _values(values, "nll", groups, student.name) - nll
            axes[1].plot(rates, gap, "o", markersize=3, **style)
            error = _values(values, "entropy_mae", groups, student.name)
            axes[2].plot(rates, error, "o", markersize=3, **style)
    axes[0].legend(fontsize=7)
    if len({student.estimator for student in students}) > 1:
        for name, style in (("running mean", "-"), ("current sample", ":")):
            axes[1].plot([], [], style, color="black", label=name)
        axes[1].legend(fontsize=7)
    titles = ("teacher's NLL, nats", "student's NLL less it, nats", "MAE of expected entropy, nats")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="share of each image masked", title=title)
        axis.title.set_fontsize(9)
    return figure


def _values(values: dict[str, Row], figure: str, groups: list[str], name: str) -> np.ndarray:
    found = (values.get(f"{figure}[{group},{name}]") for group in groups)
    return np.array([np.nan if row is None else row.value for row in found])


def _costs(settings: Settings, group: str, values: dict[str, Row]) -> plt.Figure:
    """NLL against what a prediction costs, with the frontier and the teacher's NLL."""
    searched = {
        "every width": [student for student in settings.students() if not student.strength],
        "pruned": [student for student in settings.students() if student.strength],
    }
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), sharey=True, layout="constrained")
    for axis, cost, label in zip(axes, COSTS, LABELS, strict=True):
        every = []
        for (title, students), marker in zip(searched.items(), "os", strict=True):
            points = _points(values, group, cost, students)
            if len(points):
                axis.plot(*points.T, marker, markersize=4, label=title, alpha=0.8)
                every.append(points)
        points = np.concatenate(every)
        front = points[frontier(*points.T)]
        axis.step(*front.T, where="post", color="black", linewidth=1, label="frontier")
        teacher = values[f"nll[{group},{TEACHER}]"].value
        axis.axhline(teacher, color="#D55E00", linestyle="--", linewidth=1, label="teacher")
        axis.set(xscale="log", xlabel=label)
        base = next((s for s in searched["every width"] if s.widths == (1.0, 1.0)), None)
        if base is not None:
            wide = _points(values, group, cost, [base])
            if len(wide):
                axis.axvline(wide[0, 0], color="gray", linestyle=":", label="teacher's widths")
        if cost == "latency":
            label_values(axis, "x")
        else:
            label_thousands(axis)
    axes[0].set_ylabel("test NLL, nats")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _points(values: dict[str, Row], group: str, cost: str, students: list[Student]) -> np.ndarray:
    """Cost and NLL of those that have both, `[S, 2]`."""
    found = [
        tuple(values.get(f"{figure}[{group},{student.name}]") for figure in (cost, "nll"))
        for student in students
    ]
    return np.array([[a.value, b.value] for a, b in found if a and b]).reshape(-1, 2)
