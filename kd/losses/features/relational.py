"""Relations between the inputs of a batch: how alike a layer takes them to be.

All of this is of a batch, as one input alone has no relations.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single, check_labels, pair, rows, single
from kd.losses.features.distances import distances_of, pairwise_distances
from kd.losses.features.kernels import gram
from kd.positive_definite import product
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


def quadratic_mutual_information(similarities: Array, labels: Array) -> Array:
    r"""Quadratic mutual information of features and labels, at least 0, of a batch.

    .. math:: I = V_\mathrm{in} + V_\mathrm{all} - 2 V_\mathrm{between}
       = \int \sum_c (p(h, c) - p(h) p(c))^2 \, dh

    with kernel density estimates on the batch, whose products integrate to the similarities. To be
    maximised, or matched to a teacher's; no loss itself.

    Args:
      similarities: `[N, N]`, of a kernel that is positive definite, as `rbf_kernel` or cosines'.
        Gradients flow through.
      labels: `[N]`, integers.

    Returns:
      A scalar, in units of the similarities.

    Raises:
      ValueError: for shapes that do not fit, fewer than two inputs; where values are known, for
        similarities that are not finite.
      TypeError: for labels that are no integers, similarities that are not floating.

    Example:
      >>> apart = jnp.eye(2)
      >>> float(quadratic_mutual_information(apart, jnp.array([0, 1])))
      0.25

    Reference:
      Principe, Xu, Zhao and Fisher (2000), "Learning from examples with information theoretic
      criteria"; Passalis and Tefas (2018), section 3.
    """
    check_labels(labels)
    checks.check_floating("similarities", similarities)
    size = jnp.shape(labels)[0]
    checks.check_shape("similarities", similarities, (size, size))
    if size < 2:
        raise ValueError("a batch of one input has no relations between inputs: give two or more.")
    checks.check_finite("similarities", similarities)
    similarities = at_least_single(similarities)
    is_same = same_label(labels).astype(similarities.dtype)
    share = jnp.mean(is_same, axis=1)  # Of each input's class.
    within = jnp.sum(is_same * similarities)
    everything = jnp.mean(share) * jnp.sum(similarities)
    between = jnp.sum(share[:, None] * similarities)
    return (within + everything - 2 * between) / size**2


def mutual_information_square_error(
    student: Array,
    teacher: Array,
    labels: Array,
    *,
    similarity_fn: Callable[[Array], Array] = cosine_similarity,
) -> Array:
    r"""Squared difference of what two layers know of the labels, of a batch.

    .. math:: E = (I(h^s, y) - I(h^t, y))^2

    by `quadratic_mutual_information` of either's similarities. That the two are equal is what
    probabilistic knowledge transfer is derived from, which asks for more, that similarities are,
    and needs no label. This alone is a weak loss: one number of a batch.

    Args:
      student: `[N, ...]`, of N inputs, of any width. Gradients flow through.
      teacher: `[N, ...]`, of the same inputs, of any width. No gradients.
      labels: `[N]`, integers.
      similarity_fn: features `[N, D]` to similarities `[N, N]`, of a positive definite kernel.

    Returns:
      A scalar, in squared units of similarities.

    Raises:
      ValueError, TypeError: as `probabilistic_knowledge_transfer` and
        `quadratic_mutual_information`.

    Example:
      >>> h = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 1])
      >>> print(f"{mutual_information_square_error(h, -3 * h, labels):.4f}")
      0.0000
      >>> print(f"{mutual_information_square_error(jnp.abs(h - 0.5), h, labels):.4f}")  # 1/8 - 0.
      0.0156

    Reference:
      Passalis and Tefas (2018), section 3.
    """
    student, teacher = pair(student, teacher)
    known = []
    for features in (student, teacher):
        similarities = similarity_fn(features)
        checks.check_shape("similarities", similarities, (len(student), len(student)))
        known.append(quadratic_mutual_information(similarities, labels))
    return jnp.square(known[0] - jax.lax.stop_gradient(known[1]))


def _log_shares(similarities: Array, with_self: bool) -> Array:
    """Logarithms of each row divided by its sum."""
    logs = jnp.log(jnp.maximum(similarities, FLOOR))
    if not with_self:
        logs = jnp.where(jnp.eye(len(logs), dtype=bool), -jnp.inf, logs)
    shares = jax.nn.log_softmax(logs, axis=1)
    # Where they do not count they must not become infinity times 0 either.
    return shares if with_self else jnp.where(jnp.eye(len(logs), dtype=bool), 0.0, shares)
