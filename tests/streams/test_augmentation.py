"""Crops and mirrors of images: all shifts, half of them mirrored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import streams

COUNT = 6000
IMAGE = np.arange(1.0, 13.0).reshape(3, 4, 1)


def drawn(**given):
    data = {"x": jnp.tile(jnp.asarray(IMAGE, jnp.float32), (COUNT, 1, 1, 1))}
    stream = streams.with_crops(streams.resample(data, COUNT), **given)
    return np.array(stream.next(jax.random.key(1), stream.init(jax.random.key(0)))[1]["x"])


def possible(padding, mirrored):
    padded = np.pad(IMAGE, ((padding, padding), (padding, padding), (0, 0)))
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[row : row + 3, column : column + 4]
            yield crop[:, ::-1] if mirrored else crop


@pytest.mark.parametrize("flip", [True, False])
def test_every_shift_is_as_likely(flip):
    """Mirrored after the shift, so that both are independent."""
    wanted = list(possible(1, False)) + (list(possible(1, True)) if flip else [])
    found = drawn(padding=1, flip=flip)
    counts = [np.sum(np.all(found == one, axis=(1, 2, 3))) for one in wanted]
    assert sum(counts) == COUNT
    share = 1 / len(wanted)
    assert np.max(np.abs(np.array(counts) - COUNT * share)) < 4.5 * np.sqrt(COUNT * share)


def test_no_padding_leaves_images_where_they_are():
    assert np.all(drawn(padding=0, flip=False) == IMAGE)


def test_refusals():
    data = streams.resample({"x": jnp.zeros((3, 4))}, 2)
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        streams.with_crops(data, padding=-1)
    with pytest.raises(TypeError, match="flip must be of type bool, got str"):
        streams.with_crops(data, padding=1, flip="no")
    with pytest.raises(TypeError, match="stream must be of type Stream"):
        streams.with_crops([], padding=1)
    stream = streams.with_crops(data, padding=1)
    with pytest.raises(ValueError, match="x must have rank 4"):
        stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
