"""The study's figures: learning, entropies, what uncertainties are worth, masks, costs."""

from collections.abc import Sequence

import numpy as np

from experiments.plotting import STYLE, label_counts, label_thousands, label_values, plt, save
from experiments.posterior_expectations import teachers, toy
from experiments.posterior_expectations.judging import TEST, Judged
from experiments.posterior_expectations.settings import (
    FITTED,
    PAIR,
    TEACHER,
    Chain,
    Settings,
    Student,
)
from experiments.posterior_expectations.tables import (
    COSTS,
    KINDS,
    frontier,
    has_costs,
    labels,
    name_of,
    place_of,
)
from experiments.report import Row
from experiments.run import Run
from kd import metrics

PANELS = 5  # Side by side.
LEAST_COVERAGE = 0.02  # Of a curve of errors: one wrong among the first few says nothing.
STUDENT = "#D55E00"
MARKERS = (
    {"marker": "o", "markersize": 4},
    {"marker": "s", "markersize": 6, "fillstyle": "none"},
)
LABELS = ("parameters", "FLOP an input", "ms, 100 inputs")


def draw(
    run: Run, found: dict[Chain, dict[str, Judged]], rows: Sequence[Row], truth: np.ndarray
) -> None:
    """Writes every figure into `figures/` of the workdir; `truth` are the test labels."""
    settings = run.settings
    values = {row.name: row for row in rows}
    with plt.rc_context(STYLE):
        for chain, judged in found.items():
            if chain.repeat == 0:
                suffix = f"{name_of(chain).replace(',', '-')}.png"
                save(_curves(run, chain), run, f"training-{suffix}")
                if any(one.entropy is not None for n, one in judged.items() if n != TEACHER):
                    save(_entropies(settings, judged), run, f"entropies-{suffix}")
                if any(one.uncertainties and n != TEACHER for n, one in judged.items()):
                    save(_uncertainties(settings, judged, truth), run, f"uncertainties-{suffix}")
                if has_costs(settings):
                    save(_costs(settings, name_of(chain), values), run, f"costs-{suffix}")
                if settings.dataset == toy.NAME:
                    save(toy.draw(settings, judged), run, f"{toy.NAME}.png")
        if len({name_of(chain) for chain in found}) > 1:
            save(robustness(settings, values), run, "robustness.png")


def _curves(run: Run, chain: Chain) -> plt.Figure:
    """Test NLL of teacher and students by steps of the chain."""
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    settings = run.settings
    rows = run.log.rows(f"chain[{chain.name}]")
    names = [student.name for student in settings.students() if student.kind != "entropy"]
    named = labels(settings)
    is_chain = not teachers.is_stored(settings)
    for name in [TEACHER, *names]:
        points = [(row["step"], row[f"{name}.nll"]) for row in rows if f"{name}.nll" in row]
        if points:
            steps, values = np.array(points).T
            style = _style(settings, name)
            label = named.get(name, name)
            steps = steps * settings.thin if is_chain else steps
            axis.plot(steps, values, "o-", markersize=2, label=label, **style)
    xlabel = "steps of the chain" if is_chain else "steps of the students"
    axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="test NLL, nats")
    label_counts(axis)
    label_values(axis)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _style(settings: Settings, name: str) -> dict[str, object]:
    """A line's: the same for a student in every figure."""
    if name == TEACHER:
        return {"color": "black", "linewidth": 2}
    if name == FITTED:
        return {"color": "gray", "linewidth": 1}
    every = [*settings.students(), *settings.pairs()]
    number = [student.name for student in every].index(name)
    return {"color": f"C{number % 10}", "linewidth": 1}


