"""The routes from teacher to student: what each matches, and when."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.distil_density.settings import Settings
from experiments.distil_density.teachers import Teacher
from experiments.flags import UserError
from kd import losses
from kd.types import ApplyFn, Array, Batch, PyTree


class Stage(NamedTuple):
    """A part of a student's training.

    Attributes:
      loss: "kl", "se" or "score".
      start: its first step, counted over the whole training.
      stop: the step after its last.
    """

    loss: str
    start: int
    stop: int


def stages_of_all(settings: Settings) -> dict[str, list[Stage]]:
    """The stages of each route; settings with which there is none are refused."""
    num_steps = settings.num_samples // settings.batch_size
    found = {}
    for loss in settings.loss:
        first, *rest = loss.split("_then_")
        switch = round(settings.se_fraction * num_steps) if rest else num_steps
        found[loss] = [Stage(first, 0, switch)]
        found[loss] += [Stage(second, switch, num_steps) for second in rest]
        if any(stage.start >= stage.stop for stage in found[loss]):
            raise UserError(
                f"--num_samples {settings.num_samples} in batches of {settings.batch_size} leaves "
                f"a stage of {loss} without a step; raise it, or lower --batch_size."
            )
    return found


def objective_of(
    loss: str, log_prob_fn: ApplyFn, offset: float
) -> Callable[[PyTree, Batch], Array]:
    """The objective of a stage, the mean over the batch; `offset` is c of the square error."""

    def kl(params: PyTree, example: Batch) -> Array:
        return losses.negative_log_likelihood(log_prob_fn(params, example["x"]))

    def se(params: PyTree, example: Batch) -> Array:
        return losses.log_density_square_error(
            log_prob_fn(params, example["x"]), example["log_potential"], offset=offset
        )

    def score(params: PyTree, example: Batch) -> Array:
        score_fn = jax.grad(lambda x: log_prob_fn(params, x))
        return losses.score_matching(score_fn(example["x"]), example["score"])

    loss_fn = {"kl": kl, "se": se, "score": score}[loss]
    return lambda params, batch: jnp.mean(jax.vmap(loss_fn, in_axes=(None, 0))(params, batch))


def labelled(teacher: Teacher, loss: str, batch: Batch) -> Batch:
    """The batch with what a loss asks of the teacher."""
    if loss == "se":
        return batch | {"log_potential": jax.vmap(teacher.log_potential_fn)(batch["x"])}
    if loss == "score":
        return batch | {"score": jax.vmap(jax.grad(teacher.log_potential_fn))(batch["x"])}
    return batch


def phase_name(loss: str, teacher: str, stage: Stage, stages: list[Stage]) -> str:
    """The phase of a run in which a stage is trained."""
    return f"student[{loss},{teacher}{f',{stage.loss}' if len(stages) > 1 else ''}]"
