"""kd.streams.blocks: batches in order, drawn only when a block is used up."""

import jax
import jax.numpy as jnp
import pytest

from kd.streams import blocks


def counting(num_batches):
    """Blocks that hold their own number and the number of the batch."""

    def draw(key, state):
        batches = jnp.arange(num_batches)
        return state + 1, {"block": jnp.full((num_batches, 1), state), "batch": batches[:, None]}

    return blocks(lambda key: jnp.zeros((), jnp.int32), draw, num_batches=num_batches)


@pytest.mark.parametrize("num_batches", [1, 3])
def test_blocks_are_gone_through_in_order(num_batches):
    stream = counting(num_batches)
    state, found = stream.init(jax.random.key(0)), []
    for _ in range(3 * num_batches):
        state, batch = jax.jit(stream.next)(jax.random.key(1), state)
        found.append((int(batch["block"][0]), int(batch["batch"][0])))
    assert found == [(block, batch) for block in range(3) for batch in range(num_batches)]
    assert int(state.source) == 3


def test_a_block_is_drawn_with_the_key_of_its_first_batch():
    stream = blocks(
        lambda key: (),
        lambda key, state: (state, {"x": jax.random.normal(key, (2, 4))}),
        num_batches=2,
    )
    state = stream.init(jax.random.key(0))
    for first in (5, 7):
        expected = jax.random.normal(jax.random.key(first), (2, 4))
        for index in range(2):
            state, batch = stream.next(jax.random.key(first + index), state)
            assert (batch["x"] == expected[index]).all()


def test_raises():
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        counting(0)
    wrong = blocks(
        lambda key: (), lambda key, state: (state, {"x": jnp.zeros((3, 2))}), num_batches=2
    )
    with pytest.raises(ValueError, match="a block must hold num_batches = 2"):
        wrong.init(jax.random.key(0))
