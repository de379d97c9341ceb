"""The README's examples are run as they stand there."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.rbm_to_nade.estimates import exact_log_z
from experiments.rbm_to_nade.study import Teacher
from kd import derivatives, inference, losses, models, samplers, streams, training

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def block(word: str) -> str:
    (found,) = [text for text in BLOCKS if word in text]
    return found


def test_the_training_step_descends_and_is_a_screenful():
    text = block("def step")
    names = {}
    exec(compile(text, "README.md", "exec"), names)
    assert len([line for line in text.splitlines() if line.strip()]) <= 20
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "w1": 0.3 * jax.random.normal(keys[0], (5, 8)),
        "w2": 0.3 * jax.random.normal(keys[1], (8, 3)),
    }
    teacher = jax.tree.map(lambda leaf: leaf + 0.5, params)
    x = jax.random.normal(keys[2], (40, 5))
    log_probs, jacobians = jax.vmap(
        lambda x: derivatives.value_and_input_jacobian(lambda x: names["student"](teacher, x), x)
    )(x)
    batch = (x, log_probs, jacobians)

    def total(params):
        return jnp.mean(jax.vmap(names["loss"], (None, 0, 0, 0))(params, *batch))

    before = total(params)
    for _ in range(300):
        params = names["step"](params, batch)
    assert total(params) < 0.2 * before
    assert total(teacher) == pytest.approx(0, abs=1e-6)


def test_the_step_is_the_plain_gradient_step():
    names = {}
    exec(compile(block("def step"), "README.md", "exec"), names)
    params = {"w1": jnp.ones((2, 3)) * 0.1, "w2": jnp.eye(3) * 0.2}
    x, log_probs = jnp.array([[0.3, -0.2]]), jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    jacobian = jnp.ones((1, 3, 2)) * 0.1

    def loss(params):
        value, slope = derivatives.value_and_input_jacobian(
            lambda x: names["student"](params, x), x[0]
        )
        return losses.kl_divergence(value, log_probs[0]) + 0.1 * losses.derivative_square_error(
            slope, jacobian[0]
        )

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    moved = names["step"](params, (x, log_probs, jacobian))
    for name in params:
        np.testing.assert_allclose(moved[name], expected[name], rtol=1e-5)


def test_the_forest_labels_a_data_set():
    rng = np.random.default_rng(0)
    names = {
        "train_x": rng.normal(size=(60, 4)).astype(np.float32),
        "train_y": np.arange(60) % 10,
    }
    exec(compile(block("RandomForest"), "README.md", "exec"), names)
    probs = np.exp(names["labelled"]["teacher_log_probs"])
    np.testing.assert_allclose(probs, names["forest"].predict_proba(names["train_x"]), atol=1e-6)


def test_the_rbm_and_its_nade_agree_with_enumeration():
    names = {}
    # A quarter of the steps is as right, with fewer effective samples.
    text = block("contrastive_divergence")
    assert text.count(", 2000") == 2
    text = text.replace(", 2000", ", 500")
    exec(compile(text, "README.md", "exec"), names)
    teacher = Teacher(names["rbm"], names["teacher"], is_trained_here=True)
    found = inference.importance_sampling(names["log_weights"])
    assert found.effective_samples > 1000
    assert found.low < exact_log_z(teacher) < found.high


def test_ten_sigmoids_learn_a_posterior_from_its_chain():
    """Against a long run of the same chain: nearer than the posterior's mean comes."""
    names = {}
    exec(compile(block("slice_sampler"), "README.md", "exec"), names)
    samples = samplers.sample(
        jax.random.key(9), names["sampler"], jnp.zeros(2), num_samples=4000, burn_in=1000
    ).position
    x = 3 * jax.random.normal(jax.random.key(10), (500, 2))
    expected = np.mean(jax.nn.sigmoid(x @ samples.T), axis=1)
    logits = jax.vmap(lambda x: names["student"].apply(names["params"], x))(x)
    gap = np.abs(jax.nn.sigmoid(logits) - expected).mean()
    mean_gap = np.abs(jax.nn.sigmoid(x @ samples.mean(0)) - expected).mean()
    assert gap < 0.04 < mean_gap


def test_an_ensemble_is_learned_as_a_dirichlet_distribution(capsys):
    """Its uncertainty tells right from wrong, and its mean is as right as a member."""
    names = {}
    exec(compile(block("samplers.fixed()"), "README.md", "exec"), names)
    assert float(capsys.readouterr().out) > 0.85 and names["is_right"].mean() > 0.93


