"""blackjax's kernels and numpyro's draws, distilled like our own."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd import samplers, streams, training
from kd.types import Sampler

MEAN, SCALE = jnp.array([2.0, -1.0]), jnp.array([1.0, 0.5])
log_density = lambda w: -0.5 * jnp.sum(((w - MEAN) / SCALE) ** 2)


def learned_mean(stream, num_steps):
    """The mean of all batches, by a student that learns it."""
    update = training.gradient(
        lambda p, batch: 0.5 * jnp.sum(jnp.mean((p[None] - batch["w"]) ** 2, axis=0)),
        optax.sgd(lambda step: 1 / (step + 1)),
    )
    run = training.fit(jax.random.key(0), stream, update, update.init(jnp.zeros(2)), num_steps)
    return np.asarray(run.student.params)


@pytest.mark.parametrize(
    "algorithm",
    [
        blackjax.nuts(log_density, step_size=0.5, inverse_mass_matrix=jnp.ones(2)),
        blackjax.rmh(
            log_density,
            lambda key, w: w + 0.8 * jax.random.normal(key, (2,)),
        ),
        blackjax.coordinate_slice(log_density),
    ],
    ids=["nuts", "random walk", "slice"],
)
def test_a_kernel_of_blackjax_distilled_as_it_runs(algorithm):
    sampler = samplers.from_blackjax(algorithm)
    assert isinstance(sampler, Sampler)
    stream = streams.chain(
        sampler, jnp.zeros((4, 2)), batch_size=100, burn_in=100, thin=4, num_chains=4, name="w"
    )
    np.testing.assert_allclose(learned_mean(stream, 60), MEAN, atol=0.15)


def test_draws_of_numpyro_distilled_as_a_bag():
    import numpyro.infer

    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(potential_fn=lambda w: -log_density(w)),
        num_warmup=100,
        num_samples=500,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), init_params=jnp.zeros((2, 2)))
    draws = mcmc.get_samples(group_by_chain=True)
    stream = streams.bag(draws, 100, num_chains=2, name="w")
    np.testing.assert_allclose(
        learned_mean(stream, 10), np.mean(draws, axis=(0, 1)), rtol=1e-4, atol=1e-5
    )


def test_a_start_of_one_argument():
    sampler = samplers.from_blackjax(Sampler(lambda position: position, lambda key, x: (x, ())))
    assert sampler.init(3.0) == sampler.init(3.0, jax.random.key(0)) == 3.0


def test_raises():
    with pytest.raises(TypeError, match="algorithm must have init and step, got function"):
        samplers.from_blackjax(lambda x: x)
    gradient = lambda w, batch: -w
    with pytest.raises(TypeError, match="step must take a key and a state alone"):
        samplers.from_blackjax(blackjax.sgld(gradient))
    for position, options, message in (
        (jnp.zeros(3), {"num_chains": 2}, "must have a leading axis of num_chains = 2"),
        (jnp.zeros(2), {"num_chains": 2}, "position must have an axis of samples"),
        (jnp.zeros(3), {"num_chains": 0}, "num_chains must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            streams.bag(position, 2, **options)
    with pytest.raises(ValueError, match="batch_size must be at least 1 and at most 3, got 4"):
        streams.bag(jnp.zeros(3), 4)


@pytest.mark.parametrize("num_chains", [None, 2])
def test_stored_draws_come_again_each_as_often(num_chains):
    """And alike in all leaves: what comes is one of them, whole."""
    draws = {"a": jnp.arange(6.0), "b": jnp.repeat(10 * jnp.arange(6.0)[:, None], 3, axis=1)}
    stored = draws
    if num_chains:
        stored = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), draws)
    sampler = samplers.from_draws(stored, num_chains=num_chains)
    start = {"a": jnp.zeros(()), "b": jnp.zeros(3)}
    found = samplers.sample(jax.random.key(0), sampler, start, num_samples=6000).position
    np.testing.assert_array_equal(
        found["b"], np.repeat(10 * np.asarray(found["a"])[:, None], 3, axis=1)
    )
    counts = np.bincount(np.asarray(found["a"], int), minlength=6)
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(6000 * 5 / 36)
    repeats = np.mean(found["a"][1:] == found["a"][:-1])
    assert abs(repeats - 1 / 6) < 4.5 * np.sqrt(5 / 36 / 6000)


def test_stored_draws_of_other_shapes_are_refused():
    sampler = samplers.from_draws({"a": jnp.zeros((4, 2))})
    with pytest.raises(ValueError, match="shapes of one of the stored positions"):
        sampler.init({"a": jnp.zeros(3)})
    with pytest.raises(ValueError, match="num_chains = 3"):
        samplers.from_draws(jnp.zeros((2, 5)), num_chains=3)
    with pytest.raises(ValueError, match="must hold at least one example, got none"):
        samplers.from_draws(jnp.zeros((0, 2)))


def test_draws_may_be_numpys():
    draws = samplers.from_draws({"w": np.arange(3.0)})
    found = samplers.sample(jax.random.key(0), draws, {"w": jnp.zeros(())}, num_samples=50)
    assert set(np.asarray(found.position["w"]).tolist()) == {0.0, 1.0, 2.0}


def test_a_start_without_a_key_is_refused_by_name():
    walk = Sampler(lambda position: position, lambda key, state: (state, ()))
    for use in (
        lambda: streams.chain(walk, jnp.zeros(2), batch_size=1),
        lambda: samplers.sample(jax.random.key(0), walk, jnp.zeros(2), num_samples=2),
    ):
        with pytest.raises(TypeError, match="sampler.init must take a position and a key"):
            use()
