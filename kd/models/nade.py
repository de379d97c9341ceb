"""The neural autoregressive distribution estimator (NADE) for binary vectors."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.models.features import sow_features
from kd.types import Array, Key, PyTree


class Weights(NamedTuple):
    """Weights of a NADE; row d is of the d-th variable in its ordering.

    Attributes:
      w: `[I - 1, J]`, input weights; the last variable conditions nothing.
      c: `[J]`, hidden biases.
      u: `[I, J]`, output weights.
      b: `[I]`, output biases.
    """

    w: Array
    c: Array
    u: Array
    b: Array


class NADE(nn.Module):
    r"""A tractable distribution over I binary variables, with one hidden layer.

    .. math::
       p(x) = \prod_d \hat x_d^{x_d} (1 - \hat x_d)^{1 - x_d}, \quad
       \hat x_d = \sigma(u_d^\top \sigma(a_d) + b_d), \quad
       a_d = a_{d-1} + w_{d-1} x_{d-1}, \quad a_1 = c

    Its methods take inputs `[..., I]`: the variables are gone through one after another,
    and the gradient of a batch at once is several times faster than a `vmap` of single
    inputs.

    Attributes:
      num_visible: I >= 1.
      num_hidden: J >= 1.
      ordering: the d-th variable is entry `ordering[d]` of the input; None for their own
        order.

    Example:
      >>> nade = NADE(num_visible=3, num_hidden=2)
      >>> params = nade.init(jax.random.key(0), jnp.zeros(3))
      >>> x, conditionals = nade.sample(params, jax.random.key(1), 5)
      >>> x.shape, nade.log_prob(params, x).shape
      ((5, 3), (5,))

    Reference:
      Larochelle and Murray (2011); Papamakarios (2015), "Distilling Model Knowledge",
      (4.35)-(4.42). Weights start as in the thesis's released code: :math:`w, c \sim
      \mathcal{N}(0, 1/I)` and :math:`u, b \sim \mathcal{N}(0, 1/(J + 1))`.
    """

    num_visible: int
    num_hidden: int
    ordering: Sequence[int] | None = None

    def __post_init__(self):
        checks.check_count("num_visible", self.num_visible)
        checks.check_count("num_hidden", self.num_hidden)
        if self.ordering is not None:
            checks.check_permutation("ordering", self.ordering, self.num_visible)
            # A module must be hashable.
            object.__setattr__(self, "ordering", tuple(map(int, self.ordering)))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`log_prob`, as `apply` has it."""
        size, hidden = self.num_visible, self.num_hidden
        into, out = nn.initializers.normal(size**-0.5), nn.initializers.normal((hidden + 1) ** -0.5)
        weights = Weights(
            self.param("w", into, (size - 1, hidden)),
            self.param("c", into, (hidden,)),
            self.param("u", out, (size, hidden)),
            self.param("b", out, (size,)),
        )
        ordered = self._ordered(x, weights.b.dtype)
        sow_features(self, "hidden", lambda: nn.sigmoid(ordered[..., :-1] @ weights.w + weights.c))
        return checks.nan_unless_binary(_log_prob(weights, ordered), x)

    @nn.nowrap
    def log_prob(self, params: PyTree, x: Array, *, any_mode: bool = False) -> Array:
        """Log-probability, in nats, of each input.

        Its reverse-mode derivative is written by hand: the backward pass recomputes the
        hidden activations from the last ones, and keeps I + J numbers an input instead
        of I J. `jax.grad` and `kd.derivatives.hvp` go through it; `jax.jvp` and what is made
        of it (`jax.jacfwd`, `jax.linearize`) need `any_mode`.

        Args:
          params: of `init`. Gradients flow through.
          x: `[..., I]`, zeros and ones. Gradients flow through, to the formula's own
            continuation between them.
          any_mode: derive the plain formula instead, in any mode, `jax.jvp` too; slower.

        Returns:
          `[...]`, at most 0; NaN where a traced `x` holds anything but zeros and ones.

        Raises:
          ValueError: if the last axis is not I, the parameters are of a NADE of another
            size, or (where it is not traced) `x` holds anything but zeros and ones.

        Reference:
          Papamakarios (2015), (4.36), with the backward pass of appendix C.
        """
        if not any_mode:
            return self.apply(params, x)
        weights = self._weights(params)
        return checks.nan_unless_binary(
            _plain_log_prob(weights, self._ordered(x, weights.b.dtype)), x
        )

    @nn.nowrap
    def conditionals(self, params: PyTree, x: Array) -> Array:
        """Probability that each variable is 1, given those before it in the ordering.

        Args:
          params: of `init`. Gradients flow through.
          x: `[..., I]`, zeros and ones. An entry affects only those after it: to
            condition on the first variables alone, let the others be zeros.

        Returns:
          `[..., I]`, in [0, 1], in the places of the variables.

        Raises:
          ValueError: as `log_prob`.

        Reference:
          Papamakarios (2015), (4.35).
        """
        weights = self._weights(params)
        x = self._ordered(x, weights.b.dtype)
        logits, _ = _logits(weights, x.reshape(-1, self.num_visible))
        return self._restored(nn.sigmoid(logits).T).reshape(x.shape)

    @nn.nowrap
    def sample(self, params: PyTree, key: Key, num_samples: int) -> tuple[Array, Array]:
        """Exact independent samples, with the conditional probabilities on their paths.

        Args:
          params: of `init`.
          key: decides the samples.
          num_samples: N.

        Returns:
          Samples, `[N, I]` of zeros and ones; and `conditionals` of them, `[N, I]`.

        Raises:
          ValueError: if `num_samples` < 1, or the parameters are of a NADE of another size
            or (where they are not traced) not finite.

        Reference:
          Papamakarios (2015), sections 4.2.2 and 2.2.3.
        """
        checks.check_count("num_samples", num_samples)
        weights = self._weights(params)
        # With NaN no number is below its probability, and all samples would be 0.
        jax.tree.map(lambda x: checks.check_finite("params", x), weights)
        x, conditionals = _sample(weights, key, num_samples)
        return self._restored(x), self._restored(conditionals)

    @nn.nowrap
    def _weights(self, params: PyTree) -> Weights:
        weights = Weights(**params["params"])
        size, hidden = self.num_visible, self.num_hidden
        expected = Weights((size - 1, hidden), (hidden,), (size, hidden), (size,))
        for name, value, shape in zip(Weights._fields, weights, expected, strict=True):
            checks.check_shape(f"params: {name}", value, shape)
        return weights

    @nn.nowrap
    def _ordered(self, x: Array, dtype: jnp.dtype) -> Array:
        checks.check_last_axis("x", x, self.num_visible)
        checks.check_binary("x", x)
        x = jnp.asarray(x, dtype)
        return x if self.ordering is None else x[..., np.asarray(self.ordering)]

    @nn.nowrap
    def _restored(self, x: Array) -> Array:
        return x if self.ordering is None else x[..., np.argsort(np.asarray(self.ordering))]


class _Halved(NamedTuple):
    """Weights for tanh units: sigmoid(a) = (1 + tanh(a / 2)) / 2, and tanh is the cheaper.

    Attributes:
      w, c: half of those of `Weights`, for a / 2.
      u, b: half the output weights, and biases with what the ones of 1 + tanh add.
    """

    w: Array
    c: Array
    u: Array
    b: Array


def _halved(weights: Weights) -> _Halved:
    w, c, u, b = weights
    return _Halved(0.5 * w, 0.5 * c, 0.5 * u, b + 0.5 * jnp.sum(u, -1))


def _logits(weights: Weights, x: Array) -> tuple[Array, Array]:
    """Logits of the conditionals, `[I, B]`, and half the last activations, `[B, J]`."""
    w, c, u, b = _halved(weights)

    def step(a: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        w, x, u = inputs
        a = a + x[:, None] * w[None]
        return a, jnp.tanh(a) @ u

    first = jnp.full((1, len(x)), jnp.tanh(c) @ u[0])
    start = jnp.broadcast_to(c, (len(x), c.size))
    last, rest = jax.lax.scan(step, start, (w, x.T[:-1], u[1:]))
    return jnp.concatenate([first, rest]) + b[:, None], last


def _plain_log_prob(weights: Weights, x: Array) -> Array:
    flat = x.reshape(-1, x.shape[-1])
    return _bernoulli(_logits(weights, flat)[0], flat.T).reshape(x.shape[:-1])


def _bernoulli(logits: Array, x: Array) -> Array:
    return jnp.sum(x * logits - jax.nn.softplus(logits), axis=0)


@jax.custom_vjp
def _log_prob(weights: Weights, x: Array) -> Array:
    return _plain_log_prob(weights, x)


def _forward(weights: Weights, x: Array) -> tuple[Array, tuple]:
    flat = x.reshape(-1, x.shape[-1])
    logits, last = _logits(weights, flat)
    value = _bernoulli(logits, flat.T).reshape(x.shape[:-1])
    return value, (weights, x, logits, last)


def _backward(residuals: tuple, cotangent: Array) -> tuple[Weights, Array]:
    """Appendix C's backward pass, with a_d = a_{d+1} - w_d x_d in place of a stored a_d."""
    weights, x, logits, last = residuals
    w, c, u, _ = _halved(weights)
    rows, cotangent = x.reshape(-1, x.shape[-1]).T, cotangent.reshape(1, -1)
    errors = (rows - nn.sigmoid(logits)) * cotangent

    def step(carry: tuple[Array, Array], inputs: tuple) -> tuple:
        a, slope = carry  # The slope is with respect to a, which is half the activation.
        w, x, u, error = inputs
        t = jnp.tanh(a)
        slope = slope + error[:, None] * (u[None] * (1 - t * t))
        return (a - x[:, None] * w[None], slope), (error @ t, x @ slope, slope @ w)

    start = (last, jnp.zeros_like(last))
    inputs = (w, rows[:-1], u[1:], errors[1:])
    (_, slope), (slope_u, slope_w, slope_x) = jax.lax.scan(step, start, inputs, reverse=True)
    t, first, slope_b = jnp.tanh(c), jnp.sum(errors[0]), jnp.sum(errors, 1)
    found = Weights(
        0.5 * slope_w,
        0.5 * (jnp.sum(slope, 0) + first * u[0] * (1 - t * t)),
        0.5 * (jnp.concatenate([(first * t)[None], slope_u]) + slope_b[:, None]),
        slope_b,
    )
    slope_x = cotangent * logits + jnp.concatenate([slope_x, jnp.zeros_like(logits[:1])])
    return found, slope_x.T.reshape(x.shape)


_log_prob.defvjp(_forward, _backward)


def _sample(weights: Weights, key: Key, num_samples: int) -> tuple[Array, Array]:
    w, c, u, b = weights

    def draw(key: Key, a: Array, u: Array, b: Array) -> tuple[Array, Array]:
        p = nn.sigmoid(nn.sigmoid(a) @ u + b)
        return (jax.random.uniform(key, p.shape, p.dtype) < p).astype(p.dtype), p

    def step(carry: tuple[Array, Array], inputs: tuple) -> tuple:
        a, x = carry
        key, w, u, b = inputs
        a = a + x[:, None] * w[None]
        x, p = draw(key, a, u, b)
        return (a, x), (x, p)

    keys = jax.random.split(key, len(u))
    a = jnp.broadcast_to(c, (num_samples, c.size))
    x, p = draw(keys[0], a, u[0], b[0])
    _, (rest_x, rest_p) = jax.lax.scan(step, (a, x), (keys[1:], w, u[1:], b[1:]))
    return jnp.concatenate([x[None], rest_x]).T, jnp.concatenate([p[None], rest_p]).T
