"""The annealing path to a binary restricted Boltzmann machine (RBM)."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import kd.random
from kd import checks
from kd.inference.annealing import AnnealingPath
from kd.types import Array, Key, PyTree

UniformFn = Callable[[Key, Sequence[int]], Array]


def rbm_path(
    params: Mapping[str, PyTree],
    *,
    base_rate_logits: Array,
    uniform_fn: UniformFn = kd.random.uniform,
) -> AnnealingPath:
    r"""The geometric path to a binary RBM from independent variables.

    .. math::
       \log f_\beta(x) = (1 - \beta) a_0^\top x + \beta a^\top x
           + \sum_j \log(1 + \exp(\beta (b_j + w_j^\top x)))

    A step is one Gibbs sweep of the hidden and the visible variables, and costs two matrix
    products: the increment shares that of x and W with the sweep. The state is x, `[S, I]`
    zeros and ones, of any dtype; `init` gives that of W.

    Args:
      params: of `kd.models.RBM`, or the inner dictionary: `w`, `[I, J]`; `a`, `[I]`, visible
        biases; `b`, `[J]`, hidden biases.
      base_rate_logits: `[I]`, :math:`a_0`, as of `data_logits`.
      uniform_fn: `(key, shape) -> [*shape]`, uniform on [0, 1), for instance `jax.random.uniform`.

    Returns:
      The path, whose `log_z_base` is that of the independent variables and J free hidden ones.

    Raises:
      TypeError: if an array is not floating.
      ValueError: if a shape does not fit, or an array is not finite.

    Example:
      >>> params = {"w": jnp.ones((3, 2)), "a": jnp.zeros(3), "b": jnp.zeros(2)}
      >>> path = rbm_path(params, base_rate_logits=jnp.zeros(3))
      >>> print(f"{path.log_z_base:.4f} {5 * np.log(2.0):.4f}")
      3.4657 3.4657

    Reference:
      Salakhutdinov and Murray (2008), "On the quantitative analysis of deep belief
      networks", the section on ratios of partition functions of two RBMs, with a base of
      zero weights and zero hidden biases. Its hidden variables are left out: they are a
      factor 2 each all along the path, in both Z.
    """
    w, a, b, base = _checked_params(params, base_rate_logits)

    def init(key: Key, num: int) -> Array:
        return _draw(uniform_fn, key, jnp.broadcast_to(base, (num, base.size)), base.dtype)

    def check(x: Array) -> None:
        checks.check_last_axis("state", x, base.size)
        checks.check_binary("state", x)

    def step(key: Key, x: Array, beta: Array, next_beta: Array) -> tuple[Array, Array]:
        check(x)
        key_h, key_x = jax.random.split(key)
        beta, next_beta = beta.astype(w.dtype), next_beta.astype(w.dtype)
        given = x.astype(w.dtype)
        z = _product(given, w) + b[None]
        increment = jnp.sum(_softplus_increment(z, beta, next_beta), axis=-1)
        increment += (next_beta - beta) * _product(given, a - base)
        h = _draw(uniform_fn, key_h, next_beta * z, w.dtype)
        bias = (1 - next_beta) * base + next_beta * a
        logits = bias[None] + next_beta * _product(h, w.T)
        return _draw(uniform_fn, key_x, logits, x.dtype), increment

    # At beta = 0 each hidden variable of the target is a factor 2.
    visible = np.sum(np.logaddexp(0.0, np.asarray(base, np.float64)))
    return AnnealingPath(init, step, float(visible + b.size * np.log(2.0)), check)


def data_logits(x: Array, *, pseudo_count: float = 1.0) -> np.ndarray:
    r"""Logits of smoothed means of binary data: the base rates of a path.

    .. math:: \mathrm{logit}\Big(\frac{c + \sum_n x_n}{2 c + N}\Big)

    Args:
      x: `[N, I]`, zeros and ones.
      pseudo_count: c > 0, of zeros and of ones each.

    Returns:
      `[I]`, float64, finite.

    Raises:
      ValueError: if `x` is not `[N, I]`, empty, or holds other values, or c <= 0.

    Example:
      >>> data_logits(np.array([[1, 0], [1, 0], [1, 1]]))
      array([ 1.38629436, -0.40546511])

    Reference:
      Salakhutdinov and Murray (2008). Deviation: their released code adds pseudo-counts of
      ones alone, which draws rare pixels up.
    """
    checks.check_rank("x", x, 2)
    checks.check_same_length("x", x)
    checks.check_binary("x", x)
    checks.check_positive("pseudo_count", pseudo_count)
    ones = np.sum(np.asarray(x), axis=0, dtype=np.float64)
    return np.log(ones + pseudo_count) - np.log(len(x) - ones + pseudo_count)


def _checked_params(
    params: Mapping[str, PyTree], base_rate_logits: Array
) -> tuple[Array, Array, Array, Array]:
    params = params.get("params", params)
    w, a, b = (jnp.asarray(params[name]) for name in ("w", "a", "b"))
    checks.check_rank("w", w, 2)
    base = jnp.asarray(base_rate_logits, w.dtype)
    for name, value, size in (
        ("a", a, w.shape[0]),
        ("b", b, w.shape[1]),
        ("base_rate_logits", base, w.shape[0]),
    ):
        if value.shape != (size,):
            raise ValueError(
                f"{name} must have shape {(size,)} beside w of shape {w.shape}, got {value.shape}."
            )
    for name, value in (("w", w), ("a", a), ("b", b), ("base_rate_logits", base)):
        checks.check_floating(name, value)
        checks.check_finite(name, value)
    return w, a, b, base


def _product(x: Array, y: Array) -> Array:
    # By default GPUs would round the weights to ten bits, and log Z would be another RBM's.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _draw(uniform_fn: UniformFn, key: Key, logits: Array, dtype: jnp.dtype) -> Array:
    """Independent zeros and ones; u < sigmoid(z) is 2 u - 1 < tanh(z / 2), the cheaper."""
    u = uniform_fn(key, logits.shape)
    return (2 * u - 1 < jnp.tanh(0.5 * logits)).astype(dtype)


def _softplus_increment(z: Array, beta: Array, next_beta: Array) -> Array:
    r"""softplus(next_beta z) - softplus(beta z), to full precision where the two are close.

    With :math:`\beta_- < \beta_+` it is, up to the sign, :math:`d \max(z, 0) + \log(1 + e
    (\exp(-d |z|) - 1) / (1 + e))` with :math:`d = \beta_+ - \beta_-` and :math:`e = \exp(-\beta_-
    |z|)`: nothing overflows, and it has three transcendental functions where two
    softplus have four.
    """
    difference = next_beta - beta
    size = jnp.abs(z)
    e = jnp.exp(-jnp.minimum(beta, next_beta) * size)
    shrunk = jnp.log1p(e * jnp.expm1(-jnp.abs(difference) * size) / (1 + e))
    return difference * jnp.maximum(z, 0.0) + jnp.sign(difference) * shrunk
