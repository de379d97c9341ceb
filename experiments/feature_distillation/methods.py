"""What each method minimises; a batch has images `"x"`, labels `"y"` and what teachers say."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.feature_distillation import networks
from experiments.feature_distillation.networks import AUX, LOGITS, POOLED, TEACHER
from experiments.feature_distillation.settings import BY_AUX, CONTRASTIVE, LAST, Condition, Settings
from kd import losses, models
from kd.losses import features
from kd.types import Array, Batch, Key, PyTree

Objective = Callable[[PyTree, Batch], Array]
REGRESSED = ("hint", "vid", "hint_aux", "vid_aux")


def source_of(condition: Condition) -> str | None:
    """Which teacher a method asks."""
    if condition.method == "labels":
        return None
    return AUX if condition.method in BY_AUX else TEACHER


def links_of(settings: Settings, condition: Condition) -> dict[str, str]:
    """Layers that are matched: the source's, by the student's."""
    last = {settings.last: settings.last if condition.method in BY_AUX else POOLED}
    same = {name: name for name in settings.intermediate}
    if condition.method in ("labels", "soft"):
        return {}
    if condition.method in ("vid_aux", "flow", "flow_random"):
        return last | same
    if condition.method == "flow_direct":
        return last | networks.stages(settings)
    if condition.layer in ("", LAST):
        return last
    return last | {condition.layer: condition.layer}


def needed(settings: Settings, condition: Condition) -> set[str]:
    """What of the source's answer a method reads."""
    if condition.method == "soft":
        return {LOGITS}
    return set(links_of(settings, condition).values())


def asked(settings: Settings, source: str) -> set[str]:
    """What of a source's answer any network of the run learns from."""
    conditions = [one for one in settings.conditions() if source_of(one) == source]
    names = set().union(*(needed(settings, one) for one in conditions))
    return names | {POOLED} if source == TEACHER and settings.needs_aux() else names


def objective_of(
    settings: Settings, condition: Condition, model: nn.Module, epoch: int
) -> Objective:
    """The method's loss, with contrastive supervision beside it if wanted.

    Args:
      settings: of the run.
      condition: the kind of student.
      model: the student's network.
      epoch: steps in one.
    """
    is_contrastive = condition.supervision == CONTRASTIVE
    if condition.method == "labels":
        return contrastive(settings, model) if is_contrastive else labels(model)
    if condition.method == "soft":
        own = soft_targets(settings, model)
    else:
        own = matched(settings, condition, model, epoch)
    if not is_contrastive:
        return own
    other = contrastive(settings, model)
    return lambda params, batch: (
        own(params, batch) + settings.contrastive_weight * other(params, batch)
    )


def start_of(
    settings: Settings,
    condition: Condition,
    model: nn.Module,
    student: PyTree,
    example: Batch,
    key: Key,
) -> PyTree:
    """What a student begins with: its network's parameters, and all else that its method has.

    Args:
      settings: of the run.
      condition: the kind of student.
      model: its network.
      student: the network's parameters.
      example: one of the examples, with what teachers say of it, for shapes.
      key: of one student; it decides what is not of the network.
    """
    params = {"student": student}
    links = links_of(settings, condition)
    if condition.method in REGRESSED:
        sizes = models.layers_of(model, student, example["x"])
        shapes = {name: example[source_of(condition)][links[name]].shape for name in links}
        params["regressors"] = {
            name: _regressor(condition, shapes[name]).init(
                jax.random.fold_in(key, index), jnp.zeros(sizes[name])
            )
            for index, name in enumerate(links)
        }
        if condition.method.startswith("vid"):
            params["variances"] = {
                name: features.init_variance(shape[-1]) for name, shape in shapes.items()
            }
    if condition.method == "flow_random":
        shares = jax.random.dirichlet(key, jnp.ones(len(links)))
        params["weights"] = {name: shares[index] for index, name in enumerate(links)}
    return params


def labels(model: nn.Module) -> Objective:
    """Cross-entropy from labels alone."""

    def objective(params: PyTree, batch: Batch) -> Array:
        return _label_loss(_logits(model, params, batch), batch["y"])

    return objective


def contrastive(settings: Settings, model: nn.Module) -> Objective:
    """Of features of length 1."""
    features_fn = models.features_of(model, [settings.last])

    def objective(params: PyTree, batch: Batch) -> Array:
        own = _all(features_fn, params, batch)[settings.last]
        squares = jnp.sum(own**2, axis=1, keepdims=True)
        units = jnp.where(squares > 0, own * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1)), 0)
        return features.contrastive(units, batch["y"], margin=settings.margin)

    return objective


