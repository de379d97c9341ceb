"""kd.streams.resample and bootstrap: what an epoch holds, counts, and resuming in the middle."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from kd import streams


def indices(num_examples):
    return {"x": jnp.arange(num_examples)}


def draw(stream, num_batches, key=0):
    """`num_batches` batches of `"x"` one after another, `[num_batches, B, ...]`."""

    @jax.jit
    def run(key):
        init_key, step_key = jax.random.split(key)

        def next_(state, step):
            state, batch = stream.next(jax.random.fold_in(step_key, step), state)
            return state, batch["x"]

        return jax.lax.scan(next_, stream.init(init_key), jnp.arange(num_batches))[1]

    return np.array(run(jax.random.key(key)))


@settings(max_examples=1)
@given(sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted), key=st.integers(0, 99))
@example(sizes=[1, 1], key=0)  # The smallest,
@example(sizes=[7, 7], key=0)  # a batch that is the data set,
@example(sizes=[3, 7], key=0)  # one that does not divide it,
@example(sizes=[6, 7], key=0)  # one that reaches over the end nearly every time.
def test_every_example_exactly_once_an_epoch(sizes, key):
    batch_size, num_examples = sizes
    num_epochs = 5
    stream = streams.resample(indices(num_examples), batch_size)
    xs = draw(stream, math.ceil(num_epochs * num_examples / batch_size), key)
    assert xs.shape[1] == batch_size
    epochs = xs.reshape(-1)[: num_epochs * num_examples].reshape(num_epochs, num_examples)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_epochs_and_keys_have_their_own_order():
    stream = streams.resample(indices(20), 10)
    epochs = draw(stream, 12).reshape(6, 20)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    other = draw(stream, 12, key=1).reshape(6, 20)
    assert not {tuple(epoch) for epoch in epochs} & {tuple(epoch) for epoch in other}
    np.testing.assert_array_equal(draw(stream, 12).reshape(6, 20), epochs)


def test_every_place_of_an_epoch_is_uniform():
    """Example 0 comes at each of 10 places equally often, over many epochs."""
    epochs = draw(streams.resample(indices(10), 10), 5000)
    places = np.argmax(epochs == 0, axis=1)
    counts = np.bincount(places, minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_order_does_not_depend_on_the_keys_of_the_steps():
    """The state alone decides: what is resumed goes on alike."""
    stream = streams.resample(indices(10), 3)
    state, next_ = jax.jit(stream.init)(jax.random.key(0)), jax.jit(stream.next)
    _, one = next_(jax.random.key(1), state)
    _, other = next_(jax.random.key(2), state)
    np.testing.assert_array_equal(one["x"], other["x"])


@pytest.mark.parametrize("make", [streams.resample, streams.bootstrap])
def test_resuming_in_the_middle_from_numpy(make):
    """Another stream object goes on from each saved state as the first one did."""
    key = jax.random.key(0)
    stream = make(indices(7), 3)
    state, next_ = jax.jit(stream.init)(key), jax.jit(stream.next)
    saved, batches = [], []
    for _ in range(8):
        saved.append(jax.tree.map(np.array, state._replace(key=jax.random.key_data(state.key))))
        state, batch = next_(key, state)
        batches.append(np.array(batch["x"]))
    assert len({int(state.epoch) for state in saved}) > 2
    next_ = jax.jit(make(indices(7), 3).next)
    for start, state in enumerate(saved):
        state = jax.tree.map(jnp.array, state)
        state = state._replace(key=jax.random.wrap_key_data(state.key))
        for expected in batches[start:]:
            state, batch = next_(key, state)
            np.testing.assert_array_equal(batch["x"], expected)


@pytest.mark.parametrize("replace", [True, False])
def test_the_leaves_of_an_example_stay_together(replace):
    data = {
        "x": jnp.arange(6.0).reshape(6, 1, 1) * jnp.ones((1, 2, 3)),
        "y": {"label": jnp.arange(6)},
    }
    stream = streams.resample(data, 4, replace=replace)
    state, next_ = jax.jit(stream.init)(jax.random.key(0)), jax.jit(stream.next)
    for step in range(4):
        state, batch = next_(jax.random.key(step), state)
        assert batch["x"].shape == (4, 2, 3)
        label = np.array(batch["y"]["label"])
        np.testing.assert_array_equal(batch["x"], np.broadcast_to(label[:, None, None], (4, 2, 3)))


def test_with_replacement_draws_are_uniform_and_independent():
    num_examples, num_batches = 10, 4000
    xs = draw(streams.resample(indices(num_examples), 5, replace=True), num_batches)
    counts = np.bincount(xs.reshape(-1), minlength=num_examples)
    assert stats.chisquare(counts).pvalue > 1e-4
    # Neighbours within a batch, and across batches, fall on all pairs alike.
    for first, second in [(xs[:, 0], xs[:, 1]), (xs[:-1, 0], xs[1:, 0])]:
        pairs = np.bincount(first * num_examples + second, minlength=num_examples**2)
        assert stats.chisquare(pairs).pvalue > 1e-4


def test_with_replacement_a_batch_may_be_larger_than_the_data():
    xs = draw(streams.resample(indices(3), 50, replace=True), 2)
    assert xs.shape == (2, 50) and set(np.unique(xs)) == {0, 1, 2}


def test_bootstrap_goes_through_one_resample():
    num_examples, batch_size = 30, 7
    xs = draw(streams.bootstrap(indices(num_examples), batch_size), 22)
    epochs = xs.reshape(-1)[:150].reshape(5, num_examples)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(epochs[0]))
    assert len(np.unique(epochs[0])) < num_examples
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_bootstrap_resamples_uniformly_with_replacement():
    num_examples, num_members = 200, 40
    stream = streams.bootstrap(indices(num_examples), num_examples)
    keys = jax.random.split(jax.random.key(0), num_members)
    run = jax.jit(jax.vmap(lambda key: stream.next(key, stream.init(key))[1]["x"]))
    resamples = np.array(run(keys))
    # The share of distinct examples: 1 - 1/e, with the standard error of an occupancy count.
    distinct = np.array([len(np.unique(resample)) for resample in resamples]) / num_examples
    error = math.sqrt((math.exp(-1) - 2 * math.exp(-2)) / num_examples / num_members)
    assert abs(distinct.mean() - (1 - math.exp(-1))) < 4 * error + 1 / num_examples
    # Members differ, each example is drawn equally often, and the same key gives the same.
    assert len({tuple(np.sort(resample)) for resample in resamples}) == num_members
    assert stats.chisquare(np.bincount(resamples.reshape(-1), minlength=num_examples)).pvalue > 1e-4
    np.testing.assert_array_equal(run(keys[::-1])[::-1], resamples)


@pytest.mark.parametrize("make", [streams.resample, streams.bootstrap])
def test_under_vmap_each_member_is_its_own_stream(make):
    """Also where members turn over at different steps, as after a resume of some."""
    stream = make(indices(5), 2)
    keys = jax.random.split(jax.random.key(0), 3)
    starts = [jax.jit(stream.init)(key) for key in keys]
    starts[1], _ = jax.jit(stream.next)(keys[1], starts[1])

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: stream.next(keys[0], state), state, length=9)[1]["x"]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    np.testing.assert_array_equal(jax.vmap(run)(stacked), [run(s) for s in starts])


@pytest.mark.parametrize("make", [streams.resample, streams.bootstrap])
def test_raises(make):
    data = {"x": jnp.zeros((4, 2)), "y": jnp.zeros(4)}
    with pytest.raises(ValueError, match="batch_size must be at least 1 and at most 4, got 5"):
        make(data, 5)
    with pytest.raises(ValueError, match="batch_size must be at least 1 and at most 4, got 0"):
        make(data, 0)
    with pytest.raises(TypeError, match="batch_size must be an integer, got 2.0"):
        make(data, 2.0)
    message = re.escape("data must hold arrays with one common length, got shapes [(3,), (4, 2)]")
    with pytest.raises(ValueError, match=message):
        make({**data, "y": jnp.zeros(3)}, 2)
    make(data, 4)


def test_with_replacement_raises():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        streams.resample(indices(3), 0, replace=True)
    with pytest.raises(ValueError, match="one common length"):
        streams.resample({"x": jnp.zeros(3), "y": jnp.zeros(2)}, 1, replace=True)


@pytest.mark.parametrize("replace", [False, True])
def test_no_data_is_refused(replace):
    with pytest.raises(ValueError, match="data must hold at least one example, got none"):
        streams.resample({"x": jnp.zeros((0, 3))}, 2, replace=replace)


def test_data_that_jax_would_change_are_refused():
    with pytest.raises(ValueError, match="data holds integers beyond int32, as 1099511627778"):
        streams.resample({"id": np.array([2**40 + 1, 2**40 + 2])}, 1)
    with pytest.raises(TypeError, match="data must hold numbers, got <U1"):
        streams.bootstrap({"id": np.array(["a", "b"])}, 1)
    stream = streams.resample({"id": np.array([1, 2])}, 1)  # 64 bits, but small.
    _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(0)))
    assert batch["id"].dtype == jnp.int32
