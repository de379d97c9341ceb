"""Relations between the inputs of a batch: how alike a layer takes them to be.

All of this is of a batch, as one input alone has no relations.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single, check_labels, pair, rows, single
from kd.losses.features.distances import pairwise_distances
from kd.losses.features.kernels import gram
from kd.types import Array

FLOOR = 1e-7  # Of a similarity: cosine kernels reach 0, where logarithms do not.
DIVERGENCES = ("kl", "jeffreys")


def cosine_similarity(features: Array) -> Array:
    r"""Cosines between features, moved to [0, 1]: `[N, D]` to `[N, N]`.

    .. math:: K_{ij} = \frac{1}{2} \left(\frac{h_i^\top h_j}
       {\lVert h_i \rVert \lVert h_j \rVert} + 1\right)

    Features that are all 0 have a cosine of 0 with everything, themselves too.

    Args:
      features: `[N, D]`. Gradients flow through.

    Raises:
      ValueError, TypeError: as `kd.losses.features.linear_kernel`.

    Example:
      >>> cosine_similarity(jnp.array([[2.0, 0.0], [0.0, 1.0]])).tolist()
      [[1.0, 0.5], [0.5, 1.0]]

    Reference:
      Passalis and Tefas (2018), "Learning deep representations with probabilistic knowledge
      transfer", (5).
    """
    features = rows(features)
    # Of lengths that are known no square overflows or vanishes; cosines do not change.
    sizes = jax.lax.stop_gradient(jnp.max(jnp.abs(features), axis=1, keepdims=True))
    is_dead = sizes == 0
    features = features / jnp.where(is_dead, 1.0, sizes)
    squares = jnp.sum(features**2, axis=1, keepdims=True)
    units = jnp.where(is_dead, 0.0, features * jax.lax.rsqrt(jnp.where(is_dead, 1.0, squares)))
    return 0.5 * (gram(units) + 1)


def student_t_similarity(features: Array) -> Array:
    r"""A kernel of distances with a heavy tail, in (0, 1]: `[N, D]` to `[N, N]`.

    .. math:: K_{ij} = \frac{1}{1 + \lVert h_i - h_j \rVert}

    Args:
      features: `[N, D]`. Gradients flow through, 0 between inputs whose features count as equal
        for `pairwise_distances`.

    Raises:
      ValueError, TypeError: as `kd.losses.features.linear_kernel`.

    Example:
      >>> kernel = student_t_similarity(jnp.array([[0.0, 0.0], [3.0, 4.0]]))
      >>> print(f"{kernel[0, 1]:.4f}")
      0.1667

    Reference:
      Passalis, Tzelepi and Tefas (2020), "Heterogeneous knowledge distillation using information
      flow modeling", (8), with d = 1.
    """
    return 1 / (1 + pairwise_distances(features))


def same_label(labels: Array) -> Array:
    """1 where two inputs have the same label, else 0: `[N]` to `[N, N]`, each with itself too.

    Example:
      >>> same_label(jnp.array([0, 1, 0]))[0].tolist()
      [1.0, 0.0, 1.0]
    """
    check_labels(labels)
    return (labels[:, None] == labels[None, :]).astype(jnp.result_type(float))


def similarity_divergence(
    student: Array, teacher: Array, *, divergence: str = "kl", with_self: bool = True
) -> Array:
    r"""Divergence from a teacher's to a student's conditional similarities, nats, of a batch.

    .. math:: E = \frac{1}{N} \sum_i \sum_j p_{ij} \log\frac{p_{ij}}{q_{ij}}, \qquad
       p_{ij} = \frac{K^t_{ij}}{\sum_k K^t_{ik}}, \quad q_{ij} = \frac{K^s_{ij}}{\sum_k K^s_{ik}}

    The mean over inputs of what each row's distribution is off, which does not shrink with the
    batch: a released weight, for a mean over pairs, is to be divided by N.

    Args:
      student: `[N, N]`, similarities, at least 0; smaller than 1e-7 counts as that. Gradients
        flow through.
      teacher: `[N, N]`. No gradients.
      divergence: "kl" as above, or "jeffreys", (p - q)(log p - log q) in the sum.
      with_self: whether an input's similarity with itself counts: it says nothing, and released
        code has it.

    Raises:
      ValueError: for matrices that are not square or not alike, of fewer than two inputs, or
        another divergence; where values are known, if they are not finite.

    Example:
      >>> alike = jnp.ones((2, 2))
      >>> own = jnp.array([[1.0, 0.5], [0.5, 1.0]])
      >>> print(f"{similarity_divergence(own, alike):.4f}")
      0.0589

    Reference:
      Passalis and Tefas (2018), (3) to (7); their code has the mean over pairs, 1 / N of this, and
      adds 1e-7 in the logarithms. Jeffreys': Passalis, Tzelepi and Tefas (2020), (9).
    """
    checks.check_choice("divergence", divergence, DIVERGENCES)
    checks.check_same_shape("the student's similarities", student, "the teacher's", teacher)
    shape = jnp.shape(student)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        raise ValueError(f"similarities must be [N, N] with N >= 2, got shape {shape}.")
    for name, value in (("student", student), ("teacher", teacher)):
        checks.check_finite(f"the {name}'s similarities", value)
    log_p, log_q = (
        _log_shares(at_least_single(one), with_self)
        for one in (jax.lax.stop_gradient(teacher), student)
    )
    p = jnp.exp(log_p)
    weights = p - jnp.exp(log_q) if divergence == "jeffreys" else p
    terms = weights * (log_p - log_q)
    if not with_self:
        terms = jnp.where(jnp.eye(shape[0], dtype=bool), 0.0, terms)
    return jnp.sum(terms) / shape[0]


def probabilistic_knowledge_transfer(
    student: Array,
    teacher: Array,
    *,
    similarity_fn: Callable[[Array], Array] = cosine_similarity,
    divergence: str = "kl",
    with_self: bool = True,
) -> Array:
    r"""Divergence of how alike the inputs of a batch are to two layers, nats.

    Args:
      student: `[N, ...]`, of N inputs, of any width. Gradients flow through.
      teacher: `[N, ...]`, of the same inputs, of any width. No gradients.
      similarity_fn: features `[N, D]` to similarities `[N, N]`.
      divergence, with_self: as of `similarity_divergence`.

    Returns:
      A scalar, 0 where similarities are proportional row by row.

    Raises:
      ValueError: for fewer than two inputs, or not as many of both; where values are known,
        features that are not finite, or a teacher's that are all the same; similarities of another
        shape.
      TypeError: for features that are not floating.

    Example:
      >>> h = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> print(f"{probabilistic_knowledge_transfer(5 * h, h):.4f}")  # Cosines know no scale.
      0.0000

    Reference:
      Passalis and Tefas (2018), (7). With `student_t_similarity` and "jeffreys", and
      summed with that of cosines: Passalis, Tzelepi and Tefas (2020), (7) to (9).
    """
    student, teacher = pair(student, teacher)
    similarities = [similarity_fn(features) for features in (student, teacher)]
    for found in similarities:
        checks.check_shape("similarities", found, (len(student), len(student)))
    return similarity_divergence(*similarities, divergence=divergence, with_self=with_self)


def supervised_knowledge_transfer(
    student: Array,
    labels: Array,
    *,
    similarity_fn: Callable[[Array], Array] = cosine_similarity,
    divergence: str = "kl",
    with_self: bool = True,
) -> Array:
    """`probabilistic_knowledge_transfer` from the labels: inputs of one class are alike.

    Those of two classes have a similarity of 0, which counts as 1e-7. The KL divergence hardly
    notices; Jeffreys' has its logarithm times the student's share of other classes, which is most
    of the value: 14.5 nats of ten classes that the features do not know, against 2.3.

    Args:
      student: `[N, ...]`. Gradients flow through.
      labels: `[N]`, integers.
      similarity_fn, divergence, with_self: as of `probabilistic_knowledge_transfer`. Without
        itself an input that is alone with its label has no one to be like, and counts as alike to
        all.

    Returns:
      A scalar.

    Raises:
      ValueError, TypeError: as `probabilistic_knowledge_transfer`; for labels that are no
        integers, or not as many.

    Example:
      >>> h = jnp.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
      >>> print(f"{supervised_knowledge_transfer(h, jnp.array([0, 0, 1])):.4f}")
      0.0000

    Reference:
      Passalis and Tefas (2018), section 3.
    """
    student = single("student", student)
    check_labels(labels)
    checks.check_shape("labels", labels, (len(student),))
    return similarity_divergence(
        similarity_fn(student), same_label(labels), divergence=divergence, with_self=with_self
    )


def _log_shares(similarities: Array, with_self: bool) -> Array:
    """Logarithms of each row divided by its sum."""
    logs = jnp.log(jnp.maximum(similarities, FLOOR))
    if not with_self:
        logs = jnp.where(jnp.eye(len(logs), dtype=bool), -jnp.inf, logs)
    shares = jax.nn.log_softmax(logs, axis=1)
    # Where they do not count they must not become infinity times 0 either.
    return shares if with_self else jnp.where(jnp.eye(len(logs), dtype=bool), 0.0, shares)
