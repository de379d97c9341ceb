"""Twenty points in the plane: a posterior whose predictive distribution can be seen, and known."""

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.plotting import plt
from experiments.posterior_expectations import teachers
from experiments.posterior_expectations.settings import TEACHER, Settings, Student
from kd import samplers, training
from kd.data import Dataset
from kd.types import Array, PyTree

if TYPE_CHECKING:
    from experiments.posterior_expectations.judging import Judged

NAME, PLUG_IN = "toy", "one network"
PER_CLASS, CENTRE, SCALE = 10, 1.5, 1.0
SIDE, SPACING, TEST_SPACING = 6.0, 0.1, 0.4
NUM_CHAINS, NUM_WARMUP, NUM_SAMPLES = 4, 1000, 5000
PLUG_IN_STEPS, PLUG_IN_RATE = 2000, 0.01
MOST_R_HAT = 1.01


def dataset(seed: int) -> tuple[Dataset, np.ndarray]:
    """Two Gaussian classes of ten points; a coarse grid for the test, a fine one for the students.

    The labels of the grid are those of the nearer centre.
    """
    rng = np.random.default_rng(seed)
    centres = np.repeat([[-CENTRE, -CENTRE], [CENTRE, CENTRE]], PER_CLASS, axis=0)
    x = centres + SCALE * rng.normal(size=centres.shape)
    y = np.repeat([0, 1], PER_CLASS)
    test = square(TEST_SPACING)
    found = Dataset(
        x.astype(np.float32),
        y.astype(np.int32),
        test,
        (test.sum(axis=1) > 0).astype(np.int32),
        2,
    )
    return found, square(SPACING)


def square(spacing: float) -> np.ndarray:
    """A grid over the square, `[N, 2]`, row by row."""
    axis = np.linspace(-SIDE, SIDE, round(2 * SIDE / spacing) + 1, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, indexing="xy"), axis=-1).reshape(-1, 2)


@functools.lru_cache(maxsize=4)
def reference(settings: Settings) -> tuple[np.ndarray, float]:
    """The predictive distribution on the grid, `[N, 2]` in nats, by numpyro's NUTS; and R-hat.

    R-hat is of the predictions, the largest on the grid: the weights themselves have as many modes
    as a network has symmetries.
    """
    import numpyro.infer

    data, _ = dataset(settings.seed)
    log_prob_fn = teachers.log_prob_fn_of(settings, 2)
    log_posterior_fn = teachers.log_posterior_fn_of(settings, data)
    batch = {"x": jnp.asarray(data.train_x), "y": jnp.asarray(data.train_y)}
    key = jax.random.key(settings.seed)
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(potential_fn=lambda weights: -log_posterior_fn(weights, batch)),
        num_warmup=NUM_WARMUP,
        num_samples=NUM_SAMPLES,
        num_chains=NUM_CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(key, init_params=teachers.starts(settings, data, key, NUM_CHAINS))
    x = jnp.asarray(data.test_x)
    probs = jax.lax.map(
        lambda weights: jnp.exp(jax.vmap(lambda x: log_prob_fn(weights, x))(x)),
        mcmc.get_samples(),
        batch_size=100,
    )
    chains = np.asarray(probs, np.float64).reshape(NUM_CHAINS, NUM_SAMPLES, *probs.shape[1:])
    found = samplers.diagnose({"probs": chains[..., 0]}, num_chains=NUM_CHAINS)
    return np.log(chains.mean(axis=(0, 1))), max(one.r_hat for one in found.values())


@functools.lru_cache(maxsize=4)
def plug_in(settings: Settings) -> np.ndarray:
    """What one network of the teacher's shape says on the grid, trained without a prior."""
    data, _ = dataset(settings.seed)
    log_prob_fn = teachers.log_prob_fn_of(settings, 2)
    x, y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)

    def loss(weights: PyTree) -> Array:
        found = jax.vmap(lambda x: log_prob_fn(weights, x))(x)
        return -jnp.mean(jnp.take_along_axis(found, y[:, None], axis=1))

    update = training.gradient(lambda weights, batch: loss(weights), optax.adam(PLUG_IN_RATE))
    start = teachers.start(settings, data, jax.random.key(settings.seed))
    state, _ = jax.lax.scan(
        lambda state, _: update.apply(state, {}), update.init(start), length=PLUG_IN_STEPS
    )
    grid = jnp.asarray(data.test_x)
    return np.asarray(jax.vmap(lambda x: log_prob_fn(state.params, x))(grid), np.float64)


def kl_divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """From the reference, nats, the mean over the grid; both `[N, 2]` log-probabilities."""
    return float(np.mean(np.sum(np.exp(expected) * (expected - found), axis=1)))


def title_of(settings: Settings, student: Student) -> str:
    """Of a student's panel: its layers, and what else tells it from others."""
    hidden = student.hidden or "-".join(
        str(round(size * student.unit_multiplier)) for size in settings.hidden_sizes
    )
    alike = {(other.kind, other.estimator) for other in settings.students()}
    others = f", {student.kind}, {student.estimator}" if len(alike) > 1 else ""
    return f"student 2-{hidden}-2{others}"


def draw(settings: Settings, judged: dict[str, "Judged"]) -> plt.Figure:
    """Probabilities of the second class: the reference's, the teacher's, the students'.

    Of the first chain's, where there are several.
    """
    data, _ = dataset(settings.seed)
    expected, _ = reference(settings)
    panels = {"NUTS": expected, PLUG_IN: plug_in(settings)}
    panels[TEACHER] = judged[TEACHER].log_probs
    for student in settings.students():
        one = judged.get(student.name)  # None of one that was pruned to nothing.
        if one is not None and one.log_probs is not None:
            panels[title_of(settings, student)] = one.log_probs
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.3 * columns + 0.6, 2.4 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    side = round(len(expected) ** 0.5)
    axis_values = np.linspace(-SIDE, SIDE, side)
    for axis, (name, log_probs) in zip(axes.ravel(), panels.items(), strict=False):
        shown = axis.contourf(
            axis_values,
            axis_values,
            np.exp(log_probs[:, 1]).reshape(side, side),
            levels=np.linspace(0, 1, 21),
            cmap="RdBu_r",
        )
        for label, marker in ((0, "o"), (1, "s")):
            points = data.train_x[data.train_y == label]
            axis.plot(*points.T, marker, color="black", markersize=2.5)
        gap = "" if name == "NUTS" else f"\nKL {kl_divergence(expected, log_probs):.4f} nats"
        axis.set_title(f"{name}{gap}", fontsize=8)
        axis.set(aspect="equal", xticks=(-5, 0, 5), yticks=(-5, 0, 5))
        axis.grid(visible=False)
    if settings.num_repeats > 1:
        figure.suptitle(f"the first of {settings.num_repeats} chains", fontsize=9)
    figure.colorbar(shown, ax=axes, label="probability of the second class", shrink=0.8)
    return figure
