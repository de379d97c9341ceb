"""What each method minimises, stage by stage; a batch has all that any of them needs.

`"x"`: images without labels, with the teachers' `"logits"` and `"features"`; `"labelled_x"` and
`"labelled_y"`: images with labels, of which there may be few.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.feature_priors.settings import HINTED, SGD, WASSERSTEIN, Condition, Settings
from experiments.feature_priors.tasks import Link, Task
from kd import losses, models, training
from kd.losses import features
from kd.training import Stage
from kd.types import Array, Batch, Key, PyTree, Update

Objective = Callable[[PyTree, Batch], Array]


def update_of(
    settings: Settings, condition: Condition, task: Task, *, rate: float, num_steps: int
) -> Update:
    """The stages of a method, with the optimiser of its protocol."""
    links = task.links_of(condition.method)
    first = 0
    if links:
        first = min(num_steps - 1, max(1, round(settings.feature_share * num_steps)))
    rest = num_steps - first
    stages = []
    if links:
        is_hinted = condition.method in HINTED
        objective = (
            hints(links, task.student) if is_hinted else prior(settings, links, task.student)
        )
        stages.append(Stage(objective, _optimizer(condition, rate, first), first))
    optimizer = _optimizer(condition, rate, rest)
    if (links and by_labels(condition)) or condition.method == "copied":
        optimizer = training.train_only(optimizer, task.rest)
    stages.append(Stage(answers(settings, condition, task.student), optimizer, rest))
    return training.staged(*stages)


def by_labels(condition: Condition) -> bool:
    """Whether the answers are learned from labels alone."""
    return condition.method not in ("logits", "soft", "noisy", "fitnets", "prior_soft")


def start_of(
    condition: Condition, task: Task, told: Batch, teachers: dict[str, PyTree], key: Key
) -> PyTree:
    """Parameters of a student before it learns, with those of the regressors of its hints."""
    x = told["x"][0]
    student_key, regressor_key = jax.random.split(key)
    student = task.student.init(student_key, x)
    params = {"student": student}
    if condition.method == "copied":
        layers = dict(student["params"])
        for link in task.links:
            layers[link.own] = teachers[link.teacher]["params"][link.layer]
        params = {"student": {"params": layers}}
    if condition.method in HINTED:
        own = models.features_of(task.student)(student, x)
        params["regressors"] = {
            link.own: regressor_of(link, told).init(
                jax.random.fold_in(regressor_key, index), own[link.own]
            )
            for index, link in enumerate(task.links_of(condition.method))
        }
    return params


def regressor_of(link: Link, batch: Batch) -> nn.Module:
    """From the student's layer to the teacher's: linear, where FitNets' is rectified as that is."""
    return models.Regressor(batch["features"][link.told].shape[1:])


def prior(settings: Settings, links: Sequence[Link], model: nn.Module) -> Objective:
    """Divergences from the teachers' Gaussian processes, summed over experts, an input's share."""
    divergence_fn = divergence_of(settings)
    features_fn = models.features_of(model, sorted({link.own for link in links}))

    def objective(params: PyTree, batch: Batch) -> Array:
        own = jax.vmap(lambda x: features_fn(params["student"], x))(batch["x"])
        divergences = [
            divergence_fn(link.units(own[link.own]), batch["features"][link.told]) for link in links
        ]
        return sum(divergences) / len(batch["x"])

    return objective


def divergence_of(settings: Settings) -> Callable[[Array, Array], Array]:
    """Of a batch's features, the student's and the teacher's."""
    given = {"kernel_fn": features.rbf_kernel()} if settings.kernel == "rbf" else {}
    if settings.divergence != WASSERSTEIN:
        given["jitter"] = settings.jitter
    return partial(getattr(features, f"gaussian_process_{settings.divergence}"), **given)


def hints(links: Sequence[Link], model: nn.Module) -> Objective:
    """Squared distances of regressed features, a mean over entries and inputs."""
    features_fn = models.features_of(model, sorted({link.own for link in links}))

    def objective(params: PyTree, batch: Batch) -> Array:
        regressors = {link: regressor_of(link, batch) for link in links}

        def one(x: Array, targets: dict[str, Array]) -> Array:
            own = features_fn(params["student"], x)
            return sum(
                features.hint(
                    regressor.apply(params["regressors"][link.own], own[link.own]),
                    targets[link.told],
                )
                / targets[link.told].size
                for link, regressor in regressors.items()
            )

        return jnp.mean(jax.vmap(one)(batch["x"], batch["features"]))

    return objective


def answers(settings: Settings, condition: Condition, model: nn.Module) -> Objective:
    """What the student should answer: labels, logits or soft targets."""

    def logits(params: PyTree, x: Array) -> Array:
        return jax.vmap(lambda one: model.apply(params["student"], one))(x)

    def labels(params: PyTree, batch: Batch) -> Array:
        log_probs = jax.nn.log_softmax(logits(params, batch["labelled_x"]))
        one_hot = jax.nn.one_hot(batch["labelled_y"], log_probs.shape[-1])
        return jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, one_hot))

    def regression(params: PyTree, batch: Batch) -> Array:
        found = logits(params, batch["x"])
        return jnp.mean(jax.vmap(losses.logit_square_error)(found, batch["logits"]))

    def soft_targets(params: PyTree, batch: Batch) -> Array:
        found = logits(params, batch["x"])
        soft = jax.vmap(
            lambda own, other: losses.soft_target(own, other, temperature=settings.temperature)
        )(found, batch["logits"])
        weight = settings.label_weight
        return weight * labels(params, batch) + (1 - weight) * jnp.mean(soft)

    if by_labels(condition):
        return labels
    return regression if condition.method in ("logits", "noisy") else soft_targets


def _optimizer(condition: Condition, rate: float, num_steps: int) -> optax.GradientTransformation:
    if condition.protocol == SGD:
        return optax.sgd(rate)
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps))
