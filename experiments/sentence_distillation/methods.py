"""What each method minimises, stage by stage; a batch has all that any of them needs.

`"x"`: sentences without labels, with the teacher's `"logits"` and `"features"`, and a `"key"` of
dropout each; `"labelled_x"` and `"labelled_y"`: sentences with labels, of which there may be few.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.sentence_distillation.settings import BY_TEACHER, MATCHED, Settings
from experiments.sentence_distillation.tasks import KINDS, Link, Task
from kd import losses, models, training
from kd.losses import features
from kd.training import Stage
from kd.types import Array, Batch, Key, PyTree, Update

Objective = Callable[[PyTree, Batch], Array]
Links = dict[str, tuple[Link, ...]]
PROJECTED = ("embedding", "hidden", "flow")


def update_of(settings: Settings, method: str, task: Task, *, num_steps: int) -> Update:
    """The stages of a method, each with an Adam and a cosine of its own."""
    stages, first = [], 0
    if method in MATCHED:
        first = min(num_steps - 1, max(1, round(settings.feature_share * num_steps)))
        stages.append(Stage(layers(method, task), _optimizer(settings, first), first))
    rest = num_steps - first
    stages.append(Stage(answers(settings, method, task), _optimizer(settings, rest), rest))
    return training.staged(*stages)


def start_of(method: str, task: Task, told: Batch, key: Key) -> PyTree:
    """Parameters of a student before it learns, with those of what its layers are matched by.

    The student's own are the same for all methods of one architecture.
    """
    model, x = task.student_of(method), told["x"][0]
    params = {"student": model.init(key, x)}
    own = models.features_of(model)(params["student"], x)
    if set(PROJECTED) & set(MATCHED.get(method, ())):
        params["projections"] = {
            link.own: projection_of(link, told["features"]).init(
                jax.random.fold_in(key, index + 1), own[link.own]
            )
            for index, link in enumerate(projected_links(method, task))
        }
    if "gram" in MATCHED.get(method, ()):
        links = task.links_of(method)["hidden"]
        params["scales"] = {link.own: jnp.ones(()) for link in links}
    return params


def projected_links(method: str, task: Task) -> list[Link]:
    """Layers of a method that are matched through a projection."""
    terms = [term for term in MATCHED[method] if term in PROJECTED]
    kinds = dict.fromkeys(kind for term in terms for kind in KINDS[term])
    return [link for kind in kinds for link in task.links_of(method)[kind]]


def projection_of(link: Link, told: Batch) -> nn.Module:
    """From the student's layer to the teacher's, the same at every word."""
    return models.Regressor(told[link.teacher].shape[-2:])


def layers(method: str, task: Task) -> Objective:
    """The losses of a method's layers, a sum of terms of weight 1, a mean over sentences."""
    links, model = task.links_of(method), task.student_of(method)
    names = {link.own for term in MATCHED[method] for kind in KINDS[term] for link in links[kind]}
    features_fn = models.features_of(model, sorted(names))

    def objective(params: PyTree, batch: Batch) -> Array:
        def one(x: Array, key: Key, told: Batch) -> Array:
            own = features_fn(params["student"], x, **_dropped(key))
            mask = models.token_mask(x)
            return sum(TERMS[term](params, links, own, told, mask) for term in MATCHED[method])

        return jnp.mean(jax.vmap(one)(batch["x"], batch["key"], batch["features"]))

    return objective


def _projected(params: PyTree, link: Link, own: Batch, told: Batch) -> Array:
    return projection_of(link, told).apply(params["projections"][link.own], own[link.own])


def _states(kind: str, params: PyTree, links: Links, own: Batch, told: Batch, mask: Array) -> Array:
    """Squared differences of projected states, a mean over layers."""
    found = [
        features.hidden_square_error(_projected(params, link, own, told), told[link.teacher], mask)
        for link in links[kind]
    ]
    return sum(found) / len(found)


def _embedding(*given: Any) -> Array:
    return _states("embedding", *given)


def _hidden(*given: Any) -> Array:
    return _states("hidden", *given)


def _gram(params: PyTree, links: Links, own: Batch, told: Batch, mask: Array) -> Array:
    """Products between positions, without a projection; one number makes up for the scale."""
    found = [
        features.position_gram_square_error(
            params["scales"][link.own] * own[link.own], told[link.teacher], mask
        )
        for link in links["hidden"]
    ]
    return sum(found) / len(found)


def _flow(params: PyTree, links: Links, own: Batch, told: Batch, mask: Array) -> Array:
    """From the embeddings to the first layer, and from each to the next, all projected."""
    chain = [*links["embedding"], *links["hidden"]]
    mine = [_projected(params, link, own, told) for link in chain]
    theirs = [told[link.teacher] for link in chain]
    found = [
        features.flow_square_error(
            (mine[index], mine[index + 1]), (theirs[index], theirs[index + 1]), mask
        )
        for index in range(len(chain) - 1)
    ]
    return sum(found) / len(found)


def _attention(params: PyTree, links: Links, own: Batch, told: Batch, mask: Array) -> Array:
    """Scores before the softmax, head by head."""
    del params
    found = [
        features.attention_square_error(own[link.own], told[link.teacher], mask)
        for link in links["attention"]
    ]
    return sum(found) / len(found)


TERMS = {
    "embedding": _embedding,
    "hidden": _hidden,
    "gram": _gram,
    "flow": _flow,
    "attention": _attention,
}


def answers(settings: Settings, method: str, task: Task) -> Objective:
    """What the student should answer: labels, or these beside the teacher's soft targets.

    TinyBERT's students hear the teacher alone, at a temperature of 1.
    """
    model = task.student_of(method)
    is_tiny = method == "tiny"
    temperature = 1.0 if is_tiny else settings.temperature
    weight = 0.0 if is_tiny else settings.label_weight

    def logits(params: PyTree, x: Array, keys: Key) -> Array:
        return jax.vmap(lambda one, key: model.apply(params["student"], one, **_dropped(key)))(
            x, keys
        )

    def labels(params: PyTree, batch: Batch) -> Array:
        keys = batch["key"][: len(batch["labelled_y"])]
        if method in BY_TEACHER:  # The sentences without labels have had these.
            keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        log_probs = jax.nn.log_softmax(logits(params, batch["labelled_x"], keys))
        one_hot = jax.nn.one_hot(batch["labelled_y"], log_probs.shape[-1])
        return jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, one_hot))

    def soft_targets(params: PyTree, batch: Batch) -> Array:
        soft = jax.vmap(lambda own, other: losses.soft_target(own, other, temperature=temperature))(
            logits(params, batch["x"], batch["key"]), batch["logits"]
        )
        if weight == 0:
            return jnp.mean(soft)
        return weight * labels(params, batch) + (1 - weight) * jnp.mean(soft)

    return soft_targets if method in BY_TEACHER else labels


def _dropped(key: Key) -> dict[str, Any]:
    """How a network is asked while it learns."""
    return {"deterministic": False, "rngs": {"dropout": key}}


def _optimizer(settings: Settings, num_steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(settings.student_rate, num_steps))
