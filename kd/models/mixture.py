"""Mixtures of Gaussians: tractable students for continuous densities."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.models.features import sow_features
from kd.types import Array, Key, PyTree

COVARIANCES = ("full", "diagonal", "spherical")


class Components(NamedTuple):
    """Unconstrained parameters of a mixture of K Gaussians in D dimensions.

    Attributes:
      logits: `[K]`; the log-weights are their log-softmax.
      locations: `[K, D]`, the means.
      log_scales: `[K, D]` (spherical: `[K]`), logarithms of the diagonal of the
        covariance's lower Cholesky factor L.
      lower: `[K, D (D - 1) / 2]`, the part below the diagonal of the inverse of L, row
        by row; None unless the covariance is full.
    """

    logits: Array
    locations: Array
    log_scales: Array
    lower: Array | None


class GaussianMixture(nn.Module):
    r"""A density over D real variables: a weighted sum of K Gaussians.

    .. math::
       p(x) = \sum_k \pi_k \, \mathcal{N}(x \mid \mu_k, \Sigma_k), \quad
       \pi = \mathrm{softmax}(a), \quad \Sigma_k = L_k L_k^\top

    Every value of the parameters is a density: the weights are a softmax, and L has a positive
    diagonal. A full covariance is held as the inverse of L, so that the density and
    all its derivatives take products alone, and no system is solved. Density and
    gradients stay finite where the components are far away (as long as squared distances
    do), and at weights near 0.

    Its maximum likelihood on a fixed set of samples is unbounded (a component may collapse on
    one of them): give it fresh samples, or a loss with the teacher's values.

    Attributes:
      num_components: K >= 1.
      num_dims: D >= 1.
      covariance: "full", "diagonal" or "spherical" (a multiple of the identity).

    Example:
      >>> mixture = GaussianMixture(num_components=3, num_dims=2)
      >>> params = mixture.init(jax.random.key(0), jnp.zeros(2))
      >>> x = mixture.sample(params, jax.random.key(1), 5)
      >>> x.shape, mixture.log_prob(params, x).shape, mixture.covariances(params).shape
      ((5, 2), (5,), (3, 2, 2))

    Reference:
      Bishop (2006), "Pattern recognition and machine learning", section 2.3.9. Starts
      with equal weights, identity covariances and means from :math:`\mathcal{N}(0, 1)`.
    """

    num_components: int
    num_dims: int
    covariance: str = "full"

    def __post_init__(self):
        checks.check_count("num_components", self.num_components)
        checks.check_count("num_dims", self.num_dims)
        checks.check_choice("covariance", self.covariance, COVARIANCES)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`log_prob`, as `apply` has it."""
        count, size = self.num_components, self.num_dims
        zeros, is_full = nn.initializers.zeros, self.covariance == "full"
        scales = (count,) if self.covariance == "spherical" else (count, size)
        components = Components(
            self.param("logits", zeros, (count,)),
            self.param("locations", nn.initializers.normal(1.0), (count, size)),
            self.param("log_scales", zeros, scales),
            self.param("lower", zeros, (count, size * (size - 1) // 2)) if is_full else None,
        )
        checks.check_last_axis("x", x, size)
        terms = _log_terms(components, jnp.asarray(x, components.logits.dtype))
        sow_features(self, "components", lambda: jax.nn.softmax(terms))
        return jax.nn.logsumexp(terms, axis=-1)

    @nn.nowrap
    def log_prob(self, params: PyTree, x: Array) -> Array:
        """Log-density, in nats, of each input.

        Args:
          params: of `init`. Gradients flow through.
          x: `[..., D]`. Gradients flow through, of any order.

        Returns:
          `[...]`; of either sign.

        Raises:
          ValueError: if the last axis is not D.
        """
        return self.apply(params, x)

    @nn.nowrap
    def sample(self, params: PyTree, key: Key, num_samples: int) -> Array:
        """Exact independent samples.

        Args:
          params: of `init`. Gradients flow through means and covariances, not through the
            choice of a component.
          key: decides the samples.
          num_samples: N.

        Returns:
          `[N, D]`.

        Raises:
          ValueError: if `num_samples` < 1.
        """
        checks.check_count("num_samples", num_samples)
        components = self._components(params)
        choice_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(choice_key, components.logits, shape=(num_samples,))
        noise = jax.random.normal(noise_key, (num_samples, self.num_dims), components.logits.dtype)
        factors = _factors(components)[chosen]
        steps = jnp.einsum("nij,nj->ni", factors, noise, precision=jax.lax.Precision.HIGHEST)
        return components.locations[chosen] + steps

    @nn.nowrap
    def weights(self, params: PyTree) -> Array:
        """The components' probabilities, `[K]`, which sum to 1. Gradients flow through."""
        return jax.nn.softmax(self._components(params).logits)

    @nn.nowrap
    def means(self, params: PyTree) -> Array:
        """The components' means, `[K, D]`. Gradients flow through."""
        return self._components(params).locations

    @nn.nowrap
    def covariances(self, params: PyTree) -> Array:
        """The components' covariances, `[K, D, D]`, whatever their form. Gradients flow through."""
        factors = _factors(self._components(params))
        return jnp.einsum("kij,klj->kil", factors, factors, precision=jax.lax.Precision.HIGHEST)

    @nn.nowrap
    def from_moments(self, weights: Array, means: Array, covariances: Array) -> PyTree:
        """Parameters with given weights, means and covariances: the accessors' inverse.

        A covariance that the mixture cannot hold is replaced by the nearest that it can, in
        KL divergence from the Gaussian given: its diagonal, or the mean of that.

        Args:
          weights: `[K]`, positive; divided by their sum. Gradients flow through.
          means: `[K, D]`. Gradients flow through.
          covariances: `[K, D, D]`, positive-definite. Gradients flow through.

        Returns:
          Parameters as those of `init`.

        Raises:
          ValueError: if a shape is another; or, where they are not traced, if one is not
            finite, a weight not positive, or a covariance not symmetric and positive-definite.

        Example:
          >>> mixture = GaussianMixture(num_components=1, num_dims=2, covariance="spherical")
          >>> params = mixture.from_moments(
          ...     jnp.ones(1), jnp.zeros((1, 2)), jnp.diag(jnp.array([1.0, 3.0]))[None])
          >>> print(mixture.covariances(params)[0].round(4))
          [[2. 0.]
           [0. 2.]]
        """
        count, size = self.num_components, self.num_dims
        weights, means, covariances = map(jnp.asarray, (weights, means, covariances))
        for name, value, shape in (
            ("weights", weights, (count,)),
            ("means", means, (count, size)),
            ("covariances", covariances, (count, size, size)),
        ):
            if jnp.shape(value) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {jnp.shape(value)}.")
        _check_positive("weights", weights)
        checks.check_finite("weights", weights)
        checks.check_finite("means", means)
        _check_covariances(covariances)
        variances = jnp.diagonal(covariances, axis1=1, axis2=2)
        dtype = jnp.result_type(covariances, float)
        leaves = {"logits": jnp.log(weights), "locations": jnp.asarray(means, dtype)}
        if self.covariance == "full":
            factors = jnp.linalg.cholesky(covariances)
            diagonal = jnp.diagonal(factors, axis1=1, axis2=2)
            leaves["lower"] = _inverse(factors)[:, *np.tril_indices(size, -1)]
        elif self.covariance == "diagonal":
            diagonal = jnp.sqrt(variances)
        else:
            diagonal = jnp.sqrt(jnp.mean(variances, axis=1))
        # What is positive-definite may be too small for the precision at hand.
        _check_positive("the scales of the covariances, in this precision,", diagonal)
        return {"params": leaves | {"log_scales": jnp.log(diagonal)}}

    @nn.nowrap
    def _components(self, params: PyTree) -> Components:
        leaves = params["params"]
        return Components(**leaves) if "lower" in leaves else Components(**leaves, lower=None)


def _log_terms(components: Components, x: Array) -> Array:
    """Logarithms of each component's share of the density, `[..., K]`."""
    size = components.locations.shape[1]
    offsets = x.reshape(-1, 1, size) - components.locations[None]
    whitened = _whiten(components, offsets)
    log_scales = components.log_scales
    # The logarithm of L's determinant.
    volumes = size * log_scales if log_scales.ndim == 1 else jnp.sum(log_scales, axis=1)
    constants = jax.nn.log_softmax(components.logits) - volumes
    squares = jnp.sum(jnp.square(whitened), axis=-1)
    terms = constants[None] - 0.5 * squares - 0.5 * size * math.log(2 * math.pi)
    return terms.reshape(*x.shape[:-1], -1)


def _whiten(components: Components, offsets: Array) -> Array:
    """The inverse of L times each offset, `[N, K, D]`."""
    log_scales, lower = components.log_scales, components.lower
    if log_scales.ndim == 1:
        return offsets * jnp.exp(-log_scales)[None, :, None]
    whitened = offsets * jnp.exp(-log_scales)[None]
    if lower is None or lower.shape[1] == 0:
        return whitened
    # Half the digits, which an accelerator would take by default, are not enough.
    return whitened + jnp.einsum(
        "kij,nkj->nki", _strictly_lower(components), offsets, precision=jax.lax.Precision.HIGHEST
    )


def _strictly_lower(components: Components) -> Array:
    """`lower` in its places, `[K, D, D]`."""
    count, size = components.locations.shape
    zeros = jnp.zeros((count, size, size), components.lower.dtype)
    return zeros.at[:, *np.tril_indices(size, -1)].set(components.lower)


def _factors(components: Components) -> Array:
    """The lower Cholesky factor L of each covariance, `[K, D, D]`."""
    count, size = components.locations.shape
    log_scales = components.log_scales
    if log_scales.ndim == 1:
        log_scales = jnp.broadcast_to(log_scales[:, None], (count, size))
    diagonal = jnp.eye(size, dtype=log_scales.dtype)[None]
    if components.lower is None:
        return diagonal * jnp.exp(log_scales)[:, :, None]
    return _inverse(diagonal * jnp.exp(-log_scales)[:, :, None] + _strictly_lower(components))


def _inverse(factors: Array) -> Array:
    """The inverses of lower triangular matrices `[K, D, D]`, lower triangular too."""
    identity = jnp.broadcast_to(jnp.eye(factors.shape[-1], dtype=factors.dtype), factors.shape)
    return jax.scipy.linalg.solve_triangular(factors, identity, lower=True)


def _check_covariances(value: Array) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    value = np.asarray(value, np.float64)
    checks.check_finite("covariances", value)
    if np.min(np.linalg.eigvalsh(value)) <= 0:
        raise ValueError("covariances must be positive-definite.")
    scales = np.sqrt(np.diagonal(value, axis1=1, axis2=2))
    gap = np.abs(value - np.swapaxes(value, 1, 2)) / (scales[:, :, None] * scales[:, None, :])
    if np.max(gap) > 1e-4:
        raise ValueError("covariances must be symmetric.")


def _check_positive(name: str, value: Array) -> None:
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name} must be positive, got {np.asarray(value).tolist()}.")
