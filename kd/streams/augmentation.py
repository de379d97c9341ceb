"""Images altered afresh in every batch."""

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array, Batch, Key, PyTree, Stream


def with_crops(stream: Stream, *, padding: int, flip: bool = True) -> Stream:
    """Shifts every image `"x"` of every batch at random, with zeros around it, and mirrors half.

    Args:
      stream: batches with images `[B, H, W, channels]` under `"x"`.
      padding: the most pixels an image is shifted by, up, down, left or right; all shifts are as
        likely.
      flip: whether half of the images are mirrored, left to right.

    Raises:
      TypeError, ValueError: if `padding` is no integer from 0, or `flip` no bool; when traced, if
        there are no images, or they have another rank.

    Example:
      >>> from kd import streams
      >>> image = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2].set(1.0)
      >>> stream = with_crops(streams.resample({"x": image}, 1), padding=2)
      >>> _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["x"].shape, float(jnp.sum(batch["x"]))
      ((1, 5, 5, 1), 1.0)

    Reference:
      He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition", section 4.2.
    """
    checks.check_type("stream", stream, Stream)
    checks.check_count("padding", padding, at_least=0)
    checks.check_type("flip", flip, bool)

    def alter(x: Array, corner: Array, is_mirrored: Array) -> Array:
        around = ((padding, padding), (padding, padding), (0, 0))
        cropped = jax.lax.dynamic_slice(jnp.pad(x, around), (*corner, 0), x.shape)
        return jnp.where(is_mirrored, cropped[:, ::-1], cropped)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, crop_key, flip_key = jax.random.split(key, 3)
        state, batch = stream.next(stream_key, state)
        x = checks.entry_of(batch, "x")
        checks.check_rank("x", x, 4)
        corners = jax.random.randint(crop_key, (len(x), 2), 0, 2 * padding + 1)
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(x),)) & flip
        return state, {**batch, "x": jax.vmap(alter)(x, corners, mirrored)}

    return Stream(stream.init, next_)