def soft_targets(settings: Settings, model: nn.Module) -> Objective:
    """The teacher's answers at a temperature, and labels."""

    def objective(params: PyTree, batch: Batch) -> Array:
        logits = _logits(model, params, batch)
        soft = jax.vmap(
            lambda own, other: losses.soft_target(own, other, temperature=settings.temperature)
        )(logits, batch[TEACHER][LOGITS])
        weight = settings.label_weight
        return weight * _label_loss(logits, batch["y"]) + (1 - weight) * jnp.mean(soft)

    return objective


def transfer(settings: Settings, model: nn.Module) -> Objective:
    """The teacher's last layer by both kernels: what the auxiliary network learns from."""
    features_fn = models.features_of(model, [settings.last])

    def objective(params: PyTree, batch: Batch) -> Array:
        told = {settings.last: batch[TEACHER][POOLED]}
        return features.information_flow(
            _all(features_fn, params, batch), told, {settings.last: 1.0}
        )

    return objective


def matched(settings: Settings, condition: Condition, model: nn.Module, epoch: int) -> Objective:
    """Layers matched to a teacher's."""
    links = links_of(settings, condition)
    features_fn = models.features_of(model, list(links))
    loss_fn = _loss_of(settings, condition, epoch)

    def objective(params: PyTree, batch: Batch) -> Array:
        own = _all(features_fn, params, batch)
        told = {name: batch[source_of(condition)][layer] for name, layer in links.items()}
        return loss_fn(params, own, told, batch["step"])

    return objective


def _loss_of(settings: Settings, condition: Condition, epoch: int) -> Callable[..., Array]:
    """The loss of features by layer `(params, own, told, step)`."""
    method = condition.method.removesuffix("_aux")
    if method == "hint":
        return lambda params, own, told, step: _regressed(condition, params, own, told, _hint)
    if method == "vid":
        return lambda params, own, told, step: _regressed(
            condition, params, own, told, _variational
        )
    if method in ("mkt", "pkt"):
        loss_fn = {
            "mkt": features.distance_absolute_error,
            "pkt": features.probabilistic_knowledge_transfer,
        }[method]
        return lambda params, own, told, step: loss_fn(own[settings.last], told[settings.last])
    decay = optax.exponential_decay(
        settings.flow_weight, epoch, settings.flow_decay, staircase=True
    )

    def flow(params: PyTree, own: Batch, told: Batch, step: Array) -> Array:
        if method == "flow_random":
            weights = jax.lax.stop_gradient(params["weights"])
        else:
            weights = {name: 1.0 if name == settings.last else decay(step) for name in own}
        return features.information_flow(own, told, weights)

    return flow


def _regressed(
    condition: Condition, params: PyTree, own: Batch, told: Batch, loss_fn: Callable[..., Array]
) -> Array:
    """A mean over examples and entries, a sum over layers, of regressed features."""
    total = jnp.zeros(())
    for name, values in told.items():
        regressor = _regressor(condition, values.shape[1:])
        guesses = jax.vmap(lambda h, r=regressor, n=name: r.apply(params["regressors"][n], h))(
            own[name]
        )
        each = jax.vmap(lambda guess, value, n=name: loss_fn(params, n, guess, value))
        total += jnp.mean(each(guesses, values)) / values[0].size
    return total


def _hint(params: PyTree, name: str, guess: Array, value: Array) -> Array:
    return features.hint(guess, value)


def _variational(params: PyTree, name: str, guess: Array, value: Array) -> Array:
    return features.variational_information(guess, value, params["variances"][name])


def _regressor(condition: Condition, shape: tuple[int, ...]) -> nn.Module:
    """From the student's layer to the source's: linear for hints, three layers for VID."""
    is_vid = condition.method.startswith("vid")
    return models.Regressor(shape, (shape[-1],) * 2 if is_vid else (), use_bias=not is_vid)


def _all(features_fn: Callable, params: PyTree, batch: Batch) -> dict[str, Array]:
    return jax.vmap(lambda x: features_fn(params["student"], x))(batch["x"])


def _logits(model: nn.Module, params: PyTree, batch: Batch) -> Array:
    return jax.vmap(lambda x: model.apply(params["student"], x))(batch["x"])


def _label_loss(logits: Array, y: Array) -> Array:
    one_hot = jax.nn.one_hot(y, logits.shape[-1])
    return jnp.mean(jax.vmap(losses.cross_entropy)(jax.nn.log_softmax(logits), one_hot))
