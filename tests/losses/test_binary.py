"""Losses of binary labels against NumPy, and what online use of them changes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd import losses
from kd.models import SigmoidBag

LOGITS = st.floats(-8, 8)
HUGE = [-1e4, -50.0, 0.0, 50.0, 1e4]


def log_probs(logit):
    """Of label 0 and of label 1."""
    return -np.logaddexp(0, [float(logit), -float(logit)])


def as_classes(logit, gradient):
    """The two classes' log-probabilities and their input derivatives."""
    p = oracles.sigmoid(logit)
    return log_probs(logit), np.stack([-p * gradient, (1 - p) * gradient])


@given(student=LOGITS, teacher=LOGITS)
def test_cross_entropy(student, teacher):
    expected = oracles.cross_entropy(log_probs(student), np.exp(log_probs(teacher)))
    with jax.enable_x64(True):
        found = losses.binary_cross_entropy(jnp.asarray(student), jnp.asarray(teacher))
        least = losses.binary_cross_entropy(jnp.asarray(teacher), jnp.asarray(teacher))
        slope = jax.grad(losses.binary_cross_entropy)(jnp.asarray(teacher), jnp.asarray(teacher))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(found) >= float(least) - 1e-12 and abs(float(slope)) < 1e-12


@given(student=LOGITS, teacher=LOGITS, seed=st.integers(0, 2**16))
def test_derivatives(student, teacher, seed):
    """(3.24) to (3.26) as they stand, with the derivatives of log f and log (1 - f)."""
    ds, dt = np.random.default_rng(seed).normal(size=(2, 3))
    (_, f), (_, t) = as_classes(student, ds), as_classes(teacher, dt)
    p = oracles.sigmoid(teacher)
    expected = p * oracles.square_error(f[1], t[1]) + (1 - p) * oracles.square_error(f[0], t[0])
    with jax.enable_x64(True):
        found = losses.binary_derivative_square_error(
            jnp.asarray(student), jnp.asarray(ds), jnp.asarray(teacher), jnp.asarray(dt)
        )
        general = losses.expected_derivative_square_error(
            jnp.asarray(f), jnp.asarray(t), jnp.asarray(log_probs(teacher))
        )
    assert float(found) == pytest.approx(expected, rel=1e-10)
    assert float(general) == pytest.approx(expected, rel=1e-10)


def test_equal_models_lose_nothing():
    def loss(s, ds, t, dt):
        return losses.binary_derivative_square_error(s, ds, t, dt)

    args = (jnp.array(0.7), jnp.array([1.0, -2.0]), jnp.array(0.7), jnp.array([1.0, -2.0]))
    value, slopes = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*args)
    assert float(value) == 0 and all(float(jnp.abs(slope).max()) == 0 for slope in slopes)


@pytest.mark.parametrize("student", HUGE)
@pytest.mark.parametrize("teacher", [*HUGE, -np.inf, np.inf])
def test_finite_everywhere(student, teacher):
    value, slope = jax.value_and_grad(losses.binary_cross_entropy)(student, teacher)
    assert np.isfinite(value) and np.isfinite(slope)
    if np.isfinite(teacher):
        args = (student, jnp.ones(2), teacher, 2 * jnp.ones(2))
        value, slopes = jax.value_and_grad(
            losses.binary_derivative_square_error, argnums=(0, 1, 2, 3)
        )(*args)
        assert np.isfinite(value) and all(jnp.isfinite(leaf).all() for leaf in slopes)


def test_a_label_is_an_infinite_logit():
    assert float(losses.binary_cross_entropy(2.0, jnp.inf)) == pytest.approx(np.log1p(np.exp(-2)))
    assert float(losses.binary_cross_entropy(2.0, -jnp.inf)) == pytest.approx(np.log1p(np.exp(2)))


def test_a_class_without_probability_counts_nothing():
    teacher = jnp.array([0.0, -jnp.inf])
    jacobian = jnp.array([[1.0], [-jnp.inf]])
    value, slope = jax.value_and_grad(losses.expected_derivative_square_error)(
        jnp.array([[3.0], [5.0]]), jacobian, teacher
    )
    assert float(value) == 2.0 and slope.tolist() == [[2.0], [0.0]]


def bag_problem():
    """A bag of 50 logistic regressions, a student of three, one input."""
    rng = np.random.default_rng(0)
    samples, student = rng.normal(size=(50, 2)) * [2.0, 1.0] + [1.0, 0.0], rng.normal(size=(3, 2))
    return jnp.asarray(samples), jnp.asarray(student), jnp.asarray([0.9, -0.4])


def student_gradient(objective, student):
    """With respect to the student's weights."""
    bag = SigmoidBag(len(student))

    def loss(w):
        return objective(lambda x: bag.apply({"params": {"w": w}}, x))

    return jax.grad(loss)(student)


def teacher_of(samples):
    return lambda x: SigmoidBag(len(samples)).apply({"params": {"w": samples}}, x)


def gradients_of(loss_fn):
    """Of the loss against the bag's mean, and the mean of those against its members."""
    samples, student, x = bag_problem()

    def gradient(teacher):
        return student_gradient(lambda fn: loss_fn(fn, teacher, x), student)

    batch = gradient(teacher_of(samples))
    online = jnp.mean(jnp.stack([gradient(teacher_of(one[None])) for one in samples]), axis=0)
    return np.asarray(batch), np.asarray(online)


