"""Layers over sequences: attention, hidden states and relations of positions, of one sequence.

All take a mask of the positions that are there; what stands at the others changes nothing,
to the bit.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single
from kd.losses.features.kernels import gram
from kd.positive_definite import product
from kd.types import Array


def attention_square_error(student: Array, teacher: Array, mask: Array) -> Array:
    r"""Mean squared difference of attention scores, over heads and pairs of positions there.

    .. math:: E = \frac{1}{H L^2} \sum_h \lVert A^s_h - A^t_h \rVert_F^2

    Args:
      student: `[H, L, L]`, scores before the softmax, as TinyBERT has them, or shares after it.
        Gradients flow through.
      teacher: the same shape. No gradients.
      mask: `[L]`, true or 1 where there is a token; not what is added to scores.

    Returns:
      A scalar; 0 where no token is.

    Raises:
      ValueError: if the shapes do not fit or hold nothing; if values there that are known are not
        finite.
      TypeError: if features are not floating, or the mask is.

    Example:
      >>> scores = jnp.zeros((1, 2, 2)).at[0, 1, 1].set(9.0)
      >>> float(attention_square_error(scores, jnp.ones((1, 2, 2)), jnp.array([True, False])))
      1.0

    Reference:
      Jiao et al. (2020), "TinyBERT: distilling BERT for natural language understanding", (7).
    """
    _check_pair(student, teacher, 3)
    size = jnp.shape(student)[-1]
    checks.check_shape("the student's scores", student, (jnp.shape(student)[0], size, size))
    here = _present(mask, size)
    pairs = here[:, None] & here[None, :]
    squares = jnp.where(pairs[None], _off(student, teacher, pairs[None]) ** 2, 0.0)
    return jnp.sum(squares) / _count(pairs) / jnp.shape(student)[0]


def hidden_square_error(student: Array, teacher: Array, mask: Array) -> Array:
    r"""Mean squared difference of hidden states, or embeddings, over the positions there.

    .. math:: E = \frac{1}{L D} \lVert H^s W - H^t \rVert_F^2

    Args:
      student: `[L, D]`, after a projection W to the teacher's width where theirs differ
        (`kd.models.Regressor`). Gradients flow through.
      teacher: `[L, D]`. No gradients.
      mask: `[L]`.

    Returns:
      A scalar; 0 where no token is.

    Raises:
      ValueError: if the shapes do not fit or hold nothing; if values there that are known are not
        finite.
      TypeError: if features are not floating, or the mask is.

    Example:
      >>> states = jnp.array([[2.0, 0.0], [5.0, 5.0]])
      >>> float(hidden_square_error(states, jnp.zeros((2, 2)), jnp.array([True, False])))
      2.0

    Reference:
      Jiao et al. (2020), (8) and (9).
    """
    _check_pair(student, teacher, 2)
    here = _present(mask, jnp.shape(student)[0])[:, None]
    squares = jnp.where(here, _off(student, teacher, here) ** 2, 0.0)
    return jnp.sum(squares) / _count(here) / jnp.shape(student)[1]


def position_gram_square_error(student: Array, teacher: Array, mask: Array) -> Array:
    r"""Mean squared difference of the products between positions: for states of any two widths.

    .. math:: E = \frac{1}{L^2} \left\lVert \frac{1}{D_s} H^s H^{s\top}
       - \frac{1}{D_t} H^t H^{t\top} \right\rVert_F^2

    Args:
      student: `[L, D_s]`. Gradients flow through.
      teacher: `[L, D_t]`, of the same tokens. No gradients.
      mask: `[L]`.

    Returns:
      A scalar; 0 where no token is.

    Raises:
      ValueError: if the lengths differ or widths are 0; if values there that are known are not
        finite.
      TypeError: if features are not floating, or the mask is.

    Example:
      >>> states = jnp.array([[1.0], [1.0]])
      >>> mask = jnp.ones(2, bool)
      >>> float(position_gram_square_error(2 * states, jnp.ones((2, 7)), mask))
      9.0

    Reference:
      Huang and Wang (2017), "Like what you like: knowledge distill via neuron selectivity
      transfer", as of sequences in Yang et al. (2020), "TextBrewer".
    """
    for name, value in (("student", student), ("teacher", teacher)):
        _check_states(f"the {name}'s states", value, 2)
    size = jnp.shape(student)[0]
    checks.check_shape("the teacher's states", teacher, (size, jnp.shape(teacher)[1]))
    here = _present(mask, size)
    grams = []
    for name, states in (("student", student), ("teacher", jax.lax.stop_gradient(teacher))):
        states = _there(name, states, here[:, None])
        grams.append(gram(states) / states.shape[1])
    pairs = here[:, None] & here[None, :]
    return jnp.sum(jnp.square(grams[0] - grams[1])) / _count(pairs)


def flow_square_error(
    student: tuple[Array, Array], teacher: tuple[Array, Array], mask: Array
) -> Array:
    r"""Mean squared difference of what leads from one layer to another, over the tokens there.

    .. math:: E = \frac{1}{D_1 D_2} \left\lVert \frac{1}{L} H^{s\top}_1 H^s_2
       - \frac{1}{L} H^{t\top}_1 H^t_2 \right\rVert_F^2

    Args:
      student: states of two layers, `[L, D_1]` and `[L, D_2]`. Gradients flow through.
      teacher: the same shapes. No gradients.
      mask: `[L]`.

    Returns:
      A scalar; 0 where no token is.

    Raises:
      ValueError: if the shapes do not fit or hold nothing; if values there that are known are not
        finite.
      TypeError: if features are not floating, or the mask is; for what is no pair of layers.

    Example:
      >>> ones = jnp.ones((2, 1))
      >>> float(flow_square_error((ones, 2 * ones), (ones, ones), jnp.ones(2, bool)))
      1.0

    Reference:
      Yim, Joo, Bae and Kim (2017), "A gift from knowledge distillation", (1) and (2).
    """
    for name, layers in (("student", student), ("teacher", teacher)):
        checks.check_type(name, layers, Sequence)
        if len(layers) != 2:
            raise ValueError(f"{name} must be the states of two layers, got {len(layers)}.")
    for one, other in zip(student, teacher, strict=True):
        _check_pair(one, other, 2)
    size = jnp.shape(student[0])[0]
    checks.check_shape("the second layer's states", student[1], (size, jnp.shape(student[1])[1]))
    here = _present(mask, size)[:, None]
    flows = []
    for name, pair in (("student", student), ("teacher", jax.lax.stop_gradient(teacher))):
        first, second = (_there(name, states, here) for states in pair)
        flows.append(product(first.T, second) / _count(here))
    return jnp.mean(jnp.square(flows[0] - flows[1]))


def _off(student: Array, teacher: Array, here: Array) -> Array:
    """The difference where there are tokens."""
    return _there("student", student, here) - jax.lax.stop_gradient(
        _there("teacher", teacher, here)
    )


def _there(name: str, features: Array, here: Array) -> Array:
    """Features where there are tokens, finite; elsewhere, where anything may stand, 0."""
    found = jnp.where(here, at_least_single(features), 0.0)
    checks.check_finite(f"the {name}'s features where there are tokens", found)
    return found


def _present(mask: Array, size: int) -> Array:
    checks.check_shape("mask", mask, (size,))
    if jnp.issubdtype(jnp.result_type(mask), jnp.floating):  # Of logits, where 0 is for present.
        raise TypeError(f"mask must be boolean or integers, got {jnp.result_type(mask)}.")
    return jnp.asarray(mask, bool)


def _count(here: Array) -> Array:
    return jnp.maximum(jnp.sum(here), 1)


def _check_pair(student: Array, teacher: Array, rank: int) -> None:
    for name, value in (("student", student), ("teacher", teacher)):
        _check_states(f"the {name}'s features", value, rank)
    if jnp.shape(student) != jnp.shape(teacher):
        raise ValueError(
            f"the student's features must have the teacher's shape {jnp.shape(teacher)}, got "
            f"{jnp.shape(student)}: of other widths put a projection between, as "
            "kd.models.Regressor; of other numbers of heads give their sums."
        )


def _check_states(name: str, value: Array, rank: int) -> None:
    checks.check_floating(name, value)
    checks.check_rank(name, value, rank)
    if 0 in jnp.shape(value):
        raise ValueError(f"{name} must hold a number or more, got shape {jnp.shape(value)}.")
