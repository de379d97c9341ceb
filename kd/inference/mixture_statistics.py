r"""What EM counts for a mixture of Gaussians, and the mixture that such counts make most likely.

The statistics of a component are the mass, mean and scatter of a cloud of points, in the
coordinates in which the component is a standard normal, :math:`z = L^{-1} (x - \mu)`. No square
about an origin is ever formed, so nothing is lost where the data are far from 0, nor in the
narrow directions of a covariance; and the statistics of the mixture itself are
:math:`(\pi, 0, I)`. Nothing here is made to be differentiated.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd.batching import cond_any
from kd.models.mixture import Components
from kd.types import Array

# A component with less of the mass is empty. Its weight stays here: so small that the density
# does not feel it, so large that its logarithm, and moments of such masses, are finite.
LEAST_SHARE = 1e-30

# Numbers in one array of whitened inputs: on a CPU a few of these have to fit in its cache.
BLOCK_NUMBERS = {"cpu": 2**17}
OTHER_BLOCK_NUMBERS = 2**23
LANES = 64

HIGHEST = jax.lax.Precision.HIGHEST


class Clouds(NamedTuple):
    """K clouds of points, each in the coordinates of its own component.

    Attributes:
      shares: `[K]`, masses; of all clouds together 1, or what was seen so far of it.
      means: `[K, D]`.
      scatters: covariances about those means, `[K, D, D]` for full covariances; variances
        `[K, D]` for diagonal ones; their mean over the dimensions, `[K]`, for spherical ones.
    """

    shares: Array
    means: Array
    scatters: Array


class Blocks(NamedTuple):
    """Inputs cut into blocks; in each the inputs are columns, which vector units like best.

    Attributes:
      x: `[M, D, B]`; the last block is filled up with copies of the last input.
      shares: `[M, B]`, the mass of each input: 1/N, or 0 for a copy.
    """

    x: Array
    shares: Array


def default_block_size(num_components: int, num_dims: int) -> int:
    """Inputs a block, a multiple of 64, so that a block's arrays stay in the cache."""
    numbers = BLOCK_NUMBERS.get(jax.default_backend(), OTHER_BLOCK_NUMBERS)
    return LANES * math.ceil(numbers / (LANES * num_components * num_dims))


def to_blocks(x: Array, block_size: int) -> Blocks:
    """Cuts inputs `[N, D]` into blocks of at most `block_size`."""
    num, size = x.shape
    width = min(num, block_size)
    count = math.ceil(num / width)
    padded = jnp.pad(x, ((0, count * width - num), (0, 0)), mode="edge")
    shares = jnp.where(jnp.arange(count * width) < num, 1 / num, 0).astype(x.dtype)
    return Blocks(
        padded.reshape(count, width, size).transpose(0, 2, 1), shares.reshape(count, width)
    )


def expected_clouds(components: Components, blocks: Blocks) -> tuple[Clouds, Array]:
    r"""The E step: each input divided among the components by their posterior probabilities.

    Returns:
      The clouds, with shares that sum to 1, and the mean log-likelihood of an input in nats.
    """
    constants = _constants(components)[:, None]

    def add(carry: tuple[Clouds, Array], block: Blocks) -> tuple[tuple[Clouds, Array], None]:
        clouds, total = carry
        whitened = _whiten(components, block.x)
        terms = constants - 0.5 * jnp.sum(jnp.square(whitened), axis=1)
        log_probs = jax.nn.logsumexp(terms, axis=0)
        shares = jnp.exp(terms - log_probs[None]) * block.shares[None]
        total = total + jnp.sum(log_probs * block.shares)
        return (merge(clouds, _clouds(components, whitened, shares)), total), None

    nothing = jax.tree.map(jnp.zeros_like, own_clouds(components))
    start = (nothing, jnp.zeros((), constants.dtype))
    return jax.lax.scan(add, start, blocks)[0]


def own_clouds(components: Components) -> Clouds:
    r"""The statistics of the mixture itself: its weights, zeros and identities."""
    count, size = components.locations.shape
    dtype = components.locations.dtype
    if components.lower is not None:
        scatters = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (count, size, size))
    else:
        scatters = jnp.ones_like(components.log_scales)
    return Clouds(jax.nn.softmax(components.logits), jnp.zeros((count, size), dtype), scatters)


