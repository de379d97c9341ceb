"""Stages: each is what its own objective and optimiser do, from where the one before stopped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd import models, streams, training
from kd.training import Stage, staged, train_only

MODEL = models.MLP((4,), 2)
DATA = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32),
    "y": jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)), jnp.float32),
}


def fit_outputs(params, batch):
    return jnp.mean((jax.vmap(lambda x: MODEL.apply(params, x))(batch["x"]) - batch["y"]) ** 2)


def fit_features(params, batch):
    found = jax.vmap(lambda x: models.features_of(MODEL)(params, x)["hidden_0"])(batch["x"])
    return jnp.mean((found - 1.0) ** 2)


def start():
    return MODEL.init(jax.random.key(0), jnp.zeros(3))


def test_two_stages_are_two_loops():
    update = staged(
        Stage(fit_features, train_only(optax.adam(0.1), ["Dense_0"]), 3),
        Stage(fit_outputs, train_only(optax.adam(0.05), ["Dense_1"])),
    )
    state, losses, stages = update.init(start()), [], []
    for _ in range(5):
        state, metrics = jax.jit(update.apply)(state, DATA)
        losses.append(float(metrics["loss"]))
        stages.append(float(metrics["stage"]))
    assert stages == [0, 0, 0, 1, 1]
    params, expected = start(), []
    for objective, layer, rate, steps in (
        (fit_features, "Dense_0", 0.1, 3),
        (fit_outputs, "Dense_1", 0.05, 2),
    ):
        optimizer = optax.adam(rate)
        own = optimizer.init(params["params"][layer])
        for _ in range(steps):
            loss, slope = jax.value_and_grad(objective)(params, DATA)
            expected.append(float(loss))
            moved, own = optimizer.update(slope["params"][layer], own)
            layers = dict(params["params"])
            layers[layer] = optax.apply_updates(layers[layer], moved)
            params = {"params": layers}
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, params
    )


def test_fit_goes_through_the_stages_and_on_with_the_last():
    update = staged(Stage(fit_features, optax.sgd(0.1), 2), Stage(fit_outputs, optax.sgd(0.1), 1))
    stream = streams.resample(DATA, 6)
    final = training.fit(jax.random.key(0), stream, update, update.init(start()), 5)
    assert int(final.student.step) == 5
    replicas = jax.vmap(update.init)(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), start()))
    final = training.fit(jax.random.key(0), stream, update, replicas, 5, num_replicas=2)
    assert final.student.step.tolist() == [5, 5]
    one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], final.student.params) for i in (0, 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


# The first two's states hold parameters: begun with the student's first ones they land elsewhere.
@pytest.mark.parametrize(
    "optimizer",
    [optax.contrib.schedule_free_sgd(0.1), optax.contrib.dowg(), optax.adam(0.1)],
    ids=["schedule_free_sgd", "dowg", "adam"],
)
@pytest.mark.parametrize("num_replicas", [None, 2])
def test_a_stages_optimiser_begins_with_the_stage(optimizer, num_replicas):
    """Each by a plain loop from where the one before stopped, in a scan, of replicas too."""
    steps = (3, 4, 2)
    objectives = (fit_outputs, fit_features, fit_outputs)
    update = staged(*(Stage(*one) for one in zip(objectives, [optimizer] * 3, steps, strict=True)))
    keys = jax.random.split(jax.random.key(1), 2)
    starts = [MODEL.init(key, jnp.zeros(3)) for key in keys]

    def run(params):
        step = lambda state, _: update.apply(state, DATA)
        state, metrics = jax.lax.scan(step, update.init(params), length=sum(steps))
        return state.params, metrics["loss"]

    if num_replicas:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        found = jax.jit(jax.vmap(run))(stacked)
        found = [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(2)]
    else:
        found = [jax.jit(run)(start) for start in starts]
    for params, (after, losses) in zip(starts, found, strict=True):
        expected = []
        for objective, num in zip(objectives, steps, strict=True):
            own = optimizer.init(params)
            for _ in range(num):
                loss, slope = jax.value_and_grad(objective)(params, DATA)
                expected.append(float(loss))
                moved, own = optimizer.update(slope, own, params)
                params = optax.apply_updates(params, moved)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after, params
        )


def test_what_stays_stays_to_the_bit():
    optimizer = train_only(optax.adamw(0.1, weight_decay=0.5), ["Dense_1"])
    params = start()
    slope = jax.grad(fit_outputs)(params, DATA)
    moved, _ = optimizer.update(slope, optimizer.init(params), params)
    after = optax.apply_updates(params, moved)["params"]
    jax.tree.map(np.testing.assert_array_equal, after["Dense_0"], params["params"]["Dense_0"])
    assert np.all(after["Dense_1"]["kernel"] != params["params"]["Dense_1"]["kernel"])


def test_one_network_of_several_by_its_path():
    """Layers of two networks that are called alike."""
    params = {"student": start(), "regressor": start()}
    optimizer = train_only(optax.sgd(1.0), ["student/params/Dense_1", "regressor"])
    ones = jax.tree.map(jnp.ones_like, params)
    moved, _ = optimizer.update(ones, optimizer.init(params), params)
    means = {
        name: {layer: float(jnp.mean(leaf["bias"])) for layer, leaf in one["params"].items()}
        for name, one in moved.items()
    }
    assert means == {
        "student": {"Dense_0": 0.0, "Dense_1": -1.0},
        "regressor": {"Dense_0": -1.0, "Dense_1": -1.0},
    }
    for near in ("dent/params/Dense_1", "student/Dense_1", "student/params/Dense_", "/student"):
        with pytest.raises(ValueError, match=f"no layer '{near}'"):
            train_only(optax.sgd(0.1), [near]).init(params)


def test_raises():
    with pytest.raises(ValueError, match="the number of stages"):
        staged()
    with pytest.raises(TypeError, match="num_steps of stage 0"):
        staged(Stage(fit_outputs, optax.sgd(0.1)), Stage(fit_outputs, optax.sgd(0.1)))
    with pytest.raises(ValueError, match="num_steps of stage 0"):
        staged(Stage(fit_outputs, optax.sgd(0.1), 0))
    with pytest.raises(TypeError, match="stage 0 must be of type Stage"):
        staged((fit_outputs, optax.sgd(0.1), 3))
    with pytest.raises(ValueError, match="no layer 'Dense_7'; there are Dense_0, Dense_1, bias"):
        train_only(optax.sgd(0.1), ["Dense_7"]).init(start())
    with pytest.raises(TypeError, match="layers must be a list"):
        train_only(optax.sgd(0.1), "Dense_0")


def test_more_steps_than_can_be_counted_and_no_layer():
    stage = Stage(lambda params, batch: params, optax.sgd(0.1), 2**31 - 1)
    with pytest.raises(ValueError, match="steps of all stages must be at least 1 and at most"):
        staged(stage, stage._replace(num_steps=1))
    with pytest.raises(ValueError, match="number of layers must be at least 1"):
        train_only(optax.sgd(0.1), [])
