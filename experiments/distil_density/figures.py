"""The study's figures: KL divergence against samples, and densities side by side."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distil_density.routes import Stage, phase_name
from experiments.distil_density.tables import Results, Trained
from experiments.plotting import STYLE, label_counts, plt, save
from experiments.run import Run
from kd.models import GaussianMixture

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = {"kl": "#0072B2", "se": "#D55E00", "score": "#009E73", "se_then_kl": "#CC79A7"}
NAMES = {
    "kl": "KL divergence (kl)",
    "se": "square error (se)",
    "score": "score matching (score)",
    "se_then_kl": "square error, then KL (se_then_kl)",
}
NUM_PIXELS = 200
# Contours where the log-density is so much below its maximum, in nats.
DEPTHS = (12, 8, 5, 3, 2, 1, 0.5)


def draw(run: Run, results: dict[str, Results], stages: dict[str, list[Stage]]) -> None:
    """Writes every figure into `figures/` of the workdir."""
    with plt.rc_context(STYLE | {"axes.grid": False}):
        save(_curves(run, results, stages), run, "kl.png")
        save(_contours(run, results), run, "contours.png")


def _curves(run: Run, results: dict[str, Results], stages: dict[str, list[Stage]]) -> plt.Figure:
    """KL divergence against samples, a panel a teacher."""
    figure, axes = plt.subplots(
        1,
        len(results),
        figsize=(2.2 + 3.4 * len(results), 3.2),
        squeeze=False,
        layout="constrained",
    )
    handles = {}
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        for loss, parts in stages.items():
            x, y, error = _curve(run, loss, name, parts)
            (line,) = axis.plot(x, y, color=COLOURS[loss])
            low = np.maximum(y - error, 0.2 * y)
            axis.fill_between(x, low, y + error, color=COLOURS[loss], alpha=0.2, linewidth=0)
            handles[NAMES[loss]] = line
        floor = axis.axhline(np.mean(result.floor.kl), color="black", linewidth=1)
        handles["the floor: the best student,\ntrained on with the teacher itself"] = floor
        axis.set(xscale="log", yscale="log", title=name, xlabel="samples of the teacher")
        label_counts(axis)
        axis.grid(color="#dddddd")
    axes[0, 0].set_ylabel("D(teacher || student), nats")
    repeats = run.settings.num_repeats
    title = f"mean of {repeats} students ± one standard error" if repeats > 1 else None
    figure.legend(handles.values(), handles.keys(), loc="outside right center", title=title)
    return figure


def _curve(
    run: Run, loss: str, teacher: str, stages: list[Stage]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples seen, KL divergence and its standard error over all stages of a route."""
    found = []
    for stage in stages:
        rows = run.log.rows(phase_name(loss, teacher, stage, stages))
        found += [
            (
                run.settings.batch_size * (stage.start + row["step"]),
                row["kl"],
                row.get("kl_stderr", 0.0),
            )
            for row in rows
            if "kl" in row
        ]
    return tuple(np.array(found).T)


def _contours(run: Run, results: dict[str, Results]) -> plt.Figure:
    """The teacher and the best student of every route, a row a teacher."""
    losses = run.settings.loss
    figure, axes = plt.subplots(
        len(results),
        1 + len(losses),
        figsize=(1.9 * (1 + len(losses)), 2.1 * len(results)),
        squeeze=False,
        sharex="row",
        sharey="row",
        layout="constrained",
    )
    for row, (name, result) in zip(axes, results.items(), strict=True):
        points, extent = _window(result)
        values = [_log_potential(result, points)]
        values += [_log_density(run, result.students[loss], points) for loss in losses]
        for axis, z in zip(row, values, strict=True):
            z = z.reshape(NUM_PIXELS, NUM_PIXELS) - np.max(z)
            levels = [-depth for depth in DEPTHS]
            axis.contour(*extent, z, levels, cmap="viridis", linewidths=0.8, linestyles="solid")
            axis.locator_params(nbins=4)
        row[0].set_ylabel(f"{name}\n$x_2$")
    for axis in axes[-1]:
        axis.set_xlabel("$x_1$")
    titles = ["the teacher", *(NAMES[loss].replace(" (", "\n(") for loss in losses)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    levels = ", ".join(f"{depth:g}" for depth in reversed(DEPTHS))
    best = ", the best student of each loss" if run.settings.num_repeats > 1 else ""
    figure.supxlabel(
        f"log-density {levels} nats below its maximum, from yellow to dark{best}", fontsize=8
    )
    return figure


def _window(result: Results) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """A grid over what the lowest contour of the teacher encloses, and a margin."""
    found = result.quadrature
    seen = found.points[found.log_density > np.max(found.log_density) - max(DEPTHS)]
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = 0.1 * (high - low)
    axes = [np.linspace(a, b, NUM_PIXELS) for a, b in zip(low - margin, high + margin, strict=True)]
    x, y = np.meshgrid(*axes)
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32), (x, y)


def _log_potential(result: Results, points: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(result.teacher.log_potential_fn))(jnp.asarray(points)))


def _log_density(run: Run, trained: Trained, points: np.ndarray) -> np.ndarray:
    settings = run.settings
    student = GaussianMixture(settings.num_components, 2, settings.covariance)
    return np.asarray(jax.jit(student.log_prob)(trained.best_params(), jnp.asarray(points)))
