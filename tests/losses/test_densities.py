"""kd.losses.densities: loops, enumeration of a small space, quadrature, central differences."""

import itertools
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd import losses
from kd.derivatives import hvp

SHAPES = st.sampled_from([(), (3,), (2, 2)])
SEEDS = st.integers(0, 2**16)


# The explicit losses.


@given(seed=SEEDS)
def test_values_and_gradients_are_the_formulas(seed):
    student, teacher, c = np.random.default_rng(seed).normal(size=3) * 10
    with jax.enable_x64(True):
        nll = jax.value_and_grad(losses.negative_log_likelihood)(student)
        value, slopes = jax.value_and_grad(
            lambda f, t, c: losses.log_density_square_error(f, t, offset=c), argnums=(0, 1, 2)
        )(student, teacher, c)
    gap = student - teacher + c
    np.testing.assert_array_equal(nll, (-student, -1.0))
    np.testing.assert_allclose(value, 0.5 * gap * gap, rtol=1e-12)
    np.testing.assert_allclose(slopes, (gap, -gap, gap), rtol=1e-12)


@given(shape=SHAPES, seed=SEEDS)
def test_score_matching_is_the_loop_over_dimensions(shape, seed):
    f, t = np.random.default_rng(seed).normal(size=(2, *shape))
    with jax.enable_x64(True):
        value, (df, dt) = jax.value_and_grad(losses.score_matching, argnums=(0, 1))(
            jnp.array(f), jnp.array(t)
        )
        one_output = losses.derivative_square_error(jnp.array(f)[None], jnp.array(t)[None])
    np.testing.assert_allclose(value, oracles.square_error(f, t), rtol=1e-12)
    np.testing.assert_allclose(value, one_output, rtol=1e-12)
    np.testing.assert_allclose(df, f - t, rtol=1e-12)
    np.testing.assert_allclose(dt, t - f, rtol=1e-12)


def test_teacher_equal_to_student_gives_zero_and_zero_gradient():
    """The square error's zero is where the offset is log Z and the densities agree."""

    def scores(params, teacher, x):
        fn = jax.grad(log_density, argnums=1)
        return losses.score_matching(fn(params, x), fn(teacher, x))

    def values(params, teacher, x):
        potential = log_density(teacher, x) + 3.0
        return losses.log_density_square_error(log_density(params, x), potential, offset=3.0)

    params, other = (jnp.array(p, jnp.float32) for p in parameters(0, 2))
    x = jnp.array([0.3, -1.0, 0.5])
    for loss_fn in (scores, values):
        run = jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1, 2)))
        value, gradients = run(params, params, x)
        np.testing.assert_allclose(value, 0.0, atol=1e-9)
        for leaf in gradients:
            np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=1e-5)
        assert run(params, other, x)[0] > 1e-3


def test_single_precision_at_the_size_of_an_rbm():
    """log p̄ near 450, as in the thesis: the difference keeps the digits that it has."""
    teacher, c, student = np.float32(451.28125), 436.49, np.float32(0.001)
    value = losses.log_density_square_error(student, teacher, offset=c)
    assert value.dtype == jnp.float32
    expected = 0.5 * (float(student) - float(teacher) + c) ** 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_far_off_values_are_finite_with_finite_gradients(size):
    def loss(f, t):
        return losses.log_density_square_error(f, t, offset=0.5)

    for fn in (loss, losses.score_matching):
        value, slopes = jax.value_and_grad(fn, argnums=(0, 1))(jnp.float32(size), jnp.float32(0))
        assert np.isfinite(value) and np.all(np.isfinite(slopes))
    bad = losses.log_density_square_error(jnp.float32(jnp.nan), jnp.float32(0), offset=0.0)
    assert np.isnan(bad)


# Proposition 4.1 and (4.10), by enumeration of a space of eight points.


def space(seed, size=8, log_z=1.7):
    """A teacher's log-potentials with a known log Z, its probabilities, a student's logits."""
    logits, student = np.random.default_rng(seed).normal(size=(2, size)) * 1.5
    log_p = oracles.log_softmax(logits)
    return log_p + log_z, np.exp(log_p), student


