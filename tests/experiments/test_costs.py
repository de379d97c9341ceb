"""What a prediction costs."""

import jax
import jax.numpy as jnp
import pytest

from experiments import costs
from kd import models


def test_times_are_medians_of_calls_in_turn(monkeypatch):
    """Of a clock that goes on by what each call takes: the first round is not counted."""
    clock, calls = [0.0], []
    takes = {"slow": iter([9.0, 0.003, 0.001, 0.008]), "fast": iter([9.0, 0.002, 0.002, 0.0])}

    def thunk(name):
        def call():
            calls.append(name)
            clock[0] += next(takes[name])
            return jnp.zeros(())

        return call

    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])
    found = costs.milliseconds([thunk("slow"), thunk("fast")], rounds=3)
    assert found == pytest.approx([3.0, 2.0])
    assert calls == 4 * ["slow", "fast"]


def test_arithmetic_is_of_one_input():
    params = jnp.ones((6, 5))
    assert costs.flops(lambda w, x: w @ x, params, jnp.ones(5)) == pytest.approx(60, rel=0.1)
    assert costs.num_parameters({"w": params, "b": jnp.ones(6)}) == 36


def test_arithmetic_of_convolutions_grows_with_channels_squared():
    """As products have it: of many images, in groups, a loop would be counted once."""
    image, found = jnp.ones((28, 28, 1)), []
    for multiplier in (1, 4):
        channels = (10 * multiplier, 20 * multiplier)
        model = models.CNN(channels, (80,), 10, kernel_size=4)
        params = model.init(jax.random.key(0), image)
        found.append(costs.flops(model.apply, params, image))
    products = [
        2 * (25**2 * 16 * 10 * m + 9**2 * 160 * m * 20 * m + 16 * 20 * m * 80 + 800) for m in (1, 4)
    ]
    assert found == pytest.approx(products, rel=0.1)
