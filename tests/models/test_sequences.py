"""Networks of sequences: padding changes nothing, features by hand, attention in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import models
from kd.losses import features

SENTENCE = jnp.array([4, 2, 7, 3], jnp.int32)
MODELS = {
    "transformer": models.Transformer(9, 8, 2, 2, 3),
    "lstm": models.LSTM(9, 6, 2, 3),
    "bidirectional": models.LSTM(9, 6, 2, 3, is_bidirectional=True),
}


def padded(x, length):
    return jnp.zeros(length, jnp.int32).at[: len(x)].set(x)


@pytest.fixture(scope="module", params=MODELS)
def made(request):
    """A network with parameters none of which is special: biases and scales are moved too."""
    model = MODELS[request.param]
    params = model.init(jax.random.key(0), SENTENCE)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return model, jax.tree.unflatten(tree, moved)


def test_padding_more_or_less_changes_nothing(made):
    model, params = made
    expected = model.apply(params, SENTENCE)
    assert expected.shape == (3,) and np.ptp(expected) > 1e-3
    whole = models.features_of(model)(params, SENTENCE)
    for length in (5, 9):
        x = padded(SENTENCE, length)
        np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-5, atol=1e-6)
        found = models.features_of(model)(params, x)
        for name in found:
            if name.startswith(("embedding", "hidden")):
                np.testing.assert_allclose(found[name][:4], whole[name], rtol=1e-5, atol=1e-5)
            elif name.startswith("attention"):
                scores = found[name][:, :4, :4]
                np.testing.assert_allclose(scores, whole[name], rtol=1e-5, atol=1e-5)


def test_what_stands_for_padding_decides_nothing_to_the_bit(made):
    model, params = made
    x = padded(SENTENCE, 7)
    other = jax.tree.map(jnp.copy, params)
    table = other["params"]["Embed_0"]["embedding"]
    other["params"]["Embed_0"]["embedding"] = table.at[0].set(1e4)
    np.testing.assert_array_equal(model.apply(params, x), model.apply(other, x))
    slope = jax.grad(lambda p: jnp.sum(model.apply(p, x) ** 2))(params)["params"]
    rows = np.asarray(jnp.any(slope["Embed_0"]["embedding"] != 0, axis=1))
    assert set(np.flatnonzero(rows)) == set(SENTENCE.tolist())


def test_order_matters(made):
    model, params = made
    first, other = model.apply(params, SENTENCE), model.apply(params, SENTENCE[::-1])
    assert np.max(np.abs(first - other)) > 1e-3


def test_a_batch_is_one_by_one(made):
    model, params = made
    batch = jnp.stack([padded(SENTENCE, 6), padded(SENTENCE[:1], 6), padded(SENTENCE[1:], 6)])
    found = jax.jit(jax.vmap(lambda x: model.apply(params, x)))(batch)
    for row, x in zip(found, batch, strict=True):
        np.testing.assert_allclose(row, model.apply(params, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("x", [[0, 0, 0], [5], [5, 0, 0]])
def test_gradients_are_finite_with_few_tokens_or_none(made, x):
    model, params = made
    x = jnp.array(x, jnp.int32)

    def loss(params):
        found = models.features_of(model)(params, x)
        return sum(jnp.sum(found[k] ** 2) for k in ("hidden_0", "hidden_1", "output"))

    value, slope = jax.value_and_grad(loss)(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_without_tokens_the_answer_is_the_one_of_a_mean_of_zeros():
    for name in ("lstm", "bidirectional"):
        model = MODELS[name]
        params = model.init(jax.random.key(0), SENTENCE)
        bias = jnp.array([1.0, -2.0, 3.0])
        params["params"]["Dense_0"]["bias"] = bias
        np.testing.assert_array_equal(model.apply(params, jnp.zeros(4, jnp.int32)), bias)


def test_names_and_shapes():
    x = padded(SENTENCE, 5)
    for name, width in (("transformer", 8), ("lstm", 6), ("bidirectional", 12)):
        model = MODELS[name]
        shapes = models.layers_of(model, model.init(jax.random.key(0), x), x)
        assert shapes["embedding"] == (5, model.size)
        assert shapes["hidden_0"] == shapes["hidden_1"] == (5, width)
        scores = {k: v for k, v in shapes.items() if k.startswith("attention")}
        expected = {"attention_0": (2, 5, 5), "attention_1": (2, 5, 5)}
        assert scores == (expected if name == "transformer" else {})


@pytest.mark.parametrize("name", ["transformer", "bidirectional"])
def test_losses_of_sequences_ignore_padding_exactly(name):
    """Values and gradients are those of the sentence alone."""
    model = MODELS[name]
    params = model.init(jax.random.key(0), SENTENCE)
    rng = np.random.default_rng(0)
    width = models.layers_of(model, params, SENTENCE)["hidden_0"][1]
    teacher = jnp.asarray(rng.normal(size=(9, width)), jnp.float32)
    scores = jnp.asarray(rng.normal(size=(2, 9, 9)), jnp.float32)

    def loss(params, x, teacher, scores):
        found = models.features_of(model)(params, x)
        mask = models.token_mask(x)
        total = features.hidden_square_error(found["hidden_1"], teacher, mask)
        total += features.position_gram_square_error(found["hidden_0"], teacher, mask)
        pair = (found["hidden_0"], found["hidden_1"])
        total += features.flow_square_error(pair, (teacher, teacher), mask)
        if name == "transformer":
            total += features.attention_square_error(found["attention_1"], scores, mask)
        return total

    size = len(SENTENCE)
    expected = jax.value_and_grad(loss)(params, SENTENCE, teacher[:size], scores[:, :size, :size])
    found = jax.value_and_grad(loss)(params, padded(SENTENCE, 9), teacher, scores)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )
    # To the bit, whatever a teacher says of padding.
    here = jnp.arange(9) < size
    teacher = jnp.where(here[:, None], teacher, jnp.nan)
    scores = jnp.where(here[:, None] & here[None, :], scores, jnp.nan)
    again = jax.value_and_grad(loss)(params, padded(SENTENCE, 9), teacher, scores)
    jax.tree.map(np.testing.assert_array_equal, again, found)


# By hand.


def norm(h, layer):
    centred = h - h.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * layer["scale"] + layer["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_a_transformer_in_numpy():
    model = models.Transformer(9, 8, 1, 2, 3)
    params = model.init(jax.random.key(3), SENTENCE)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    tokens = np.asarray(SENTENCE)
    embedding = layers["Embed_0"]["embedding"][tokens]
    positions = np.arange(4)[:, None] / 10_000 ** (np.arange(4) / 4)
    h = 8**0.5 * embedding + np.concatenate([np.sin(positions), np.cos(positions)], axis=1)
    own = layers["Attention_0"]
    before = norm(h, layers["LayerNorm_0"])
    q, k, v = (
        np.einsum("ld,dhe->hle", before, own[name]["kernel"]) + own[name]["bias"][:, None]
        for name in ("query", "key", "value")
    )
    scores = q @ k.transpose(0, 2, 1) / 4**0.5
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("hle,hed->ld", weights @ v, own["out"]["kernel"]) + own["out"]["bias"]
    h = h + mixed
    wide = norm(h, layers["LayerNorm_1"]) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    h = h + gelu(wide) @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]
    mean = norm(h, layers["LayerNorm_2"]).mean(axis=0)
    logits = mean @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"]
    found = models.features_of(model)(params, SENTENCE)
    expected = {"embedding": embedding, "attention_0": scores, "hidden_0": h, "output": logits}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def lstm_by_hand(inputs, cell):
    """One direction, a gate at a time."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    size = cell["hi"]["bias"].size
    h, c, states = np.zeros(size), np.zeros(size), []
    for x in inputs:
        gates = {
            g: x @ cell[f"i{g}"]["kernel"] + h @ cell[f"h{g}"]["kernel"] + cell[f"h{g}"]["bias"]
            for g in "ifgo"
        }
        c = sigmoid(gates["f"]) * c + sigmoid(gates["i"]) * np.tanh(gates["g"])
        h = sigmoid(gates["o"]) * np.tanh(c)
        states.append(h)
    return np.array(states)