@jax.jit
def mean_square_error(student_logits, potentials, probs, c):
    loss_fn = jax.vmap(lambda f, t: losses.log_density_square_error(f, t, offset=c))
    return jnp.sum(probs * loss_fn(jax.nn.log_softmax(student_logits), jnp.array(potentials)))


@given(seed=SEEDS, c=st.floats(-20, 20))
def test_the_square_error_decomposes_as_in_4_10(seed, c):
    log_z = 1.7
    potentials, probs, student = space(seed, log_z=log_z)

    def parts(student_logits):
        log_q = jax.nn.log_softmax(student_logits)
        log_ratio = log_q - jnp.array(potentials) + log_z
        error, kl = (jnp.sum(probs * term) for term in (0.5 * log_ratio**2, -log_ratio))
        return error + (log_z - c) * kl + 0.5 * (log_z - c) ** 2

    with jax.enable_x64(True):
        student = jnp.array(student)
        got = jax.value_and_grad(mean_square_error)(student, potentials, probs, c)
        expected = jax.jit(jax.value_and_grad(parts))(student)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-8, atol=1e-10)
    # And (4.15): Jensen's bound.
    log_q = oracles.log_softmax(np.asarray(student))
    kl = float(np.sum(probs * (potentials - log_z - log_q)))
    if c <= log_z:
        assert float(got[0]) >= 0.5 * (kl + log_z - c) ** 2 - 1e-9


@given(seed=SEEDS, below=st.floats(0, 10))
def test_no_student_beats_the_teacher_up_to_log_z(seed, below):
    potentials, probs, student = space(seed)
    with jax.enable_x64(True):
        own = mean_square_error(jnp.array(potentials), potentials, probs, 1.7 - below)
        np.testing.assert_allclose(own, 0.5 * below**2, rtol=1e-9, atol=1e-12)
        assert mean_square_error(jnp.array(student), potentials, probs, 1.7 - below) > own


@pytest.mark.parametrize("excess", [0.1, 0.5, 2.0])
def test_beyond_log_z_a_student_that_leaks_mass_beats_the_teacher(excess, x64):
    """The counterexample of the docstring: e^-excess of everything, the rest where p is rare."""
    rare = 1e-6
    log_z, probs = 1.7, np.array([0.7, 0.3 - rare, rare])
    kept = math.exp(-excess)
    student = np.array([kept * probs[0], kept * probs[1], 1 - kept * (1 - rare)])
    potentials, c = np.log(probs) + log_z, log_z + excess
    own = mean_square_error(jnp.array(potentials), potentials, probs, c)
    other = mean_square_error(jnp.log(student), potentials, probs, c)
    np.testing.assert_allclose(own, 0.5 * excess**2, rtol=1e-9)
    assert other < 0.05 * own
    # With c = log Z the same student is worse.
    assert mean_square_error(jnp.log(student), potentials, probs, log_z) > 0


@pytest.mark.parametrize("excess", [-1.0, 0.5, 0.99, 1.01, 3.0])
def test_the_teacher_is_a_local_minimum_up_to_log_z_plus_one(excess, x64):
    """There the Hessian is (1 - excess) times the Fisher information."""
    potentials, probs, _ = space(3)
    at = jnp.array(potentials)
    args = (potentials, probs, 1.7 + excess)
    np.testing.assert_allclose(jax.grad(mean_square_error)(at, *args), np.zeros(8), atol=1e-12)
    hessian = jax.hessian(mean_square_error)(at, *args)
    fisher = np.diag(probs) - np.outer(probs, probs)
    np.testing.assert_allclose(hessian, (1 - excess) * fisher, atol=1e-12)


