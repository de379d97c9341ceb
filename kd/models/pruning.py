"""Group lasso over units and channels of `MLP` and `CNN`, and networks without those it emptied."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.types import Array, PyTree


class Pruned(NamedTuple):
    """A smaller network.

    Attributes:
      model: of the kind of the larger one.
      params: of it.
      kept: by layer, the numbers of the units that stayed.
    """

    model: MLP | CNN
    params: PyTree
    kept: dict[str, np.ndarray]


def group_norms(params: PyTree) -> dict[str, Array]:
    r"""Euclidean norms of the groups: all incoming weights of a unit or a channel.

    Biases are in no group, nor are the outputs' weights.

    Args:
      params: of an `MLP` or a `CNN`. Gradients flow through, 0 at a group that is 0.

    Returns:
      By hidden layer, in order, `[units]`.

    Raises:
      ValueError: if the parameters are of another network.

    Example:
      >>> model = MLP(hidden_sizes=(5,), num_outputs=3)
      >>> norms = group_norms(model.init(jax.random.key(0), jnp.zeros(4)))
      >>> {name: norm.shape for name, norm in norms.items()}
      {'Dense_0': (5,)}

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", section 3.3. Their code takes one norm for each place of
      a convolution's kernel, and adds the biases' norm.
    """
    layers = _layers(params)
    return {name: _norms(layers[name]["kernel"]) for name in list(layers)[:-1]}


def group_lasso(params: PyTree) -> Array:
    r"""The sum of the groups' norms, :math:`R(\phi) = \sum_k \lVert \phi_{G_k} \rVert_2`.

    Args:
      params: of an `MLP` or a `CNN`. Gradients flow through.

    Raises:
      ValueError: as `group_norms`.

    Reference:
      Vadera, Jalaian and Marlin (2020), section 3.3.
    """
    return sum(jnp.sum(norms) for norms in group_norms(params).values())


def shrink_groups(params: PyTree, amount: Array | float) -> PyTree:
    r"""The proximal step of `amount` times the group lasso: groups that are smaller become 0.

    .. math:: \phi_G \leftarrow \phi_G \max(0, 1 - a / \lVert \phi_G \rVert_2)

    Args:
      params: of an `MLP` or a `CNN`.
      amount: a, at least 0: step size times strength; a negative one, which would be of no
        regulariser, makes NaN.

    Example:
      >>> model = MLP(hidden_sizes=(5,), num_outputs=3)
      >>> params = model.init(jax.random.key(0), jnp.zeros(4))
      >>> float(group_lasso(shrink_groups(params, 100.0)))
      0.0

    Reference:
      Yuan and Lin (2006), "Model selection and estimation in regression with grouped variables".
    """
    layers = dict(_layers(params))
    amount = jnp.where(jnp.asarray(amount) >= 0, amount, jnp.nan)
    for name in list(layers)[:-1]:
        kernel = layers[name]["kernel"]
        norms = _norms(kernel)
        factors = jnp.where(norms > amount, 1 - amount / jnp.where(norms > 0, norms, 1.0), 0.0)
        factors = jnp.where(jnp.isnan(amount), jnp.nan, factors)
        layers[name] = {**layers[name], "kernel": kernel * _to_last_axis(factors, kernel)}
    return {"params": layers}


def mask_units(params: PyTree, threshold: float) -> PyTree:
    """The parameters with the weights of every group 0 that `prune` would remove.

    Args:
      params: of an `MLP` or a `CNN`.
      threshold: at least 0; a group goes when none of its weights is larger in size.

    Raises:
      ValueError: if the threshold is negative, or a parameter not finite.
    """
    _check_threshold(threshold)
    _check_finite(params)
    layers = dict(_layers(params))
    for name in list(layers)[:-1]:
        kernel = layers[name]["kernel"]
        is_kept = jnp.asarray(_largest(kernel) > threshold, kernel.dtype)
        layers[name] = {**layers[name], "kernel": kernel * _to_last_axis(is_kept, kernel)}
    return {"params": layers}


def prune(model: MLP | CNN, params: PyTree, threshold: float) -> Pruned:
    """The network without the units and channels whose incoming weights are all small.

    What such a unit says without its weights does not depend on the input: it goes into the next
    layer's biases, so that the smaller network equals the masked one.

    Args:
      model: of the parameters.
      params: concrete.
      threshold: at least 0; a unit goes when none of its incoming weights is larger in size.

    Returns:
      A dense network of fewer units.

    Raises:
      ValueError: if the model is of another kind, or not that of the parameters, a parameter is
        not finite, the threshold is negative, or a whole layer would go: the message says which
        threshold is the largest that leaves one unit of each.

    Example:
      >>> model = MLP(hidden_sizes=(5,), num_outputs=3)
      >>> params = model.init(jax.random.key(0), jnp.zeros(4))
      >>> params["params"]["Dense_0"]["kernel"] = jnp.eye(4, 5)  # The last unit hears nothing.
      >>> prune(model, params, 1e-3).model.hidden_sizes
      (4,)

    Reference:
      Vadera, Jalaian and Marlin (2020), section 3.3; 1e-3 is the threshold of their released code.
    """
    if not isinstance(model, MLP | CNN):
        raise ValueError(f"model must be a kd.models.MLP or CNN, got {type(model).__name__}.")
    _check_threshold(threshold)
    _check_finite(params)
    _check_fits(model, params)
    layers = {name: jax.tree.map(np.asarray, layer) for name, layer in _layers(params).items()}
    names = list(layers)
    sizes = {name: _largest(layers[name]["kernel"]) for name in names[:-1]}
    most = min(float(size.max()) for size in sizes.values()) if sizes else np.inf
    threshold = float(threshold)
    if most == 0:
        empty = next(name for name, size in sizes.items() if not size.any())
        raise ValueError(f"{empty} has no weights left, and no threshold keeps a unit of it.")
    if threshold >= most:
        raise ValueError(
            f"a threshold of {threshold:g} would remove a whole layer; the largest that leaves a "
            f"unit in each is just below {most!r}."
        )
    kept = {name: np.flatnonzero(size > threshold) for name, size in sizes.items()}
    made: dict[str, Any] = {}
    for index, name in enumerate(names):
        kernel, bias = layers[name]["kernel"], layers[name]["bias"]
        if index:
            before = names[index - 1]
            said = np.asarray(model.activation_fn(jnp.asarray(layers[before]["bias"])))
            kernel, bias = _without_inputs(kernel, bias, kept[before], said)
        if name in kept:
            kernel, bias = kernel[..., kept[name]], bias[kept[name]]
        made[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    widths = [len(units) for units in kept.values()]
    if isinstance(model, MLP):
        smaller = model.clone(hidden_sizes=tuple(widths))
    else:
        count = len(model.channels)
        smaller = model.clone(channels=tuple(widths[:count]), hidden_sizes=tuple(widths[count:]))
    return Pruned(smaller, {"params": made}, kept)


def _without_inputs(
    kernel: np.ndarray, bias: np.ndarray, kept: np.ndarray, said: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A layer that hears only the inputs kept, its bias moved by what the others always say."""
    shape = kernel.shape
    # After the last convolution an image is laid out place by place, channels together.
    by_input = kernel.reshape(-1, len(said), shape[-1])
    gone = np.setdiff1d(np.arange(len(said)), kept)
    bias = bias + np.einsum("pio,i->o", by_input[:, gone], said[gone])
    fewer = by_input[:, kept]
    if kernel.ndim == 4:
        return fewer.reshape(*shape[:2], len(kept), shape[-1]), bias
    return fewer.reshape(-1, shape[-1]), bias


