"""The study's figures: training curves as in figures 2.6-2.9, and input derivatives."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from experiments.compress_ensemble.tables import Students, Trained, curve_figures  # noqa: E402
from experiments.run import Run  # noqa: E402
from kd.data import Dataset  # noqa: E402
from kd.derivatives import input_jacobian  # noqa: E402

# One colour a loss and one line style a generator, the same in every figure
# (Okabe and Ito's palette, told apart by colour-blind readers too).
COLOURS = {
    "ce": "#0072B2",
    "dse": "#D55E00",
    "dse_projected": "#E69F00",
    "ce+dse": "#CC79A7",
    "logits": "#009E73",
    "soft_target": "#56B4E9",
}
STYLES = {"dataset": "-", "noise": ":"}
NAMES = {
    "ce": "cross-entropy",
    "dse": "derivatives",
    "dse_projected": "projected derivatives",
    "ce+dse": "values and derivatives",
    "logits": "logits",
    "soft_target": "soft targets",
}
NUM_DIGITS = 6
STYLE = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def draw(
    run: Run,
    dataset: Dataset,
    teacher: Trained,
    direct: dict[float, Trained],
    students: Students,
) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        for fraction in direct:
            conditions = [condition for condition in students if condition[2] == fraction]
            name = f"training-{fraction:g}.png"
            ends = curve_figures(teacher.test_log_probs, dataset.test_y)
            _save(_training_curves(run, fraction, conditions, ends), run, name)
        matched = [c for c in students if c[1] == "dataset"] or list(students)
        smallest = min(fraction for _, _, fraction in matched)
        shown = {c: students[c] for c in matched if c[2] == smallest}
        shape = _image_shape(dataset)
        if shape is not None:
            _save(_derivatives(dataset, shape, teacher, shown), run, "derivatives.png")


def _training_curves(
    run: Run, fraction: float, conditions: Sequence[tuple], teacher: dict[str, float]
) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    batch_size = run.settings.batch_size
    for loss, generator, _ in conditions:
        curve = _curve(run, f"student[{loss},{generator},{fraction:g}]", batch_size)
        label = NAMES[loss] if generator == "dataset" else f"{NAMES[loss]}, {generator} inputs"
        for axis, figures in zip(axes, curve[1:], strict=True):
            axis.plot(curve[0], figures, STYLES[generator], color=COLOURS[loss], label=label)
    curve = _curve(run, f"direct[{fraction:g}]", batch_size)
    for axis, figures in zip(axes, curve[1:], strict=True):
        axis.plot(curve[0], figures, "--", color="#555555", label="trained on the labels")
    for axis, name in zip(axes, ("accuracy", "log_prob"), strict=True):
        axis.axhline(teacher[name], color="black", linewidth=1, label="the ensemble")
    axes[0].set(ylabel="test accuracy, %", xscale="log", xlabel="training examples seen")
    axes[1].set(ylabel="test log-probability, nats", xscale="log", xlabel="training examples seen")
    for axis in axes:
        _keep_the_top(axis)
    axes[1].legend(loc="lower right", fontsize=8)
    figure.suptitle(
        f"{run.settings.dataset}, {100 * fraction:g} % of the training set, "
        f"mean of {run.settings.num_repeats}",
        x=0.01,
        ha="left",
    )
    figure.tight_layout()
    return figure


def _curve(run: Run, phase: str, batch_size: int) -> tuple[list[float], list[float], list[float]]:
    rows = [row for row in run.log.rows(phase) if "accuracy" in row]
    examples = [batch_size * row["step"] for row in rows]
    return examples, [row["accuracy"] for row in rows], [row["log_prob"] for row in rows]


def _keep_the_top(axis: plt.Axes) -> None:
    """Leaves out what is far below every curve's end: first steps hide the differences."""
    ends = [line.get_ydata()[-1] for line in axis.get_lines()]
    low, high = min(ends), max(ends)
    bottom = low - 1.2 * (high - low) - 1e-3
    axis.set_ylim(bottom, high + 0.08 * (high - low) + 1e-3)
    seen = [
        x
        for line in axis.get_lines()[:-1]
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if y >= bottom
    ]
    axis.set_xlim(0.8 * min(seen), 1.2 * max(seen))


def _image_shape(dataset: Dataset) -> tuple[int, int] | None:
    shape = dataset.train_x.shape[1:]
    if len(shape) == 3 and shape[-1] == 1:
        shape = shape[:2]
    return shape if len(shape) == 2 else None


def _derivatives(
    dataset: Dataset, shape: tuple[int, int], teacher: Trained, students: Students
) -> plt.Figure:
    """Where each model's log-probability of the true class rises (red) and falls (blue)."""
    classes = np.unique(dataset.test_y)[:NUM_DIGITS]
    index = [int(np.argmax(dataset.test_y == label)) for label in classes]
    x, y = jnp.asarray(dataset.test_x[index]), jnp.asarray(dataset.test_y[index])
    maps = {"the ensemble": _slopes(teacher.log_prob_fn, teacher.params, x, y)}
    for (loss, _, _), student in students.items():
        first = jax.tree.map(lambda leaf: leaf[0], student.params)
        maps[NAMES[loss]] = _slopes(student.log_prob_fn, first, x, y)
    figure, axes = plt.subplots(
        1 + len(maps), len(index), figsize=(1.1 * len(index) + 1.6, 1.15 * (1 + len(maps)))
    )
    for column in range(len(index)):
        axes[0, column].imshow(dataset.test_x[index[column]].reshape(shape), cmap="gray_r")
        for row, slopes in enumerate(maps.values(), start=1):
            # Each map on its own scale: sizes differ a hundredfold where a model is sure.
            scale = np.abs(slopes[column]).max()
            image = slopes[column].reshape(shape)
            axes[row, column].imshow(image, cmap="RdBu_r", vmin=-scale, vmax=scale)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    for axis, name in zip(axes[:, 0], ["input", *maps], strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(
        "derivative of the true class's log-probability by the input, each on its own scale",
        fontsize=9,
    )
    figure.tight_layout()
    return figure


def _slopes(log_prob_fn, params, x: jax.Array, y: jax.Array) -> np.ndarray:
    def slope(x: jax.Array, y: jax.Array) -> jax.Array:
        return input_jacobian(lambda x: log_prob_fn(params, x), x)[y]

    return np.asarray(jax.jit(jax.vmap(slope))(x, y))


def _save(figure: plt.Figure, run: Run, name: str) -> None:
    figure.savefig(run.workdir.file("figures", name))
    plt.close(figure)