def merge(first: Clouds, second: Clouds) -> Clouds:
    r"""Both clouds as one, component by component; a cloud without mass changes nothing.

    .. math::
       s = s_1 + s_2, \quad f = s_2 / s, \quad m = m_1 + f (m_2 - m_1), \quad
       C = (1 - f) C_1 + f C_2 + f (1 - f) (m_2 - m_1) (m_2 - m_1)^\top

    Reference:
      Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for
      computing sample variances".
    """
    shares = first.shares + second.shares
    fractions = second.shares / jnp.maximum(shares, jnp.finfo(shares.dtype).tiny)
    steps = second.means - first.means
    if first.scatters.ndim == 3:
        between = steps[:, :, None] * steps[:, None, :]
    elif first.scatters.ndim == 2:
        between = jnp.square(steps)
    else:
        between = jnp.mean(jnp.square(steps), axis=1)
    inner = fractions.reshape(-1, *[1] * (between.ndim - 1))
    scatters = (1 - inner) * first.scatters + inner * (second.scatters + (1 - inner) * between)
    return Clouds(shares, first.means + fractions[:, None] * steps, scatters)


def most_likely(
    components: Components, clouds: Clouds, floor: Array
) -> tuple[Components, Array, Array]:
    """The M step: the mixture whose own statistics these are, within the bounds.

    Args:
      components: the mixture in whose coordinates the clouds are.
      clouds: with shares that sum to 1.
      floor: the least eigenvalue of a covariance; among those the most likely is the one
        with the eigenvalues below raised to it. An empty component keeps mean and covariance.

    Returns:
      The mixture; how many of its components are empty; how many others met the floor.
    """
    # Such as is still positive in this precision.
    floor = jnp.maximum(floor, jnp.finfo(clouds.shares.dtype).tiny)
    is_empty = clouds.shares < LEAST_SHARE
    clouds = _where(is_empty, own_clouds(components), clouds)
    logits = jnp.log(jnp.maximum(clouds.shares, LEAST_SHARE))
    logits = jnp.where(is_empty, math.log(LEAST_SHARE), logits)
    if components.lower is not None:
        moved, is_low = _most_likely_full(components, clouds, floor)
    else:
        log_scales, least = components.log_scales, 0.5 * jnp.log(floor)
        raw = log_scales + 0.5 * jnp.log(clouds.scatters)
        steps = clouds.means * jnp.exp(log_scales).reshape(len(log_scales), -1)
        moved = Components(logits, components.locations + steps, jnp.maximum(raw, least), None)
        is_low = jnp.any((raw < least).reshape(len(raw), -1), axis=1)
    num_empty, num_floored = jnp.sum(is_empty), jnp.sum(is_low & ~is_empty)
    return moved._replace(logits=logits), num_empty, num_floored


def _most_likely_full(
    components: Components, clouds: Clouds, floor: Array
) -> tuple[Components, Array]:
    inverses = _inverse_factors(components)
    factors = _invert(inverses)
    moved = _product(_invert(jnp.linalg.cholesky(clouds.scatters)), inverses)
    state = (moved, jnp.zeros(len(moved), bool), factors, clouds.scatters, floor)
    # The squares of the inverse factor's entries sum to at least the largest eigenvalue of
    # the inverse. Not (a > b): what could not be factored is NaN.
    is_safe = jnp.all(jnp.sum(jnp.square(moved), axis=(1, 2)) <= 1 / floor)
    moved, is_low, *_ = cond_any(~is_safe, _raise_to_floor, state)
    size = moved.shape[-1]
    diagonal = jnp.diagonal(moved, axis1=1, axis2=2)
    return Components(
        components.logits,
        components.locations + _product(factors, clouds.means[:, :, None])[:, :, 0],
        -jnp.log(diagonal),
        moved[:, *np.tril_indices(size, -1)],
    ), is_low


def _raise_to_floor(state: tuple[Array, ...]) -> tuple[Array, ...]:
    """Inverse factors with no eigenvalue of the covariance below the floor.

    By square roots of the covariances from end to end: a covariance's own eigenvalues
    are lost in single precision where they are ten million times smaller than the largest.
    """
    moved, _, factors, scatters, floor = state
    values, vectors = jnp.linalg.eigh(scatters)
    roots = _product(factors, vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :])
    bases, lengths, _ = jnp.linalg.svd(roots)
    least = jnp.sqrt(floor)
    is_low = jnp.any(lengths < least, axis=1)
    raised = bases * jnp.maximum(lengths, least)[:, None, :]
    upper = jnp.linalg.qr(jnp.swapaxes(raised, 1, 2), mode="r")
    diagonal = jnp.diagonal(upper, axis1=1, axis2=2)
    raised = jnp.swapaxes(upper * jnp.where(diagonal < 0, -1, 1)[:, :, None], 1, 2)
    # No diagonal entry of a factor is below the least; rounding might say so.
    is_diagonal = jnp.eye(raised.shape[-1], dtype=bool)[None]
    raised = _invert(jnp.where(is_diagonal, jnp.maximum(raised, least), raised))
    is_taken = is_low | ~jnp.all(jnp.isfinite(moved), axis=(1, 2))
    return jnp.where(is_taken[:, None, None], raised, moved), is_low, factors, scatters, floor


