"""What students learn, and how their outputs are read."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from experiments.posterior_expectations.settings import (
    CURRENT,
    RUNNING,
    SQUARE,
    Settings,
    Student,
)
from kd import inference, losses, models, training
from kd.inference import Expectation
from kd.metrics import Uncertainties, dirichlet_uncertainties, uncertainties
from kd.types import Array, Batch, PyTree, Update

NUM_TEMPERATURES = 5  # That running means are kept of: each is of one temperature.
# What an exported student says.
ANSWERS = {
    "predictive": "log-probabilities",
    "entropy": "expected entropy",
    "both": "log-probabilities, and last the expected entropy",
    "dirichlet": "logarithms of concentrations",
}


def expectations(settings: Settings) -> dict[str, Expectation]:
    """All that the students of a run need, by name."""
    wanted = set()
    for student in settings.students():
        if student.kind in ("predictive", "both"):
            wanted.add(("probs", student.estimator))
        if student.kind == "both":
            wanted.add(("entropy", RUNNING))
        if student.kind == "entropy":
            wanted.add(("entropy", student.estimator))
        if student.kind == "dirichlet":
            wanted.add(("log_probs", student.estimator))
    fns = {
        "probs": inference.predictive,
        "entropy": inference.entropy,
        "log_probs": inference.mean_log_probs(smoothing=settings.smoothing).fn,
    }
    estimators = {CURRENT: inference.current_sample(), RUNNING: inference.running_mean()}
    found = {
        f"{what}.{estimator}": Expectation(fns[what], estimators[estimator])
        for what, estimator in sorted(wanted)
    }
    name = f"log_probs.{CURRENT}"
    if name in found:  # Of each network, to be tempered at the temperature of the step.
        found[name] = Expectation(lambda log_probs: log_probs, inference.current_samples())
    name = f"log_probs.{RUNNING}"
    if name in found and settings.temperature > 1:
        found[name] = Expectation(
            lambda log_probs: jnp.stack(
                [
                    inference.smoothed_log_probs(
                        log_probs, smoothing=settings.smoothing, temperature=float(temperature)
                    )
                    for temperature in temperatures(settings)
                ]
            ),
            inference.running_mean(),
        )
    return found


def temperatures(settings: Settings) -> np.ndarray:
    """Those that running means are kept of, from the first to 1."""
    return np.linspace(settings.temperature, 1.0, NUM_TEMPERATURES)


def update_of(
    settings: Settings, student: Student, model: nn.Module, *, rate: float, num_steps: int
) -> Update:
    """Adam, its rate halved evenly over the run, of clipped gradients; with the student's lasso."""
    every = max(1, num_steps // (settings.num_halvings + 1))
    schedule = optax.exponential_decay(rate, every, 0.5, staircase=True)
    optimizer = optax.adam(schedule)
    if settings.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer)
    if student.strength and settings.regularizer == "proximal":
        lasso = training.proximal(
            models.shrink_groups, lambda count: student.strength * schedule(count)
        )
        optimizer = optax.chain(optimizer, lasso)
    return training.gradient(objective_of(settings, student, model), optimizer)


def objective_of(
    settings: Settings, student: Student, model: nn.Module
) -> Callable[[PyTree, Batch], Array]:
    """The mean over a batch of the student's loss, and its regularisers."""
    is_square = settings.entropy_loss == SQUARE
    entropy_loss = losses.square_error if is_square else losses.absolute_error

    def loss(outputs: Array, targets: Batch, temperature: Array) -> Array:
        if student.kind == "predictive":
            probs = targets[f"probs.{student.estimator}"]
            return losses.cross_entropy(jax.nn.log_softmax(outputs), probs)
        if student.kind == "entropy":
            return entropy_loss(
                jax.nn.softplus(outputs[0]), targets[f"entropy.{student.estimator}"]
            )
        if student.kind == "dirichlet":
            target = targets[f"log_probs.{student.estimator}"]
            if student.estimator == CURRENT:  # Of each network, `[R, C]`.
                softer = inference.smoothed_log_probs(
                    target, smoothing=settings.smoothing, temperature=temperature
                )
                target = jnp.mean(softer, axis=0)
            elif settings.temperature > 1:  # Of each temperature, `[K, C]`.
                kept = jnp.asarray(temperatures(settings), temperature.dtype)
                nearest = jnp.argmin(jnp.abs(kept - temperature))
                target, temperature = target[nearest], kept[nearest]
            return losses.dirichlet_negative_log_likelihood(
                outputs, target, temperature=temperature
            )
        heads = models.predictive_and_entropy(outputs)
        off = entropy_loss(heads.entropy, targets[f"entropy.{RUNNING}"])
        return losses.cross_entropy(heads.log_probs, targets[f"probs.{student.estimator}"]) + off

    def objective(params: PyTree, batch: Batch) -> Array:
        if student.dropout:
            outputs = jax.vmap(
                lambda x, key: model.apply(params, x, deterministic=False, rngs={"dropout": key})
            )(batch["x"], batch["key"])
        else:
            outputs = jax.vmap(lambda x: model.apply(params, x))(batch["x"])
        targets = {name: value for name, value in batch.items() if "." in name}
        temperature = temperature_of(settings)(batch["step"])
        found = jnp.mean(jax.vmap(loss, in_axes=(0, 0, None))(outputs, targets, temperature))
        if settings.student_decay:
            found += 0.5 * settings.student_decay * optax.tree.norm(params, squared=True)
        if student.strength and settings.regularizer == "penalty":
            found += student.strength * models.group_lasso(params)
        return found

    return objective


def temperature_of(settings: Settings) -> optax.Schedule:
    """Constant for a third of the run, then linearly to 1 in the next."""
    third = max(1, settings.student_steps // 3)
    return optax.linear_schedule(settings.temperature, 1.0, third, transition_begin=third)


def answer_fn(student: Student, model: nn.Module) -> Callable[[PyTree, Array], Array]:
    """What a student says of one input, see `ANSWERS`: nats, but for a Dirichlet's."""

    def fn(params: PyTree, x: Array) -> Array:
        outputs = model.apply(params, x)
        if student.kind == "predictive":
            return jax.nn.log_softmax(outputs)
        if student.kind == "entropy":
            return jax.nn.softplus(outputs)
        if student.kind == "dirichlet":
            return outputs
        heads = models.predictive_and_entropy(outputs)
        return jnp.append(heads.log_probs, heads.entropy)

    return fn


def uncertainties_of(student: Student, outputs: np.ndarray) -> Uncertainties | None:
    """Of a student's outputs; None of one that has no such thing."""
    if student.kind == "dirichlet":
        return dirichlet_uncertainties(outputs)
    if student.kind == "both":
        return uncertainties(
            special.softmax(outputs[:, :-1], axis=-1), np.logaddexp(0, outputs[:, -1])
        )
    return None


def log_probs_of(student: Student, outputs: np.ndarray) -> np.ndarray | None:
    """`[N, C]`, nats."""
    if student.kind == "entropy":
        return None
    return special.log_softmax(outputs[:, :-1] if student.kind == "both" else outputs, axis=-1)


def entropy_of(student: Student, outputs: np.ndarray) -> np.ndarray | None:
    """The expected entropy that it says, `[N]`, nats."""
    if student.kind == "entropy":
        return np.logaddexp(0, outputs[:, 0])
    found = uncertainties_of(student, outputs)
    return None if found is None else found.data
