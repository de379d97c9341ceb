"""Posterior expectations from a chain: against stored samples, closed forms, and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from kd import inference, losses, models, samplers, streams, training
from kd.inference import Expectation, current_sample, running_mean
from kd.streams import CacheTooLargeError, posterior_expectations
from kd.types import Sampler, Stream

NUM_EXAMPLES, NUM_CLASSES = 7, 3
# Numbers that are exact in single precision.
X = np.random.default_rng(0).normal(size=(NUM_EXAMPLES, 2)).astype(np.float32).astype(float)
DATA = {"x": jnp.asarray(X, jnp.float32), "index": jnp.arange(NUM_EXAMPLES)}
# Independent weights at every step.
NOISE = Sampler(lambda w, key=None: w, lambda key, w: (jax.random.normal(key, w.shape), ()))


def log_prob_fn(w, x):
    return jax.nn.log_softmax(w @ x)


def expectations(estimator):
    return {
        "probs": Expectation(inference.predictive, estimator),
        "entropy": Expectation(inference.entropy, estimator),
    }


def stream_of(found, *, batch_size=3, num_chains=None, sampler=NOISE, **options):
    leading = () if num_chains is None else (num_chains,)
    return posterior_expectations(
        sampler,
        jnp.zeros((*leading, NUM_CLASSES, 2)),
        log_prob_fn,
        found,
        streams.resample(DATA, batch_size),
        num_examples=NUM_EXAMPLES,
        num_chains=num_chains,
        **options,
    )


def run(stream, num_steps):
    """Every batch, one call after another."""
    state, batches = stream.init(jax.random.key(1)), []
    step = jax.jit(stream.next)
    for index in range(num_steps):
        state, batch = step(jax.random.key(100 + index), state)
        batches.append(jax.tree.map(np.asarray, batch))
    return state, batches


def values(weights, x):
    """Probabilities and entropy, in NumPy."""
    log_probs = oracles.log_softmax(np.asarray(weights, float) @ x)
    return {"probs": np.exp(log_probs), "entropy": -np.sum(np.exp(log_probs) * log_probs)}


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("num_chains", [None, 2])
@pytest.mark.parametrize(("is_double", "digits"), [(False, 2e-5), (True, 1e-12)])
def test_running_means_are_those_of_stored_samples(batch_size, num_chains, is_double, digits):
    """Of each example, over its own visits alone; with several chains over all their samples."""
    with jax.enable_x64(is_double):
        check_running_means(batch_size, num_chains, digits)


def check_running_means(batch_size, num_chains, digits):
    stream = stream_of(expectations(running_mean()), batch_size=batch_size, num_chains=num_chains)
    state, batches = run(stream, 25)
    seen = {index: [] for index in range(NUM_EXAMPLES)}
    for batch in batches:
        weights = batch["chain"]["position"]
        weights = weights if num_chains else weights[None]
        for index in set(batch["index"].tolist()):
            seen[index] += [values(one, X[index]) for one in weights]
        for row, index in enumerate(batch["index"].tolist()):
            for name in ("probs", "entropy"):
                expected = np.mean([one[name] for one in seen[index]], axis=0)
                np.testing.assert_allclose(
                    batch[name][row], expected, rtol=digits, atol=digits / 20
                )
    per_visit = num_chains or 1
    counts = [len(seen[index]) / per_visit for index in range(NUM_EXAMPLES)]
    np.testing.assert_array_equal(state.counts, counts)
    assert min(counts) >= 2


def test_an_example_that_is_twice_in_a_batch_counts_once():
    inputs = Stream(
        lambda key: (),
        lambda key, state: (state, {"x": DATA["x"][:2] * 0 + 1, "index": jnp.zeros(2, int)}),
    )
    stream = posterior_expectations(
        *(NOISE, jnp.zeros((3, 2)), log_prob_fn, expectations(running_mean()), inputs),
        num_examples=1,
    )
    state, batches = run(stream, 5)
    assert state.counts.tolist() == [5]
    expected = np.mean([values(b["chain"]["position"], np.ones(2))["probs"] for b in batches], 0)
    np.testing.assert_allclose(batches[-1]["probs"], [expected, expected], rtol=1e-5)


def test_the_current_sample_needs_no_memory_and_no_numbers():
    inputs = streams.resample({"x": DATA["x"]}, 3)
    stream = posterior_expectations(
        NOISE, jnp.zeros((3, 2)), log_prob_fn, expectations(current_sample()), inputs
    )
    state, batches = run(stream, 4)
    assert state.counts == () and state.memories == {}
    for batch in batches:
        for row in range(3):
            expected = values(batch["chain"]["position"], batch["x"][row])
            np.testing.assert_allclose(batch["probs"][row], expected["probs"], rtol=1e-5)
            np.testing.assert_allclose(batch["entropy"][row], expected["entropy"], rtol=1e-5)


@pytest.mark.parametrize("estimator", [current_sample(), running_mean()])
def test_both_estimators_are_unbiased_on_a_conjugate_model(estimator):
    """One datum y ~ N(w, 1), w ~ N(0, 1): the posterior N(y / 2, 1 / 2) has a known E Phi(w x)."""
    y = 1.5
    exact = Sampler(
        lambda w, key=None: w,
        lambda key, w: (y / 2 + jnp.sqrt(0.5) * jax.random.normal(key), ()),
    )

    def probit(w, x):
        return jnp.stack([jax.scipy.stats.norm.logcdf(w * x), jax.scipy.stats.norm.logcdf(-w * x)])

    places = jnp.array([0.5, 1.0, -3.0])
    stream = posterior_expectations(
        exact,
        jnp.array(0.0),
        probit,
        {"probs": Expectation(inference.predictive, estimator)},
        Stream(lambda key: (), lambda key, state: (state, {"x": places, "index": jnp.arange(3)})),
        num_examples=3,
    )

    def step(state, key):
        state, batch = stream.next(key, state)
        return state, batch["probs"]

    keys = jax.random.split(jax.random.key(5), 20_000)
    _, found = jax.jit(lambda s: jax.lax.scan(step, s, keys))(stream.init(jax.random.key(0)))
    from scipy import stats

    expected = stats.norm.cdf(np.array(places) * y / 2 / np.sqrt(1 + 0.5 * np.array(places) ** 2))
    if estimator.remembers:
        np.testing.assert_allclose(found[-1, :, 0], expected, atol=0.01)
        # At the third visit too, on average over chains.
        early = jax.jit(jax.vmap(lambda keys: jax.lax.scan(step, stream.init(keys[0]), keys)[1]))
        third = early(keys[:18_000].reshape(6000, 3))[:, -1, :, 0]
        np.testing.assert_allclose(third.mean(0), expected, atol=5 * third.std(0).max() / 6000**0.5)
    else:
        np.testing.assert_allclose(found[:, :, 0].mean(0), expected, atol=0.01)
        assert found[:, :, 0].std(0).min() > 0.1


def test_several_kinds_at_once_from_one_chain():
    found = {
        "now": Expectation(inference.predictive, current_sample()),
        "mean": Expectation(inference.predictive, running_mean()),
        "knowledge": inference.mutual_information(),
        "quartiles": Expectation(
            inference.predictive, inference.running_quantiles([0.25, 0.5, 0.75])
        ),
    }
    state, batches = run(stream_of(found), 30)
    assert set(state.memories) == {"mean", "knowledge", "quartiles"}
    last = batches[-1]
    assert last["quartiles"].shape == (3, 3, NUM_CLASSES) and last["knowledge"].shape == (3,)
    assert (last["knowledge"] > 0).all()
    entropy = -np.sum(last["mean"] * np.log(last["mean"]), axis=-1)
    assert (last["knowledge"] < entropy).all()


def test_several_chains_by_themselves():
    """As if each were a stream of its own with the same inputs; means are what pooling gives."""
    kinds = {
        "knowledge": inference.mutual_information(),
        "quartile": Expectation(inference.predictive, inference.running_quantiles([0.25])),
        "probs": Expectation(inference.predictive, running_mean()),
        "now": Expectation(inference.predictive, current_sample()),
    }
    found = {name: inference.each_chain(one, 3) for name, one in kinds.items()}
    found |= {f"pooled.{name}": kinds[name] for name in ("knowledge", "probs", "now")}
    found["each"] = inference.each_chain(kinds["knowledge"], 3, lambda each: each)
    found["spread"] = inference.each_chain(kinds["probs"], 3, lambda each: jnp.std(each, axis=0))
    found["log_probs"] = Expectation(lambda log_probs: log_probs, inference.current_samples())
    state, batches = run(stream_of(found, batch_size=7, num_chains=3), 12)
    visits = [[] for _ in range(7)]
    for batch in batches:
        for index, log_probs in zip(batch["index"], batch["log_probs"], strict=True):
            visits[int(index)].append(np.asarray(log_probs, np.float64))
    last = batches[-1]
    for place, index in enumerate(last["index"]):
        probs = np.exp(np.stack(visits[int(index)]))  # [visits, 3, C].
        assert len(probs) == 12
        means = probs.mean(0)
        knowledge = entropy_of(means) - entropy_of(probs).mean(0)
        np.testing.assert_allclose(last["each"][place], knowledge, atol=1e-6)
        np.testing.assert_allclose(last["knowledge"][place], knowledge.mean(), atol=1e-6)
        pooled = entropy_of(means.mean(0)) - entropy_of(probs).mean()
        np.testing.assert_allclose(last["pooled.knowledge"][place], pooled, atol=1e-6)
        assert pooled > knowledge.mean()
        np.testing.assert_allclose(last["spread"][place], means.std(0), atol=1e-6)
        quantile = inference.running_quantiles([0.25])
        memories = [quantile.init(jax.ShapeDtypeStruct((NUM_CLASSES,), jnp.float32))] * 3
        for count, visit in enumerate(probs, start=1):
            steps = [
                quantile.step(memory, jnp.asarray(own[None], jnp.float32), jnp.float32(count))
                for memory, own in zip(memories, visit, strict=True)
            ]
            memories = [memory for memory, _ in steps]
        expected = np.mean([estimate for _, estimate in steps], axis=0)
        np.testing.assert_allclose(last["quartile"][place], expected, atol=1e-6)
    for name in ("probs", "now"):
        np.testing.assert_allclose(last[name], last[f"pooled.{name}"], atol=1e-6)
    assert jax.tree.leaves(state.memories["probs"])[0].shape == (7, 3, NUM_CLASSES)


def entropy_of(probs):
    return -np.sum(probs * np.log(probs), axis=-1)


def test_chains_by_themselves_that_are_not_as_many():
    mean = Expectation(inference.predictive, running_mean())
    with pytest.raises(ValueError, match="each_chain is of num_chains = 2, and a visit has 3"):
        stream_of({"probs": inference.each_chain(mean, 2)}, num_chains=3)
    with pytest.raises(ValueError, match="num_chains"):
        inference.each_chain(mean, 0)
    with pytest.raises(TypeError, match="expectation"):
        inference.each_chain(inference.predictive, 2)
    with pytest.raises(TypeError, match="combine_fn must be a function, got 1"):
        inference.each_chain(mean, 2, 1)


def test_no_gradient_flows_into_a_teacher():
    """Even where a stream is differentiated, which is not what it is for."""
    stream = stream_of(expectations(running_mean()))
    state = stream.init(jax.random.key(0))

    def total(x):
        _, batch = stream.next(jax.random.key(1), state._replace(chain=state.chain))
        return jnp.sum(batch["probs"]) + 0 * x

    assert jax.grad(total)(1.0) == 0


def test_a_saved_state_goes_on_as_if_never_stopped(tmp_path):
    from kd.training.checkpoint import Checkpointer

    stream = stream_of(expectations(running_mean()), num_chains=2)
    update = training.store("probs")
    start = update.init(jnp.zeros((60, NUM_CLASSES)))
    whole = training.fit(jax.random.key(0), stream, update, start, 20)
    checkpointer = Checkpointer(tmp_path, every_seconds=0)
    training.fit(jax.random.key(0), stream, update, start, 11, checkpointer=checkpointer)
    resumed = training.fit(jax.random.key(0), stream, update, start, 20, checkpointer=checkpointer)
    jax.tree.map(np.testing.assert_array_equal, whole.student, resumed.student)
    jax.tree.map(np.testing.assert_array_equal, whole.stream.memories, resumed.stream.memories)


def test_raises():
    arguments = (NOISE, jnp.zeros((3, 2)), log_prob_fn)
    mean = expectations(running_mean())
    with pytest.raises(ValueError, match="the number of expectations"):
        posterior_expectations(*arguments, {}, streams.resample(DATA, 2))
    with pytest.raises(ValueError, match="must not be named 'chain'"):
        posterior_expectations(*arguments, {"chain": mean["probs"]}, streams.resample(DATA, 2))
    with pytest.raises(ValueError, match="num_examples must be given: probs, entropy"):
        posterior_expectations(*arguments, mean, streams.resample(DATA, 2))
    with pytest.raises(ValueError, match="under 'index'"):
        posterior_expectations(
            *arguments, mean, streams.resample({"x": DATA["x"]}, 2), num_examples=7
        )
    with pytest.raises(CacheTooLargeError, match="7 examples would take 1.4e-07 GB"):
        stream_of(mean, max_bytes=100)
    with pytest.raises(CacheTooLargeError, match=r"2e\+04 GB and .* GB are all the memory"):
        posterior_expectations(*arguments, mean, streams.resample(DATA, 2), num_examples=10**12)
    with pytest.raises(ValueError, match="log_prob_fn's answer"):
        posterior_expectations(
            NOISE,
            jnp.zeros((3, 2)),
            lambda w, x: w,
            mean,
            streams.resample(DATA, 2),
            num_examples=7,
        )
    stream = posterior_expectations(
        *arguments,
        {"y": Expectation(inference.predictive, current_sample())},
        streams.resample(DATA | {"y": jnp.zeros(7)}, 2),
    )
    with pytest.raises(ValueError, match="inputs already have 'y'"):
        stream.next(jax.random.key(0), stream.init(jax.random.key(0)))


def test_functions_and_numbers_that_will_not_do():
    for fn, message in (
        (lambda log_probs: (log_probs, log_probs), "'g' must return one array, got tuple"),
        (lambda log_probs: None, "'g' must return one array, got NoneType"),
        (lambda log_probs: jnp.argmax(log_probs), "the value of 'g' must be floating"),
    ):
        for estimator in (running_mean(), current_sample()):
            with pytest.raises(TypeError, match=message):
                stream_of({"g": Expectation(fn, estimator)})
    with pytest.raises(TypeError, match="'index' must be integers, got float32"):
        posterior_expectations(
            *(NOISE, jnp.zeros((3, 2)), log_prob_fn, expectations(running_mean())),
            streams.resample({"x": DATA["x"], "index": jnp.arange(7.0)}, 2),
            num_examples=7,
        )


@pytest.mark.parametrize(
    "fn", [inference.entropy, lambda x: jnp.append(x, 0.0), lambda x: jnp.outer(x, x)]
)
def test_a_value_of_another_shape_than_the_loss_wants_is_refused_with_both(fn):
    """Before a step is made: the stream takes any shape, and the student's loss its own."""
    stream = stream_of({"probs": Expectation(fn, running_mean())})
    update = training.gradient(
        lambda w, batch: jnp.mean(
            jax.vmap(lambda x, t: losses.cross_entropy(log_prob_fn(w, x), t))(
                batch["x"], batch["probs"]
            )
        ),
        optax.sgd(0.1),
    )
    with pytest.raises(ValueError, match=r"the same shape, got \(3,\) and \("):
        training.fit(jax.random.key(0), stream, update, update.init(jnp.zeros((3, 2))), 2)