def test_online_cross_entropy_has_the_batch_gradient(x64):
    """(3.40): the loss is linear in the teacher."""
    batch, online = gradients_of(
        lambda student, teacher, x: losses.binary_cross_entropy(student(x), teacher(x))
    )
    np.testing.assert_allclose(online, batch, rtol=1e-10)


def slopes_of(student, teacher, x):
    """Log-odds and input derivatives of both."""
    return (*jax.value_and_grad(student)(x), *jax.value_and_grad(teacher)(x))


def test_online_derivatives_have_the_batch_gradient_too(x64):
    """(3.24) is a square, but t times the derivative of log t is that of t: linear again."""

    def loss(student, teacher, x):
        return losses.binary_derivative_square_error(*slopes_of(student, teacher, x))

    batch, online = gradients_of(loss)
    np.testing.assert_allclose(online, batch, rtol=1e-10)
    # The values differ, by what no student can change: the spread of the teacher's slopes.
    samples, student, x = bag_problem()
    gaps = []
    for scale in (1.0, 2.0):
        fn = teacher_of(scale * student)
        mean = jnp.mean(jnp.stack([loss(fn, teacher_of(one[None]), x) for one in samples]))
        gaps.append(float(mean - loss(fn, teacher_of(samples), x)))
    assert gaps[0] > 0.1 and gaps[1] == pytest.approx(gaps[0], rel=1e-10)


def test_online_derivatives_with_equal_weights_have_another_gradient(x64):
    """Of (2.18), in which every class counts the same whatever the teacher says of it."""

    def loss(student, teacher, x):
        s, ds, t, dt = slopes_of(student, teacher, x)
        f, g = jax.nn.sigmoid(s), jax.nn.sigmoid(t)
        return losses.derivative_square_error(
            jnp.stack([-f * ds, (1 - f) * ds]), jnp.stack([-g * dt, (1 - g) * dt])
        )

    batch, online = gradients_of(loss)
    gap = np.linalg.norm(online - batch) / np.linalg.norm(batch)
    assert 1 < gap < 4  # More astray than there is of it.


def test_raises():
    zero, vector = jnp.zeros(()), jnp.zeros(2)
    for args in ((vector, zero), (zero, vector)):
        with pytest.raises(ValueError, match="logit must have rank 0"):
            losses.binary_cross_entropy(*args)
    with pytest.raises(ValueError, match="student_logit must have rank 0"):
        losses.binary_derivative_square_error(vector, vector, zero, vector)
    with pytest.raises(ValueError, match="teacher_logit must have rank 0"):
        losses.binary_derivative_square_error(zero, vector, vector, vector)
    with pytest.raises(ValueError, match="student_gradient and teacher_gradient must have"):
        losses.binary_derivative_square_error(zero, vector, zero, jnp.zeros(3))
    expected = losses.expected_derivative_square_error
    with pytest.raises(ValueError, match="teacher_log_probs must have rank 1"):
        expected(jnp.zeros((2, 3)), jnp.zeros((2, 3)), zero)
    with pytest.raises(ValueError, match="student_jacobian and teacher_jacobian must have"):
        expected(jnp.zeros((2, 3)), jnp.zeros((2, 4)), vector)
    with pytest.raises(ValueError, match=r"student_jacobian must have shape \[2, ...\], got \(3,"):
        expected(jnp.zeros((3, 2)), jnp.zeros((3, 2)), vector)
    with pytest.raises(ValueError, match="number of classes must be at least 1, got 0"):
        expected(jnp.zeros((0, 2)), jnp.zeros((0, 2)), jnp.zeros(0))


def test_expected_over_four_classes_and_a_matrix_of_inputs(x64):
    """By a loop; and of three members the mean gradient is that of their mean."""
    rng = np.random.default_rng(5)
    student, teacher = rng.normal(size=(2, 4, 2, 3))
    log_probs = oracles.log_softmax(rng.normal(size=4))
    expected = sum(
        0.5 * np.exp(log_probs[i]) * np.sum((student[i] - teacher[i]) ** 2) for i in range(4)
    )
    loss = losses.expected_derivative_square_error
    found = loss(jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(log_probs))
    assert float(found) == pytest.approx(expected, rel=1e-12)

    members, x = jnp.asarray(rng.normal(size=(3, 4, 6))), jnp.asarray(rng.normal(size=6))
    log_probs_fn = lambda w, x: jax.nn.log_softmax(w @ x)
    mean_fn = lambda x: jnp.log(jnp.mean(jnp.exp(jax.vmap(log_probs_fn, (0, None))(members, x)), 0))
    start = jnp.asarray(rng.normal(size=(4, 6)))

    def slope(teacher_fn):
        def objective(w):
            own = jax.jacrev(lambda x: log_probs_fn(w, x))(x)
            return loss(own, jax.jacrev(teacher_fn)(x), teacher_fn(x))

        return jax.grad(objective)(start)

    singles = [slope(lambda x, w=w: log_probs_fn(w, x)) for w in members]
    np.testing.assert_allclose(np.mean(singles, 0), slope(mean_fn), rtol=1e-9, atol=1e-12)


def test_a_label_that_the_student_is_certain_of_costs_nothing():
    for sign in (1, -1):
        for student in (jnp.inf, 1e30):
            value, slope = jax.value_and_grad(losses.binary_cross_entropy)(
                jnp.array(sign * student), jnp.array(sign * jnp.inf)
            )
            assert value == 0 and slope == 0
    assert losses.binary_cross_entropy(jnp.inf, -jnp.inf) == jnp.inf
    with pytest.raises(TypeError, match="student_logit must be floating"):
        losses.binary_cross_entropy(1, 0.0)