def _entropies(settings: Settings, judged: dict[str, Judged]) -> plt.Figure:
    """Expected entropies of each test case, students against the teacher, and their laws."""
    names = [
        name
        for name, one in judged.items()
        if name != TEACHER and one.entropy is not None and not name.startswith(f"{PAIR},")
    ]
    named = labels(settings)
    columns = min(len(names), PANELS)
    blocks = -(-len(names) // columns)
    figure, axes = plt.subplots(
        *(2 * blocks, columns),
        figsize=(0.9 + 2.1 * columns, 0.4 + 3.7 * blocks),
        squeeze=False,
        layout="constrained",
    )
    teacher = judged[TEACHER].entropy
    most = 1.02 * max(np.max(teacher), *(np.max(judged[name].entropy) for name in names))
    bins = np.linspace(0, most, 47)
    counts = [np.histogram(judged[name].entropy, bins)[0] for name in [TEACHER, *names]]
    for axis in axes.ravel():
        axis.set_visible(False)
    for index, name in enumerate(names):
        block, column = divmod(index, columns)
        above, below = axes[2 * block : 2 * block + 2, column]
        own = judged[name].entropy
        above.plot(teacher, own, ".", markersize=1, alpha=0.4, color=STUDENT, rasterized=True)
        above.plot([0, most], [0, most], color="black", linewidth=0.8)
        above.set(xlim=(0, most), ylim=(0, most), aspect="equal", xlabel="teacher's")
        above.set_title(named.get(name, name), fontsize=8)
        for values, colour, label in ((teacher, "black", TEACHER), (own, STUDENT, "student")):
            is_first = index == 0
            below.hist(
                values, bins, histtype="step", color=colour, label=label if is_first else None
            )
        below.set(yscale="log", ylim=(0.7, 2 * np.max(counts)), xlabel="expected entropy, nats")
        for axis in (above, below):
            axis.set_visible(True)
        if column == 0:
            above.set_ylabel("student's")
            below.set_ylabel("test inputs")
        else:
            for axis in (above, below):
                axis.tick_params(labelleft=False)
    figure.suptitle("Expected entropy of each test input, nats", fontsize=10)
    figure.legend(loc="outside upper right", fontsize=8, ncols=2)
    return figure


def _uncertainties(settings: Settings, judged: dict[str, Judged], truth: np.ndarray) -> plt.Figure:
    """What uncertainties are worth: errors by coverage, and what is out of distribution found."""
    named = labels(settings)
    able = {n: one for n, one in judged.items() if one.uncertainties and one.log_probs is not None}
    figure, axes = plt.subplots(
        *(len(KINDS), 1 + len(settings.outside)),
        figsize=(2.2 + 2.6 * (1 + len(settings.outside)), 5.0),
        squeeze=False,
        layout="constrained",
    )
    for kind, row in zip(KINDS, axes, strict=True):
        for name, one in able.items():
            style = _style(settings, name)
            label = named.get(name, name) if kind == KINDS[0] else None
            wrong = 1 - metrics.correct(one.log_probs, truth)
            own = getattr(one.uncertainties[TEST], kind)
            coverage, risk = metrics.risk_coverage(wrong, own)
            many = coverage >= LEAST_COVERAGE
            row[0].plot(100 * coverage[many], 100 * risk[many], label=label, **style)
            for axis, place in zip(row[1:], settings.outside, strict=True):
                other = getattr(one.uncertainties[place], kind)
                false, true = metrics.roc_curve(own, other)
                axis.plot(100 * false, 100 * true, **style)
        row[0].set(xlabel="test inputs kept, %", ylabel="errors among them, %")
        row[0].set_title(f"by {kind} uncertainty", loc="left", fontsize=9)
        for axis, place in zip(row[1:], settings.outside, strict=True):
            axis.plot([0, 100], [0, 100], color="gray", linestyle=":", linewidth=1)
            axis.set(xlabel="false positives, % of the test", ylabel=f"{place_of(place)} found, %")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def robustness(settings: Settings, values: dict[str, Row]) -> plt.Figure:
    """By masks, or by sizes where the masks are alike: NLL, the students' less it, entropies."""
    sizes = list(dict.fromkeys(chain.train_size for chain in settings.chains()))
    rates = sorted({chain.mask_rate for chain in settings.chains()})
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
    students = settings.students()
    by_size = len(rates) == 1
    lines = [sorted(sizes, key=lambda size: size or np.inf)] if by_size else [[s] for s in sizes]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(lines)))
    for line, colour in zip(lines, colours, strict=True):
        groups = [f"{rate:g},{size}" for size in line for rate in rates]
        if by_size:
            places, label = [size or values["data.train_examples"].value for size in line], None
        else:
            places = [values[f"masked[{group}]"].value for group in groups]
            label = f"{line[0]:,} examples" if line[0] else "all examples"
        nll = _values(values, "nll", groups, TEACHER)
        axes[0].plot(places, nll, "o-", color=colour, markersize=3, label=label)
        for student in students:
            style = {"color": colour, "linestyle": "-" if student.estimator == "running" else ":"}
            gap = _values(values, "nll", groups, student.name) - nll
            axes[1].plot(places, gap, "o", markersize=3, **style)
            error = _values(values, "entropy_mae", groups, student.name)
            axes[2].plot(places, error, "o", markersize=3, **style)
    if not by_size:
        axes[0].legend(fontsize=7)
    axes[1].axhline(0, color="gray", linewidth=0.8)
    if len({student.estimator for student in students}) > 1:
        for name, style in (("running mean", "-"), ("current sample", ":")):
            axes[1].plot([], [], style, color="black", label=name)
        axes[1].legend(fontsize=7)
    titles = ("teacher's NLL, nats", "student's NLL less it, nats", "MAE of expected entropy, nats")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="examples" if by_size else "share of each image masked", title=title)
        if by_size:
            axis.set(xscale="log")
            label_thousands(axis)
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
        for (title, students), style in zip(searched.items(), MARKERS, strict=True):
            points = _points(values, group, cost, students)
            if len(points):
                axis.plot(*points.T, **style, linestyle="", label=title)
                every.append(points)
        points = np.concatenate(every)
        front = points[frontier(*points.T)]
        axis.step(*front.T, where="post", color="black", linewidth=1, label="frontier")
        teacher = values[f"nll[{group},{TEACHER}]"].value
        axis.axhline(teacher, color="#D55E00", linestyle="--", linewidth=1, label="teacher")
        # Times of small networks are alike: a logarithmic axis would have no labels.
        is_wide = cost != "latency" or np.max(points[:, 0]) > 4 * np.min(points[:, 0])
        axis.set(xscale="log" if is_wide else "linear", xlabel=label)
        base = next((s for s in searched["every width"] if s.widths == (1.0, 1.0)), None)
        if base is not None:
            wide = _points(values, group, cost, [base])
            if len(wide):
                axis.axvline(wide[0, 0], color="gray", linestyle=":", label="teacher's widths")
        if cost != "latency":
            label_thousands(axis)
        elif is_wide:
            label_values(axis, "x")
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
