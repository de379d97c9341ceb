"""The study's figures: samples, features, agreement and training curves (4.3-4.8)."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.plotting import STYLE, label_counts, plt, save
from experiments.rbm_to_nade.settings import NUM_MONITORED
from experiments.rbm_to_nade.tables import reference, title
from experiments.run import Run
from kd.models import NADE
from kd.types import PyTree

if TYPE_CHECKING:
    from experiments.rbm_to_nade.estimates import Found
    from experiments.rbm_to_nade.study import Teacher

# Okabe and Ito's palette.
COLOURS = {"kl": "#0072B2", "se": "#D55E00", "se_then_kl": "#009E73", "data": "#CC79A7"}
LINES = ("-", "--", ":", "-.")
NAMES = {
    "kl": "KL divergence (kl)",
    "se": "square error (se)",
    "se_then_kl": "se, then kl",
    "data": "no teacher (data)",
}
GRID = 6
NUM_SORTED = 500
MOST_DRAWN = np.array([-100.0, 100.0])  # Of an interval, nats.

Students = dict[tuple[str, int], tuple[NADE, PyTree]]


def draw(
    run: Run,
    teacher: "Teacher",
    students: Students,
    found: "Found",
    log_probs: dict[tuple[str, int], np.ndarray],
    potentials: np.ndarray,
) -> None:
    """Writes every figure into `figures/` of the workdir."""
    of_teacher = potentials - reference(found)
    with plt.rc_context(STYLE):
        save(_training(run, students, of_teacher), run, "training.png")
        save(_agreement(log_probs, of_teacher), run, "agreement.png")
        save(_log_z(found), run, "log_z.png")
        side = round(teacher.rbm.num_visible**0.5)
        if side**2 == teacher.rbm.num_visible:
            save(_samples(run, teacher, students, side), run, "samples.png")
            save(_features(run, teacher, students, side), run, "features.png")


def _training(run: Run, students: Students, of_teacher: np.ndarray) -> plt.Figure:
    """Figure 4.5: mean log-probability of the first test images during training."""
    level = float(np.mean(of_teacher[:NUM_MONITORED]))
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    sizes = list(dict.fromkeys(hidden for _, hidden in students))
    curves = {condition: _curve(run, *condition) for condition in students}
    curves = {condition: curve for condition, curve in curves.items() if curve[0]}
    for (loss, hidden), (steps, values) in curves.items():
        line = LINES[sizes.index(hidden) % len(LINES)]
        axis.plot(steps, values, line, color=COLOURS[loss], label=_name(loss, hidden))
    axis.axhline(level, color="black", lw=1, label="the RBM")
    # The first steps, far below, would hide the differences.
    ends = [value for _, values in curves.values() for value in values[len(values) // 2 :]]
    axis.set(
        xscale="log",
        xlabel="steps",
        ylabel=f"log-probability, nats,\nmean of {min(NUM_MONITORED, len(of_teacher))} test images",
    )
    if ends:  # Else none was finite.
        span = max(ends) - min(ends)
        bottom = min(ends) - 0.5 * span - 0.1
        seen = [s for c in curves.values() for s, v in zip(*c, strict=True) if v >= bottom]
        axis.set_ylim(bottom, max(*ends, level) + 0.1 * span + 0.1)
        axis.set_xlim(0.8 * min(seen), 1.2 * max(seen))
    label_counts(axis)
    figure.legend(loc="outside right center")
    return figure


def _curve(run: Run, loss: str, hidden: int) -> tuple[list[float], list[float]]:
    name, before = f"nade[{loss},{hidden}]", 0.0
    steps, values = [], []
    for phase in (f"nade[{loss},{hidden},se]", name):
        rows = [row for row in run.log.rows(phase) if np.isfinite(row.get("log_prob", np.nan))]
        steps += [before + row["step"] for row in rows]
        values += [row["log_prob"] for row in rows]
        before = steps[-1] if steps else 0.0
    return steps, values


def _agreement(log_probs: dict[tuple[str, int], np.ndarray], teacher: np.ndarray) -> plt.Figure:
    """Figure 4.6: test images in the order of the RBM's log-probability."""
    order = np.argsort(-teacher[:NUM_SORTED])
    columns = min(2, len(log_probs))
    rows = -(-len(log_probs) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4 * columns + 1, 2.7 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, ((loss, hidden), values) in zip(axes.flat, log_probs.items(), strict=False):
        axis.plot(values[:NUM_SORTED][order], ".", ms=2, color=COLOURS[loss], label="NADE")
        axis.plot(teacher[:NUM_SORTED][order], color="black", lw=1, label="the RBM")
        axis.set_title(_name(loss, hidden), loc="left", fontsize=9)
        axis.legend(loc="lower left")
    for axis in axes[-1]:
        axis.set_xlabel(f"the first {len(order)} test images, sorted by the RBM")
    for axis in axes[:, 0]:
        axis.set_ylabel("log-probability, nats")
    return figure


def _log_z(found: "Found") -> plt.Figure:
    """Every estimate with its interval."""
    names = [name for name in found if name != "exact"]
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.26 * len(names)), layout="constrained")
    for place, name in enumerate(names):
        estimate = found[name]
        # An end may be infinite.
        low, high = np.clip([estimate["low"], estimate["high"]], *estimate["value"] + MOST_DRAWN)
        # Bounds are not meant to be on the line.
        colour = "#E69F00" if name.startswith(("upper", "lower")) else "#0072B2"
        axis.plot([low, high], [place, place], color=colour, lw=1)
        axis.plot(estimate["value"], place, "o", ms=4, color=colour)
    axis.axvline(reference(found), color="black", lw=1)
    axis.set_yticks(range(len(names)), map(title, names))
    axis.invert_yaxis()
    word = "exact" if "exact" in found else "AIS"
    axis.set_xlabel(f"log Z, nats, with three standard errors; the line: {word}; in yellow: bounds")
    return figure