@pytest.mark.parametrize("loss_fn", [losses.absolute_error, losses.square_error])
@pytest.mark.parametrize("fn", [lambda x: inference.entropy(x)[None], inference.predictive])
def test_an_entropy_of_another_shape_is_refused_too(fn, loss_fn):
    """Where a difference alone would spread over the batch, or over the classes."""
    stream = stream_of({"entropy": Expectation(fn, running_mean())})

    def objective(w, batch):
        own = jax.vmap(lambda x: inference.entropy(log_prob_fn(w, x)))(batch["x"])
        return jnp.mean(jax.vmap(loss_fn)(own, batch["entropy"]))

    update = training.gradient(objective, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"the same shape, got \(\) and \("):
        training.fit(jax.random.key(0), stream, update, update.init(jnp.zeros((3, 2))), 2)


def test_quantiles_of_a_long_run_are_those_of_all_samples():
    quantiles = inference.running_quantiles([0.25, 0.5, 0.75], step_size=0.5)
    found = {
        "quartiles": Expectation(inference.predictive, quantiles),
        "all": Expectation(inference.predictive, current_sample()),
    }
    stream = stream_of(found, batch_size=NUM_EXAMPLES)
    keys = jax.random.split(jax.random.key(0), 20_000)

    def step(state, key):
        state, batch = stream.next(key, state)
        order = jnp.argsort(batch["index"])
        return state, (batch["quartiles"][order], batch["all"][order])

    _, (estimates, samples) = jax.jit(lambda s: jax.lax.scan(step, s, keys))(
        stream.init(jax.random.key(1))
    )
    expected = np.quantile(samples, [0.25, 0.5, 0.75], axis=0)  # [3, N, C].
    np.testing.assert_allclose(np.swapaxes(estimates[-1], 0, 1), expected, atol=0.04)
    assert np.median(np.ptp(expected, axis=0)) > 0.2


