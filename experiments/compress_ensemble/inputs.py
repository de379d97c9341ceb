"""Where the students' inputs come from, and when the teacher is asked about them."""

import jax.numpy as jnp

from experiments.compress_ensemble.objectives import Objective
from experiments.compress_ensemble.settings import Settings
from experiments.flags import Options, UserError
from experiments.run import Run
from kd import data, streams
from kd.data import Dataset
from kd.streams.labelling import JACOBIAN, PROJECTED
from kd.types import Array, Batch, LogProbFn, Stream

# Examples a question to the teacher on fresh inputs: enough to be bound by arithmetic
# and not by reading its weights; Jacobians are C times as much work and memory.
VALUES_BLOCK, JACOBIAN_BLOCK = 2000, 400


def examples(dataset: Dataset) -> Batch:
    """The training set, as a stream takes it."""
    return {"x": jnp.asarray(dataset.train_x), "y": jnp.asarray(dataset.train_y)}


def cached_losses(settings: Settings) -> set[str]:
    """The losses whose labels of the data set are computed once; random signs cannot be."""
    return {
        loss
        for loss, generator, _ in settings.conditions()
        if generator == "dataset" and loss != "dse_projected"
    }


def labels(run: Run, dataset: Dataset, teacher_fn: LogProbFn) -> Batch:
    """The teacher's labels of all examples that any condition needs, asked for once."""
    asked, derivatives = _to_cache(run.settings, dataset)
    needed = streams.cache_bytes(asked, teacher_fn, derivatives=derivatives)
    print(
        f"the teacher labels {len(asked['x'])} examples: {_size(needed)} of "
        f"{run.options.cache_gb:g} GB allowed",
        flush=True,
    )
    return streams.label_dataset(asked, teacher_fn, derivatives=derivatives)


def check_cache(settings: Settings, options: Options, dataset: Dataset) -> None:
    """Refuses labels that would take more than `--cache_gb`, before anything is trained."""
    if cached_losses(settings):
        asked, derivatives = _to_cache(settings, dataset)

        def stand_in(x: Array) -> Array:
            return jnp.zeros(dataset.num_classes) + 0 * jnp.sum(x)

        needed = streams.cache_bytes(asked, stand_in, derivatives=derivatives)
        if needed > options.cache_gb * 1e9:
            raise UserError(
                f"the teacher's labels would take {_size(needed)}, and --cache_gb allows "
                f"{options.cache_gb:g}: raise it, lower --train_fraction, or use "
                "--loss=dse_projected, which needs no cache."
            )


def _size(num_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def _to_cache(settings: Settings, dataset: Dataset) -> tuple[Batch, str | None]:
    """The examples to label, and the most that any loss asks of them."""
    largest = max(fraction for _, generator, fraction in settings.conditions())
    needs_slopes = cached_losses(settings) & {"dse", "ce+dse"}
    return examples(data.take_first(dataset, largest)), JACOBIAN if needs_slopes else None


def asked(
    settings: Settings,
    stream: Stream,
    teacher_fn: LogProbFn,
    objective: Objective,
    *,
    num_classes: int,
) -> Stream:
    """The stream labelled as it comes, in blocks."""
    if objective.derivatives == PROJECTED:
        stream = streams.with_signs(
            stream, num_projections=settings.num_projections, num_classes=num_classes
        )
    block = JACOBIAN_BLOCK if objective.derivatives == JACOBIAN else VALUES_BLOCK
    num_batches = max(1, block // settings.batch_size)
    return streams.label(
        stream, teacher_fn, derivatives=objective.derivatives, num_batches=num_batches
    )


def num_steps(dataset: Dataset, batch_size: int, num_epochs: float) -> int:
    """Minibatches in so many passes; what cannot be done is refused."""
    if len(dataset.train_x) < batch_size:
        raise UserError(
            f"--batch_size {batch_size} is more than the {len(dataset.train_x)} training examples "
            "there are; lower it, or raise --train_fraction."
        )
    total = num_epochs * (len(dataset.train_x) // batch_size)
    if total >= 2**31:
        raise UserError(f"{num_epochs:g} epochs are {total:.3g} steps; 2**31 are too many.")
    return max(1, round(total))
