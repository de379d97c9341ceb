"""kd.streams.parallel_chains: who is handed out when, after how many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import streams, training
from kd.streams import parallel_chains
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
