"""Chains as streams: who is handed out when, after how many steps, and with what law."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from kd import samplers, streams, training
from kd.streams import parallel_chains
from kd.training.checkpoint import Checkpointer
from kd.types import Sampler, Update

# A chain that counts its steps, beside the number of the chain.
COUNTER = Sampler(
    lambda position: {"chain": position, "steps": jnp.zeros_like(position)},
    lambda key, state: (state | {"steps": state["steps"] + 1}, ()),
)


def counting(num_chains=6, batch_size=2, burn_in=5):
    return parallel_chains(
        COUNTER,
        lambda key: jnp.arange(num_chains),
        num_chains=num_chains,
        batch_size=batch_size,
        burn_in=burn_in,
    )


@pytest.mark.parametrize("burn_in", [0, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_all_chains_step_and_take_turns(batch_size, burn_in):
    stream = counting(batch_size=batch_size, burn_in=burn_in)
    state = stream.init(jax.random.key(0))
    assert (state.chains["steps"] == burn_in).all()
    for index in range(1, 14):
        state, batch = stream.next(jax.random.key(index), state)
        first = (index - 1) * batch_size % 6
        assert batch["x"]["chain"].tolist() == list(range(first, first + batch_size))
        assert (batch["x"]["steps"] == burn_in + index).all()
        assert (state.chains["steps"] == burn_in + index).all()


# A random walk, whose place tells the keys it was moved with.
WALK = Sampler(
    lambda position: position,
    lambda key, x: (x + jax.random.normal(key, x.shape), ()),
)


def walk(burn_in):
    return parallel_chains(
        WALK, lambda key: jax.random.normal(key, (4,)), num_chains=4, batch_size=4, burn_in=burn_in
    )


def test_every_step_of_the_burn_in_has_a_key_of_its_own():
    """A thousand equal moves would have a variance of a million, and not of a thousand."""
    stream = parallel_chains(
        WALK, lambda key: jnp.zeros(2000), num_chains=2000, batch_size=2000, burn_in=1000
    )
    variance = float(jnp.var(stream.init(jax.random.key(0)).chains))
    assert abs(variance / 1000 - 1) < 5 * np.sqrt(2 / 2000)


def test_start_and_batches_are_decided_by_the_keys():
    starts = [walk(3).init(jax.random.key(seed)).chains for seed in (0, 0, 1)]
    assert (starts[0] == starts[1]).all() and (starts[0] != starts[2]).all()
    state = walk(0).init(jax.random.key(0))
    batches = [walk(0).next(jax.random.key(seed), state)[1]["x"] for seed in (0, 0, 1)]
    assert (batches[0] == batches[1]).all() and (batches[0] != batches[2]).all()


def test_it_is_a_stream_like_every_other():
    """Under `fit`, composed, and gone on with."""
    update = Update(
        lambda params: params, lambda total, batch: (total + jnp.sum(batch["x"]), {"loss": total})
    )
    stream = streams.map_batch(lambda batch: {"x": batch["x"]["steps"].astype(float)}, counting())
    final = training.fit(jax.random.key(0), stream, update, jnp.zeros(()), 10)
    assert float(final.student) == 2 * sum(range(6, 16))


def test_raises():
    for wrong, message in (
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1 and at most 6, got 0"),
        ({"batch_size": 7}, "batch_size must be at least 1 and at most 6, got 7"),
        ({"batch_size": 4}, "batch_size must divide num_chains, got 4 and 6"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            counting(**wrong)
    stream = parallel_chains(WALK, lambda key: jnp.zeros(3), num_chains=4, batch_size=2)
    with pytest.raises(ValueError, match="init_fn must give num_chains = 4 positions"):
        stream.init(jax.random.key(0))


def drift():
    """Adds its key's first normal number; info is the number."""

    def step(key, x):
        move = jax.random.normal(key)
        return x + move, move

    return Sampler(lambda position, key=None: jnp.asarray(position), step)