def _invert(lower: Array) -> Array:
    """The inverses of lower triangular matrices `[K, D, D]`, from ever larger blocks.

    By products alone: LAPACK's solver, called for one small matrix after another, sets
    threads to work for each, and waits for them a hundred times as long where cores are shared.
    """
    count, size, _ = lower.shape
    padded = 1 << (size - 1).bit_length()
    lower = jnp.pad(lower, ((0, 0), (0, padded - size), (0, padded - size)))
    diagonal = jnp.diagonal(lower, axis1=1, axis2=2)
    diagonal = jnp.where((jnp.arange(padded) < size)[None], diagonal, 1)
    inverses = (1 / diagonal)[:, :, None, None]  # Of the blocks on the diagonal.
    for width in (2**level for level in range(padded.bit_length() - 1)):
        pairs = np.arange(padded // (2 * width))
        blocks = lower.reshape(count, len(pairs), 2, width, len(pairs), 2, width)
        corners = jnp.moveaxis(blocks[:, pairs, 1, :, pairs, 0, :], 0, 1)
        first, second = inverses[:, 0::2], inverses[:, 1::2]
        corners = -_product(_product(second, corners), first)
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverses = jnp.concatenate([top, jnp.concatenate([corners, second], axis=-1)], axis=-2)
    return inverses[:, 0, :size, :size]


def _product(first: Array, second: Array) -> Array:
    return jnp.matmul(first, second, precision=HIGHEST)


def _where(condition: Array, first: Clouds, second: Clouds) -> Clouds:
    def pick(first: Array, second: Array) -> Array:
        return jnp.where(condition.reshape(-1, *[1] * (first.ndim - 1)), first, second)

    return jax.tree.map(pick, first, second)


def _constants(components: Components) -> Array:
    """Logarithms of weight and normalising constant of each component, `[K]`."""
    size, log_scales = components.locations.shape[1], components.log_scales
    volumes = size * log_scales if log_scales.ndim == 1 else jnp.sum(log_scales, axis=1)
    return jax.nn.log_softmax(components.logits) - volumes - 0.5 * size * math.log(2 * math.pi)


def _whiten(components: Components, x: Array) -> Array:
    """Inputs, columns of `[D, B]`, in the coordinates of each component, `[K, D, B]`."""
    # One large product W x - W mu would cost the same, and cancel where clusters lie apart.
    offsets = x[None] - components.locations[:, :, None]
    if components.lower is None:
        log_scales = components.log_scales
        return offsets * jnp.exp(-log_scales).reshape(len(log_scales), -1, 1)
    return jnp.einsum("kij,kjb->kib", _inverse_factors(components), offsets, precision=HIGHEST)


def _inverse_factors(components: Components) -> Array:
    """The inverse of each covariance's lower Cholesky factor, `[K, D, D]`."""
    size = components.locations.shape[1]
    identity = jnp.eye(size, dtype=components.log_scales.dtype)
    diagonal = identity[None] * jnp.exp(-components.log_scales)[:, :, None]
    return diagonal.at[:, *np.tril_indices(size, -1)].set(components.lower)


def _clouds(components: Components, whitened: Array, shares: Array) -> Clouds:
    """The clouds of one block: `[K, D, B]` inputs, of which each has `[K, B]`."""
    masses = jnp.sum(shares, axis=1)
    fractions = shares / jnp.maximum(masses, jnp.finfo(masses.dtype).tiny)[:, None]
    means = jnp.einsum("kdb,kb->kd", whitened, fractions, precision=HIGHEST)
    offsets = whitened - means[:, :, None]
    if components.lower is not None:
        scaled = offsets * jnp.sqrt(fractions)[:, None, :]
        return Clouds(masses, means, jnp.einsum("kib,kjb->kij", scaled, scaled, precision=HIGHEST))
    variances = jnp.einsum("kdb,kb->kd", jnp.square(offsets), fractions, precision=HIGHEST)
    is_spherical = components.log_scales.ndim == 1
    return Clouds(masses, means, jnp.mean(variances, axis=1) if is_spherical else variances)
