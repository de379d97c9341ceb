"""What a prediction costs."""

import jax.numpy as jnp
import pytest

from experiments import costs


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
    params, x = jnp.ones((6, 5)), jnp.ones((10, 5))
    compiled = costs.compile_batch(lambda w, x: w @ x, params, x)
    assert costs.flops(compiled, 10) == pytest.approx(2 * 6 * 5, rel=0.1)
    assert costs.num_parameters({"w": params, "b": jnp.ones(6)}) == 36