def test_a_chain_goes_on_from_batch_to_batch():
    """Each position is the one before and the step's own move; thinned ones skip some."""
    stream = streams.chain(drift(), jnp.array(1.0), batch_size=4, name="w")
    state = stream.init(jax.random.key(0))
    last = 1.0
    for index in range(3):
        state, batch = stream.next(jax.random.key(index), state)
        found = np.append(last, batch["w"])
        np.testing.assert_allclose(np.diff(found), batch["info"], rtol=1e-4, atol=1e-6)
        last = found[-1]
    thinned = streams.chain(drift(), jnp.array(0.0), batch_size=2000, thin=9)
    _, batch = thinned.next(jax.random.key(0), thinned.init(jax.random.key(1)))
    assert np.var(np.diff(batch["x"])) == pytest.approx(9, rel=0.15)


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_chains_share_a_batch(method):
    starts = jnp.array([0.0, 1000.0, 2000.0])
    stream = streams.chain(
        drift(), starts, batch_size=6, burn_in=3, thin=2, num_chains=3, method=method
    )
    state, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
    assert batch["x"].shape == batch["info"].shape == (6,)
    np.testing.assert_array_equal(np.round(batch["x"] / 1000), [0, 0, 1, 1, 2, 2])
    offsets = np.asarray(batch["x"]) - np.repeat(starts, 2)
    assert len(np.unique(offsets.round(4))) == 6
    np.testing.assert_array_equal(state.sampler, batch["x"][1::2])


def test_burn_in_of_a_chain():
    """So many steps before the first batch: the variance of a walk is their number."""
    starts = jnp.zeros(4000)
    stream = streams.chain(
        drift(), starts, batch_size=4000, burn_in=16, num_chains=4000, method="vmap"
    )
    state = stream.init(jax.random.key(0))
    assert np.var(state.sampler) == pytest.approx(16, rel=0.1)


def test_online_and_stored_chains_have_one_law():
    """`fit` over a chain learns the mean that a bag of its samples has."""
    sampler = samplers.slice_sampler(lambda x: 2 * x - jnp.exp(x), width=3.0)
    stream = streams.chain(sampler, jnp.zeros(5), batch_size=50, burn_in=20, num_chains=5)
    update = training.gradient(
        lambda p, batch: 0.5 * jnp.mean((p - batch["x"]) ** 2),
        optax.sgd(lambda step: 1 / (step + 1)),  # The mean of all batches.
    )
    run = training.fit(jax.random.key(0), stream, update, update.init(jnp.array(0.0)), 200)
    law = stats.loggamma(2)
    assert float(run.student.params) == pytest.approx(law.mean(), abs=5 * law.std() / 50)
    bag = samplers.sample(
        jax.random.key(1), sampler, jnp.zeros(5), num_samples=2000, burn_in=20, num_chains=5
    )
    assert float(jnp.mean(bag.position)) == pytest.approx(law.mean(), abs=5 * law.std() / 50)


def test_a_chain_resumes_to_the_bit(tmp_path):
    """Stopped between two batches, mid-way through the data of SGLD, and gone on with."""
    data = streams.resample({"x": jnp.arange(7.0)}, 2)
    fn = lambda x, batch: -jnp.sum((batch["x"] - x) ** 2)
    sampler = samplers.sgld(fn, data, step_size=0.01)
    stream = streams.chain(sampler, jnp.zeros(2), batch_size=4, thin=3, burn_in=5, num_chains=2)
    update = training.gradient(lambda p, batch: jnp.mean((p - batch["x"]) ** 2), optax.adam(0.1))
    start = update.init(jnp.array(0.0))
    whole = training.fit(jax.random.key(0), stream, update, start, 9)
    checkpointer = Checkpointer(tmp_path / "run", every_seconds=0)
    training.fit(jax.random.key(0), stream, update, start, 4, checkpointer=checkpointer)
    gone_on = training.fit(jax.random.key(0), stream, update, start, 9, checkpointer=checkpointer)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(gone_on), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


def test_chain_raises():
    start = jnp.zeros(2)
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2, "burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"batch_size": 2, "thin": 0}, "thin must be at least 1, got 0"),
        ({"batch_size": 2, "num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"batch_size": 3, "num_chains": 2}, "num_chains must divide batch_size, got 2 and 3"),
        ({"batch_size": 3, "num_chains": 3}, "must have a leading axis of num_chains = 3"),
        ({"batch_size": 2, "name": "info"}, "name must not be 'info'"),
        ({"batch_size": 2, "num_chains": 2, "method": "both"}, "method must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            streams.chain(drift(), start, **options)
    with pytest.raises(TypeError, match="sampler must have init and step, got int"):
        streams.chain(3, start, batch_size=1)
    broken = samplers.slice_sampler(lambda x: jnp.where(x > 0, 0.0, jnp.nan))
    with pytest.raises(ValueError, match="log-density at the start must be finite, got nan"):
        streams.chain(broken, jnp.array(-1.0), batch_size=1)
