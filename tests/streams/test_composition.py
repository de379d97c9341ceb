"""kd.streams.map_batch, merge and with_signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import streams

DATA = {"x": jnp.arange(10.0).reshape(5, 2), "y": jnp.arange(5)}


def collect(stream, num_batches, key=0):
    init_key, step_key = jax.random.split(jax.random.key(key))
    state = jax.jit(stream.init)(init_key)
    next_ = jax.jit(stream.next)
    batches = []
    for step in range(num_batches):
        state, batch = next_(jax.random.fold_in(step_key, step), state)
        batches.append(jax.tree.map(np.array, batch))
    return batches


def test_map_batch_maps_every_batch_of_the_same_stream():
    inner = streams.resample(DATA, 3)
    stream = streams.map_batch(lambda batch: {"z": batch["x"].sum(1) + batch["y"]}, inner)
    for got, batch in zip(collect(stream, 5), collect(inner, 5), strict=True):
        assert list(got) == ["z"]
        np.testing.assert_array_equal(got["z"], batch["x"].sum(1) + batch["y"])


def test_with_signs_adds_signs_and_changes_nothing_else():
    inner = streams.resample(DATA, 3)
    stream = streams.with_signs(inner, num_projections=4, num_classes=6)
    seen = []
    for got, batch in zip(collect(stream, 5), collect(inner, 5), strict=True):
        signs = got.pop("signs")
        jax.tree.map(np.testing.assert_array_equal, got, batch)
        assert signs.shape == (3, 4, 6) and signs.dtype == np.float32
        assert set(np.unique(signs)) == {-1.0, 1.0}
        seen.append(signs)
    # Fresh at every step, for every example and every projection.
    vectors = np.concatenate(seen).reshape(-1, 6)
    assert len(np.unique(np.stack(seen).reshape(5, -1), axis=0)) == 5
    assert len(np.unique(vectors, axis=0)) > 30


def test_signs_have_mean_zero_and_the_identity_as_covariance():
    inner = streams.gaussian_noise((1,), 4000)
    stream = streams.with_signs(inner, num_projections=2, num_classes=3)
    (batch,) = collect(stream, 1)
    v = batch["signs"].reshape(4000, 6).astype(np.float64)
    assert np.max(np.abs(v.mean(0))) < 4.5 / np.sqrt(4000)
    assert np.max(np.abs(v.T @ v / 4000 - np.eye(6))) < 4.5 / np.sqrt(4000)


def test_signs_are_independent_of_the_inputs():
    """Both are drawn from one key: they must not share bits."""
    stream = streams.with_signs(
        streams.gaussian_noise((1,), 4000), num_projections=1, num_classes=1
    )
    (batch,) = collect(stream, 1)
    correlation = np.corrcoef(batch["x"].ravel(), batch["signs"].ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(4000)


def test_with_keys_adds_a_fresh_key_for_each_input_and_changes_nothing_else():
    inner = streams.resample(DATA, 3)
    stream = streams.with_keys(inner)
    bits = streams.map_batch(
        lambda batch: {**batch, "key": jax.vmap(jax.random.bits)(batch["key"])}, stream
    )
    drawn = []
    for got, batch in zip(collect(bits, 5), collect(inner, 5), strict=True):
        drawn.append(got.pop("key"))
        jax.tree.map(np.testing.assert_array_equal, got, batch)
    assert np.shape(drawn) == (5, 3) and len(np.unique(drawn)) == 15


def test_raises():
    inner = streams.gaussian_noise((1,), 2)
    with pytest.raises(ValueError, match="num_projections must be at least 1, got 0"):
        streams.with_signs(inner, num_projections=0, num_classes=3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        streams.with_signs(inner, num_projections=1, num_classes=0)


def test_streams_side_by_side():
    """The batches of each stream, under keys of its own, with keys that split as promised."""
    parts = (
        streams.gaussian_noise((2,), 3),
        streams.resample({"w": jnp.arange(7.0)}, 3),
        streams.resample({"v": jnp.arange(4)}, 3, replace=True),
    )
    merged = streams.merge(*parts)
    state = merged.init(jax.random.key(0))
    states = [
        part.init(key)
        for part, key in zip(parts, jax.random.split(jax.random.key(0), 3), strict=True)
    ]
    for index in range(3):
        key = jax.random.key(10 + index)
        state, batch = jax.jit(merged.next)(key, state)
        keys = jax.random.split(key, 3)
        for place, (part, own) in enumerate(zip(parts, keys, strict=True)):
            states[place], alone = part.next(own, states[place])
            for name, value in alone.items():
                np.testing.assert_array_equal(batch[name], value)
        assert set(batch) == {"x", "w", "v"}
    with pytest.raises(ValueError, match="the number of streams must be at least 1, got 0"):
        streams.merge()
    twice = streams.merge(parts[0], parts[0])
    with pytest.raises(ValueError, match="two streams have 'x' in a batch"):
        twice.next(jax.random.key(0), twice.init(jax.random.key(1)))


def test_masks_are_fresh_squares_at_every_place():
    images = streams.resample({"x": jnp.ones((3, 5, 6, 2))}, 3)
    masked = np.concatenate([one["x"] for one in collect(streams.with_masks(images, side=2), 400)])
    corners = set()
    for image in masked:
        is_masked = image[..., 0] == 0
        np.testing.assert_array_equal(is_masked, image[..., 1] == 0)
        row, column = np.argwhere(is_masked).min(axis=0)
        assert is_masked.sum() == 4 and is_masked[row : row + 2, column : column + 2].all()
        corners.add((int(row), int(column)))
    assert corners == {(row, column) for row in range(4) for column in range(5)}


def test_places_of_masks_are_equally_likely():
    images = streams.resample({"x": jnp.ones((6000, 4, 4, 1))}, 6000)
    (batch,) = collect(streams.with_masks(images, side=3), 1)
    corner = np.array([np.argwhere(image[..., 0] == 0).min(axis=0) for image in batch["x"]])
    counts = np.bincount(corner @ [2, 1], minlength=4)
    assert np.abs(counts - 1500).max() < 4.5 * np.sqrt(6000 * 0.25 * 0.75)


def test_a_mask_of_no_pixels_and_one_too_large():
    images = streams.resample({"x": jnp.ones((3, 4, 5, 1))}, 2)
    (batch,) = collect(streams.with_masks(images, side=0), 1)
    assert batch["x"].all()
    with pytest.raises(ValueError, match="side must be at least 0 and at most 4, got 5"):
        collect(streams.with_masks(images, side=5), 1)


def test_merge_refuses_what_is_no_stream():
    with pytest.raises(TypeError, match="each stream must be of type Stream, got list"):
        streams.merge([streams.resample(DATA, 2)])


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, float("nan")), (0.0,), (1.0, 1.0)])
def test_limits_of_noise_that_are_none_are_refused(limits):
    with pytest.raises(ValueError, match="limits must be two numbers, the lower first"):
        streams.with_noise(streams.resample(DATA, 2), scale=0.1, limits=limits)


def test_what_a_batch_has_is_not_overwritten():
    with pytest.raises(ValueError, match="has 'x' in a batch already"):
        collect(streams.numbered(streams.resample(DATA, 2), "x"), 1)
    with pytest.raises(ValueError, match="has 'y' in a batch already"):
        collect(streams.with_keys(streams.resample(DATA, 2), name="y"), 1)
    with pytest.raises(TypeError, match="x must be floating"):
        collect(streams.with_noise(streams.resample({"x": jnp.arange(4)}, 2), scale=0.1), 1)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_relative_noise_is_of_some_examples_and_of_each_number(share):
    data = {"x": jnp.zeros(2000), "z": jnp.full((2000, 3), 2.0)}
    stream = streams.with_relative_noise(streams.resample(data, 2000), "z", scale=0.1, share=share)
    one, other = (batch["z"] for batch in collect(stream, 2))
    assert not np.array_equal(one, other)
    is_noisy = np.any(one != 2, axis=1)
    assert np.mean(is_noisy) == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5)
    noise = one[is_noisy] / 2 - 1
    assert np.all(noise != 0) and np.mean(noise) == pytest.approx(0, abs=0.015)
    assert np.std(noise) == pytest.approx(0.1, rel=0.1)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.2


def test_relative_noise_that_will_not_do():
    inner = streams.resample(DATA, 2)
    with pytest.raises(ValueError, match="a batch has no 'z'; it has x, y"):
        collect(streams.with_relative_noise(inner, "z", scale=0.1), 1)
    with pytest.raises(TypeError, match="y must be floating"):
        collect(streams.with_relative_noise(inner, "y", scale=0.1), 1)
    with pytest.raises(ValueError, match="scale"):
        streams.with_relative_noise(inner, "x", scale=0.0)
    with pytest.raises(ValueError, match="share"):
        streams.with_relative_noise(inner, "x", scale=0.1, share=0.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: streams.with_noise(stream, scale=1.0),
        lambda stream: streams.with_masks(stream, side=1),
        lambda stream: streams.with_crops(stream, padding=1),
        lambda stream: streams.with_keys(stream),
        lambda stream: streams.with_signs(stream, num_projections=1, num_classes=2),
    ],
    ids=["noise", "masks", "crops", "keys", "signs"],
)
def test_a_batch_without_inputs_is_told_of(change):
    stream = change(streams.resample({"images": jnp.zeros((3, 4, 4, 1))}, 2))
    with pytest.raises(ValueError, match="a batch has no 'x'; it has images"):
        stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
