"""How inputs are alike to all layers of two networks, by two kernels at once."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import pair
from kd.losses.features.distances import distances_of
from kd.losses.features.kernels import gram
from kd.losses.features.relational import similarity_divergence
from kd.positive_definite import product
from kd.types import Array


def information_flow(
    student: Mapping[str, Array],
    teacher: Mapping[str, Array],
    weights: Mapping[str, float | Array],
) -> Array:
    r"""Jeffreys divergences of two kernels' similarities, layer by layer, nats.

    .. math:: E = \sum_\ell w_\ell \sum_K J(K^t_\ell, K^s_\ell)

    with cosines and `student_t_similarity` for K. The layers are the same of both networks, so
    that the teacher should be of the student's kind: where it is not, an *auxiliary* network
    is put between. It is of the student's kind and larger, and learns from the teacher's last
    layer alone, in released code by this same sum over both kernels, with a weight of 1; the
    student then follows all of its layers.

    Both kernels are of one Gram matrix of features less their mean, so that cosines of inputs whose
    features are less than a thousandth of the mean's have errors of 1e-4 in single precision.

    The weights of layers before the last should fall early, as connections form in the first
    epochs: the reference has 1 for the last layer and :math:`100 \cdot 0.7^{epoch}` for others,
    `optax.exponential_decay(100, steps_an_epoch, 0.7, staircase=True)` of a batch's number
    (`streams.numbered`).

    Args:
      student: features by layer, each `[N, ...]`. Gradients flow through.
      teacher: of the same inputs, by the same names. No gradients.
      weights: by layer, at least 0; layers without one do not count.

    Returns:
      A scalar, 0 where all similarities are proportional row by row.

    Raises:
      ValueError: for a layer that one of the two does not have, or no layer; as
        `probabilistic_knowledge_transfer`.
      TypeError: as there; for what is not by layer.

    Example:
      >>> h = {"hidden_0": jnp.eye(3), "Conv_0": jnp.ones((3, 2)).at[0].set(0.5)}
      >>> float(information_flow(h, h, {"hidden_0": 1.0, "Conv_0": 100.0}))
      0.0

    Reference:
      Passalis, Tzelepi and Tefas (2020), "Heterogeneous knowledge distillation using information
      flow modeling", (8) and (9) for each layer; weights, and the mean over pairs, 1 / N of this,
      are of their code.
    """
    for what, value in (("student", student), ("teacher", teacher), ("weights", weights)):
        checks.check_type(what, value, Mapping)
    if not weights:
        raise ValueError("weights must name a layer or more.")
    terms = []
    for name, weight in weights.items():
        if not isinstance(weight, jax.core.Tracer):
            checks.check_number(f"the weight of {name!r}", weight)
            if not weight >= 0:
                raise ValueError(f"the weight of {name!r} must be at least 0, got {weight}.")
        for whose, features in (("student", student), ("teacher", teacher)):
            if name not in features:
                raise ValueError(
                    f"the {whose} has no layer {name!r}; it has {', '.join(sorted(features))}."
                )
        both = zip(*map(_both_similarities, pair(student[name], teacher[name])), strict=True)
        terms += [weight * similarity_divergence(*one, divergence="jeffreys") for one in both]
    return sum(terms)


def _both_similarities(features: Array) -> tuple[Array, Array]:
    """`cosine_similarity` and `student_t_similarity`, of one Gram matrix of centred features."""
    # Of a largest entry of 1 no square overflows; distances have their scale again below.
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(features)))
    features = features / jnp.where(size == 0, 1.0, size)
    mean = jnp.mean(features, axis=0)
    centred = features - mean[None]
    products = gram(centred)
    distances = size * distances_of(products, jnp.sum(centred**2, axis=1))
    along = product(centred, mean)
    inner = products + along[:, None] + along[None, :] + jnp.sum(mean**2)
    squares = jnp.sum(features**2, axis=1)
    is_dead = squares == 0
    scales = jnp.where(is_dead, 0.0, jax.lax.rsqrt(jnp.where(is_dead, 1.0, squares)))
    cosines = jnp.clip(inner * scales[:, None] * scales[None, :], -1.0, 1.0)
    return 0.5 * (cosines + 1), 1 / (1 + distances)
