"""The study's figures: accuracy and calibration by labels, and the kernels that are matched."""

from typing import Any

import jax
import numpy as np

from experiments.feature_priors.settings import CHAINS, PRIORS, Condition
from experiments.feature_priors.tables import TEACHERS, TITLES, heading
from experiments.feature_priors.tasks import Task
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
from kd import metrics, models
from kd.losses.features import linear_kernel

SHOWN = 12  # Test inputs of each class in a kernel's picture.
COLOURS = {"without a features' prior": "tab:blue", "with one": "tab:orange"}
ACCURACY, NLL = "test accuracy, %", "test NLL, nats"


def _accuracies(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 100 * np.mean(metrics.correct(log_probs, labels), axis=1)


def _nlls(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.mean(metrics.label_log_prob(log_probs, labels), axis=1)


MERITS = {ACCURACY: _accuracies, NLL: _nlls}


def draw(run: Run, task: Task, teachers: dict[str, Any], found: dict[Condition, Any]) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        save(_methods(run, task, teachers, found), run, "methods.png")
        for protocol in run.settings.protocols:
            save(_kernels(run, task, teachers, found, protocol), run, f"kernels-{protocol}.png")


def _methods(
    run: Run, task: Task, teachers: dict[str, Any], found: dict[Condition, Any]
) -> plt.Figure:
    """Accuracy and NLL of every method; a row for each share of labels, two columns a protocol."""
    settings, labels = run.settings, task.dataset.test_y
    shares, chosen = settings.label_share, settings.methods
    columns = [(protocol, title) for protocol in settings.protocols for title in MERITS]
    figure, axes = plt.subplots(
        *(len(shares), len(columns)),
        figsize=(2 + 3 * len(columns), 1.2 + len(shares) * (0.6 + 0.25 * len(chosen))),
        squeeze=False,
        layout="constrained",
        sharey="row",
        sharex="col",
    )
    for index, (_, title) in enumerate(columns):
        if title == NLL:
            axes[-1, index].set_xscale("log")
    colours = tuple(COLOURS.values())
    # Of those that teach all classes.
    alike = [
        teachers[name].log_probs
        for name, lesson in task.lessons.items()
        if len(lesson.classes) == task.dataset.num_classes
    ]
    for row, share in zip(axes, shares, strict=True):
        for axis, (protocol, title) in zip(row, columns, strict=True):
            students = [found.get(Condition(protocol, method, share)) for method in chosen]
            values = [
                np.zeros(0) if one is None else MERITS[title](one.log_probs, labels)
                for one in students
            ]
            draw_rows(axis, values, [colours[method in PRIORS] for method in chosen])
            for own in alike:
                draw_teacher(axis, MERITS[title](own[None], labels)[0])
        row[0].set_yticks(range(len(chosen)), [TITLES[method] for method in chosen])
        row[0].set_ylabel(f"{100 * share:g} % of the labels")
    for index, (protocol, title) in enumerate(columns):
        axes[-1, index].set_xlabel(title)
        if title == NLL:
            label_values(axes[-1, index], "x")
        else:
            axes[0, index].set_title(heading(settings, protocol), loc="left", fontsize=9)
    explain_rows(figure, "teacher" if alike else None, COLOURS)
    return figure


def _kernels(
    run: Run, task: Task, teachers: dict[str, Any], found: dict[Condition, Any], protocol: str
) -> plt.Figure:
    """Centred Gram matrices of the first matched layer at test inputs, ordered by class."""
    settings, dataset = run.settings, task.dataset
    chosen = np.concatenate(
        [np.flatnonzero(dataset.test_y == label)[:SHOWN] for label in range(dataset.num_classes)]
    )
    x, own = dataset.test_x[chosen], task.links[0].own
    panels = {}
    for link in task.links:
        if link.own == own:
            model = task.lessons[link.teacher].model
            # Without what the table adds of the inputs that it is judged by.
            title = TEACHERS[settings.experiment][link.teacher].split(",")[0]
            panels[title] = _gram(model, teachers[link.teacher].params, link.layer, x)
    for method in settings.methods:
        students = found.get(Condition(protocol, method, settings.label_share[0]))
        if students is None:
            continue
        first = jax.tree.map(lambda leaf: leaf[0], students.params)
        panels[TITLES[method]] = _gram(task.student, first, own, x)
    figure = draw_matrices(panels, columns=-(-len(panels) // 2), label="correlation")
    title = "Correlations of test inputs in the matched layer, by class"
    if len(settings.label_share) > 1:
        title += f"; {100 * settings.label_share[0]:g} % of the labels"
    if any(method in CHAINS for method in settings.methods):
        title += "\nof a chain by its last weights"
    figure.suptitle(title, fontsize=10)
    return figure


def _gram(model: Any, params: Any, layer: str, x: np.ndarray) -> np.ndarray:
    """The kernel of centred features, with a diagonal of ones."""
    features = jax.vmap(lambda one: models.features_of(model, [layer])(params, one)[layer])(x)
    features = np.asarray(features).reshape(len(x), -1)
    kernel = np.asarray(linear_kernel(features - features.mean(axis=0)))
    scale = np.sqrt(np.maximum(np.diag(kernel), 1e-30))
    return kernel / scale[:, None] / scale[None, :]
