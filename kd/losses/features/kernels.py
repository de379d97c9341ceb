"""Kernels of features: how two inputs covary in a layer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import rows
from kd.positive_definite import product
from kd.types import Array


def linear_kernel(features: Array) -> Array:
    r"""Gram matrix of features, `[N, N]`: degenerate where N > D.

    .. math:: K_{ij} = \frac{1}{D} \sum_d \phi_d(x_i) \phi_d(x_j)

    Divided by the width, so that layers of different widths can agree.

    Args:
      features: `[N, D]`. Gradients flow through.

    Raises:
      ValueError: for another rank, no width; where values are known, if they are not finite.
      TypeError: for features that are not floating.

    Example:
      >>> linear_kernel(jnp.array([[1.0, 1.0], [0.0, 2.0]])).tolist()
      [[1.0, 1.0], [1.0, 2.0]]

    Reference:
      Fitzsimons, Schmon and Roberts (2019), "Implicit priors for knowledge sharing in Bayesian
      neural networks", section 2.1; its display has indices of features where those of inputs
      are meant.
    """
    features = rows(features)
    return gram(features) / features.shape[1]


def rbf_kernel(length_scale: float = 1.0) -> Callable[[Array], Array]:
    r"""A kernel of distances between features, `[N, D]` to `[N, N]`.

    .. math:: K_{ij} = \exp\left(-\frac{\lVert \phi(x_i) - \phi(x_j) \rVert^2}{2 \ell^2 D}\right)

    Features are less their mean over the batch first: far from 0 it is as precise as around it.
    Squared distances have errors of a few roundings of the squared norms after that, so that of
    clusters far apart two inputs nearer than 0.1 % of the distance count as equal.

    Args:
      length_scale: :math:`\ell`, in units of one feature.

    Raises:
      ValueError: if the scale is not positive.

    Example:
      >>> kernel = rbf_kernel()(jnp.array([[0.0, 0.0], [2.0, 0.0]]))
      >>> print(f"{kernel[0, 0]:.4f} {kernel[0, 1]:.4f}")
      1.0000 0.3679

    Reference:
      Rasmussen and Williams (2006), "Gaussian processes for machine learning", (4.9).
    """
    checks.check_positive("length_scale", length_scale)

    def kernel_fn(features: Array) -> Array:
        features = rows(features)
        # Distances do not change, and there is less to cancel.
        features = features - jnp.mean(features, axis=0, keepdims=True)
        products = gram(features)
        squares = jnp.diagonal(products)
        distances = squares[:, None] + squares[None, :] - 2 * products
        # Not their maximum with 0, which halves what equal inputs' curvature is.
        distances = jnp.where(distances < 0, 0.0, distances)
        return jnp.exp(-0.5 * distances / (length_scale**2 * features.shape[1]))

    return kernel_fn


@jax.custom_jvp
def gram(features: Array) -> Array:
    """Inner products of rows, `[N, D]` to `[N, N]`, whose gradient is one product, not two."""
    return product(features, features.T)


@gram.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    half = product(tangents[0], primals[0].T)
    return gram(primals[0]), half + half.T
