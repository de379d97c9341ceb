"""Streams that draw their inputs from a distribution."""

from collections.abc import Sequence

import jax

from kd import checks
from kd.types import Batch, Key, PyTree, Stream


def gaussian_noise(shape: Sequence[int], batch_size: int, *, scale: float = 1.0) -> Stream:
    r"""Independent Gaussian inputs, :math:`x \sim \mathcal{N}(0, \mathrm{scale}^2 I)`.

    Args:
      shape: of one input.
      batch_size: B.
      scale: standard deviation, in units of the input.

    Returns:
      A stream of batches `{"x": [B, *shape]}`; its state is empty.

    Raises:
      ValueError: if `batch_size` or `scale` is not positive.

    Example:
      >>> stream = gaussian_noise((28, 28, 1), 20)
      >>> state, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["x"].shape
      (20, 28, 28, 1)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", section 2.2.3.
    """
    checks.check_count("batch_size", batch_size)
    checks.check_positive("scale", scale)

    def init(key: Key) -> PyTree:
        del key  # Every draw has its own, given to `next`.
        return ()

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        return state, {"x": scale * jax.random.normal(key, (batch_size, *shape))}

    return Stream(init, next_)