def test_every_name_in_the_table_of_methods_exists():
    table = (ROOT / "README.md").read_text().split("## What is where")[1]
    modules = r"losses\.features|losses|models|streams|samplers|inference|metrics|training|data"
    found = re.findall(rf"`({modules})\.(\w+)`", table)
    assert {module for module, _ in found} == set(modules.replace("\\", "").split("|"))
    for module, name in found:
        assert hasattr(importlib.import_module(f"kd.{module}"), name), name
    assert hasattr(models, "ensemble_log_probs")


def test_a_posterior_over_weights_is_learned_with_its_entropy():
    """On held-out digits: as accurate as that, and more uncertain where it is wrong."""
    names = {}
    exec(compile(block("predictive_and_entropy"), "README.md", "exec"), names)
    digits, student = names["digits"], names["student"]
    outputs = jax.vmap(lambda x: student.apply(names["params"], x))(jnp.asarray(digits.test_x))
    heads = jax.vmap(models.predictive_and_entropy)(outputs)
    labels = np.asarray(digits.test_y)
    is_right = np.argmax(heads.log_probs, axis=1) == labels
    nll = -np.mean(np.asarray(heads.log_probs)[np.arange(len(labels)), labels])
    assert is_right.mean() > 0.92 and nll < 0.3
    entropy = np.asarray(heads.entropy)
    assert entropy[~is_right].mean() > 1.5 * entropy[is_right].mean()


def test_an_lstm_may_learn_a_transformers_gram_matrices():
    """A step against the slope lowers the loss, whatever stands for padding."""
    names = {}
    exec(compile(block("negated_sentences"), "README.md", "exec"), names)
    params, x, gram = (names[name] for name in ("params", "x", "gram"))
    moved = jax.tree.map(lambda p, g: p - 1e-3 * g, params, names["slope"])
    assert 0 < float(gram(moved, x)) < float(gram(params, x))


@pytest.fixture(scope="module")
def taught_by_features():
    """The names of the block that the two after it go on from."""
    names = {}
    exec(compile(block("gaussian_process_kl"), "README.md", "exec"), names)
    return names


def test_features_are_a_prior_where_labels_are_few(taught_by_features):
    """On held-out digits: better than the same network on the same 120 labels alone."""
    names = taught_by_features
    digits, student, x, y = (names[name] for name in ("digits", "student", "x", "y"))
    update = training.gradient(
        lambda params, batch: names["likelihood"](student, params, x[:120], y[:120]),
        optax.adam(3e-3),
    )
    stream = streams.resample({"x": x[:120]}, 120)
    start = update.init(student.init(names["keys"][2], x[0]))
    alone = training.fit(jax.random.key(1), stream, update, start, 600).student.params

    def accuracy(params):
        logits = jax.vmap(lambda one: student.apply(params, one))(jnp.asarray(digits.test_x))
        return np.mean(np.argmax(logits, axis=1) == digits.test_y)

    assert accuracy(names["params"]) > accuracy(alone) + 0.015


def test_weights_are_sampled_under_a_teachers_features(taught_by_features):
    """The posterior is the sum of its three parts, and its chain knows the digits."""
    names = dict(taught_by_features)
    exec(compile(block("feature_log_prior"), "README.md", "exec"), names)
    x, y, params, student = (names[name] for name in ("x", "y", "params", "student"))
    batch = {"x": x[:60], "y": y[:60]}
    own = jax.vmap(lambda one: names["student_fn"](params, one)["hidden_0"])(x[:200])
    expected = (
        -losses.features.gaussian_process_kl(own, names["told"])
        - 5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        - 120 * names["likelihood"](student, params, batch["x"], batch["y"])
    )
    assert float(names["log_posterior"](params, batch)) == pytest.approx(float(expected), rel=1e-5)
    assert names["samples"]["params"]["Dense_0"]["kernel"].shape == (50, 64, 128)
    guesses = np.argmax(names["probs"], axis=1)
    assert np.mean(guesses == names["digits"].test_y) > 0.8


def test_a_regressor_and_variances_learn_beside_the_student(taught_by_features):
    """The teacher's features become likelier, on images that it has not seen."""
    names = dict(taught_by_features)
    exec(compile(block("init_variance"), "README.md", "exec"), names)
    assert names["layers"]["Conv_1"] == (2, 2, 32)
    x = jnp.asarray(names["digits"].test_x)
    told = jax.vmap(lambda one: names["teacher_fn"](names["taught"], one))(x)
    batch = {"x": x, "teacher_features": told}
    before, after = (
        names["variational_information"](params, batch)
        for params in (names["start"], names["state"].params)
    )
    assert after < before - 50
    assert np.all(names["state"].params["variance"] != names["start"]["variance"])
