"""Features matched one by one, maps of attention, and the guess of a teacher's features."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from kd.losses.features import attention_transfer, hint, init_variance, variational_information

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 4, 5))


def check_slope(loss, x):
    flat = lambda given: np.array([float(loss(jnp.asarray(given.reshape(x.shape))))])
    steps = oracles.central_jacobian(flat, x.ravel())[0].reshape(x.shape)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(x)), steps, rtol=1e-5, atol=1e-7)


def test_hint_is_half_the_squared_distance(x64):
    teacher = RNG.normal(size=STUDENT.shape)
    found = hint(jnp.asarray(STUDENT), jnp.asarray(teacher))
    assert float(found) == pytest.approx(0.5 * np.sum((STUDENT - teacher) ** 2), rel=1e-12)
    check_slope(lambda s: hint(s, jnp.asarray(teacher)), STUDENT)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_attention_transfer_by_hand(power, x64):
    maps = [np.sum(np.abs(h) ** power, axis=-1).ravel() for h in (STUDENT, TEACHER)]
    expected = np.sum((maps[0] / np.linalg.norm(maps[0]) - maps[1] / np.linalg.norm(maps[1])) ** 2)
    loss = lambda s: attention_transfer(s, jnp.asarray(TEACHER), power=power)
    assert float(loss(jnp.asarray(STUDENT))) == pytest.approx(expected, rel=1e-10)
    check_slope(loss, STUDENT)
    assert float(loss(jnp.asarray(-7 * TEACHER))) == pytest.approx(0.0, abs=1e-12)


def test_attention_of_a_dead_layer_is_finite():
    dead = jnp.zeros(STUDENT.shape)
    value, slope = jax.value_and_grad(attention_transfer)(dead, jnp.asarray(TEACHER, jnp.float32))
    assert float(value) == pytest.approx(1.0) and not np.any(slope)


def test_variational_information_is_a_gaussians(x64):
    mean, teacher, raw = RNG.normal(size=(3, 4, 5)), TEACHER, RNG.normal(size=5)
    scale = np.sqrt(np.log1p(np.exp(raw)) + 1e-5)
    expected = -np.sum(stats.norm(mean, scale).logpdf(teacher))
    loss = lambda m, r: variational_information(m, jnp.asarray(teacher), r)
    assert float(loss(jnp.asarray(mean), jnp.asarray(raw))) == pytest.approx(expected, rel=1e-10)
    check_slope(lambda m: loss(m, jnp.asarray(raw)), mean)
    check_slope(lambda r: loss(jnp.asarray(mean), r), raw)


def test_variational_information_may_be_negative_and_stops_at_the_floor():
    teacher = jnp.asarray(TEACHER, jnp.float32)
    sure = variational_information(teacher, teacher, jnp.full(5, -20.0))
    floored = variational_information(teacher, teacher, jnp.full(5, -2000.0))
    assert float(sure) < 0
    expected = 0.5 * teacher.size * np.log(2 * np.pi * 1e-5)
    assert float(floored) == pytest.approx(expected, rel=1e-4)
    value, slope = jax.value_and_grad(variational_information, argnums=2)(
        teacher, teacher, jnp.full(5, 1e4)
    )
    assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_variances_start_where_they_should():
    for variance in (0.3, 5.0):
        raw = init_variance(3, variance=variance)
        np.testing.assert_allclose(jax.nn.softplus(raw) + 1e-5, np.full(3, variance), rtol=1e-5)


def test_no_gradient_flows_into_a_teacher():
    h = jnp.asarray(TEACHER, jnp.float32)
    for loss in (
        lambda t: hint(h + 1, t),
        lambda t: attention_transfer(jnp.asarray(STUDENT, jnp.float32), t),
        lambda t: variational_information(h + 1, t, jnp.zeros(5)),
    ):
        assert not np.any(jax.grad(loss)(h))


def test_raises():
    h, t = jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32)
    with pytest.raises(ValueError, match=r"shape \(3, 4, 5\), got \(3, 4, 2\): put a regressor"):
        hint(h, t)
    with pytest.raises(ValueError, match=r"shape \(3, 4, 5\), got \(3, 4, 2\): put a regressor"):
        variational_information(h, t, jnp.zeros(5))
    with pytest.raises(ValueError, match="raw_variance"):
        variational_information(t, t, jnp.zeros(4))
    with pytest.raises(ValueError, match="floor"):
        variational_information(t, t, jnp.zeros(5), floor=0.0)
    with pytest.raises(ValueError, match="the same positions"):
        attention_transfer(h, t[:2])
    with pytest.raises(ValueError, match="the same positions"):
        attention_transfer(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match="power"):
        attention_transfer(h, t, power=0.5)
    for loss in (hint, attention_transfer):
        with pytest.raises(TypeError, match="student's features must be floating"):
            loss(h.astype(int), h)
    with pytest.raises(TypeError, match="mean must be floating"):
        variational_information(t.astype(int), t, jnp.zeros(5))
    with pytest.raises(ValueError, match="the floor"):
        init_variance(2, variance=1e-6)
    with pytest.raises(TypeError, match="variance must be one number"):
        init_variance(2, variance="5")
    with pytest.raises(ValueError, match="num_channels"):
        init_variance(0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("who", [0, 1])
def test_features_that_are_not_finite(who, value):
    pair = [jnp.ones((3, 2)), jnp.ones((3, 2))]
    pair[who] = pair[who].at[1, 0].set(value)
    name = ("student", "teacher")[who]
    for loss in (hint, attention_transfer):
        with pytest.raises(ValueError, match=f"the {name}'s features must be finite"):
            loss(*pair)
        assert not np.isfinite(jax.jit(loss)(*pair))  # Nothing raises there.
    guess = lambda mean, teacher: variational_information(mean, teacher, jnp.zeros(2))
    with pytest.raises(ValueError, match=f"{('mean', 'teacher')[who]} must be finite"):
        guess(*pair)
    assert not np.isfinite(jax.jit(guess)(*pair))
    with pytest.raises(ValueError, match="raw_variance must be finite"):
        variational_information(jnp.ones((3, 2)), jnp.ones((3, 2)), jnp.array([0.0, value]))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_has_sums_of_single(dtype):
    """Of 300 features of 60 no square of theirs, and no sum of their squares, is finite."""
    student, teacher = jnp.full((300, 2), 60, dtype), jnp.zeros((300, 2), dtype)
    assert float(hint(student, teacher)) == 0.5 * 600 * 3600
    far = jnp.full((300, 2), 400, dtype)
    assert float(attention_transfer(far, far)) == 0
    found = variational_information(far, teacher, jnp.zeros(2, dtype))
    variance = np.log(2) + 1e-5
    expected = 300 * (400**2 / variance + np.log(2 * np.pi * variance))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("factor", [1e10, 1e-12])
def test_maps_of_attention_know_no_scale(factor):
    maps = jnp.array([[1.0], [2.0], [4.0]])
    for power in (1.0, 2.0, 4.0):
        loss = lambda h, power=power: attention_transfer(h, maps[::-1], power=power)
        assert float(loss(factor * maps)) == pytest.approx(float(loss(maps)), rel=1e-5)
        slopes = factor * jax.grad(loss)(factor * maps), jax.grad(loss)(maps)
        np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-6)


def test_variances_of_any_size():
    for variance in (1e-4, 0.5, 5.0, 1000.0):
        rho = init_variance(2, variance=variance)
        assert float(jax.nn.softplus(rho)[0]) + 1e-5 == pytest.approx(variance, rel=1e-3)


def test_channels_that_are_0_have_no_slope_of_their_own():
    """Of absolute values, whose derivative there may be anything from -1 to 1."""
    student = jnp.asarray(STUDENT, jnp.float32).at[..., 0].set(0.0)
    teacher = jnp.asarray(TEACHER, jnp.float32)
    slope = jax.grad(lambda s: attention_transfer(s, teacher, power=1.0))(student)
    assert not np.any(slope[..., 0]) and np.any(slope[..., 1])


@pytest.mark.parametrize("power", [jnp.inf, 0.5, "2", None])
def test_powers_that_will_not_do(power):
    with pytest.raises((ValueError, TypeError), match="power must be"):
        attention_transfer(jnp.ones((2, 1)), jnp.ones((2, 1)), power=power)


def test_features_of_no_position():
    with pytest.raises(ValueError, match="there must be a feature or more"):
        hint(jnp.ones((3, 0)), jnp.ones((3, 0)))
    with pytest.raises(ValueError, match="maps must be"):
        attention_transfer(jnp.ones((0, 3)), jnp.ones((0, 2)))
    with pytest.raises(ValueError, match="teacher's features must be"):
        variational_information(jnp.ones((3, 0)), jnp.ones((3, 0)), jnp.ones(0))
