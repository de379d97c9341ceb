"""The study's figures: accuracy and likelihood by method, and what is matched of one sentence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.lines import Line2D

from experiments.plotting import STYLE, label_values, plt, save
from experiments.run import Run
from experiments.sentence_distillation.settings import TINY, Condition
from experiments.sentence_distillation.tables import TITLES, merits_of
from experiments.sentence_distillation.tasks import Task
from kd import models

MERITS = {"accuracy": "test accuracy, %", "nll": "test NLL, nats"}
LSTM, SMALL = "tab:blue", "tab:orange"


def draw(run: Run, task: Task, teacher: Any, found: dict[Condition, Any]) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        save(_methods(run, task, teacher, found), run, "methods.png")
        save(_positions(run, task, teacher, found), run, "positions.png")


def _methods(run: Run, task: Task, teacher: Any, found: dict[Condition, Any]) -> plt.Figure:
    """Every method by its mean and one standard error, and every student; by labels."""
    shares, chosen = run.settings.label_share, run.settings.method
    labels = task.dataset.test_y
    figure, axes = plt.subplots(
        *(len(shares), len(MERITS)),
        figsize=(8, 1 + len(shares) * (0.8 + 0.27 * len(chosen))),
        squeeze=False,
        layout="constrained",
        sharey="row",
        sharex="col",
    )
    own = merits_of(teacher.log_probs[None], labels)
    for row, share in zip(axes, shares, strict=True):
        merits = [merits_of(found[Condition(method, share)].log_probs, labels) for method in chosen]
        for axis, name in zip(row, MERITS, strict=True):
            axis.axvline(own[name][0], color="black", linestyle="--", linewidth=1)
            _points(axis, chosen, [one[name] for one in merits])
        count = max(1, round(share * len(task.dataset.train_y)))
        row[0].set_title(
            f"{count:,} of {len(task.dataset.train_y):,} sentences labelled for the students",
            loc="left",
            fontsize=9,
        )
        row[0].set_yticks(range(len(chosen)), [TITLES[method] for method in chosen])
        row[0].set_ylim(len(chosen) - 0.5, -0.5)
    for axis, title in zip(axes[-1], MERITS.values(), strict=True):
        axis.set_xlabel(title)
    axes[-1, -1].set_xscale("log")  # What has learned few labels by heart is far off.
    label_values(axes[-1, -1], "x")
    handles = [
        Line2D([], [], color="black", linestyle="--", linewidth=1, label="teacher"),
        Line2D([], [], color="grey", marker="o", label="mean ± one standard error"),
        Line2D([], [], color="grey", marker="|", linestyle="", alpha=0.6, label="a student"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _points(axis: plt.Axes, chosen: tuple[str, ...], values: list[np.ndarray]) -> None:
    for place, (method, own) in enumerate(zip(chosen, values, strict=True)):
        colour = SMALL if method in TINY else LSTM
        error = np.std(own, ddof=1) / len(own) ** 0.5 if len(own) > 1 else 0
        axis.plot(own, np.full(len(own), place), "|", color=colour, alpha=0.5, markersize=8)
        axis.errorbar(
            np.mean(own), place, xerr=error, fmt="o", color=colour, markersize=5, capsize=3
        )
    axis.grid(axis="y", visible=False)


def _positions(run: Run, task: Task, teacher: Any, found: dict[Condition, Any]) -> plt.Figure:
    """Correlations of positions, in the last matched layer, of the longest test sentence."""
    dataset = task.dataset
    x = dataset.test_x[np.argmax(np.sum(dataset.test_x != 0, axis=1))]
    panels = {"teacher": _correlations(task.teacher, teacher.params, x, _last(task, "labels")[1])}
    for method in run.settings.method:
        first = jax.tree.map(
            lambda leaf: leaf[0], found[Condition(method, run.settings.label_share[0])].params
        )
        own = _last(task, method)[0]
        panels[TITLES[method]] = _correlations(task.student_of(method), first, x, own)
    words = ["?" if token == 1 else dataset.vocabulary[token - 2] for token in x if token]
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        *(rows, columns),
        figsize=(max(4, 2 * columns), 0.7 + 2.2 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.ravel():
        axis.set_visible(False)
    for index, (axis, (title, matrix)) in enumerate(
        zip(axes.ravel(), panels.items(), strict=False)
    ):
        axis.set_visible(True)
        axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(title.replace(", ", "\n", 1), fontsize=8)
        axis.set_xticks([])
        is_named = index % columns == 0 and len(words) <= 20
        axis.set_yticks(range(len(words)) if is_named else [], words if is_named else [])
        axis.tick_params(labelsize=7)
        axis.grid(visible=False)
    figure.suptitle("Cosines between the words' states in the last matched layer", fontsize=10)
    return figure


def _last(task: Task, method: str) -> tuple[str, str]:
    """The last matched layer: the student's and the teacher's."""
    link = task.links_of(method)["hidden"][-1]
    return link.own, link.teacher


def _correlations(model: Any, params: Any, x: np.ndarray, layer: str) -> np.ndarray:
    """Cosines between the states of words, `[words, words]`."""
    states = np.asarray(models.features_of(model, [layer])(params, jnp.asarray(x))[layer])
    states = states[x != 0]
    states = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-30)
    return states @ states.T