def test_an_lstm_in_numpy():
    model = models.LSTM(9, 6, 1, 3, is_bidirectional=True)
    params = model.init(jax.random.key(4), SENTENCE)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    cells = sorted(name for name in layers if name.startswith("OptimizedLSTMCell"))
    assert len(cells) == 2
    x = 6**0.5 * layers["Embed_0"]["embedding"][np.asarray(SENTENCE)]
    forwards = lstm_by_hand(x, layers[cells[0]])
    backwards = lstm_by_hand(x[::-1], layers[cells[1]])[::-1]
    hidden = np.concatenate([forwards, backwards], axis=1)
    last = layers["Dense_0"]
    logits = hidden.mean(axis=0) @ last["kernel"] + last["bias"]
    found = models.features_of(model)(params, padded(SENTENCE, 7))
    np.testing.assert_allclose(found["hidden_0"][:4], hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["output"], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_sinusoids_by_loops(size):
    found = models.sinusoids(6, size)
    assert found.shape == (6, size) and found.dtype == np.float32
    half = -(-size // 2)
    for place in range(6):
        for index in range(size):
            angle = place / 10 ** (4 * (index % half) / half)
            expected = np.sin(angle) if index < half else np.cos(angle)
            assert found[place, index] == pytest.approx(expected, abs=1e-6)


# Dropout, and what is refused.


@pytest.mark.parametrize(
    "model", [models.LSTM(9, 400, 1, 3, dropout_rate=0.3), MODELS["transformer"]]
)
def test_dropout_is_off_by_default(model):
    model = model.clone(dropout_rate=0.3)
    params = model.init(jax.random.key(0), SENTENCE)
    whole = model.apply(params, SENTENCE)
    np.testing.assert_array_equal(whole, model.clone(dropout_rate=0.0).apply(params, SENTENCE))
    rngs = {"dropout": jax.random.key(1)}
    dropped = model.apply(params, SENTENCE, deterministic=False, rngs=rngs)
    assert np.max(np.abs(dropped - whole)) > 1e-4
    if isinstance(model, models.LSTM):
        fn = models.features_of(model, ["hidden_0"])
        hidden = fn(params, SENTENCE, deterministic=False, rngs=rngs)["hidden_0"]
        share = float(jnp.mean(hidden == 0))
        assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / hidden.size)


@pytest.mark.parametrize(
    ("model", "x", "error", "expected"),
    [
        (models.Transformer(9, 9, 1, 2, 3), SENTENCE, ValueError, "size must be a multiple of"),
        (models.Transformer(9, 8, 1, 0, 3), SENTENCE, ValueError, "num_heads"),
        (models.Transformer(9, 8, 1, 2, 3, 0), SENTENCE, ValueError, "expansion"),
        (models.LSTM(0, 8, 1, 3), SENTENCE, ValueError, "num_tokens"),
        (models.LSTM(9, 8, 0, 3), SENTENCE, ValueError, "num_layers"),
        (models.LSTM(9, 8, 1, 3, dropout_rate=2.0), SENTENCE, ValueError, "dropout_rate"),
        (MODELS["lstm"], SENTENCE[None], ValueError, "x must have rank 1"),
        (MODELS["lstm"], SENTENCE[:0], ValueError, "the length of x"),
        (MODELS["transformer"], jnp.ones(4), TypeError, "x must hold integers, got float32"),
    ],
)
def test_raises(model, x, error, expected):
    with pytest.raises(error, match=expected):
        jax.eval_shape(model.init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="length"):
        models.sinusoids(0, 4)


@pytest.mark.parametrize("token", [-1, 9])
def test_words_that_are_not_there(token):
    """Refused where they are known; NaN under jit."""
    for model in (
        models.Transformer(num_tokens=9, size=4, num_layers=1, num_heads=2, num_outputs=2),
        models.LSTM(num_tokens=9, size=4, num_layers=1, num_outputs=2),
    ):
        x = jnp.array([4, 8, 7, 0])
        params = model.init(jax.random.key(0), x)
        wrong = x.at[1].set(token)
        with pytest.raises(ValueError, match=r"tokens must hold integers in \[0, 9\)"):
            model.apply(params, wrong)
        assert np.all(np.isnan(jax.jit(model.apply)(params, wrong)))
        assert np.all(np.isfinite(jax.jit(model.apply)(params, x)))
