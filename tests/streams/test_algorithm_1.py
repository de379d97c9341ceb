"""The whole online loop, in double precision: against plain loops, and what it keeps in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from kd import inference, losses, samplers, streams, training
from kd.inference import Expectation, current_sample, running_mean

NUM_EXAMPLES, NUM_CLASSES, NUM_STEPS = 7, 3, 50
STEP_SIZE, RATE = 0.05, 0.3
RNG = np.random.default_rng(3)
X, LABELS = RNG.normal(size=(NUM_EXAMPLES, 2)), RNG.integers(NUM_CLASSES, size=NUM_EXAMPLES)
# Algorithm 1 of Vadera et al.; and that of Balan et al., Bayesian Dark Knowledge: the current
# sample, a student's step with each of the chain's, noisy inputs, a prior of the student's weights.
GENERAL = {"estimator": running_mean(), "thin": 3, "burn_in": 4, "noise": 0.0, "decay": 0.0}
DARK = {"estimator": current_sample(), "thin": 1, "burn_in": 0, "noise": 0.1, "decay": 0.2}


def log_prob_fn(w, x):
    return jax.nn.log_softmax(w @ x)


def data_stream():
    return streams.resample({"x": jnp.asarray(X), "y": jnp.asarray(LABELS)}, 2)


def inputs_stream(noise, num_examples=NUM_EXAMPLES):
    data = {"x": jnp.asarray(np.resize(X, (num_examples, 2))), "index": jnp.arange(num_examples)}
    inputs = streams.resample(data, 3)
    return streams.with_noise(inputs, scale=noise) if noise else inputs


def loop(*, estimator, thin, burn_in, noise, decay, num_examples=NUM_EXAMPLES):
    """The stream and the student's update, as a user writes them."""
    log_posterior_fn = samplers.minibatch_log_posterior(
        lambda w: -0.5 * jnp.sum(w**2),
        lambda w, one: log_prob_fn(w, one["x"])[one["y"]],
        num_examples=NUM_EXAMPLES,
    )
    stream = streams.posterior_expectations(
        samplers.sgld(
            log_posterior_fn, data_stream(), step_size=STEP_SIZE, normal_fn=jax.random.normal
        ),
        jnp.zeros((NUM_CLASSES, 2)),
        log_prob_fn,
        {"probs": Expectation(inference.predictive, estimator)},
        inputs_stream(noise, num_examples),
        num_examples=num_examples,
        thin=thin,
        burn_in=burn_in,
    )

    def objective(w, batch):
        log_probs = jax.vmap(lambda x: log_prob_fn(w, x))(batch["x"])
        found = jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, batch["probs"]))
        return found + 0.5 * decay * jnp.sum(w**2)

    return stream, training.gradient(objective, optax.sgd(RATE))


def by_hand(key, *, estimator, thin, burn_in, noise, decay):
    """The same with the library's random numbers, and nothing else of it."""
    data, inputs = data_stream(), inputs_stream(noise)
    stream_key, step_key = jax.random.split(key)
    chain_key, inputs_key = jax.random.split(stream_key)
    init_key, burn_in_key = jax.random.split(chain_key)
    data_state, w = data.init(init_key), np.zeros((NUM_CLASSES, 2))
    inputs_state = inputs.init(inputs_key)

    def langevin(key, data_state, w):
        data_key, noise_key = jax.random.split(key)
        data_state, batch = data.next(data_key, data_state)
        gradient = -w
        for x, y in zip(np.asarray(batch["x"]), np.asarray(batch["y"]), strict=True):
            probs = oracles.softmax(w @ x)
            gradient = gradient + NUM_EXAMPLES / 2 * np.outer(np.eye(NUM_CLASSES)[y] - probs, x)
        normal = np.asarray(jax.random.normal(noise_key, w.shape))
        return data_state, w + STEP_SIZE / 2 * gradient + np.sqrt(STEP_SIZE) * normal

    for index in range(burn_in):
        data_state, w = langevin(jax.random.fold_in(burn_in_key, index), data_state, w)
    sums, counts = np.zeros((NUM_EXAMPLES, NUM_CLASSES)), np.zeros(NUM_EXAMPLES)
    student = np.zeros_like(w)
    for step in range(NUM_STEPS):
        chain_key, inputs_key = jax.random.split(jax.random.fold_in(step_key, step))
        kept_key = jax.random.fold_in(chain_key, 0)
        keys = [kept_key] if thin == 1 else [jax.random.fold_in(kept_key, i) for i in range(thin)]
        for one in keys:
            data_state, w = langevin(one, data_state, w)
        inputs_state, batch = inputs.next(inputs_key, inputs_state)
        x, numbers = np.asarray(batch["x"]), np.asarray(batch["index"]).tolist()
        if estimator.remembers:
            for number in set(numbers):
                sums[number] += oracles.softmax(w @ X[number])
                counts[number] += 1
            targets = [sums[number] / counts[number] for number in numbers]
        else:
            targets = [oracles.softmax(w @ one) for one in x]
        slopes = [
            np.outer(oracles.softmax(student @ one) - target, one)
            for one, target in zip(x, targets, strict=True)
        ]
        student = student - RATE * (np.mean(slopes, axis=0) + decay * student)
    return w, counts, student


@pytest.mark.parametrize("given", [GENERAL, DARK], ids=["Vadera et al.", "Bayesian Dark Knowledge"])
def test_fifty_steps_are_those_of_plain_loops(given, x64):
    key = jax.random.key(9)
    stream, update = loop(**given)
    start = update.init(jnp.zeros((NUM_CLASSES, 2)))
    final = training.fit(key, stream, update, start, NUM_STEPS)
    w, counts, student = by_hand(key, **given)
    assert np.linalg.norm(w) > 1 and np.linalg.norm(student) > 0.4
    np.testing.assert_allclose(final.stream.chain.sampler.position, w, rtol=1e-10)
    np.testing.assert_allclose(final.student.params, student, rtol=1e-10)
    if given["estimator"].remembers:
        np.testing.assert_array_equal(final.stream.counts, counts)
    else:
        assert final.stream.counts == () and final.stream.memories == {}


def peak(num_steps, **given):
    """Bytes that the compiled loop has at once, its state among them."""
    stream, update = loop(**given)
    state = training.init_fit(jax.random.key(0), stream, update.init(jnp.zeros((NUM_CLASSES, 2))))
    step = training.make_step(stream, update)
    whole = jax.jit(
        lambda state: jax.lax.fori_loop(0, num_steps, lambda _, state: step(state)[0], state),
        donate_argnums=0,
    )
    memory = whole.lower(state).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


@pytest.mark.parametrize("estimator", [current_sample(), running_mean()])
def test_a_longer_chain_takes_no_more_memory(estimator):
    given = GENERAL | {"estimator": estimator}
    assert peak(50, **given) == peak(50_000, **given)


def test_more_inputs_take_an_estimate_and_a_count_each_and_else_nothing():
    """Beside the inputs themselves, two numbers and an index, which the loop may hold as well."""
    few, many = 1000, 11_000

    def growth(estimator):
        given = GENERAL | {"estimator": estimator}
        return peak(50, **given, num_examples=many) - peak(50, **given, num_examples=few)

    own = growth(running_mean()) - growth(current_sample())
    assert own == 4 * (NUM_CLASSES + 1) * (many - few)
