"""kd.streams.label and label_dataset: direct labels, and how often the teacher is asked."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd import streams
from kd.models import from_predict_proba

SIZES = (4, 5, 3)
PARAMS = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), oracles.tanh_params(0, SIZES))
DATA = {
    "x": jnp.array(np.random.default_rng(0).normal(size=(11, 2, 2)), jnp.float32),
    "y": jnp.arange(11),
}


def network(params, x):
    hidden = jnp.tanh(jnp.reshape(x, -1) @ params["w1"] + params["b1"])
    return jax.nn.log_softmax(hidden @ params["w2"] + params["b2"])


def teacher_fn(x):
    return network(PARAMS, x)


def direct_labels(xs):
    """Log-probabilities and Jacobians by NumPy and central differences."""
    fn = lambda x: oracles.log_softmax(oracles.tanh_network(PARAMS, x))
    xs = np.array(xs, np.float64)
    return (
        np.stack([fn(x) for x in xs]),
        np.stack([oracles.central_jacobian(fn, x) for x in xs]),
    )


class Counted:
    """A teacher on the host that remembers how many examples each question held."""

    def __init__(self):
        self.questions = []
        self.teacher_fn = from_predict_proba(self.answer, num_classes=2)

    def answer(self, x):
        self.questions.append(len(x))
        p = 1 / (1 + np.exp(-np.asarray(x).sum(1)))
        return np.stack([p, 1 - p], axis=1)


def collect(stream, num_batches, key=0):
    init_key, step_key = jax.random.split(jax.random.key(key))
    state, next_ = jax.jit(stream.init)(init_key), jax.jit(stream.next)
    batches = []
    for step in range(num_batches):
        state, batch = next_(jax.random.fold_in(step_key, step), state)
        batches.append(jax.tree.map(np.array, batch))
    return batches


@pytest.mark.parametrize("num_batches", [1, 3])
@pytest.mark.parametrize("derivatives", [None, "jacobian", "projected"])
def test_labels_are_the_direct_computation_on_the_same_inputs(num_batches, derivatives):
    inner = streams.resample(DATA, 4)
    plain = collect(inner, 7)
    if derivatives == "projected":
        inner = streams.with_signs(inner, num_projections=2, num_classes=3)
    stream = streams.label(inner, teacher_fn, derivatives=derivatives, num_batches=num_batches)
    batches = collect(stream, 7)
    added = {None: set(), "jacobian": {"teacher_jacobian"}, "projected": {"signs", "teacher_vjps"}}[
        derivatives
    ]
    for batch, expected in zip(batches, plain, strict=True):
        assert set(batch) == {"x", "y", "teacher_log_probs"} | added
        for name in ("x", "y"):
            np.testing.assert_array_equal(batch[name], expected[name])
        log_probs, jacobians = direct_labels(batch["x"])
        np.testing.assert_allclose(batch["teacher_log_probs"], log_probs, rtol=1e-4, atol=1e-5)
        if derivatives == "jacobian":
            np.testing.assert_allclose(batch["teacher_jacobian"], jacobians, rtol=1e-3, atol=1e-5)
        if derivatives == "projected":
            vjps = np.einsum("bpc,bchw->bphw", batch["signs"], jacobians)
            np.testing.assert_allclose(batch["teacher_vjps"], vjps, rtol=1e-3, atol=1e-5)
    if derivatives == "projected":
        signs = np.stack([batch["signs"] for batch in batches]).reshape(7, -1)
        assert len(np.unique(signs, axis=0)) == 7


@pytest.mark.parametrize("num_batches", [1, 3])
def test_random_inputs_are_fresh_in_every_block(num_batches):
    stream = streams.label(streams.gaussian_noise((4,), 2), teacher_fn, num_batches=num_batches)
    batches = collect(stream, 7)
    xs = np.stack([batch["x"] for batch in batches])
    assert len(np.unique(xs)) == xs.size
    got = np.concatenate([batch["teacher_log_probs"] for batch in batches])
    np.testing.assert_allclose(got, direct_labels(xs.reshape(-1, 4))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_batches", [1, 3])
def test_the_teacher_is_asked_once_a_block(num_batches):
    teacher = Counted()
    stream = streams.label(streams.resample(DATA, 4), teacher.teacher_fn, num_batches=num_batches)
    state, next_ = jax.jit(stream.init)(jax.random.key(0)), jax.jit(stream.next)
    jax.block_until_ready(state)
    assert teacher.questions == []
    for step in range(7):
        state, batch = jax.block_until_ready(next_(jax.random.key(step), state))
        assert teacher.questions == [4 * num_batches] * (1 + step // num_batches)
        p = 1 / (1 + np.exp(-np.array(batch["x"]).reshape(4, 4).sum(1)))
        np.testing.assert_allclose(np.exp(batch["teacher_log_probs"][:, 0]), p, rtol=1e-5)


@pytest.mark.parametrize("together", [True, False])
def test_under_vmap_too_and_each_member_has_its_own_block(together):
    """Three streams at once, in step or not, as when `fit` runs replicas side by side."""
    teacher = Counted()
    stream = streams.label(streams.gaussian_noise((4,), 2), teacher.teacher_fn, num_batches=3)
    keys = jax.random.split(jax.random.key(0), 3)
    single = jax.jit(stream.next)
    starts = [stream.init(key) for key in keys]
    if not together:
        starts[1] = single(keys[1], starts[1])[0]
    steps = [jax.random.fold_in(jax.random.key(7), step) for step in range(6)]
    expected = []
    for key, state in zip(keys, starts, strict=True):
        outputs = []
        for step in steps:
            state, batch = single(jax.random.fold_in(key, jax.random.bits(step)), state)
            outputs.append(jax.tree.map(np.array, batch))
        expected.append(outputs)

    teacher.questions.clear()
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    batched = jax.jit(jax.vmap(stream.next))
    asked = []
    for i, step in enumerate(steps):
        step_keys = jnp.stack([jax.random.fold_in(key, jax.random.bits(step)) for key in keys])
        state, batch = jax.block_until_ready(batched(step_keys, state))
        asked.append(len(teacher.questions))
        for member in range(3):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a[member], b, rtol=1e-5),  # noqa: B023
                batch,
                expected[member][i],
            )
    # A select would have asked at each of the six steps.
    assert asked == ([1, 1, 1, 2, 2, 2] if together else [1, 1, 2, 3, 3, 4])
    assert set(teacher.questions) == {3 * 3 * 2}


@pytest.mark.parametrize("derivatives", [None, "jacobian", "projected"])
def test_no_gradient_flows_into_the_teacher(derivatives):
    """In forward mode: nothing differentiates a stream, and reverse mode refuses the branch."""
    inner = streams.with_signs(streams.resample(DATA, 4), num_projections=2, num_classes=3)

    def draw(params):
        stream = streams.label(inner, lambda x: network(params, x), derivatives=derivatives)
        _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
        return {name: leaf for name, leaf in batch.items() if name.startswith("teacher")}

    labels, tangents = jax.jit(lambda params: jax.jvp(draw, (params,), (params,)))(PARAMS)
    assert len(labels) == (1 if derivatives is None else 2)
    for label, tangent in zip(labels.values(), tangents.values(), strict=True):
        assert np.all(label != 0)
        np.testing.assert_array_equal(tangent, np.zeros_like(label))


def test_projections_in_double_precision(x64):
    """Signs are float32; a teacher's cotangents must have the dtype of its values."""
    data = {"x": jnp.array(np.random.default_rng(1).normal(size=(6, 4)))}
    inner = streams.with_signs(streams.resample(data, 4), num_projections=2, num_classes=3)
    (batch,) = collect(streams.label(inner, teacher_fn, derivatives="projected"), 1)
    log_probs, jacobians = direct_labels(batch["x"])
    np.testing.assert_allclose(batch["teacher_log_probs"], log_probs, rtol=1e-12)
    vjps = np.einsum("bpc,bcd->bpd", batch["signs"], jacobians)
    np.testing.assert_allclose(batch["teacher_vjps"], vjps, rtol=1e-6, atol=1e-9)


