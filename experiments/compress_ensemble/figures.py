"""The study's figures: training curves as in figures 2.6-2.9, and input derivatives."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compress_ensemble.tables import Students, Trained, curve_figures
from experiments.plotting import STYLE, label_counts, plt, save
from experiments.run import Run
from kd.data import Dataset
from kd.derivatives import input_jacobian
from kd.types import Stream

# One colour a loss, the same in every figure (Okabe and Ito's palette, told apart by
# colour-blind readers too).
COLOURS = {
    "ce": "#0072B2",
    "dse": "#D55E00",
    "dse_projected": "#E69F00",
    "ce+dse": "#CC79A7",
    "logits": "#009E73",
    "soft_target": "#56B4E9",
}
INPUTS = {
    "dataset": "inputs: the data set",
    "nade": "inputs: NADE, trained on the data set",
    "noise": "inputs: noise",
    "munge": "inputs: MUNGE of the data set",
}
SHORT_INPUTS = {"dataset": "the data set", "nade": "NADE", "noise": "noise", "munge": "MUNGE"}
FIGURES = {"accuracy": "accuracy, %", "log_prob": "log-probability, nats"}
NAMES = {
    "ce": "cross-entropy",
    "dse": "derivatives",
    "dse_projected": "projected derivatives",
    "ce+dse": "values and derivatives",
    "logits": "logits",
    "soft_target": "soft targets",
}
NUM_DIGITS, NUM_INPUTS = 6, 12


def draw(
    run: Run,
    dataset: Dataset,
    teacher: Trained,
    direct: dict[float, Trained],
    students: Students,
    sources: dict[tuple[str, float], Stream],
) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE):
        for fraction in direct:
            conditions = [condition for condition in students if condition[2] == fraction]
            name = f"training-{fraction:g}.png"
            ends = curve_figures(teacher.test_log_probs, dataset.test_y)
            save(_training_curves(run, fraction, conditions, ends), run, name)
        matched = [c for c in students if c[1] == "dataset"] or list(students)
        smallest = min(fraction for _, _, fraction in matched)
        shown = {c: students[c] for c in matched if c[2] == smallest}
        shape = _image_shape(dataset)
        if shape is not None:
            maps = _derivatives(dataset, shape, teacher, shown, run.settings.num_repeats)
            save(maps, run, "derivatives.png")
            if any(generator != "dataset" for generator, _ in sources):
                save(_inputs(run, dataset, shape, sources), run, "inputs.png")


def _training_curves(
    run: Run, fraction: float, conditions: Sequence[tuple], teacher: dict[str, float]
) -> plt.Figure:
    """A row of panels for each generator, all on the same axes, with one legend."""
    generators = list(dict.fromkeys(generator for _, generator, _ in conditions))
    figure, axes = plt.subplots(
        len(generators),
        2,
        figsize=(9.5, 0.6 + 2.7 * len(generators)),
        sharex="all",
        sharey="col",
        squeeze=False,
        layout="constrained",
    )
    curves = {c: _curve(run, f"student[{c[0]},{c[1]},{c[2]:g}]") for c in conditions}
    baseline = _curve(run, f"direct[{fraction:g}]")
    handles = {}
    for generator, row in zip(generators, axes, strict=True):
        for column, (axis, name) in enumerate(zip(row, teacher, strict=True), start=1):
            for (loss, inputs, _), curve in curves.items():
                if inputs == generator:
                    (line,) = axis.plot(curve[0], curve[column], color=COLOURS[loss])
                    handles[_name(loss)] = line
            (labels,) = axis.plot(baseline[0], baseline[column], "--", color="#555555")
            ensemble = axis.axhline(teacher[name], color="black", linewidth=1)
            axis.set(ylabel=f"test {FIGURES[name]}", xscale="log")
        if len(generators) > 1:
            row[0].set_title(INPUTS[generator], loc="left", fontsize=9)
    _keep_the_top(axes, {**curves, "labels": baseline}, list(teacher.values()))
    for axis in axes[-1]:
        axis.set_xlabel("training examples seen")
        label_counts(axis)
    handles |= {"trained on the labels": labels, "the ensemble": ensemble}
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    repeats = run.settings.num_repeats
    figure.suptitle(
        f"{Path(run.settings.dataset).name}, {100 * fraction:g} % of the training set"
        + (f", mean of {repeats} students" if repeats > 1 else ""),
        x=0.01,
        ha="left",
        parse_math=False,
    )
    return figure


def _name(loss: str, space: str = " ") -> str:
    """In words, with the flag's value, as the table has it."""
    return NAMES[loss] if NAMES[loss] == loss else f"{NAMES[loss]}{space}({loss})"


def _curve(run: Run, phase: str) -> tuple[list[float], list[float], list[float]]:
    rows = [row for row in run.log.rows(phase) if "accuracy" in row]
    examples = [run.settings.batch_size * row["step"] for row in rows]
    return examples, [row["accuracy"] for row in rows], [row["log_prob"] for row in rows]