def _layers(params: PyTree) -> Mapping[str, Mapping[str, Array]]:
    """Layers by name, in order: convolutions first, the outputs' last."""
    layers = params.get("params") if isinstance(params, Mapping) else None
    names = list(layers) if isinstance(layers, Mapping) else []
    if not names or not all(re.fullmatch(r"(Conv|Dense)_\d+", name) for name in names):
        raise ValueError(f"params must be those of a kd.models.MLP or CNN, got layers {names}.")
    for name in names:
        parts = layers[name]
        if not isinstance(parts, Mapping) or not {"kernel", "bias"} <= set(parts):
            raise ValueError(f"params must have a kernel and a bias in {name}.")
    order = sorted(names, key=lambda name: (name[:4], int(name.split("_")[1])))
    return {name: layers[name] for name in order}


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0:  # Negated: NaN is neither.
        raise ValueError(f"threshold must be at least 0, got {threshold}.")


def _check_finite(params: PyTree) -> None:
    for name, layer in _layers(params).items():
        for part, value in layer.items():
            checks.check_finite(f"{name}'s {part}", np.asarray(value))


def _check_fits(model: MLP | CNN, params: PyTree) -> None:
    """Raises ValueError if the parameters are those of a network of other sizes, or kind."""
    channels = tuple(model.channels) if isinstance(model, CNN) else ()
    expected = [("Conv", size) for size in channels]
    expected += [("Dense", size) for size in (*model.hidden_sizes, model.num_outputs)]
    found = [
        (name.split("_")[0], jnp.shape(layer["kernel"])[-1])
        for name, layer in _layers(params).items()
    ]
    if found != expected:
        raise ValueError(f"params must be of the model's layers {expected}, got {found}.")
    before = None
    for name, layer in _layers(params).items():
        kernel, size = jnp.shape(layer["kernel"]), jnp.shape(layer["bias"])
        if size != kernel[-1:]:
            raise ValueError(f"{name}'s bias must have shape {kernel[-1:]}, got {size}.")
        # After convolutions a dense layer reads each channel at as many places as there are.
        is_flat = before is not None and before.startswith("Conv") and name.startswith("Dense")
        units = None if before is None else jnp.shape(_layers(params)[before]["kernel"])[-1]
        fits = units is None or (kernel[-2] % units == 0 if is_flat else kernel[-2] == units)
        if not fits:
            raise ValueError(f"{name} reads {kernel[-2]} inputs, and {before} has {units} units.")
        before = name


def _norms(kernel: Array) -> Array:
    """Of each output's weights; a double `where`, since the root's slope at 0 is infinite."""
    squares = jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - 1)))
    is_positive = squares != 0  # NaN too, which must not look like a unit without weights.
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, squares, 1.0)), 0.0)


def _largest(kernel: Array) -> np.ndarray:
    """In double precision, as a threshold is."""
    return np.max(np.abs(np.asarray(kernel, np.float64)), axis=tuple(range(np.ndim(kernel) - 1)))


def _to_last_axis(values: Array, kernel: Array) -> Array:
    return jnp.reshape(values, (1,) * (kernel.ndim - 1) + (-1,))