@pytest.mark.parametrize("number", [-1, 7, 100])
def test_a_number_of_no_example_gives_nan(number):
    inputs = streams.resample({"x": DATA["x"][:1], "index": jnp.array([number])}, 1)
    stream = posterior_expectations(
        *(NOISE, jnp.zeros((3, 2)), log_prob_fn, expectations(running_mean()), inputs),
        num_examples=7,
    )
    _, (batch,) = run(stream, 1)
    assert np.isnan(batch["probs"]).all() and np.isnan(batch["entropy"]).all()


def test_a_number_of_no_example_harms_no_other():
    """A negative one is not counted from the end."""
    inputs = streams.resample({"x": DATA["x"], "index": jnp.arange(7) - 1}, 7)
    stream = posterior_expectations(
        *(NOISE, jnp.zeros((3, 2)), log_prob_fn, expectations(running_mean()), inputs),
        num_examples=7,
    )
    state, (_, batch) = run(stream, 2)
    is_lost = np.isnan(batch["probs"]).any(axis=1)
    np.testing.assert_array_equal(is_lost, batch["index"] < 0)
    np.testing.assert_array_equal(state.counts, [2] * 6 + [0])


def test_logits_are_no_log_probabilities():
    """They are refused, and where that cannot be they make NaN, at a visit and in means."""
    found = expectations(current_sample())

    def stream_from(weights, log_prob_fn):
        inputs = streams.resample(DATA, 2)
        return posterior_expectations(NOISE, weights, log_prob_fn, found, inputs)

    with pytest.raises(ValueError, match=r"zeros their exponentials sum to 8\.15, not 1"):
        stream_from(jnp.zeros((3, 2)), lambda w, x: w @ x + 1)

    @jax.jit
    def first(weights):
        stream = stream_from(weights, lambda w, x: w @ x + 1)
        return stream.next(jax.random.key(1), stream.init(jax.random.key(0)))[1]

    for batch in (
        first(jnp.zeros((3, 2))),
        # At zeros there is nothing to see.
        run(stream_from(jnp.zeros((3, 2)), lambda w, x: w @ x - jnp.log(3.0)), 1)[1][0],
    ):
        assert np.isnan(batch["probs"]).all() and np.isnan(batch["entropy"]).all()
    update = training.monte_carlo(
        lambda w, x: w @ x + 1, {"probs": inference.predictive}, DATA["x"]
    )
    state, _ = update.apply(update.init(jnp.zeros((3, 2))), batch)
    assert np.isnan(state.means["probs"]).all()