def _keep_the_top(axes: np.ndarray, curves: dict, teacher: Sequence[float]) -> None:
    """Leaves out what is far below every curve's end: first steps hide the differences."""
    seen = []
    for column in (1, 2):
        ends = [curve[column][-1] for curve in curves.values()] + [teacher[column - 1]]
        low, high = min(ends), max(ends)
        bottom = low - 1.2 * (high - low) - 1e-3
        top = high + 0.08 * (high - low) + 1e-3
        floor, ceiling = ((0.0, 100.0), (-np.inf, 0.0))[column - 1]
        axes[0, column - 1].set_ylim(max(bottom, floor), min(top, max(ceiling, high)))
        for curve in curves.values():
            seen += [x for x, y in zip(curve[0], curve[column], strict=True) if y >= bottom]
    axes[0, 0].set_xlim(0.8 * min(seen), 1.2 * max(seen))


def _image_shape(dataset: Dataset) -> tuple[int, int] | None:
    shape = dataset.train_x.shape[1:]
    if len(shape) == 3 and shape[-1] == 1:
        shape = shape[:2]
    return shape if len(shape) == 2 else None


def _derivatives(
    dataset: Dataset, shape: tuple[int, int], teacher: Trained, students: Students, repeats: int
) -> plt.Figure:
    """Where each model's log-probability of the true class rises (red) and falls (blue)."""
    classes = np.unique(dataset.test_y)[:NUM_DIGITS]
    index = [int(np.argmax(dataset.test_y == label)) for label in classes]
    x, y = jnp.asarray(dataset.test_x[index]), jnp.asarray(dataset.test_y[index])
    maps = {"the ensemble": _slopes(teacher.log_prob_fn, teacher.params, x, y)}
    has_several = len({generator for _, generator, _ in students}) > 1
    for (loss, generator, _), student in students.items():
        first = jax.tree.map(lambda leaf: leaf[0], student.params)
        name = _name(loss, "\n") + (f"\non {SHORT_INPUTS[generator]}" if has_several else "")
        maps[name] = _slopes(student.log_prob_fn, first, x, y)
    figure, axes = plt.subplots(
        1 + len(maps),
        len(index),
        figsize=(1.1 * len(index) + 1.6, 1.15 * (1 + len(maps))),
        squeeze=False,
    )
    for column in range(len(index)):
        axes[0, column].imshow(dataset.test_x[index[column]].reshape(shape), cmap="gray_r")
        for row, slopes in enumerate(maps.values(), start=1):
            # Each map on its own scale: sizes differ a hundredfold where a model is sure.
            scale = np.abs(slopes[column]).max()
            image = slopes[column].reshape(shape)
            axes[row, column].imshow(image, cmap="RdBu_r", vmin=-scale, vmax=scale)
    _bare(axes)
    for axis, name in zip(axes[:, 0], ["input", *maps], strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(
        "where the true class's log-probability rises (red) and falls (blue) with the input;\n"
        "each map on its own scale" + (", the first student of each" if repeats > 1 else ""),
        fontsize=9,
    )
    figure.tight_layout()
    return figure


def _inputs(
    run: Run, dataset: Dataset, shape: tuple[int, int], sources: dict[tuple[str, float], Stream]
) -> plt.Figure:
    """What each generator makes, below as many examples of the data set."""
    low, high = dataset.train_x.min(), dataset.train_x.max()
    rows = {"the data set": dataset.train_x[:NUM_INPUTS]}
    has_several = len({fraction for _, fraction in sources}) > 1
    for (generator, fraction), stream in sources.items():
        if generator == "dataset":
            continue
        init_key, next_key = jax.random.split(run.key(f"figure[{generator},{fraction:g}]"))
        drawn, state = [], jax.jit(stream.init)(init_key)
        while len(drawn) < NUM_INPUTS:
            next_key, key = jax.random.split(next_key)
            state, batch = jax.jit(stream.next)(key, state)
            drawn.extend(np.asarray(batch["x"]))
        of = f",\n{100 * fraction:g} %" if has_several else ""
        rows[f"{SHORT_INPUTS[generator]}{of}"] = np.stack(drawn[:NUM_INPUTS])
    figure, axes = plt.subplots(
        len(rows), NUM_INPUTS, figsize=(0.75 * NUM_INPUTS + 1.2, 0.8 * len(rows)), squeeze=False
    )
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image.reshape(shape), cmap="gray_r", vmin=low, vmax=high)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    _bare(axes)
    figure.tight_layout()
    return figure


def _bare(axes: np.ndarray) -> None:
    """Images alone: no ticks, grid or frame."""
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)


def _slopes(log_prob_fn, params, x: jax.Array, y: jax.Array) -> np.ndarray:
    def slope(x: jax.Array, y: jax.Array) -> jax.Array:
        return input_jacobian(lambda x: log_prob_fn(params, x), x)[y]

    return np.asarray(jax.jit(jax.vmap(slope))(x, y))
