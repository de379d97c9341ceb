"""Streams made from streams."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array, Batch, Key, PyTree, Stream


def map_batch(fn: Callable[[Batch], Batch], stream: Stream) -> Stream:
    """The stream with `fn` applied to every batch.

    Args:
      fn: a pure, traceable function of a whole batch.
      stream: the stream whose batches it takes.
    """

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        state, batch = stream.next(key, state)
        return state, fn(batch)

    return Stream(stream.init, next_)


def numbered(stream: Stream, name: str = "step") -> Stream:
    """Adds the batch's number, int32 from 0: what a schedule within a loss is of.

    Raises:
      ValueError: when traced, if a batch has an entry of that name.

    Example:
      >>> from kd import streams
      >>> stream = numbered(streams.gaussian_noise((2,), 3))
      >>> state, _ = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> int(stream.next(jax.random.key(2), state)[1]["step"])
      1
    """

    def init(key: Key) -> tuple[Array, PyTree]:
        return jnp.zeros((), jnp.int32), stream.init(key)

    def next_(key: Key, state: tuple[Array, PyTree]) -> tuple[tuple[Array, PyTree], Batch]:
        number, inner = state
        inner, batch = stream.next(key, inner)
        return (number + 1, inner), _extended(batch, name, number)

    return Stream(init, next_)


def with_noise(
    stream: Stream, *, scale: float, limits: tuple[float, float] | None = None
) -> Stream:
    """Adds fresh Gaussian noise to the inputs `"x"` of every batch.

    Args:
      stream: batches with inputs under `"x"`.
      scale: its standard deviation, in units of the inputs.
      limits: to which the noisy inputs are clipped, for instance (0, 1) for pixels. The noise of
        inputs at a limit then has a mean: black pixels become brighter, by 0.4 of the scale.
        Where some are always black, Adam moves all weights from there together, however small
        the scale, and the student is sure of whatever is bright there.

    Raises:
      ValueError: if `scale` is not positive, or the limits are none; when traced, if there are no
        inputs.
      TypeError: when traced, if the inputs are not floating.

    Reference:
      Balan, Rathod, Murphy and Welling (2015), "Bayesian dark knowledge", section 2.
    """
    checks.check_positive("scale", scale)
    if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
        raise ValueError(f"limits must be two numbers, the lower first, got {limits}.")

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, noise_key = jax.random.split(key)
        state, batch = stream.next(stream_key, state)
        x = checks.entry_of(batch, "x")
        checks.check_floating("x", x)
        x = x + scale * jax.random.normal(noise_key, x.shape, x.dtype)
        return state, {**batch, "x": x if limits is None else jnp.clip(x, *limits)}

    return Stream(stream.init, next_)


def with_relative_noise(stream: Stream, name: str, *, scale: float, share: float = 1.0) -> Stream:
    r"""Multiplies an entry by noise, afresh in every batch: a noisy teacher's logits.

    .. math:: z' = (1 + \xi) z, \qquad \xi \sim \mathcal{N}(0, \sigma^2)

    Args:
      stream: batches with the entry.
      name: of it, `[B, ...]`, floating; each number has noise of its own.
      scale: :math:`\sigma`.
      share: probability that an example is perturbed, in (0, 1].

    Raises:
      ValueError: if `scale` is not positive or `share` no probability; when traced, if there is no
        such entry.
      TypeError: when traced, if the entry is no array, or not floating.

    Example:
      >>> from kd import streams
      >>> logits = streams.resample({"x": jnp.zeros(5), "logits": jnp.ones((5, 3))}, 5)
      >>> stream = with_relative_noise(logits, "logits", scale=0.1)
      >>> _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> bool(jnp.all(batch["logits"] != 1))
      True

    Reference:
      Sau and Balasubramanian (2016), "Deep model compression: distilling knowledge from noisy
      teachers", section 3.
    """
    checks.check_positive("scale", scale)
    checks.check_fraction("share", share)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, noise_key, choice_key = jax.random.split(key, 3)
        state, batch = stream.next(stream_key, state)
        value = checks.entry_of(batch, name)
        checks.check_floating(name, value)
        noise = scale * jax.random.normal(noise_key, value.shape, value.dtype)
        chosen = jax.random.bernoulli(choice_key, share, value.shape[:1])
        chosen = chosen.reshape(-1, *(1,) * (value.ndim - 1))
        return state, {**batch, name: value * (1 + jnp.where(chosen, noise, 0.0))}

    return Stream(stream.init, next_)


def with_keys(stream: Stream, *, name: str = "key") -> Stream:
    """Adds a fresh key for each input, `[B]`: what dropout draws from.

    An `Update` is deterministic, so what an objective draws comes with the batch.

    Args:
      stream: batches with inputs under `"x"`.
      name: of the keys' entry.

    Raises:
      ValueError: when traced, if a batch has an entry of that name.

    Example:
      >>> from kd import models, streams
      >>> stream = with_keys(streams.gaussian_noise((4,), 3))
      >>> _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> model = models.MLP((50,), 2, dropout_rate=0.5)
      >>> params = model.init(jax.random.key(2), batch["x"][0])
      >>> apply = lambda x, key: model.apply(
      ...     params, x, deterministic=False, rngs={"dropout": key})
      >>> jax.vmap(apply)(batch["x"], batch["key"]).shape
      (3, 2)
    """

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, own_key = jax.random.split(key)
        state, batch = stream.next(stream_key, state)
        return state, _extended(
            batch, name, jax.random.split(own_key, len(checks.entry_of(batch, "x")))
        )

    return Stream(stream.init, next_)


def with_masks(stream: Stream, *, side: int) -> Stream:
    """Puts a fresh square of zeros on every image `"x"` of every batch, all places as likely.

    Args:
      stream: batches with images `[B, H, W, channels]` under `"x"`.
      side: of the square, pixels; 0 leaves the images as they are.

    Raises:
      TypeError, ValueError: if `side` is no integer from 0; when traced, if the images have another
        rank or the square does not fit.

    Example:
      >>> from kd import streams
      >>> stream = with_masks(streams.resample({"x": jnp.ones((5, 8, 8, 1))}, 3), side=2)
      >>> _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> jnp.sum(batch["x"], axis=(1, 2, 3)).tolist()
      [60.0, 60.0, 60.0]
    """
    checks.check_type("stream", stream, Stream)
    checks.check_count("side", side, at_least=0)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, mask_key = jax.random.split(key)
        state, batch = stream.next(stream_key, state)
        x = checks.entry_of(batch, "x")
        checks.check_rank("x", x, 4)
        num, height, width, _ = x.shape
        checks.check_count("side", side, at_least=0, at_most=min(height, width))
        limits = jnp.array([[height, width]]) - side + 1
        corners = jax.random.randint(mask_key, (num, 2), 0, limits)
        row, column = (
            (place >= corner) & (place < corner + side)
            for place, corner in (
                (jnp.arange(height)[None], corners[:, :1]),
                (jnp.arange(width)[None], corners[:, 1:]),
            )
        )
        is_masked = row[:, :, None, None] & column[:, None, :, None]
        return state, {**batch, "x": jnp.where(is_masked, jnp.zeros((), x.dtype), x)}

    return Stream(stream.init, next_)


def merge(*parts: Stream) -> Stream:
    """Streams side by side: every batch has the entries of one of each.

    Args:
      *parts: at least one stream; their batches have no key in common, and, for losses of one
        example, one length.

    Raises:
      TypeError: if a part is no stream.
      ValueError: if there is no stream; (when traced) if two batches share a key.

    Example:
      >>> from kd import streams
      >>> pairs = merge(
      ...     streams.gaussian_noise((2,), 5), streams.resample({"w": jnp.arange(9.0)}, 5))
      >>> _, batch = pairs.next(jax.random.key(1), pairs.init(jax.random.key(0)))
      >>> {name: value.shape for name, value in sorted(batch.items())}
      {'w': (5,), 'x': (5, 2)}
    """
    checks.check_count("the number of streams", len(parts))
    for part in parts:
        checks.check_type("each stream", part, Stream)

    def init(key: Key) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, len(parts))
        return tuple(part.init(key) for part, key in zip(parts, keys, strict=True))

    def next_(key: Key, states: tuple[PyTree, ...]) -> tuple[tuple[PyTree, ...], Batch]:
        moved, merged = [], {}
        keys = jax.random.split(key, len(parts))
        for part, key, state in zip(parts, keys, states, strict=True):
            state, batch = part.next(key, state)
            moved.append(state)
            shared = sorted(merged.keys() & batch.keys())
            if shared:
                raise ValueError(
                    f"two streams have {', '.join(map(repr, shared))} in a batch: rename it, or "
                    "drop it, in one by map_batch."
                )
            merged |= batch
        return tuple(moved), merged

    return Stream(init, next_)


def with_signs(stream: Stream, *, num_projections: int, num_classes: int) -> Stream:
    """Adds fresh random signs `"signs"`, `[B, P, C]`: the randomness of a projected loss.

    An `Update` is deterministic, so what a loss draws comes with the batch.

    Args:
      stream: batches with inputs under `"x"`.
      num_projections: P.
      num_classes: C.

    Raises:
      ValueError: if a count is not positive.
    """
    checks.check_count("num_projections", num_projections)
    checks.check_count("num_classes", num_classes)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        stream_key, sign_key = jax.random.split(key)
        state, batch = stream.next(stream_key, state)
        shape = (len(checks.entry_of(batch, "x")), num_projections, num_classes)
        return state, {**batch, "signs": jax.random.rademacher(sign_key, shape, jnp.float32)}

    return Stream(stream.init, next_)


def _extended(batch: Batch, name: str, value: Array) -> Batch:
    """The batch with one entry more; ValueError if it has one of that name."""
    if name in batch:
        raise ValueError(f"the stream has {name!r} in a batch already.")
    return {**batch, name: value}
