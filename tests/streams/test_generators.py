"""kd.streams.gaussian_noise: the law of its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import streams


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_moments(scale):
    stream = streams.gaussian_noise((5, 2), 4000, scale=scale)
    _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(1)))
    assert batch["x"].shape == (4000, 5, 2)
    z = np.array(batch["x"], np.float64).reshape(4000, 10) / scale
    # Mean, variance and fourth moment of a standard normal, with their standard errors.
    for power, moment, deviation in [(1, 0, 1), (2, 1, 2**0.5), (4, 3, 96**0.5)]:
        assert abs(np.mean(z**power) - moment) < 4 * deviation / np.sqrt(z.size)
    # Entries are uncorrelated.
    off = np.corrcoef(z.T)[~np.eye(10, dtype=bool)]
    assert np.max(np.abs(off)) < 4.5 / np.sqrt(4000)


def test_it_is_scale_times_a_standard_normal_of_the_key():
    key = jax.random.key(0)
    unit, scaled = (streams.gaussian_noise((3,), 5, scale=s).next(key, ())[1]["x"] for s in (1, 2))
    np.testing.assert_array_equal(unit, jax.random.normal(key, (5, 3)))
    np.testing.assert_array_equal(scaled, 2 * unit)


def test_every_key_gives_fresh_noise_and_the_state_is_empty():
    stream = streams.gaussian_noise((3,), 5)
    state = stream.init(jax.random.key(0))
    assert jax.tree.leaves(state) == []
    keys = jax.random.split(jax.random.key(1), 20)
    xs = np.concatenate([stream.next(key, state)[1]["x"].reshape(-1) for key in keys])
    assert len(np.unique(xs)) == xs.size
    batched = jax.vmap(lambda key: stream.next(key, state)[1]["x"])(keys)
    np.testing.assert_array_equal(jnp.ravel(batched), xs)


def test_raises():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        streams.gaussian_noise((3,), 0)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"scale must be finite and positive, got {scale}"):
            streams.gaussian_noise((3,), 2, scale=scale)
