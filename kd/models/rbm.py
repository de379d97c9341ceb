"""The binary restricted Boltzmann machine (RBM)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd import checks
from kd.models.features import sow_features
from kd.types import Array, PyTree


class RBM(nn.Module):
    r"""A distribution over I binary variables, known up to its partition function Z.

    .. math::
       p(x) = \frac{1}{Z} \sum_h \exp(x^\top W h + a^\top x + b^\top h)

    with J binary hidden variables h. Its parameters are `w`, `[I, J]`, and the biases `a`,
    `[I]`, and `b`, `[J]`. Its methods take inputs `[..., I]`: a batch at once is one matrix
    product.

    Attributes:
      num_visible: I >= 1.
      num_hidden: J >= 1.

    Example:
      >>> rbm = RBM(num_visible=3, num_hidden=2)
      >>> params = rbm.init(jax.random.key(0), jnp.zeros(3))
      >>> rbm.log_potential(params, jnp.ones((5, 3))).shape
      (5,)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (4.30). Weights start from
      :math:`\mathcal{N}(0, 0.01^2)`, hidden biases from 0, as Hinton (2010), "A practical
      guide to training restricted Boltzmann machines", section 8, advises; visible biases
      from 0 too, which he would rather set to the data's log-odds: `init` sees no data.
    """

    num_visible: int
    num_hidden: int

    def __post_init__(self):
        checks.check_count("num_visible", self.num_visible)
        checks.check_count("num_hidden", self.num_hidden)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`log_potential`, as `apply` has it."""
        shape = (self.num_visible, self.num_hidden)
        w = self.param("w", nn.initializers.normal(0.01), shape)
        a = self.param("a", nn.initializers.zeros, shape[:1])
        b = self.param("b", nn.initializers.zeros, shape[1:])
        states = self._checked("x", x, self.num_visible, w.dtype)
        logits = states @ w + _row(b, states)
        sow_features(self, "hidden", lambda: jax.nn.sigmoid(logits))
        hidden = jnp.sum(jax.nn.softplus(logits), -1)
        return checks.nan_unless_binary(states @ a + hidden, x)

    @nn.nowrap
    def log_potential(self, params: PyTree, x: Array) -> Array:
        r"""Log of the unnormalised probability, in nats: minus the free energy.

        .. math:: \log \bar p(x) = a^\top x + \sum_j \log(1 + \exp(b_j + w_j^\top x))

        Args:
          params: of `init`. Gradients flow through.
          x: `[..., I]`, zeros and ones. Gradients flow through.

        Returns:
          `[...]`; NaN where a traced `x` holds anything but zeros and ones.

        Raises:
          ValueError: if the last axis is not I, the parameters are of an RBM of another
            size, or (where it is not traced) `x` holds anything but zeros and ones.

        Reference:
          Papamakarios (2015), (4.32).
        """
        return self.apply(params, x)

    @nn.nowrap
    def free_energy(self, params: PyTree, x: Array) -> Array:
        """Minus `log_potential`, in nats.

        Args:
          params, x: as for `log_potential`. Gradients flow through.

        Returns:
          `[...]`.

        Raises:
          ValueError: as `log_potential`.
        """
        return -self.log_potential(params, x)

    @nn.nowrap
    def hidden_logits(self, params: PyTree, x: Array) -> Array:
        r"""Logits of the hidden variables given the visible, :math:`W^\top x + b`.

        Args:
          params: of `init`. Gradients flow through.
          x: `[..., I]`, zeros and ones. Gradients flow through.

        Returns:
          `[..., J]`; their sigmoid is p(h = 1 | x).

        Raises:
          ValueError: as `log_potential`.

        Reference:
          Papamakarios (2015), (4.33).
        """
        w, _, b = self._weights(params)
        x = self._checked("x", x, self.num_visible, w.dtype)
        return x @ w + _row(b, x)

    @nn.nowrap
    def visible_logits(self, params: PyTree, h: Array) -> Array:
        r"""Logits of the visible variables given the hidden, :math:`W h + a`.

        Args:
          params: of `init`. Gradients flow through.
          h: `[..., J]`, zeros and ones. Gradients flow through.

        Returns:
          `[..., I]`; their sigmoid is p(x = 1 | h).

        Raises:
          ValueError: as `log_potential`, of `h`.

        Reference:
          Papamakarios (2015), (4.34).
        """
        w, a, _ = self._weights(params)
        h = self._checked("h", h, self.num_hidden, w.dtype)
        return h @ w.T + _row(a, h)

    @nn.nowrap
    def _weights(self, params: PyTree) -> tuple[Array, Array, Array]:
        """`w`, `a`, `b`; flax checks those of `log_potential` itself."""
        size, hidden = self.num_visible, self.num_hidden
        found = tuple(params["params"][name] for name in "wab")
        for name, value, shape in zip(
            "wab", found, ((size, hidden), (size,), (hidden,)), strict=True
        ):
            checks.check_shape(f"params: {name}", value, shape)
        return found

    @nn.nowrap
    def _checked(self, name: str, x: Array, size: int, dtype: jnp.dtype) -> Array:
        checks.check_last_axis(name, x, size)
        checks.check_binary(name, x)
        return jnp.asarray(x, dtype)


def _row(bias: Array, x: Array) -> Array:
    """The bias with as many axes as the products of `x`."""
    return bias.reshape((1,) * (x.ndim - 1) + bias.shape)
