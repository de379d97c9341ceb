"""kd.training.updates: gradients against NumPy's ADADELTA, and students side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from kd import training
from kd.training import combine, discard, gradient, monte_carlo, observe, replicate, store
from kd.types import Stream


def objective(params, batch):
    """Least squares, mean over the batch."""
    errors = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return 0.5 * jnp.mean(errors**2)


def make_batches(num_batches, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(6, 3)), "y": rng.normal(size=6)} for _ in range(num_batches)]


def make_params(seed=1):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=3), "b": rng.normal()}


def test_adadelta_is_that_of_zeiler(x64):
    """Six steps; `optax.adadelta(1.0)` has no step size of its own, as in the paper."""
    params = make_params()
    update = gradient(objective, optax.adadelta(1.0, rho=0.95, eps=1e-6))
    state = update.init(jax.tree.map(jnp.array, params))
    rules = {"w": oracles.Adadelta(3), "b": oracles.Adadelta(())}
    for batch in make_batches(6):
        errors = batch["x"] @ params["w"] + params["b"] - batch["y"]
        grads = {"w": batch["x"].T @ errors / 6, "b": errors.mean()}
        state, metrics = update.apply(state, jax.tree.map(jnp.array, batch))
        # The loss is that at the parameters before the step.
        np.testing.assert_allclose(metrics["loss"], 0.5 * np.mean(errors**2), rtol=1e-12)
        params = {name: params[name] + rules[name].step(grads[name]) for name in params}
        for name in params:
            np.testing.assert_allclose(state.params[name], params[name], rtol=1e-10)
    assert np.all(np.abs(params["w"] - make_params()["w"]) > 1e-3)


def test_the_optimiser_sees_the_parameters(x64):
    """Weight decay is a function of them: SGD with decay, by hand."""
    params = make_params()
    (batch,) = make_batches(1)
    update = gradient(objective, optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1)))
    state, _ = update.apply(update.init(jax.tree.map(jnp.array, params)), batch)
    errors = batch["x"] @ params["w"] + params["b"] - batch["y"]
    expected = params["w"] - 0.1 * (batch["x"].T @ errors / 6 + 0.5 * params["w"])
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["auto", "loop", "vmap"])
def test_replicas_are_separate_runs_on_the_same_batches(method):
    update = gradient(objective, optax.adadelta(1.0, rho=0.95, eps=1e-6))
    replicas = replicate(update, method=method)
    starts = [
        jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), make_params(seed))
        for seed in range(3)
    ]
    batches = [
        jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), batch) for batch in make_batches(3)
    ]
    state = replicas.init(jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
    losses = []
    apply = jax.jit(replicas.apply)
    for batch in batches:
        state, metrics = apply(state, batch)
        losses.append(metrics["loss"])
    apply = jax.jit(update.apply)
    for i, params in enumerate(starts):
        single = update.init(params)
        for step, batch in enumerate(batches):
            single, metrics = apply(single, batch)
            np.testing.assert_allclose(losses[step][i], metrics["loss"], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-7),  # noqa: B023
            state,
            single,
        )
    assert len(np.unique(losses[-1])) == 3


def test_replicate_refuses_another_method():
    update = replicate(gradient(objective, optax.sgd(0.1)), method="pmap")
    params = jax.tree.map(lambda leaf: jnp.array(leaf)[None], make_params())
    with pytest.raises(ValueError, match="method must be one of auto, loop, vmap; got 'pmap'"):
        update.apply(update.init(params), make_batches(1)[0])


def test_figures_of_a_batch_are_beside_the_loss():
    plain = gradient(objective, optax.sgd(0.1))
    update = observe(plain, lambda batch: {"largest": jnp.max(batch["y"])})
    batch = make_batches(1)[0]
    state, metrics = update.apply(update.init(make_params()), batch)
    expected, loss = plain.apply(plain.init(make_params()), batch)
    assert float(metrics["largest"]) == pytest.approx(batch["y"].max())
    assert metrics.keys() == {"loss", "largest"} and metrics["loss"] == loss["loss"]
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    with pytest.raises(ValueError, match="two metrics are named 'loss'"):
        observe(plain, lambda batch: {"loss": 0.0}).apply(state, batch)


def test_several_updates_on_the_same_batches_are_each_alone():
    slow, fast = (gradient(objective, optax.sgd(rate)) for rate in (0.01, 0.1))
    both = combine(slow=slow, fast=fast)
    state = both.init({"slow": make_params(), "fast": make_params(2)})
    alone = {"slow": slow.init(make_params()), "fast": fast.init(make_params(2))}
    for batch in make_batches(3):
        state, metrics = both.apply(state, batch)
        for name, update in (("slow", slow), ("fast", fast)):
            alone[name], expected = update.apply(alone[name], batch)
            assert metrics[f"{name}.loss"] == expected["loss"]
    jax.tree.map(np.testing.assert_array_equal, state.states, alone)
    assert state.params.keys() == {"slow", "fast"}
    with pytest.raises(ValueError, match="the number of updates"):
        combine()


@pytest.mark.parametrize("block_size", [2, 100])
def test_monte_carlo_means_are_those_of_every_third_sample(block_size):
    rng = np.random.default_rng(0)
    x, samples = rng.normal(size=(5, 2)), rng.normal(size=(10, 3, 2))
    update = monte_carlo(
        lambda w, x: jax.nn.log_softmax(w @ x),
        {"probs": jnp.exp, "squares": lambda log_probs: jnp.exp(2 * log_probs)},
        jnp.asarray(x, jnp.float32),
        every=3,
        block_size=block_size,
    )
    state, apply = update.init(jnp.zeros((3, 2))), jax.jit(update.apply)
    for sample in samples:
        state, metrics = apply(state, {"chain": {"position": jnp.asarray(sample, jnp.float32)}})
    assert int(state.num_samples) == 3 and metrics == {}
    probs = np.exp([[oracles.log_softmax(w @ one) for one in x] for w in samples[2::3]])
    np.testing.assert_allclose(state.means["probs"], probs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state.means["squares"], (probs**2).mean(0), rtol=1e-5)


def test_a_batch_that_does_not_fit_ends_at_the_last_row():
    update = store("x")
    state = update.init(jnp.zeros(5))
    for first in (1.0, 3.0, 5.0):
        state, metrics = update.apply(state, {"x": jnp.array([first, first + 1])})
    assert state.kept.tolist() == [1, 2, 3, 5, 6] and float(metrics["stored"]) == 6


def test_monte_carlo_over_chains_counts_every_position():
    rng = np.random.default_rng(1)
    x, samples = rng.normal(size=(4, 2)), rng.normal(size=(6, 5, 3, 2))
    update = monte_carlo(
        lambda w, x: jax.nn.log_softmax(w @ x),
        {"probs": jnp.exp},
        jnp.asarray(x, jnp.float32),
        every=2,
        num_chains=5,
    )
    state, apply = update.init(jnp.zeros((3, 2))), jax.jit(update.apply)
    for positions in samples:
        batch = {"chain": {"position": jnp.asarray(positions, jnp.float32)}}
        state, metrics = apply(state, batch)
    assert int(state.num_samples) == 15 and metrics == {}
    used = samples[1::2].reshape(-1, 3, 2)
    probs = np.exp([[oracles.log_softmax(w @ one) for one in x] for w in used])
    np.testing.assert_allclose(state.means["probs"], probs.mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match="num_chains = 5"):
        update.apply(state, {"chain": {"position": jnp.zeros((4, 3, 2))}})


@pytest.mark.parametrize("depth", [1, 2])
def test_a_bag_that_is_not_finite_stops_a_fit_of_several_updates(depth):
    bag, start = store("x"), jnp.zeros((12, 2))
    update, starts = combine(bag=bag, other=discard()), {"bag": start, "other": ()}
    if depth == 2:
        update, starts = combine(inner=update), {"inner": starts}
    state = update.init(starts)
    stream = Stream(lambda key: (), lambda key, s: (s, {"x": jnp.array([[1.0, jnp.nan]] * 4)}))
    with pytest.raises(training.NonFiniteLossError, match="the bag became NaN"):
        training.fit(jax.random.key(0), stream, update, state, 3)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (jnp.zeros((12, 5)), r"rows to fill must be like the batch's, \(2,\); got \(5,\)"),
        (jnp.zeros((12, 1)), r"rows to fill must be like the batch's, \(2,\); got \(1,\)"),
        (jnp.zeros((12, 2), int), "rows to fill must hold float32; got int32"),
        (jnp.zeros((3, 2)), "at least a batch of rows, 4; got 3"),
        ({"a": jnp.zeros((12, 2))}, "rows to fill must be like the batch's"),
        (jnp.zeros(()), "rows to fill must be like the batch's|at least a batch"),
    ],
)
def test_store_refuses_rows_of_another_kind(start, message):
    update = store("x")
    with pytest.raises(ValueError, match=message):
        update.apply(update.init(start), {"x": jnp.ones((4, 2))})


def test_figures_that_are_integers_are_summed_as_numbers():
    update = observe(discard(), lambda batch: {"count": jnp.int32(2**30)})
    stream = Stream(lambda key: (), lambda key, s: (s, {"x": jnp.ones(2)}))
    rows = []
    training.fit(
        *(jax.random.key(0), stream, update, (), 3),
        log_every=3,
        on_row=lambda step, row: rows.append(row),
    )
    assert float(rows[-1]["count"]) == 2**30


def test_starts_of_other_names_are_refused():
    with pytest.raises(ValueError, match=r"starts must be of \['a', 'b'\], got \['a', 'c'\]"):
        combine(a=discard(), b=discard()).init({"a": (), "c": ()})


def test_metrics_of_several_updates_that_share_a_name_are_refused():
    update = combine(
        **{
            "a.b": observe(discard(), lambda batch: {"c": jnp.nan}),
            "a": observe(discard(), lambda batch: {"b.c": 2.0}),
        }
    )
    with pytest.raises(ValueError, match="two metrics are named 'a.b.c'"):
        update.apply(update.init({"a": (), "a.b": ()}), {})