def test_label_raises():
    inner = streams.resample(DATA, 4)
    message = "derivatives must be one of None, jacobian, projected; got 'hessian'"
    with pytest.raises(ValueError, match=message):
        streams.label(inner, teacher_fn, derivatives="hessian")
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        streams.label(inner, teacher_fn, num_batches=0)


@pytest.mark.parametrize("block_size", [1, 4, 11, 400])
@pytest.mark.parametrize("derivatives", [None, "jacobian"])
def test_label_dataset_is_the_direct_computation(block_size, derivatives):
    seen = []
    labelled = streams.label_dataset(
        DATA, teacher_fn, derivatives=derivatives, block_size=block_size, on_block=seen.append
    )
    log_probs, jacobians = direct_labels(DATA["x"])
    np.testing.assert_allclose(labelled["teacher_log_probs"], log_probs, rtol=1e-4, atol=1e-5)
    if derivatives:
        np.testing.assert_allclose(labelled["teacher_jacobian"], jacobians, rtol=1e-3, atol=1e-5)
    else:
        assert "teacher_jacobian" not in labelled
    assert labelled["x"] is DATA["x"] and labelled["y"] is DATA["y"]
    assert seen == [min(start + block_size, 11) for start in range(0, 11, block_size)]


@pytest.mark.parametrize("block_size, questions", [(4, [4, 4, 4]), (11, [11]), (400, [11])])
def test_label_dataset_asks_in_blocks_of_one_size(block_size, questions):
    teacher = Counted()
    labelled = streams.label_dataset(DATA, teacher.teacher_fn, block_size=block_size)
    p = 1 / (1 + np.exp(-np.array(DATA["x"]).reshape(11, 4).sum(1)))
    np.testing.assert_allclose(np.exp(labelled["teacher_log_probs"][:, 0]), p, rtol=1e-5)
    assert teacher.questions == questions


