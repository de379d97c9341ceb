"""What a model's layers say on the way to its answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from kd import checks
from kd.types import Array, PyTree

FeaturesFn = Callable[[PyTree, Array], dict[str, Array]]
_COLLECTION = "intermediates"
_CALL = "__call__"
OUTPUT = "output"


def features_of(model: nn.Module, names: Sequence[str] | None = None) -> FeaturesFn:
    """A function of what the layers of a linen module say, for one input.

    The output of every submodule but dropout has its name, as `"Dense_0"`; of one within another it
    is `"encoder/Dense_0"`, of a further call of the same `"Dense_0[1]"`. So has what a module sows
    into the collection "intermediates". The answer itself is `"output"`. `MLP` and `CNN` sow their
    hidden layers after activation, as `"hidden_0"`, where `"Dense_0"` is before it; `"Conv_0"` of a
    `CNN` is after activation and pooling. `RBM` and `NADE` sow `"hidden"`, the probabilities of
    their hidden units given the whole input; `ResNet` `"stage_0"` and so on, and `"pooled"`;
    `Transformer` and `LSTM` `"embedding"` and each layer's `"hidden_0"`, a `Transformer` its
    `"attention_0"` too, scores before the softmax; bags `"members"`, each one's probabilities, and
    a `GaussianMixture` `"components"`, those of its components given the input. What is called
    within `nn.scan` has no name.

    Args:
      model: any; what it says must be arrays, or pytrees of them, whose leaves then have names
        of their own.
      names: those wanted; None for all there are.

    Returns:
      A function of parameters and one input, without a batch axis, to arrays by name; for a batch,
      `jax.vmap`. Keyword arguments go to the model's `apply`. Gradients flow through parameters and
      input: a teacher's are stopped by the losses. It raises ValueError for a name that there
      is not, listing those that there are, and for a layer that is itself named `"output"`.

    Raises:
      TypeError: for what is no linen module, or names that are no list of strings.

    Example:
      >>> from kd import models
      >>> model = models.MLP((5, 4), 3)
      >>> params = model.init(jax.random.key(0), jnp.zeros(2))
      >>> sorted(features_of(model)(params, jnp.ones(2)))
      ['Dense_0', 'Dense_1', 'Dense_2', 'hidden_0', 'hidden_1', 'output']
      >>> {k: v.shape for k, v in features_of(model, ["hidden_1"])(params, jnp.ones(2)).items()}
      {'hidden_1': (4,)}
    """
    checks.check_type("model", model, nn.Module)
    if isinstance(names, str):
        raise TypeError(f"names must be a list of names, got the string {names!r}.")
    wanted = None if names is None else list(names)
    for name in wanted or ():
        checks.check_type("each of names", name, str)

    def features_fn(params: PyTree, x: Array, **given: Any) -> dict[str, Array]:
        _, sown = model.apply(
            params, x, capture_intermediates=_is_layer, mutable=[_COLLECTION], **given
        )
        pairs = list(_flat(sown[_COLLECTION]))
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two layers of {type(model).__name__} are named {twice!r}.")
        if wanted is None:
            return found
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise ValueError(
                f"{type(model).__name__} has no layer {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(sorted(found))}."
            )
        return {name: found[name] for name in wanted}

    return features_fn


def layers_of(model: nn.Module, params: PyTree, x: Array) -> dict[str, tuple[int, ...]]:
    """Names of all that `features_of` gives, with shapes; nothing is computed.

    Args:
      model: any linen module.
      params: of its `init`.
      x: one input.

    Example:
      >>> from kd import models
      >>> model = models.MLP((5,), 3)
      >>> params = model.init(jax.random.key(0), jnp.zeros(2))
      >>> layers_of(model, params, jnp.zeros(2))["hidden_0"]
      (5,)
    """
    found = jax.eval_shape(features_of(model), params, x)
    return {name: value.shape for name, value in found.items()}


def sow_features(module: nn.Module, name: str, value_fn: Callable[[], Array]) -> None:
    """Within a module's call, gives features a name; computed only where somebody asks."""
    if module.is_mutable_collection(_COLLECTION):
        module.sow(_COLLECTION, name, value_fn())


def _is_layer(module: nn.Module, method: str) -> bool:
    """Dropout alone is none: the layer after it is sown under a name that says what it is."""
    return method == _CALL and not isinstance(module, nn.Dropout)


def _flat(tree: Mapping[str, Any], prefix: str = ""):
    """Names and arrays of a collection; each entry holds the values of all calls."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
            continue
        name = (prefix.removesuffix("/") or OUTPUT) if key == _CALL else prefix + key
        for index, call in enumerate(value):
            own = f"{name}[{index}]" if index else name
            leaves = jax.tree_util.tree_leaves_with_path(call)
            for path, leaf in leaves:
                yield own + jax.tree_util.keystr(path), leaf
