"""Block Gibbs sampling of bipartite models."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

import kd.random
from kd import checks
from kd.types import Array, Key, PyTree, Sampler

UniformFn = Callable[[Key, Sequence[int]], Array]


class Bipartite(Protocol):
    """What block Gibbs asks of a model: `kd.models.RBM` is one."""

    num_hidden: int

    def hidden_logits(self, params: PyTree, x: Array) -> Array: ...

    def visible_logits(self, params: PyTree, h: Array) -> Array: ...


class GibbsInfo(NamedTuple):
    """What a step of block Gibbs sampling passed through.

    Attributes:
      hidden: `[..., J]`, the hidden variables, zeros and ones.
      visible_probs: `[..., I]`, p(x = 1 | hidden), from which the new position was drawn.
    """

    hidden: Array
    visible_probs: Array


def block_gibbs(
    model: Bipartite, params: PyTree, *, uniform_fn: UniformFn = kd.random.uniform
) -> Sampler:
    r"""A kernel that leaves p(x) as it is: :math:`h \sim p(h \mid x), x \sim p(x \mid h)`.

    A position holds any number of chains, `[..., I]`, and a step of them all is two
    matrix products.

    Args:
      model: with `hidden_logits` and `visible_logits`.
      params: of the model.
      uniform_fn: `(key, shape)` to numbers in [0, 1). The bits of `jax.random.uniform` would
        cost more than the matrix products.

    Returns:
      A `Sampler` whose state is the position, zeros and ones; `step` also returns
      `GibbsInfo`.

    Raises:
      ValueError: if the parameters are not finite; by `init`, as the model's methods for a
        bad position.

    Example:
      >>> from kd.models import RBM
      >>> rbm = RBM(num_visible=3, num_hidden=2)
      >>> params = rbm.init(jax.random.key(0), jnp.zeros(3))
      >>> sampler = block_gibbs(rbm, params)
      >>> x, info = sampler.step(jax.random.key(1), sampler.init(jnp.zeros((100, 3))))
      >>> x.shape, info.hidden.shape
      ((100, 3), (100, 2))

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", section 4.2.1, (4.33), (4.34).
    """
    jax.tree.map(lambda x: checks.check_finite("params", x), params)

    def init(position: PyTree, key: Key | None = None) -> Array:
        del key  # Nothing in the start is random.
        shape = jax.eval_shape(lambda x: model.hidden_logits(params, x), position)
        checks.check_binary("position", position)
        return jnp.asarray(position, shape.dtype)

    def step(key: Key, x: Array) -> tuple[Array, GibbsInfo]:
        hidden_key, visible_key = jax.random.split(key)
        hidden, _ = _draw(hidden_key, model.hidden_logits(params, x))
        x, probs = _draw(visible_key, model.visible_logits(params, hidden))
        return x, GibbsInfo(hidden, probs)

    def _draw(key: Key, logits: Array) -> tuple[Array, Array]:
        probs = jax.nn.sigmoid(logits)
        return (uniform_fn(key, logits.shape) < probs).astype(logits.dtype), probs

    return Sampler(init, step)