@pytest.mark.parametrize("derivatives, size", [(None, 11 * 3 * 4), ("jacobian", 11 * 3 * 5 * 4)])
def test_cache_bytes_is_what_the_labels_take(derivatives, size):
    needed = streams.cache_bytes(DATA, teacher_fn, derivatives=derivatives)
    labelled = streams.label_dataset(DATA, teacher_fn, derivatives=derivatives)
    actual = sum(leaf.nbytes for name, leaf in labelled.items() if name not in DATA)
    assert needed == actual == size


@pytest.mark.parametrize("derivatives", [None, "jacobian"])
def test_a_density_is_no_teacher_of_classes(derivatives):
    message = r"log-probabilities \[C\], got shape \(\); evaluate a log-density in the objective"
    density, data = (lambda x: -jnp.sum(x**2)), {"x": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match=message):
        streams.label_dataset(data, density, derivatives=derivatives)
    stream = streams.label(streams.resample(data, 2), density, derivatives=derivatives)
    with pytest.raises(ValueError, match=message):
        stream.next(jax.random.key(1), stream.init(jax.random.key(0)))


def test_a_cache_that_is_too_large_is_refused_before_it_is_computed():
    teacher = Counted()
    needed = streams.cache_bytes(DATA, teacher.teacher_fn)
    assert needed == 11 * 2 * 4
    message = f"would take {needed / 1e9:.3g} GB and {(needed - 1) / 1e9:.3g} GB are allowed"
    with pytest.raises(streams.CacheTooLargeError, match=re.escape(message)):
        streams.label_dataset(DATA, teacher.teacher_fn, max_bytes=needed - 1)
    assert teacher.questions == []
    assert issubclass(streams.CacheTooLargeError, ValueError)
    streams.label_dataset(DATA, teacher.teacher_fn, max_bytes=needed)
    assert teacher.questions == [11]


def test_label_dataset_raises():
    for derivatives in ("projected", "hessian"):
        message = f"derivatives must be one of None, jacobian; got '{derivatives}'"
        with pytest.raises(ValueError, match=message):
            streams.label_dataset(DATA, teacher_fn, derivatives=derivatives)
        with pytest.raises(ValueError, match=message):
            streams.cache_bytes(DATA, teacher_fn, derivatives=derivatives)
    for block_size in (0, -5):
        with pytest.raises(ValueError, match=f"block_size must be at least 1, got {block_size}"):
            streams.label_dataset(DATA, teacher_fn, block_size=block_size)
    with pytest.raises(ValueError, match="data must hold arrays with one common length"):
        streams.label_dataset({**DATA, "y": jnp.arange(3)}, teacher_fn)
    for data, found in [
        (jnp.ones(3), "ArrayImpl"),
        ({"image": jnp.ones(3)}, "the keys ['image']"),
    ]:
        message = f"data must be a dictionary with the inputs under 'x', got {found}."
        with pytest.raises(TypeError, match=re.escape(message)):
            streams.label_dataset(data, teacher_fn)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (jnp.array([0.25, 0.75]), "example 0 their exponentials sum to 3.4"),
        (jnp.array([jnp.nan, 0.0]), "sum to nan"),
        (jnp.array([-jnp.inf, -jnp.inf]), "sum to 0"),
    ],
    ids=["probabilities", "NaN", "no class at all"],
)
def test_label_dataset_refuses_what_are_no_log_probabilities(answer, found):
    with pytest.raises(ValueError, match=f"must return log-probabilities; of .*{found}"):
        streams.label_dataset(DATA, lambda x: answer + 0 * jnp.sum(x))


def test_a_teacher_that_is_sure_or_of_low_precision_is_taken():
    sure = streams.label_dataset(DATA, lambda x: jnp.array([0.0, -jnp.inf]) + 0 * jnp.sum(x))
    assert sure["teacher_log_probs"][0].tolist() == [0.0, -jnp.inf]
    logits = jnp.linspace(-3.0, 3.0, 10).astype(jnp.bfloat16)
    streams.label_dataset(DATA, lambda x: jax.nn.log_softmax(logits))


def layers_fn(x):
    hidden = jnp.tanh(jnp.reshape(x, -1) @ PARAMS["w1"] + PARAMS["b1"])
    return {"hidden": hidden, "deep": {"sum": jnp.sum(hidden)}}


