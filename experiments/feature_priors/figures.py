"""The study's figures: accuracy and calibration by labels, and the kernels that are matched."""

from typing import Any

import jax
import numpy as np

from experiments.feature_priors.settings import Condition, Settings
from experiments.feature_priors.tables import TITLES, heading
from experiments.feature_priors.tasks import Task
from experiments.plotting import STYLE, label_values, plt, save
from experiments.run import Run
from kd import metrics, models
from kd.losses.features import linear_kernel

SHOWN = 12  # Test inputs of each class in a kernel's picture.
COLOURS = plt.get_cmap("tab10").colors


def _accuracies(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return 100 * np.mean(metrics.correct(log_probs, labels), axis=1)


def _nlls(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.mean(metrics.label_log_prob(log_probs, labels), axis=1)


MERITS = {"test accuracy, %": _accuracies, "test NLL, nats": _nlls}


def draw(run: Run, task: Task, teachers: dict[str, Any], found: dict[Condition, Any]) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        save(_methods(run, task, teachers, found), run, "methods.png")
        for protocol in run.settings.protocols:
            save(_kernels(run, task, teachers, found, protocol), run, f"kernels-{protocol}.png")


def _methods(
    run: Run, task: Task, teachers: dict[str, Any], found: dict[Condition, Any]
) -> plt.Figure:
    """Accuracy and NLL of every method, by protocol and labels, with one standard error."""
    settings, labels = run.settings, task.dataset.test_y
    figure, axes = plt.subplots(
        *(len(MERITS), len(settings.protocols)),
        figsize=(1.6 + 3.4 * len(settings.protocols), 5.2),
        squeeze=False,
        layout="constrained",
        sharey="row",
    )
    for column, protocol in enumerate(settings.protocols):
        for axis, (title, merit_fn) in zip(axes[:, column], MERITS.items(), strict=True):
            merits = {
                (method, share): merit_fn(
                    found[Condition(protocol, method, share)].log_probs, labels
                )
                for method in settings.methods
                for share in settings.label_share
            }
            _points(axis, settings, merits)
            for name, lesson in task.lessons.items():
                if len(lesson.classes) == task.dataset.num_classes:
                    own = merit_fn(teachers[name].log_probs[None], labels)[0]
                    axis.axhline(own, color="black", linestyle="--", linewidth=1, label="teacher")
            if column == 0:
                axis.set_ylabel(title)
        axes[0, column].set_title(heading(settings, protocol), fontsize=9)
        axes[-1, column].set_xlabel("examples with labels")
        axes[-1, column].set_yscale("log")
        label_values(axes[-1, column])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _points(
    axis: plt.Axes, settings: Settings, merits: dict[tuple[str, float], np.ndarray]
) -> None:
    """A point for each method, beside each other at each share of labels."""
    shares, count = settings.label_share, len(settings.methods)
    places = np.arange(len(shares))
    for index, method in enumerate(settings.methods):
        values = [merits[method, share] for share in shares]
        errors = [np.std(one, ddof=1) / len(one) ** 0.5 if len(one) > 1 else 0 for one in values]
        axis.errorbar(
            places + 0.8 * ((index + 0.5) / count - 0.5),
            [np.mean(one) for one in values],
            errors,
            fmt="o",
            markersize=4,
            color=COLOURS[index],
            label=TITLES[method],
        )
    axis.set_xticks(places, [f"{100 * share:g} %" for share in shares])
    axis.grid(axis="x", visible=False)


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
            panels[link.teacher] = _gram(model, teachers[link.teacher].params, link.layer, x)
    for method in settings.methods:
        params = found[Condition(protocol, method, settings.label_share[0])].params
        first = jax.tree.map(lambda leaf: leaf[0], params)
        panels[TITLES[method]] = _gram(task.student, first, own, x)
    columns = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        *(2, columns), figsize=(1.9 * columns, 4.2), squeeze=False, layout="constrained"
    )
    for axis in axes.ravel():
        axis.set_visible(False)
    for axis, (title, gram) in zip(axes.ravel(), panels.items(), strict=False):
        axis.set_visible(True)
        axis.imshow(gram, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
    figure.suptitle("Correlations of test inputs in the matched layer, by class", fontsize=10)
    return figure


def _gram(model: Any, params: Any, layer: str, x: np.ndarray) -> np.ndarray:
    """The kernel of centred features, with a diagonal of ones."""
    features = jax.vmap(lambda one: models.features_of(model, [layer])(params, one)[layer])(x)
    features = np.asarray(features).reshape(len(x), -1)
    kernel = np.asarray(linear_kernel(features - features.mean(axis=0)))
    scale = np.sqrt(np.maximum(np.diag(kernel), 1e-30))
    return kernel / scale[:, None] / scale[None, :]
