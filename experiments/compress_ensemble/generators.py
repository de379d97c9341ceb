"""Generators of unlabelled inputs, and NADE's own training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compress_ensemble import inputs
from experiments.compress_ensemble.objectives import OPTIMIZER, density_objective
from experiments.compress_ensemble.settings import Settings
from experiments.flags import UserError
from experiments.run import Run
from kd import data, models, streams, training
from kd.data import Dataset
from kd.types import Array, PyTree, Stream

# Samples drawn at once: a step of NADE for two thousand costs little more than for twenty.
SAMPLE_BLOCK = 2000
NUM_POINTS = 12
EVALUATE_BLOCK = 500


def check(settings: Settings, dataset: Dataset) -> None:
    """Refuses data that a generator cannot take."""
    pairs = {(generator, fraction) for _, generator, fraction in settings.conditions()}
    asked = {generator for generator, _ in pairs}
    for generator, fraction in sorted(pairs):
        part = data.take_first(dataset, fraction)
        if generator == "nade":
            inputs.num_steps(part, settings.batch_size, settings.nade_epochs)
        if generator == "munge" and len(part.train_x) < 2:
            raise UserError(
                "--generator=munge needs two training examples; raise --train_fraction."
            )
    if "nade" in asked and dataset.train_x[0].size < 2:
        raise UserError("--generator=nade needs inputs of two values or more.")
    low, high = dataset.train_x.min(), dataset.train_x.max()
    if "nade" in asked and (low < 0 or high > 1):
        raise UserError(
            f"--generator=nade rounds inputs to 0 and 1, and {settings.dataset} has them from "
            f"{low:g} to {high:g}: scale them to [0, 1], or use another generator."
        )


def sources(run: Run, dataset: Dataset) -> dict[tuple[str, float], Stream]:
    """The unlabelled inputs of every generator and fraction."""
    pairs = dict.fromkeys((generator, part) for _, generator, part in run.settings.conditions())
    return {
        (generator, fraction): _source(run, data.take_first(dataset, fraction), generator, fraction)
        for generator, fraction in pairs
    }


def _source(run: Run, part: Dataset, generator: str, fraction: float) -> Stream:
    settings, shape = run.settings, part.train_x.shape[1:]
    if generator == "noise":
        return streams.gaussian_noise(shape, settings.batch_size, scale=settings.noise_scale)
    if generator == "munge":
        return streams.munge(
            inputs.examples(part),
            streams.nearest_neighbours(part.train_x),
            settings.batch_size,
            swap_probability=settings.swap_probability,
            local_variance=settings.local_variance,
        )
    if generator == "nade":
        nade, params = _train_nade(run, part, fraction)
        num_batches = max(1, SAMPLE_BLOCK // settings.batch_size)
        return streams.nade_conditionals(
            nade, params, shape, settings.batch_size, num_batches=num_batches
        )
    return streams.resample(inputs.examples(part), settings.batch_size)


def _train_nade(run: Run, part: Dataset, fraction: float) -> tuple[models.NADE, PyTree]:
    """A NADE of the rounded images, pixels in the order of columns (section 2.2.3)."""
    settings = run.settings
    nade = models.NADE(part.train_x[0].size, settings.nade_hidden, _by_columns(part.train_x[0]))
    phase = f"nade[{fraction:g}]"
    fit_key, init_key = jax.random.split(run.key(phase))
    update = training.gradient(density_objective(nade.log_prob).fn, OPTIMIZER)
    found = run.fit(
        phase,
        fit_key,
        streams.resample({"x": _binary(part.train_x)}, settings.batch_size),
        update,
        update.init(nade.init(init_key, jnp.zeros(nade.num_visible))),
        inputs.num_steps(part, settings.batch_size, settings.nade_epochs),
        evaluate_fn=_evaluation(nade, part.test_x),
        num_points=NUM_POINTS,
    )
    return nade, found.student.params


def _evaluation(
    nade: models.NADE, test_x: np.ndarray
) -> Callable[[training.GradientState], dict[str, float]]:
    x = _binary(test_x)

    @jax.jit
    def log_probs(params: PyTree) -> Array:
        size = min(EVALUATE_BLOCK, len(x))
        return jax.lax.map(lambda x: nade.log_prob(params, x), x, batch_size=size)

    return lambda state: {"log_prob": np.mean(np.asarray(log_probs(state.params), np.float64))}


def _binary(x: np.ndarray) -> Array:
    return jnp.asarray((x > 0.5).reshape(len(x), -1), jnp.float32)


def _by_columns(x: np.ndarray) -> tuple[int, ...]:
    """The pixels of an image column by column; of anything else, in order."""
    index = np.arange(x.size).reshape(x.shape)
    return tuple(np.ravel(index.swapaxes(0, 1) if x.ndim > 1 else index).tolist())