def _samples(run: Run, teacher: "Teacher", students: Students, side: int) -> plt.Figure:
    """Figures 4.3 and 4.7: samples of the RBM, and exact ones of each NADE."""
    from experiments.rbm_to_nade.estimates import gibbs_samples

    panels = {"the RBM": gibbs_samples(run, teacher, "figure", GRID**2)}
    for (loss, hidden), (nade, params) in students.items():
        x, _ = nade.sample(params, run.key("figure"), GRID**2)
        panels[_name(loss, hidden)] = x
    order = run.settings.pixel_order
    figure = _mosaics(
        {name: _tiled(np.asarray(x), side, order) for name, x in panels.items()}, "gray_r"
    )
    if len(students) > 1:
        figure.supxlabel("every NADE from the same random numbers", fontsize=8)
    return figure


def _features(run: Run, teacher: "Teacher", students: Students, side: int) -> plt.Figure:
    """Figures 4.4 and 4.8: input weights of hidden units, those of the largest norm."""
    panels = {"the RBM": np.asarray(teacher.params["params"]["w"])}
    for (loss, hidden), (_, params) in students.items():
        w = np.asarray(params["params"]["w"])
        panels[_name(loss, hidden)] = np.concatenate([w, np.zeros_like(w[:1])])
    tiles = {}
    for name, w in panels.items():
        first = np.argsort(-np.linalg.norm(w, axis=0))[: GRID**2]
        largest = np.abs(w).max(0, keepdims=True)
        scaled = (w / np.where(largest, largest, 1.0))[:, first].T
        tiles[name] = _tiled(scaled, side, run.settings.pixel_order)
    figure = _mosaics(tiles, "RdBu_r", vmin=-1, vmax=1)
    figure.supxlabel(
        f"weights from the pixels to the {GRID**2} hidden units with the largest, or to all;\n"
        "red is positive, blue negative, each unit on its own scale",
        fontsize=8,
    )
    return figure


def _name(loss: str, hidden: int) -> str:
    return f"{NAMES[loss]}, {hidden} units"


def _tiled(x: np.ndarray, side: int, pixel_order: str) -> np.ndarray:
    """Images in a square with gaps."""
    tiles = np.full((GRID * (side + 1) - 1, GRID * (side + 1) - 1), np.nan)
    for index, image in enumerate(x[: GRID**2]):
        row, column = (side + 1) * (index // GRID), (side + 1) * (index % GRID)
        image = image.reshape(side, side)
        image = image.T if pixel_order == "columns" else image
        tiles[row : row + side, column : column + side] = image
    return tiles


def _mosaics(panels: dict[str, np.ndarray], colours: str, **limits: float) -> plt.Figure:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, tiles) in zip(axes.flat, panels.items(), strict=False):
        axis.imshow(tiles, cmap=colours, interpolation="nearest", **limits)
        axis.set_title(name, fontsize=9)
    return figure
