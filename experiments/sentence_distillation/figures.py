"""The study's figures: accuracy and likelihood by method, and what is matched of one sentence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.plotting import (
    STYLE,
    draw_matrices,
    draw_rows,
    draw_teacher,
    explain_rows,
    label_values,
    plt,
    save,
)
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
    axes[-1, -1].set_xscale("log")  # What has learned few labels by heart is far off.
    own = merits_of(teacher.log_probs[None], labels)
    colours = [SMALL if method in TINY else LSTM for method in chosen]
    for row, share in zip(axes, shares, strict=True):
        merits = [merits_of(found[Condition(method, share)].log_probs, labels) for method in chosen]
        for axis, name in zip(row, MERITS, strict=True):
            draw_teacher(axis, own[name][0])
            draw_rows(axis, [one[name] for one in merits], colours)
        count = max(1, round(share * len(task.dataset.train_y)))
        row[0].set_title(
            f"{count:,} of {len(task.dataset.train_y):,} sentences labelled for the students",
            loc="left",
            fontsize=9,
        )
        row[0].set_yticks(range(len(chosen)), [TITLES[method] for method in chosen])
    for axis, title in zip(axes[-1], MERITS.values(), strict=True):
        axis.set_xlabel(title)
    label_values(axes[-1, -1], "x")
    explain_rows(figure)
    return figure


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
    figure = draw_matrices(
        panels,
        columns=min(5, len(panels)),
        label="cosine",
        names=words if len(words) <= 20 else (),
    )
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
