"""kd.models.from_predict_proba with a random forest: its values, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from kd import losses, streams
from kd.models import from_predict_proba


@pytest.fixture(scope="module")
def digits():
    inputs, labels = load_digits(return_X_y=True)
    return inputs.astype(np.float32) / 16, labels


@pytest.fixture(scope="module")
def forest(digits):
    inputs, labels = digits
    return RandomForestClassifier(20, max_depth=6, random_state=0).fit(inputs[:500], labels[:500])


class Counted:
    """A host function that remembers the shapes it was asked with."""

    def __init__(self, fn):
        self.fn, self.shapes = fn, []

    def __call__(self, x):
        self.shapes.append(x.shape)
        return self.fn(x)


def uniform(x):
    return np.full((len(x), 2), 0.5)


def test_it_equals_the_forest_one_by_one(digits, forest):
    inputs = digits[0][500:504]
    expected = forest.predict_proba(inputs)
    teacher_fn = from_predict_proba(forest.predict_proba, num_classes=10)
    for run in (teacher_fn, jax.jit(teacher_fn)):
        got = np.stack([run(jnp.array(x)) for x in inputs])
        np.testing.assert_allclose(np.exp(got), expected, rtol=1e-6)
    # A forest has exact zeros, and they stay exact.
    assert np.any(expected == 0)
    assert np.all(np.isneginf(got) == (expected == 0))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_batch_is_one_question_and_images_are_flattened(digits, forest, wrap):
    inputs = digits[0][500:520]
    predict_proba = Counted(forest.predict_proba)
    teacher_fn = from_predict_proba(predict_proba, num_classes=10)
    expected = forest.predict_proba(inputs)
    got = wrap(jax.vmap(teacher_fn))(jnp.array(inputs).reshape(20, 8, 8, 1))
    np.testing.assert_allclose(np.exp(got), expected, rtol=1e-6)
    assert predict_proba.shapes == [(20, 64)]
    nested = wrap(jax.vmap(jax.vmap(teacher_fn)))(jnp.array(inputs).reshape(4, 5, 8, 8))
    np.testing.assert_allclose(np.exp(nested).reshape(20, 10), expected, rtol=1e-6)
    assert predict_proba.shapes == [(20, 64)] * 2


def test_its_values_can_be_matched(digits, forest):
    teacher_fn = from_predict_proba(forest.predict_proba, num_classes=10)
    x, student = jnp.array(digits[0][500]), jnp.linspace(-1.0, 1.0, 10)

    def loss(student):
        return losses.kl_divergence(jax.nn.log_softmax(student), teacher_fn(x))

    probs = forest.predict_proba(digits[0][500:501])[0]
    gradient = jax.jit(jax.grad(loss))(student)
    np.testing.assert_allclose(gradient, jax.nn.softmax(student) - probs, atol=1e-6)


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda fn, x: jax.grad(lambda x: fn(x)[0])(x),
        lambda fn, x: jax.jit(jax.grad(lambda x: fn(x)[0]))(x),
        lambda fn, x: jax.jacfwd(fn)(x),
        lambda fn, x: jax.vjp(fn, x),
        lambda fn, x: losses.projected_derivative_square_error(fn, fn, x, jax.random.key(0)),
    ],
    ids=["grad", "jit grad", "jacfwd", "vjp", "projected loss"],
)
def test_it_refuses_to_be_differentiated(differentiate):
    predict_proba = Counted(uniform)
    teacher_fn = from_predict_proba(predict_proba, num_classes=2)
    with pytest.raises(TypeError, match=r"host function .* has no input derivatives"):
        differentiate(teacher_fn, jnp.ones(3))
    assert not predict_proba.shapes


@pytest.mark.parametrize("derivatives", ["jacobian", "projected"])
def test_labels_with_derivatives_are_refused(derivatives):
    teacher_fn = from_predict_proba(uniform, num_classes=2)
    inner = streams.with_signs(streams.gaussian_noise((3,), 4), num_projections=1, num_classes=2)
    stream = streams.label(inner, teacher_fn, derivatives=derivatives)
    with pytest.raises(TypeError, match="has no input derivatives"):
        stream.init(jax.random.key(0))


def test_data_sets_with_derivatives_are_refused():
    teacher_fn = from_predict_proba(uniform, num_classes=2)
    with pytest.raises(TypeError, match="has no input derivatives"):
        streams.label_dataset({"x": jnp.ones((3, 2))}, teacher_fn, derivatives="jacobian")


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_another_shape_is_refused_with_both(wrap):
    teacher_fn = from_predict_proba(uniform, num_classes=3)
    with pytest.raises(
        jax.errors.JaxRuntimeError, match=r"must return shape \(4, 3\), got \(4, 2\)"
    ):
        jax.block_until_ready(wrap(jax.vmap(teacher_fn))(jnp.ones((4, 5))))
