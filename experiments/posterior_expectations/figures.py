"""The study's figures: learning beside the chain, and entropies case by case."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.plotting import STYLE, label_counts, plt, save
from experiments.posterior_expectations.settings import Chain
from experiments.run import Run

if TYPE_CHECKING:
    from experiments.posterior_expectations.study import Judged

TEACHER = "teacher"
BINS = np.linspace(0, 2.3, 47)


def draw(run: Run, found: dict[Chain, dict[str, "Judged"]], labels: np.ndarray) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        for chain, judged in found.items():
            if chain.repeat == 0:
                suffix = f"{chain.mask_rate:g}-{chain.train_size}.png"
                save(_curves(run, chain), run, f"training-{suffix}")
                save(_entropies(judged), run, f"entropies-{suffix}")


def _curves(run: Run, chain: Chain) -> plt.Figure:
    """Test NLL of teacher and students by steps of the chain."""
    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    rows = run.log.rows(f"chain[{chain.name}]")
    names = [student.name for student in run.settings.students() if student.kind != "entropy"]
    for name in [TEACHER, *names]:
        points = [
            (row["step"], row[f"{name}.nll"])
            for row in rows
            if f"{name}.nll" in row and not (name == TEACHER and row["teacher.samples"] < 1)
        ]
        if points:
            steps, values = np.array(points).T
            style = {"color": "black", "linewidth": 2} if name == TEACHER else {}
            axis.plot(steps * run.settings.thin, values, "o-", markersize=2, label=name, **style)
    axis.set(xscale="log", yscale="log", xlabel="steps of the chain", ylabel="test NLL, nats")
    label_counts(axis)
    axis.legend(fontsize=7)
    return figure


def _entropies(judged: dict[str, "Judged"]) -> plt.Figure:
    """Expected entropies of each test case, students against the teacher, and their laws."""
    names = [n for n, one in judged.items() if n != TEACHER and one.entropy is not None]
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
