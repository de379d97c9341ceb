"""kd.streams.generators: the laws of their draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial

from kd import streams
from kd.models import NADE, GaussianMixture


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


# NADE.


@pytest.mark.parametrize("num_batches", [1, 4])
def test_conditionals_of_fresh_samples(num_batches):
    """A block is one call of `sample`, gone through in order and then drawn anew."""
    nade = NADE(6, 3, (5, 3, 1, 0, 2, 4))
    params = jax.tree.map(lambda leaf: 3 * leaf, nade.init(jax.random.key(0), jnp.zeros(6)))
    stream = streams.nade_conditionals(nade, params, (2, 3), 5, num_batches=num_batches)
    state = stream.init(jax.random.key(1))
    blocks = []
    for first in (0, num_batches):
        key = jax.random.key(first)
        _, expected = nade.sample(params, key, 5 * num_batches)
        found = []
        for index in range(num_batches):
            state, batch = jax.jit(stream.next)(jax.random.key(first + index), state)
            assert set(batch) == {"x"} and batch["x"].shape == (5, 2, 3)
            found.append(batch["x"].reshape(5, 6))
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5)
        blocks.append(np.concatenate(found))
    assert (blocks[0] >= 0).all() and (blocks[0] <= 1).all()
    assert (blocks[0] != blocks[1]).any()


def test_nade_conditionals_raises():
    nade = NADE(4, 3)
    params = nade.init(jax.random.key(0), jnp.zeros(4))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        streams.nade_conditionals(nade, params, (4,), 0)
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        streams.nade_conditionals(nade, params, (4,), 2, num_batches=0)
    with pytest.raises(ValueError, match=r"the 4 entries of a sample, got \(2, 3\)"):
        streams.nade_conditionals(nade, params, (2, 3), 2)
    mixture = GaussianMixture(2, 4)
    with pytest.raises(TypeError, match="samples and their conditionals"):
        streams.nade_conditionals(mixture, mixture.init(jax.random.key(0), jnp.zeros(4)), (4,), 2)


# MUNGE.

EXAMPLES = {"x": jnp.array([[0.0, 10.0], [1.0, 14.0], [5.0, -2.0]]), "y": jnp.arange(3)}
NEIGHBOURS = jnp.array([1, 0, 0])


def munged(probability, variance, num=60_000, data=EXAMPLES):
    stream = streams.munge(
        data, NEIGHBOURS, num, swap_probability=probability, local_variance=variance
    )
    state = stream.init(jax.random.key(0))
    assert jax.tree.leaves(state) == []
    _, batch = stream.next(jax.random.key(1), state)
    assert set(batch) == {"x"}
    return np.array(batch["x"])


def test_without_swaps_it_is_the_data():
    values, counts = np.unique(munged(0.0, 1.0), axis=0, return_counts=True)
    assert values.tolist() == EXAMPLES["x"].tolist()
    assert (abs(counts - 20_000) < 5 * np.sqrt(60_000 * 2 / 9)).all()


def test_swapped_attributes_have_the_law_of_the_neighbours():
    """Every first attribute differs, so that it tells which example it was."""
    x = munged(1.0, 4.0)
    # Of example 2, with neighbour 0: N(0, (5 / 4)^2) and N(10, (12 / 4)^2); of 0 and 1 others.
    data = {"x": EXAMPLES["x"][2:]}
    stream = streams.munge(
        {"x": jnp.concatenate([data["x"], EXAMPLES["x"][:1]])},
        jnp.array([1, 1]),
        60_000,
        swap_probability=1.0,
        local_variance=4.0,
    )
    _, batch = stream.next(jax.random.key(3), ())
    moved = np.array(batch["x"])
    moved = moved[(moved != np.array(EXAMPLES["x"][0])).any(1)]
    assert abs(len(moved) - 30_000) < 5 * np.sqrt(15_000)
    for column, mean, deviation in ((0, 0.0, 5 / 4), (1, 10.0, 12 / 4)):
        z = (moved[:, column] - mean) / deviation
        assert abs(z.mean()) < 5 / np.sqrt(len(z))
        assert abs(z.std() - 1) < 5 / np.sqrt(2 * len(z))
    assert abs(np.corrcoef(moved.T)[0, 1]) < 5 / np.sqrt(len(moved))
    assert not np.isin(x, np.array(EXAMPLES["x"])).any()


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_attributes_are_swapped_one_by_one(probability):
    kept = np.isin(munged(probability, 4.0), np.array(EXAMPLES["x"]))
    share = 1 - probability
    assert abs(kept.mean() - share) < 5 * np.sqrt(share * probability / kept.size)
    both = share**2
    assert abs(kept.all(1).mean() - both) < 5 * np.sqrt(both * (1 - both) / len(kept))


@pytest.mark.parametrize("shape", [(50,), (37, 4), (20, 2, 3)])
@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_nearest_neighbours_are_scipys(shape, block_size):
    x = 100 + np.random.default_rng(0).normal(size=shape)
    flat = x.reshape(len(x), -1)
    _, index = spatial.cKDTree(flat).query(flat, k=2)
    found = streams.nearest_neighbours(jnp.array(x, jnp.float32), block_size=block_size)
    np.testing.assert_array_equal(found, index[:, 1])


def test_near_neighbours_far_from_the_origin_are_told_apart():
    """In single precision the squares of what is far would have the digits to themselves."""
    x = np.random.default_rng(1).random((100, 8)) + np.repeat([[-1000.0], [1000.0]], 50, axis=0)
    x = np.concatenate([x.astype(np.float32), np.full((1, 8), 1e6, np.float32)])
    _, index = spatial.cKDTree(x.astype(np.float64)).query(x, k=2)
    np.testing.assert_array_equal(streams.nearest_neighbours(jnp.array(x)), index[:, 1])


def test_twins_are_each_others_neighbours():
    x = jnp.array([[3.0, 3.0], [0.0, 0.0], [3.0, 3.0], [3.0, 3.0]])
    assert streams.nearest_neighbours(x).tolist() == [2, 0, 0, 0]


def test_munge_raises():
    for wrong, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"swap_probability": 1.5}, r"swap_probability must be in \[0, 1\], got 1.5"),
        ({"local_variance": 0.0}, "local_variance must be finite and positive, got 0.0"),
        ({"neighbours": jnp.zeros(2, int)}, r"neighbours must have shape \(3,\), got \(2,\)"),
        ({"neighbours": jnp.array([0, 3, 1])}, r"neighbours must hold integers in \[0, 3\)"),
    ):
        options = {
            "data": EXAMPLES,
            "neighbours": NEIGHBOURS,
            "batch_size": 2,
            "swap_probability": 0.5,
            "local_variance": 1.0,
        }
        with pytest.raises(ValueError, match=message):
            streams.munge(**options | wrong)
    with pytest.raises(ValueError, match="number of examples must be at least 2, got 1"):
        streams.nearest_neighbours(jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        streams.nearest_neighbours(jnp.zeros((3, 2)), block_size=0)
    with pytest.raises(ValueError, match="x must be finite"):
        streams.nearest_neighbours(jnp.array([0.0, 1.0, jnp.nan]))
    whole = {"x": jnp.zeros((3, 2), jnp.uint8)}  # Their differences would wrap.
    with pytest.raises(TypeError, match="must be floating, got uint8"):
        streams.munge(whole, NEIGHBOURS, 2, swap_probability=0.5, local_variance=1.0)
