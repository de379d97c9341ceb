"""kd.streams.map_batch and with_signs."""

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


def test_raises():
    inner = streams.gaussian_noise((1,), 2)
    with pytest.raises(ValueError, match="num_projections must be at least 1, got 0"):
        streams.with_signs(inner, num_projections=0, num_classes=3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        streams.with_signs(inner, num_projections=1, num_classes=0)