@given(seed=SEEDS)
def test_far_below_log_z_the_loss_is_the_likelihoods(seed):
    """As c falls, (E_SE - const) / (log Z - c) has the KL's gradient."""
    potentials, probs, student = space(seed)

    def likelihood(student_logits):
        nll = jax.vmap(losses.negative_log_likelihood)(jax.nn.log_softmax(student_logits))
        return jnp.sum(probs * nll)

    with jax.enable_x64(True):
        student = jnp.array(student)
        slope = jax.grad(mean_square_error)(student, potentials, probs, 1.7 - 1e8) / 1e8
        value, expected = jax.jit(jax.value_and_grad(likelihood))(student)
        np.testing.assert_allclose(slope, expected, atol=1e-6)
        # Cross-entropy is KL plus the teacher's entropy (4.7).
        kl = oracles.kl_divergence(oracles.log_softmax(np.array(student)), np.log(probs))
        entropy = -np.sum(probs * np.log(probs))
        np.testing.assert_allclose(value, kl + entropy, rtol=1e-9)


# The losses of samples alone.


def parameters(*seeds):
    return [np.random.default_rng(seed).normal(size=(4, 4)) for seed in seeds]


@jax.jit
def log_density(params, x):
    """A skewed log-density with a Hessian that is full, up to a constant."""
    z = jnp.reshape(x, -1) @ params[:3] + params[3]
    return -0.25 * jnp.sum(z**2) + jnp.sum(jnp.sin(z)) - jnp.logaddexp(z[0], z[1])


def numpy_log_density(params, x):
    z = np.ravel(x) @ params[:3] + params[3]
    return -0.25 * np.sum(z**2) + np.sum(np.sin(z)) - np.logaddexp(z[0], z[1])