def test_all_members_answer_together():
    members = jax.random.normal(jax.random.key(0), (4, 3, 2))
    found = {
        "mean": Expectation(inference.predictive, current_sample()),
        "each": Expectation(lambda log_probs: log_probs, inference.current_samples()),
    }
    stream = posterior_expectations(
        *(samplers.fixed(), members, log_prob_fn, found),
        streams.resample(DATA, 3),
        num_chains=4,
    )
    for batch in run(stream, 3)[1]:
        log_probs = np.array(
            [[oracles.log_softmax(np.asarray(w, float) @ x) for w in members] for x in batch["x"]]
        )
        np.testing.assert_allclose(batch["each"], log_probs, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(batch["mean"], np.exp(log_probs).mean(1), rtol=1e-5)


@pytest.mark.parametrize(
    "one",
    [inference.predictive, (inference.predictive, running_mean), inference.mutual_information],
)
def test_what_is_no_expectation_is_refused(one):
    with pytest.raises(TypeError, match="'g' must be an Expectation of a function and an"):
        stream_of({"g": one})


def test_estimators_of_ones_own_must_keep_their_memory():
    mean = running_mean()
    for estimator, message in (
        (mean._replace(step=lambda memory, values, count: values[0]), "a memory and an estimate"),
        (mean._replace(init=lambda value: jnp.zeros(value.shape, int)), "a memory like the one"),
        (mean._replace(step=lambda memory, values, count: ((), values[0])), "a memory like the"),
    ):
        with pytest.raises(TypeError, match=message):
            stream_of({"g": Expectation(inference.predictive, estimator)})


def test_half_precision_is_averaged_in_single():
    stream = stream_of({"g": Expectation(lambda x: jnp.exp(x).astype(jnp.float16), running_mean())})
    state, _ = run(stream, 2)
    assert state.memories["g"].dtype == jnp.float32


def test_inputs_that_will_not_do():
    def stream(batch):
        return posterior_expectations(
            *(NOISE, jnp.zeros((3, 2)), log_prob_fn, expectations(running_mean())),
            Stream(lambda key: (), lambda key, state: (state, batch)),
            num_examples=7,
        )

    with pytest.raises(ValueError, match="inputs must have examples under 'x'"):
        stream({"index": jnp.arange(3)})
    with pytest.raises(ValueError, match="inputs' 'index' must have rank 1"):
        stream({"x": jnp.zeros((3, 2)), "index": jnp.arange(3)[:, None]})
    taken = stream({"x": jnp.zeros((3, 2)), "index": jnp.arange(3), "chain": jnp.zeros(3)})
    with pytest.raises(ValueError, match="inputs already have 'chain'"):
        taken.next(jax.random.key(0), taken.init(jax.random.key(0)))
    with pytest.raises(TypeError, match="stream must be one of posterior_expectations"):
        streams.estimate_bytes(streams.resample(DATA, 2))
    with pytest.raises(CacheTooLargeError):
        stream_of(expectations(running_mean()), max_bytes=float("nan"))


def test_arguments_of_another_kind():
    given = (NOISE, jnp.zeros((3, 2)), log_prob_fn)
    inputs = streams.resample(DATA, 2)
    found = expectations(current_sample())
    for count in (2, 0):
        with pytest.raises(ValueError, match="num_chains"):
            posterior_expectations(*given, found, inputs, num_chains=count)
    with pytest.raises(ValueError, match="position must hold arrays"):
        posterior_expectations(NOISE, jnp.zeros(()), log_prob_fn, found, inputs, num_chains=3)
    with pytest.raises(TypeError, match="expectations must be by name, got list"):
        posterior_expectations(*given, list(found.values()), inputs)
    with pytest.raises(TypeError, match="inputs must be of type Stream, got dict"):
        posterior_expectations(*given, found, DATA)
    with pytest.raises(TypeError, match="inputs must be batches by name, got ShapeDtypeStruct"):
        posterior_expectations(*given, found, streams.map_batch(lambda batch: batch["x"], inputs))
    empty = {"none": Expectation(lambda log_probs: log_probs[:0], current_sample())}
    with pytest.raises(ValueError, match="the value of 'none' must not be empty"):
        posterior_expectations(*given, empty, inputs)


def test_means_are_of_floating_values():
    update = training.monte_carlo(log_prob_fn, {"label": jnp.argmax}, DATA["x"])
    with pytest.raises(TypeError, match="the value of 'label' must be floating, got int32"):
        update.init(jnp.zeros((3, 2)))


def test_several_starts_without_their_number_are_told_of_it():
    """The network's own error names shapes alone."""
    network = models.MLP((4,), NUM_CLASSES)
    starts = jax.vmap(lambda key: network.init(key, X[0]))(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(Exception, match="hape") as found:
        posterior_expectations(
            *(samplers.fixed(), starts, lambda w, x: jax.nn.log_softmax(network.apply(w, x))),
            *(expectations(current_sample()), streams.resample(DATA, 3)),
        )
    assert any("num_chains must say how many" in note for note in found.value.__notes__)


def test_an_absolute_error_of_single_samples_learns_their_median():
    """And that of running means the mean: what is 1 under one of five networks, else 0."""
    members = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0])
    data = {"x": jnp.ones(1), "index": jnp.zeros(1, int)}
    g = {"g": lambda log_probs: jnp.where(log_probs[0] > log_probs[1], 1.0, 0.0)}
    update = training.gradient(
        lambda p, batch: jnp.mean(jnp.abs(p - batch["g"])),
        optax.sgd(optax.linear_schedule(0.1, 0.0, 2000)),
    )
    learned = {}
    for name, estimator in (("current", current_sample()), ("running", running_mean())):
        stream = posterior_expectations(
            *(samplers.from_draws(members), members[0]),
            lambda w, x: jax.nn.log_softmax(jnp.stack([w * x, 0.5])),
            {"g": Expectation(g["g"], estimator)},
            streams.resample(data, 1),
            num_examples=1,
        )
        start = update.init(jnp.array(0.5))
        learned[name] = training.fit(jax.random.key(0), stream, update, start, 2000).student.params
    assert abs(learned["current"]) < 0.05
    assert abs(learned["running"] - 0.2) < 0.05