def hidden_by_hand(x):
    weights = jax.tree.map(np.asarray, PARAMS)
    return np.tanh(np.asarray(x).reshape(len(x), -1) @ weights["w1"] + weights["b1"])


@pytest.mark.parametrize("num_batches", [1, 3])
def test_features_are_those_of_the_inputs(num_batches):
    inner = streams.resample(DATA, 4)
    stream = streams.label_features(inner, layers_fn, name="told", num_batches=num_batches)
    for batch, plain in zip(collect(stream, 5), collect(inner, 5), strict=True):
        hidden = hidden_by_hand(batch["x"])
        np.testing.assert_allclose(batch["told"]["hidden"], hidden, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch["told"]["deep"]["sum"], hidden.sum(1), rtol=1e-4)
        if num_batches == 1:
            np.testing.assert_array_equal(batch["x"], plain["x"])
    with pytest.raises(ValueError, match="num_batches"):
        streams.label_features(inner, layers_fn, num_batches=0)
    with pytest.raises(ValueError, match="there is 'y' in a batch already"):
        collect(streams.label_features(inner, layers_fn, name="y"), 1)
    with pytest.raises(ValueError, match="features_fn returns no array"):
        collect(streams.label_features(inner, lambda x: None), 1)


@pytest.mark.parametrize("block_size", [3, 11, 400])
def test_features_of_a_data_set_once(block_size):
    found = streams.features_dataset(DATA, layers_fn, block_size=block_size)
    assert set(found) == {"x", "y", "teacher_features"}
    hidden = hidden_by_hand(DATA["x"])
    np.testing.assert_allclose(found["teacher_features"]["hidden"], hidden, rtol=1e-5, atol=1e-6)
    assert found["teacher_features"]["deep"]["sum"].shape == (11,)


def test_features_of_a_data_set_that_will_not_do():
    needed = 11 * (SIZES[1] + 1) * 4
    streams.features_dataset(DATA, layers_fn, max_bytes=needed)
    with pytest.raises(streams.CacheTooLargeError, match="the teacher's features would take"):
        streams.features_dataset(DATA, layers_fn, max_bytes=needed - 1)
    with pytest.raises(ValueError, match=r"features\['told'\] must be finite"):
        streams.features_dataset(DATA, lambda x: {"told": jnp.nan * jnp.sum(x)})
    with pytest.raises(ValueError, match="block_size"):
        streams.features_dataset(DATA, layers_fn, block_size=0)
    with pytest.raises(TypeError, match="data must be a dictionary"):
        streams.features_dataset(jnp.ones(3), layers_fn)


def test_no_gradient_flows_through_the_features_of_a_data_set():
    def total(scale):
        data = {"x": jnp.arange(6.0).reshape(3, 2)}
        found = streams.features_dataset(data, lambda x: {"sum": scale * jnp.sum(x)})
        return jnp.sum(found["teacher_features"]["sum"])

    assert float(jax.grad(total)(2.0)) == 0


def test_what_else_is_in_a_batch_need_not_be_of_its_inputs():
    """As the batch's number: features and answers of a numbered stream are those of another."""
    plain = streams.resample(DATA, 4)
    teacher_fn = lambda x: jax.nn.log_softmax(x.ravel()[:2])
    for add in (
        lambda s: streams.label_features(s, layers_fn, num_batches=3),
        lambda s: streams.label(s, teacher_fn, num_batches=3),
    ):
        one, other = streams.numbered(add(plain)), add(streams.numbered(plain))
        states = [stream.init(jax.random.key(0)) for stream in (one, other)]
        for step in range(5):
            found = []
            for index, stream in enumerate((one, other)):
                states[index], batch = stream.next(jax.random.key(step), states[index])
                found.append(batch)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)
            assert found[0]["step"] == step


def test_entries_that_are_there_already_and_inputs_that_are_not():
    with pytest.raises(ValueError, match="there is 'y' in a batch already"):
        streams.features_dataset(DATA, layers_fn, name="y")
    stream = streams.map_batch(lambda batch: {"z": batch["x"]}, streams.resample(DATA, 4))
    labelled = streams.label_features(stream, layers_fn)
    with pytest.raises(ValueError, match="a batch has no 'x'; it has z"):
        labelled.next(jax.random.key(0), labelled.init(jax.random.key(0)))


def test_noise_is_of_an_array():
    stream = streams.with_relative_noise(
        streams.label_features(streams.resample(DATA, 4), layers_fn), "teacher_features", scale=0.1
    )
    with pytest.raises(TypeError, match="must be an array, got dict"):
        stream.next(jax.random.key(0), stream.init(jax.random.key(0)))