@given(shape=st.sampled_from([(3,), (3, 1), (1, 3, 1)]), seed=SEEDS)
def test_hyvarinen_is_that_of_central_differences(shape, seed):
    (params,) = parameters(seed)
    x = np.random.default_rng(seed + 1).normal(size=shape)

    def score(x):
        return oracles.central_jacobian(lambda x: numpy_log_density(params, x), x, step=1e-4)

    hessian = oracles.central_jacobian(score, x, step=1e-4).reshape(3, 3)
    expected = sum(hessian[i, i] + 0.5 * np.ravel(score(x))[i] ** 2 for i in range(3))
    with jax.enable_x64(True):
        loss = jax.jit(lambda x: losses.hyvarinen_score_matching(partial(log_density, params), x))
        got = loss(x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_gradients_in_the_parameters_are_central_differences(x64):
    (params,) = parameters(4)
    x = jnp.array([0.4, -0.2, 0.9])

    @jax.jit
    def loss(params):
        return losses.hyvarinen_score_matching(partial(log_density, params), x)

    expected = oracles.central_jacobian(lambda params: loss(jnp.array(params)), params)
    np.testing.assert_allclose(jax.grad(loss)(jnp.array(params)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_dimension_is_two_derivatives(shape, x64):
    fn = lambda x: jnp.sum(jnp.cos(x) - x**4)
    got = losses.hyvarinen_score_matching(fn, jnp.full(shape, 0.7))
    score = -math.sin(0.7) - 4 * 0.7**3
    np.testing.assert_allclose(got, -math.cos(0.7) - 12 * 0.7**2 + score**2 / 2, rtol=1e-12)
    signs_cancel = losses.sliced_score_matching(fn, jnp.full(shape, 0.7), jax.random.key(0))
    np.testing.assert_allclose(signs_cancel, got, rtol=1e-12)


def teacher_1d(x):
    """Two skewed humps, unnormalised."""
    return jnp.logaddexp(-0.5 * (x - 1.0) ** 2, 0.3 - (x + 1.5) ** 2) + 0.4 * jnp.sin(x)


@given(mean=st.floats(-1, 1), scale=st.floats(0.5, 2))
def test_hyvarinens_identity_by_quadrature(mean, scale):
    """Expected loss of samples alone + half the teacher's squared score = expected explicit."""

    def student(x):
        return -0.5 * ((x - mean) / scale) ** 2 + 0.3 * jnp.cos(x)

    @jax.jit
    @jax.vmap
    def losses_at(x):
        own, teacher = jax.grad(student)(x), jax.grad(teacher_1d)(x)
        explicit = losses.score_matching(own, teacher)
        return explicit, losses.hyvarinen_score_matching(student, x), 0.5 * teacher**2

    with jax.enable_x64(True):
        # Smooth and negligible at the ends: the trapezoid rule is exact to rounding.
        grid = jnp.linspace(-12.0, 12.0, 1201)
        weights = jax.nn.softmax(jax.vmap(teacher_1d)(grid))
        explicit, alone, constant = (float(jnp.sum(weights * v)) for v in losses_at(grid))
    assert explicit > 1e-3
    np.testing.assert_allclose(alone + constant, explicit, rtol=1e-9)


def test_identity_holds_for_the_gradient_too(x64):
    def expected(params, loss_fn):
        grid = jnp.linspace(-12.0, 12.0, 1201)
        weights = jax.nn.softmax(jax.vmap(teacher_1d)(grid))
        student = lambda x: -params[0] * (x - params[1]) ** 2
        return jnp.sum(weights * jax.vmap(lambda x: loss_fn(student, x))(grid))

    def explicit(student, x):
        return losses.score_matching(jax.grad(student)(x), jax.grad(teacher_1d)(x))

    params = jnp.array([0.4, 0.3])
    slope = jax.jit(jax.grad(expected), static_argnums=1)
    slopes = [slope(params, fn) for fn in (explicit, losses.hyvarinen_score_matching)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-9)


def test_score_matching_hardly_sees_the_weights_of_far_modes(x64):
    """The caveat of the docstring: at a distance of 14, weights of 1/2 look like 9/10."""
    grid = jnp.linspace(-15.0, 15.0, 3001)

    def two_humps(weight):
        means, log_weights = jnp.array([-7.0, 7.0]), jnp.log(jnp.array([weight, 1 - weight]))
        return lambda x: jax.nn.logsumexp(log_weights - 0.5 * (x - means) ** 2)

    teacher, student = two_humps(0.9), two_humps(0.5)
    log_p, log_q = (jax.nn.log_softmax(jax.vmap(fn)(grid)) for fn in (teacher, student))
    kl = float(jnp.sum(jnp.exp(log_p) * (log_p - log_q)))
    scores = [jax.vmap(jax.grad(fn))(grid) for fn in (student, teacher)]
    matched = float(jnp.sum(jnp.exp(log_p) * jax.vmap(losses.score_matching)(*scores)))
    assert kl > 0.3 and matched < 1e-7


@given(seed=SEEDS)
def test_mean_over_all_signs_is_hyvarinens_loss(seed):
    """E[v vᵀ] = 1 over the eight sign vectors, as the estimator uses them."""
    (params,) = parameters(seed)
    x = np.random.default_rng(seed + 1).normal(size=3)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))

    @jax.jit
    def mean_and_loss(params, x):
        fn = partial(log_density, params)
        score = jax.grad(fn)(x)
        traces = jax.vmap(lambda v: v @ hvp(fn, x, v))(jnp.array(signs))
        mean = jnp.mean(traces) + 0.5 * score @ score
        return mean, losses.hyvarinen_score_matching(fn, x)

    with jax.enable_x64(True):
        np.testing.assert_allclose(*mean_and_loss(params, x), rtol=1e-9)


@pytest.mark.parametrize("num_projections", [1, 3])
def test_the_sliced_loss_is_that_of_its_signs(num_projections, x64):
    (params,) = parameters(6)
    fn, x, key = lambda x: log_density(params, x), jnp.array([[0.1, 0.5, -0.3]]), jax.random.key(7)
    signs = jax.random.rademacher(key, (num_projections, 1, 3), dtype=x.dtype)
    score = np.reshape(jax.grad(fn)(x), 3)
    hessian = np.reshape(jax.jit(jax.hessian(fn))(x), (3, 3))
    expected = np.mean([np.ravel(v) @ hessian @ np.ravel(v) for v in signs])
    got = losses.sliced_score_matching(fn, x, key, num_projections=num_projections)
    np.testing.assert_allclose(got, expected + 0.5 * score @ score, rtol=1e-10)


def test_the_sliced_loss_has_the_mean_and_the_variance_it_says(x64):
    (params,) = parameters(8)
    fn, x = lambda x: log_density(params, x), jnp.array([0.2, -0.4, 0.6])
    keys = jax.random.split(jax.random.key(9), 8192)
    hessian = np.array(jax.jit(jax.hessian(fn))(x))
    off_diagonal = np.sum(hessian**2) - np.sum(np.diag(hessian) ** 2)
    for num_projections in (1, 4):
        draws = jax.jit(
            jax.vmap(
                lambda key, p=num_projections: losses.sliced_score_matching(
                    fn, x, key, num_projections=p
                )
            )
        )(keys)
        variance = 2 * off_diagonal / num_projections
        error = np.sqrt(variance / len(keys))
        exact = float(losses.hyvarinen_score_matching(fn, x))
        assert error > 0 and abs(np.mean(draws) - exact) < 4 * error
        assert 0.9 < np.var(draws) / variance < 1.1


def test_jit_eager_vmap_and_loop_agree():
    params, teacher = (jnp.array(p, jnp.float32) for p in parameters(10, 11))
    xs = jnp.array(np.random.default_rng(12).normal(size=(3, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(13), 3)

    def at(params):
        return lambda x: log_density(params, x)

    def explicit(params, x, key):
        return losses.score_matching(jax.grad(at(params))(x), jax.grad(at(teacher))(x))

    def alone(params, x, key):
        return losses.hyvarinen_score_matching(at(params), x)

    def sliced(params, x, key):
        return losses.sliced_score_matching(at(params), x, key, num_projections=2)

    def values(params, x, key):
        return losses.log_density_square_error(at(params)(x), at(teacher)(x), offset=0.5)

    for fn in map(jax.value_and_grad, (explicit, alone, sliced, values)):
        loop = [fn(params, x, key) for x, key in zip(xs, keys, strict=True)]
        expected = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
        got = jax.jit(jax.vmap(fn, in_axes=(None, 0, 0)))(params, xs, keys)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected
        )


# What they refuse.


def test_values_refuse():
    batch, scalar = jnp.zeros(2), jnp.zeros(())
    with pytest.raises(ValueError, match=re.escape("student_log_density must have rank 0")):
        losses.negative_log_likelihood(batch)
    with pytest.raises(TypeError, match="student_log_density must be floating, got int32"):
        losses.negative_log_likelihood(jnp.array(1))
    error = losses.log_density_square_error
    with pytest.raises(ValueError, match=re.escape("student_log_density must have rank 0")):
        error(batch, scalar, offset=0.0)
    with pytest.raises(ValueError, match=re.escape("teacher_log_potential must have rank 0")):
        error(scalar, batch, offset=0.0)
    with pytest.raises(ValueError, match=re.escape("offset must have rank 0, got shape (2,)")):
        error(scalar, scalar, offset=batch)
    with pytest.raises(TypeError, match="student_log_density must be floating"):
        error(jnp.array(1), scalar, offset=0.0)
    with pytest.raises(TypeError, match="teacher_log_potential must be floating"):
        error(scalar, jnp.array(1), offset=0.0)


def test_scores_refuse():
    message = "student_score and teacher_score must have the same shape, got (3,) and (1,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.score_matching(jnp.zeros(3), jnp.zeros(1))
    for student, teacher, name in [(1, 1.0, "student_score"), (1.0, 1, "teacher_score")]:
        with pytest.raises(TypeError, match=f"{name} must be floating, got int32"):
            losses.score_matching(jnp.array(student), jnp.array(teacher))


@pytest.mark.parametrize(
    "loss_fn",
    [
        losses.hyvarinen_score_matching,
        lambda fn, x: losses.sliced_score_matching(fn, x, jax.random.key(0)),
    ],
)
def test_losses_of_functions_refuse(loss_fn):
    message = "log_density_fn(x) must have rank 0, got shape (3,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        loss_fn(jnp.sin, jnp.ones(3))
    with pytest.raises(TypeError, match="x must be floating, got int32"):
        loss_fn(jnp.sum, jnp.ones(3, jnp.int32))


def test_the_number_of_projections_is_checked():
    def run(num_projections):
        return losses.sliced_score_matching(
            jnp.sum, jnp.ones(3), jax.random.key(0), num_projections=num_projections
        )

    with pytest.raises(ValueError, match="num_projections must be at least 1, got 0"):
        run(0)
    with pytest.raises(TypeError, match="num_projections must be an integer, got 1.0"):
        run(1.0)
