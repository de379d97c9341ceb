"""Distances between the inputs of a batch, as a layer sees them.

All of this is of a batch, as one input alone has no distances.
"""

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import check_labels, pair, rows, single
from kd.losses.features.kernels import gram
from kd.types import Array


def pairwise_distances(features: Array) -> Array:
    r"""Euclidean distances :math:`\lVert h_i - h_j \rVert`: `[N, D]` to `[N, N]`.

    Of inner products, in memory :math:`O(N^2)`: after the batch's mean is taken off, a pair whose
    squared distance is less than 16 roundings of the sum of its squared norms counts as equal. In
    single precision that is of two inputs closer than 0.2 % of their norm.

    Args:
      features: `[N, D]`. Gradients flow through, 0 between inputs whose features count as equal.

    Raises:
      ValueError, TypeError: as `kd.losses.features.linear_kernel`.

    Example:
      >>> pairwise_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]]))[0].tolist()
      [0.0, 5.0]
    """
    features = rows(features)
    # Distances do not change, and there is less to cancel.
    features = features - jnp.mean(features, axis=0, keepdims=True)
    return distances_of(gram(features), jnp.sum(features**2, axis=1))


def distances_of(products: Array, squares: Array) -> Array:
    """Of inner products `[N, N]` of features, and their squared norms `[N]`."""
    sums = squares[:, None] + squares[None, :]
    found = sums - 2 * products
    # Of what is rounding alone a root has any slope.
    is_same = found <= 16 * jnp.finfo(products.dtype).eps * sums
    return jnp.where(is_same, 0.0, jnp.sqrt(jnp.where(is_same, 1.0, found)))


def distance_absolute_error(student: Array, teacher: Array) -> Array:
    r"""How far a student's distances between inputs are from a teacher's, on average.

    .. math:: E = \frac{1}{N (N - 1)} \sum_{i \neq j} \left\lvert \lVert h^s_i - h^s_j \rVert
       - \lVert h^t_i - h^t_j \rVert \right\rvert

    Args:
      student: `[N, ...]`, of N inputs, of any width. Gradients flow through.
      teacher: `[N, ...]`, of the same inputs, of any width. No gradients.

    Returns:
      A scalar, in units of the features: it knows their scale, which cosines do not.

    Raises:
      ValueError: for fewer than two inputs, or not as many of both; where values are known,
        features that are not finite, or a teacher's that are all the same.
      TypeError: for features that are not floating.

    Example:
      >>> h = jnp.array([[0.0], [1.0]])
      >>> float(distance_absolute_error(3 * h, h))
      2.0

    Reference:
      Yu, Yazici, Liu, van de Weijer, Cheng and Ramisa (2019), "Learning metrics from teachers:
      compact networks for image embedding", the relative teacher.
    """
    student, teacher = pair(student, teacher)
    off = pairwise_distances(student) - pairwise_distances(teacher)
    # The derivative of jnp.abs at 0 is 1.
    total = jnp.sum(off * jax.lax.stop_gradient(jnp.sign(off)))
    return total / (len(student) * (len(student) - 1))


def contrastive(student: Array, labels: Array, *, margin: float = 1.0) -> Array:
    r"""Draws inputs of one class together, and others apart as far as a margin; mean over pairs.

    .. math:: E = \frac{1}{N (N - 1)} \sum_{i \neq j} \tfrac{1}{2} \begin{cases}
       d_{ij}^2 & y_i = y_j \\ \max(0, m - d_{ij})^2 & \text{else} \end{cases}

    with Euclidean distances :math:`d_{ij}`.

    Args:
      student: `[N, ...]`. Gradients flow through.
      labels: `[N]`, integers.
      margin: m, positive, in units of the features.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: for fewer than two inputs, not as many labels, or a margin that is not positive.
      TypeError: for features that are not floating, labels that are no integers.

    Example:
      >>> float(contrastive(jnp.array([[0.0], [0.5]]), jnp.array([0, 1])))
      0.125

    Reference:
      Hadsell, Chopra and LeCun (2006), "Dimensionality reduction by learning an invariant mapping",
      (4), whose sum is over pairs.
    """
    student = single("student", student)
    check_labels(labels)
    checks.check_shape("labels", labels, (len(student),))
    checks.check_positive("margin", margin)
    distances = pairwise_distances(student)
    is_same = labels[:, None] == labels[None, :]
    wanting = jnp.where(is_same, distances, jnp.maximum(margin - distances, 0.0))
    is_pair = ~jnp.eye(len(student), dtype=bool)
    return 0.5 * jnp.sum(jnp.where(is_pair, wanting**2, 0.0)) / jnp.sum(is_pair)
