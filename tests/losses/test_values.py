"""kd.losses.values against loops in NumPy, at the edges, and under every transformation."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd import losses

# Few lengths: each is compiled anew.
CLASSES = st.sampled_from([2, 11])
TEMPERATURES = (0.5, 4.0)

# Each loss as a function of (student logits, teacher logits), and its oracle.
FROM_LOGITS = {
    "cross_entropy": (
        lambda f, t: losses.cross_entropy(jax.nn.log_softmax(f), jax.nn.softmax(t)),
        lambda f, t: oracles.cross_entropy(oracles.log_softmax(f), oracles.softmax(t)),
    ),
    "kl_divergence": (
        lambda f, t: losses.kl_divergence(jax.nn.log_softmax(f), jax.nn.log_softmax(t)),
        lambda f, t: oracles.kl_divergence(oracles.log_softmax(f), oracles.log_softmax(t)),
    ),
    "square_error": (losses.square_error, oracles.square_error),
    "absolute_error": (
        losses.absolute_error,
        lambda f, t: sum(abs(float(a) - float(b)) for a, b in zip(f, t, strict=True)),
    ),
    "logit_square_error": (losses.logit_square_error, oracles.square_error),
    **{
        f"soft_target[{temperature}]": (
            lambda f, t, T=temperature: losses.soft_target(f, t, temperature=T),
            lambda f, t, T=temperature: oracles.soft_target(f, t, T),
        )
        for temperature in TEMPERATURES
    },
    "soft_target_with_label": (
        lambda f, t: losses.soft_target_with_label(
            f, t, jnp.array(1), temperature=2.0, label_weight=0.3
        ),
        lambda f, t: 0.7 * oracles.soft_target(f, t, 2.0) - 0.3 * oracles.log_softmax(f)[1],
    ),
}
# Those that are 0 where student and teacher agree.
DISTANCES = [
    name
    for name in FROM_LOGITS
    if name.startswith(("kl", "square", "absolute", "logit", "soft_target["))
]
each_loss = pytest.mark.parametrize("name", FROM_LOGITS)


def logits_pair(seed: int, num_classes: int, scale: float = 3.0, batch: tuple = ()):
    rng = np.random.default_rng(seed)
    shape = (*batch, num_classes)
    return scale * rng.normal(size=shape), scale * rng.normal(size=shape)


@functools.cache
def value_and_gradients(name):
    return jax.jit(jax.value_and_grad(FROM_LOGITS[name][0], argnums=(0, 1)))


@each_loss
@given(num_classes=CLASSES, seed=st.integers(0, 2**16))
def test_value_and_gradients_match_the_numpy_loop(name, num_classes, seed):
    _, oracle_fn = FROM_LOGITS[name]
    f, t = logits_pair(seed, num_classes)
    with jax.enable_x64(True):
        value, (df, dt) = value_and_gradients(name)(f, t)
        np.testing.assert_allclose(value, oracle_fn(f, t), rtol=1e-12)
        expected_df = oracles.central_jacobian(lambda f: oracle_fn(f, t), f)
        expected_dt = oracles.central_jacobian(lambda t: oracle_fn(f, t), t)
        np.testing.assert_allclose(df, expected_df, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(dt, expected_dt, rtol=1e-6, atol=1e-7)


@each_loss
def test_single_precision_keeps_its_digits(name):
    loss_fn, oracle_fn = FROM_LOGITS[name]
    f, t = logits_pair(3, 10)
    f, t = f.astype(np.float32), t.astype(np.float32)
    value = loss_fn(jnp.array(f), jnp.array(t))
    assert value.dtype == jnp.float32 and value.shape == ()
    np.testing.assert_allclose(value, oracle_fn(f, t), rtol=1e-5)


@each_loss
def test_jit_eager_vmap_and_loop_agree(name):
    loss_fn, _ = FROM_LOGITS[name]
    f, t = (jnp.array(z, jnp.float32) for z in logits_pair(4, 5, batch=(3,)))
    grad_fn = jax.value_and_grad(loss_fn, argnums=(0, 1))
    loop = [grad_fn(f[i], t[i]) for i in range(len(f))]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
    for run in (jax.vmap(grad_fn), jax.jit(jax.vmap(grad_fn))):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            run(f, t),
            expected,
        )


@pytest.mark.parametrize("name", DISTANCES)
@given(num_classes=CLASSES, seed=st.integers(0, 2**16))
def test_teacher_equal_to_student_gives_zero_and_zero_gradient(name, num_classes, seed):
    z = logits_pair(seed, num_classes, scale=1.0)[0].astype(np.float32)
    value, (df, dt) = value_and_gradients(name)(z, z)
    assert value == 0.0
    np.testing.assert_allclose(df, np.zeros(num_classes), atol=2e-6)
    np.testing.assert_allclose(dt, np.zeros(num_classes), atol=2e-6)
    # And not because it is always so.
    moved = z + 2 * np.eye(num_classes, dtype=np.float32)[0]
    assert value_and_gradients(name)(moved, z)[0] > 1e-3


EXTREME = {
    "agree": ([1e4, -1e4, 0.0], [1e4, -1e4, 0.0]),
    "disagree": ([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]),
    "student saturated": ([-1e4, -1e4, 1e4], [0.1, 0.2, 0.3]),
    "teacher saturated": ([0.1, 0.2, 0.3], [1e4, -1e4, -1e4]),
}


@each_loss
@pytest.mark.parametrize("case", EXTREME)
def test_extreme_logits_give_the_exact_finite_value_and_finite_gradients(name, case):
    _, oracle_fn = FROM_LOGITS[name]
    f, t = (jnp.array(z, jnp.float32) for z in EXTREME[case])
    value, gradients = value_and_gradients(name)(f, t)
    np.testing.assert_allclose(value, oracle_fn(np.array(f), np.array(t)), rtol=1e-5, atol=1e-6)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient)), gradient


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("case", EXTREME)
def test_soft_target_gradient_at_extreme_logits(temperature, case):
    f, t = EXTREME[case]
    gradient = jax.grad(losses.soft_target)(jnp.array(f), jnp.array(t), temperature=temperature)
    expected = temperature * (
        oracles.softmax(np.array(f) / temperature) - oracles.softmax(np.array(t) / temperature)
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_kl_divergence_takes_zero_teacher_probabilities():
    teacher = jnp.array([-jnp.inf, jnp.log(0.25), jnp.log(0.75)])
    student = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    value, (df, dt) = jax.value_and_grad(losses.kl_divergence, argnums=(0, 1))(student, teacher)
    np.testing.assert_allclose(value, 0.75 * np.log(3.0), rtol=1e-6)
    np.testing.assert_allclose(df, [0.0, -0.25, -0.75], rtol=1e-6)
    np.testing.assert_allclose(dt, [0.0, 0.25, 0.75 * (1 + np.log(3.0))], rtol=1e-6)


def test_kl_divergence_takes_zeros_on_both_sides():
    teacher = jnp.array([-jnp.inf, 0.0])
    value, gradients = jax.value_and_grad(losses.kl_divergence, argnums=(0, 1))(teacher, teacher)
    assert value == 0.0
    np.testing.assert_array_equal(gradients, [[0.0, -1.0], [0.0, 1.0]])


def test_kl_divergence_is_infinite_where_the_student_excludes_a_class():
    assert (
        losses.kl_divergence(jnp.array([-jnp.inf, 0.0]), jnp.log(jnp.array([0.5, 0.5]))) == np.inf
    )


def test_cross_entropy_takes_zero_probabilities():
    student = jnp.array([-jnp.inf, jnp.log(0.25), jnp.log(0.75)])
    teacher = jnp.array([0.0, 1.0, 0.0])
    value, (df, dt) = jax.value_and_grad(losses.cross_entropy, argnums=(0, 1))(student, teacher)
    np.testing.assert_allclose(value, np.log(4.0), rtol=1e-6)
    np.testing.assert_array_equal(df, [0.0, -1.0, 0.0])
    assert np.all(np.isfinite(dt))
    assert losses.cross_entropy(student, jnp.array([0.5, 0.5, 0.0])) == np.inf


def test_cross_entropy_of_log_probabilities_by_mistake_is_nan():
    student = jnp.log(jnp.array([0.5, 0.5]))
    teacher = jnp.log(jnp.array([0.25, 0.75]))
    assert jnp.isnan(losses.cross_entropy(student, teacher))
    assert jnp.isnan(jax.jit(jax.value_and_grad(losses.cross_entropy))(student, teacher)[0])


def test_soft_target_takes_log_probabilities_of_a_forest():
    """A teacher such as `from_predict_proba` gives minus infinity for unseen classes."""
    probs = np.array([0.0, 0.2, 0.8])
    f = jnp.array([0.3, -0.2, 0.5])
    with np.errstate(divide="ignore"):
        t = jnp.array(np.log(probs))
    value, (df, dt) = jax.value_and_grad(losses.soft_target, argnums=(0, 1))(f, t, temperature=2.0)
    tempered = np.sqrt(probs) / np.sqrt(probs).sum()
    student = oracles.log_softmax(np.array(f) / 2)
    expected = 4 * sum(p * (np.log(p) - s) for p, s in zip(tempered[1:], student[1:], strict=True))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(df, 2 * (np.exp(student) - tempered), rtol=1e-5)
    assert np.all(np.isfinite(dt)) and dt[0] == 0.0


@given(
    num_classes=CLASSES,
    temperature=st.floats(0.1, 100.0),
    student_shift=st.floats(-1e3, 1e3),
    teacher_shift=st.floats(-1e3, 1e3),
)
def test_soft_target_does_not_see_shifts(num_classes, temperature, student_shift, teacher_shift):
    f, t = logits_pair(num_classes, num_classes)
    with jax.enable_x64(True):
        run = jax.jit(jax.value_and_grad(losses.soft_target, argnums=(0, 1)))
        plain = run(jnp.array(f), jnp.array(t), temperature=temperature)
        shifted = run(
            jnp.array(f + student_shift), jnp.array(t + teacher_shift), temperature=temperature
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8), plain, shifted
    )


@pytest.mark.parametrize("num_classes", [2, 7])
def test_soft_target_tends_to_the_centred_square_error(num_classes, x64):
    f, t = (jnp.array(z) for z in logits_pair(5, num_classes))
    difference = np.array(f - f.mean() - t + t.mean())
    limit, limit_gradient = np.sum(difference**2) / (2 * num_classes), difference / num_classes

    run = jax.jit(jax.value_and_grad(losses.soft_target))

    def errors(temperature):
        value, gradient = run(f, t, temperature=temperature)
        return abs(float(value) - limit) / limit, np.max(np.abs(gradient - limit_gradient))

    near, far = errors(1e2), errors(1e3)
    assert max(far) < 1e-2
    # The next term of the expansion is of order 1/T, or 1/T² where it vanishes.
    for coarse, fine in zip(near, far, strict=True):
        assert fine < 0.15 * coarse
    assert min(errors(1.0)) > 0.05


@pytest.mark.parametrize("temperature", [1e3, 1e5, 1e8, 1e12])
def test_soft_target_keeps_its_precision_at_high_temperature(temperature):
    """In single precision, against its limit: next to it the correction of order 1/T is 1e-3."""
    f, t = np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])
    value, gradient = jax.value_and_grad(losses.soft_target)(
        jnp.array(f, jnp.float32), jnp.array(t, jnp.float32), temperature=temperature
    )
    difference = (f - f.mean()) - (t - t.mean())
    np.testing.assert_allclose(value, np.sum(difference**2) / 6, rtol=2e-3)
    np.testing.assert_allclose(gradient, difference / 3, atol=2e-3)


def test_integers_are_refused_where_they_would_wrap_or_index():
    with pytest.raises(TypeError, match="student must be floating, got uint8"):
        losses.square_error(jnp.zeros(2, jnp.uint8), jnp.full(2, 200, jnp.uint8))
    with pytest.raises(TypeError, match="teacher must be floating, got uint8"):
        losses.absolute_error(jnp.zeros(2), jnp.full(2, 200, jnp.uint8))
    with pytest.raises(TypeError, match="label must be an integer, got bool"):
        losses.soft_target_with_label(
            VECTOR, VECTOR, jnp.array(True), temperature=1.0, label_weight=0.5
        )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_target_with_label_mixes(temperature):
    f, t = (jnp.array(z, jnp.float32) for z in logits_pair(6, 4))
    soft = losses.soft_target(f, t, temperature=temperature)
    hard = -oracles.log_softmax(np.array(f))[2]
    for weight, expected in [(0.0, soft), (0.5, (soft + hard) / 2), (1.0, hard)]:
        mixed = losses.soft_target_with_label(
            f, t, jnp.array(2), temperature=temperature, label_weight=weight
        )
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)


@pytest.mark.parametrize("label", [4, 100, -1, -4])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_label_out_of_range_gives_nan(label, weight):
    f, t = (jnp.array(z, jnp.float32) for z in logits_pair(7, 4))
    loss = jax.jit(
        lambda label: losses.soft_target_with_label(
            f, t, label, temperature=2.0, label_weight=weight
        )
    )
    assert np.isnan(loss(jnp.array(label)))
    assert np.isfinite(loss(jnp.array(3)))


VECTOR, OTHER, MATRIX = jnp.zeros(3), jnp.zeros(4), jnp.zeros((2, 3))
LABEL = jnp.array(0)
PAIRS = {
    losses.cross_entropy: ("student_log_probs", "teacher_probs", {}),
    losses.kl_divergence: ("student_log_probs", "teacher_log_probs", {}),
    losses.logit_square_error: ("student_logits", "teacher_logits", {}),
    losses.soft_target: ("student_logits", "teacher_logits", {"temperature": 1.0}),
}


@pytest.mark.parametrize("loss_fn", [*PAIRS, losses.square_error, losses.absolute_error])
def test_different_shapes_are_refused(loss_fn):
    student, teacher, settings = PAIRS.get(loss_fn, ("student", "teacher", {}))
    message = f"{student} and {teacher} must have the same shape, got (3,) and (4,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        loss_fn(VECTOR, OTHER, **settings)
    with pytest.raises(ValueError, match=re.escape("(3,) and (1,)")):
        loss_fn(VECTOR, jnp.zeros(1), **settings)


@pytest.mark.parametrize("loss_fn", PAIRS)
def test_a_batch_is_refused(loss_fn):
    student, _, settings = PAIRS[loss_fn]
    message = f"{student} must have rank 1, got shape (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        loss_fn(MATRIX, MATRIX, **settings)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_soft_target_refuses_a_bad_temperature(temperature):
    with pytest.raises(
        ValueError, match=f"temperature must be finite and positive, got {temperature}"
    ):
        losses.soft_target(VECTOR, VECTOR, temperature=temperature)


def test_soft_target_with_label_refuses():
    def loss(f=VECTOR, t=VECTOR, label=LABEL, temperature=1.0, label_weight=0.5):
        return losses.soft_target_with_label(
            f, t, label, temperature=temperature, label_weight=label_weight
        )

    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(
            ValueError, match=re.escape(f"label_weight must be in [0, 1], got {weight}")
        ):
            loss(label_weight=weight)
    with pytest.raises(ValueError, match=re.escape("label must have rank 0, got shape (1,)")):
        loss(label=jnp.array([0]))
    with pytest.raises(ValueError, match=re.escape("got (3,) and (4,)")):
        loss(t=OTHER)
    with pytest.raises(ValueError, match=re.escape("student_logits must have rank 1")):
        loss(f=MATRIX, t=MATRIX)
    with pytest.raises(ValueError, match="temperature"):
        loss(temperature=0.0)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_teacher_that_is_not_a_number_gives_no_number(bad):
    """A loss of 0 would hide a broken teacher from everything that watches for NaN."""
    student = jax.nn.log_softmax(jnp.array([0.1, 0.2, 0.3]))
    teacher = jnp.array([bad, 0.0, 0.0])
    assert not jnp.isfinite(losses.kl_divergence(student, teacher))
    assert not jnp.isfinite(losses.soft_target(student, teacher, temperature=2.0))
    assert not jnp.isfinite(losses.cross_entropy(student, jnp.exp(teacher)))


@pytest.mark.parametrize("temperature", [1e1, 1e2, 1e3, 1e4])
def test_soft_target_keeps_its_precision_at_high_temperatures(temperature):
    student, teacher = np.array([1.0, -2.0, 0.5, 0.1]), np.array([0.3, 0.4, -1.0, 2.0])
    log_f = oracles.log_softmax(student / temperature)
    log_t = oracles.log_softmax(teacher / temperature)
    expected = temperature**2 * np.sum(np.exp(log_t) * (log_t - log_f))
    value = losses.soft_target(jnp.float32(student), jnp.float32(teacher), temperature=temperature)
    np.testing.assert_allclose(value, expected, rtol=max(1e-5, 1e-6 * temperature))


def test_the_label_weight_may_be_traced():
    """For a schedule; the value and the gradient in it are those of the mixture."""
    f, t = jnp.array([0.1, -0.2, 0.5]), jnp.array([1.0, 0.0, -1.0])

    def loss(weight):
        return losses.soft_target_with_label(
            f, t, jnp.array(1), temperature=2.0, label_weight=weight
        )

    value, slope = jax.jit(jax.value_and_grad(loss))(0.25)
    assert float(value) == pytest.approx(float(loss(0.25)), rel=1e-6)
    assert float(slope) == pytest.approx(float(loss(1.0) - loss(0.0)), rel=1e-5)
