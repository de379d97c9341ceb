"""The student's objective for each `--loss`, and what it asks of the teacher."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.compress_ensemble.settings import Settings
from kd import derivatives, losses
from kd.streams.labelling import JACOBIAN, PROJECTED
from kd.types import ApplyFn, Array, Batch, PyTree

# ADADELTA with the two constants of Zeiler (2012) and no further rate: of every network here.
OPTIMIZER = optax.adadelta(1.0, rho=0.95, eps=1e-6)


class Objective(NamedTuple):
    """A loss of a whole batch, and the labels it reads.

    Attributes:
      fn: `(params, batch) -> loss`, the mean over the batch.
      derivatives: what `kd.streams.label` must add, or None.
      labels: the batch's entries it reads, besides the inputs.
    """

    fn: Callable[[PyTree, Batch], Array]
    derivatives: str | None
    labels: tuple[str, ...]


def density_objective(log_prob_fn: Callable[[PyTree, Array], Array]) -> Objective:
    """Minus the mean log-density of the inputs, `log_prob_fn(params, x [B, ...]) -> [B]`."""

    def fn(params: PyTree, batch: Batch) -> Array:
        log_probs = log_prob_fn(params, batch["x"])
        return jnp.mean(jax.vmap(losses.negative_log_likelihood)(log_probs))

    return Objective(fn, None, ())


def label_objective(logits_fn: ApplyFn, num_classes: int) -> Objective:
    """Cross-entropy with the true labels: how members and the direct baseline train."""

    def loss_fn(params: PyTree, example: Batch) -> Array:
        log_probs = jax.nn.log_softmax(logits_fn(params, example["x"]))
        return losses.cross_entropy(log_probs, jax.nn.one_hot(example["y"], num_classes))

    return Objective(_mean(loss_fn), None, ("y",))


def distillation_objective(loss: str, logits_fn: ApplyFn, settings: Settings) -> Objective:
    """The objective named by `--loss`.

    Raises:
      ValueError: for another name.
    """

    def log_prob_fn(params: PyTree) -> Callable[[Array], Array]:
        return lambda x: jax.nn.log_softmax(logits_fn(params, x))

    def ce(params: PyTree, example: Batch) -> Array:
        teacher_probs = jnp.exp(example["teacher_log_probs"])
        return losses.cross_entropy(log_prob_fn(params)(example["x"]), teacher_probs)

    def dse(params: PyTree, example: Batch) -> Array:
        jacobian = derivatives.input_jacobian(log_prob_fn(params), example["x"])
        return losses.derivative_square_error(jacobian, example["teacher_jacobian"])

    def dse_projected(params: PyTree, example: Batch) -> Array:
        project = jax.vmap(derivatives.input_vjp, in_axes=(None, None, 0))
        signs = example["signs"]
        return losses.projected_square_error(
            project(log_prob_fn(params), example["x"], signs),
            example["teacher_vjps"],
            num_classes=signs.shape[-1],
        )

    def ce_dse(params: PyTree, example: Batch) -> Array:
        log_probs, jacobian = derivatives.value_and_input_jacobian(
            log_prob_fn(params), example["x"]
        )
        values = losses.cross_entropy(log_probs, jnp.exp(example["teacher_log_probs"]))
        slopes = losses.derivative_square_error(jacobian, example["teacher_jacobian"])
        return values + settings.derivative_weight * slopes

    def logits(params: PyTree, example: Batch) -> Array:
        # An average of probabilities has logits only up to a constant: centre them.
        teacher_logits = example["teacher_log_probs"] - jnp.mean(example["teacher_log_probs"])
        return losses.logit_square_error(logits_fn(params, example["x"]), teacher_logits)

    def soft_target(params: PyTree, example: Batch) -> Array:
        student, teacher = logits_fn(params, example["x"]), example["teacher_log_probs"]
        if settings.label_weight == 0:
            return losses.soft_target(student, teacher, temperature=settings.temperature)
        return losses.soft_target_with_label(
            student,
            teacher,
            example["y"],
            temperature=settings.temperature,
            label_weight=settings.label_weight,
        )

    values, slopes = ("teacher_log_probs",), ("teacher_jacobian",)
    objectives = {
        "ce": (ce, None, values),
        "dse": (dse, JACOBIAN, slopes),
        "dse_projected": (dse_projected, PROJECTED, ("signs", "teacher_vjps")),
        "ce+dse": (ce_dse, JACOBIAN, values + slopes),
        "logits": (logits, None, values),
        "soft_target": (
            soft_target,
            None,
            values if settings.label_weight == 0 else (*values, "y"),
        ),
    }
    if loss not in objectives:
        raise ValueError(f"loss must be one of {', '.join(objectives)}; got {loss!r}.")
    loss_fn, derivative, labels = objectives[loss]
    return Objective(_mean(loss_fn), derivative, labels)


def _mean(loss_fn: Callable[[PyTree, Batch], Array]) -> Callable[[PyTree, Batch], Array]:
    return lambda params, batch: jnp.mean(jax.vmap(loss_fn, in_axes=(None, 0))(params, batch))
