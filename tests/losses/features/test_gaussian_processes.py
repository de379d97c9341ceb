"""Divergences of Gaussian processes: other libraries' in float64, and what they must not notice."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from kd.losses import features
from kd.losses.features import (
    gaussian_process_bhattacharyya,
    gaussian_process_hellinger,
    gaussian_process_kl,
    gaussian_process_square_distance,
    gaussian_process_wasserstein,
    gram_square_error,
    linear_kernel,
    rbf_kernel,
)
from kd.losses.features.gaussian_processes import JITTER

LOSSES = [
    getattr(features, name)
    for name in features.__all__
    if name.startswith(("gaussian_process", "gram"))
]
# Batch, width of the student, of the teacher: each on both sides of the batch.
SHAPES = [(5, 8, 9), (9, 4, 3), (6, 3, 8), (6, 8, 3), (5, 5, 5)]


def draws(shape, seed=0, offset=0.0):
    size, student, teacher = shape
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, student)) + offset, rng.normal(size=(size, teacher)) + offset


def covariances(student, teacher, jitter):
    """Jittered Gram matrices, in float64."""
    kernels = [one @ one.T / one.shape[1] for one in (student, teacher)]
    noise = jitter * np.trace(kernels[1]) / len(student) * np.eye(len(student))
    return [kernel + noise for kernel in kernels]


def root_of(kernel):
    values, vectors = np.linalg.eigh(kernel)
    return vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T


def wasserstein_of(k, t):
    """The trace of the root is the sum of the singular values of the roots' product."""
    values = np.linalg.svd(root_of(k) @ root_of(t), compute_uv=False)
    return np.trace(k) + np.trace(t) - 2 * np.sum(values)


def square_distance_of(k, t):
    """The integral of a product of densities is a density at 0 of the sum of covariances."""
    at_zero = lambda cov: stats.multivariate_normal(cov=cov).pdf(np.zeros(len(k)))
    return 1 - 2 * at_zero(k + t) / (at_zero(2 * k) + at_zero(2 * t))


def by_hand(loss, student, teacher, jitter):
    """The loss by dense matrices and their square roots."""
    k, t = covariances(student, teacher, jitter)
    log_det = lambda a: np.linalg.slogdet(a)[1]
    if loss is gaussian_process_kl:
        return 0.5 * (np.trace(np.linalg.solve(t, k)) - len(k) + log_det(t) - log_det(k))
    distance = 0.5 * log_det((k + t) / 2) - 0.25 * (log_det(k) + log_det(t))
    if loss is gaussian_process_bhattacharyya:
        return distance
    if loss is gaussian_process_hellinger:
        return 1 - np.exp(-distance)
    if loss is gaussian_process_square_distance:
        return square_distance_of(k, t)
    k, t = covariances(student, teacher, 0.0)
    if loss is gram_square_error:
        return np.mean((k - t) ** 2)
    return wasserstein_of(k, t)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_value_and_gradient_by_dense_matrices(loss, shape, x64):
    student, teacher = draws(shape)
    given = {"jitter": 0.05} if "jitter" in loss.__kwdefaults__ else {}
    expected = by_hand(loss, student, teacher, 0.05)
    fn = lambda s: loss(s, jnp.asarray(teacher), **given)
    value, slope = jax.value_and_grad(fn)(jnp.asarray(student))
    assert float(value) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    # Differences of roots of singular matrices would be rounding: there, of the value just checked.
    by_steps = (
        fn if loss is gaussian_process_wasserstein else (lambda x: by_hand(loss, x, teacher, 0.05))
    )
    flat = lambda x: np.array([float(by_steps(x.reshape(student.shape)))])
    steps = oracles.central_jacobian(flat, student.ravel())[0].reshape(student.shape)
    np.testing.assert_allclose(slope, steps, rtol=2e-5, atol=2e-6)
    # Forwards too, and compiled.
    direction = jnp.asarray(np.random.default_rng(1).normal(size=student.shape))
    _, along = jax.jvp(jax.jit(fn), (jnp.asarray(student),), (direction,))
    assert float(along) == pytest.approx(float(jnp.sum(slope * direction)), rel=1e-9)


def test_the_kl_and_its_means_are_numpyros(x64):
    student, teacher = draws((6, 4, 9))
    means = np.random.default_rng(1).normal(size=(2, 6))
    k, t = covariances(student, teacher, 1e-3)
    own, other = (
        dist.MultivariateNormal(jnp.asarray(mean), covariance_matrix=jnp.asarray(kernel))
        for mean, kernel in zip(means, (k, t), strict=True)
    )
    expected = float(dist.kl_divergence(own, other))
    found = gaussian_process_kl(*map(jnp.asarray, (student, teacher)), means=tuple(means))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    slope = jax.grad(
        lambda mean: gaussian_process_kl(
            jnp.asarray(student), jnp.asarray(teacher), means=(mean, jnp.asarray(means[1]))
        )
    )(jnp.asarray(means[0]))
    np.testing.assert_allclose(slope, np.linalg.solve(t, means[0] - means[1]), rtol=1e-8)


@pytest.mark.parametrize("kernel_fn", [linear_kernel, rbf_kernel(1.5)], ids=["linear", "rbf"])
def test_means_with_either_kernel(kernel_fn, x64):
    """In the teacher's covariance; nothing flows into the teacher's mean, or its kernel."""
    student, teacher = map(jnp.asarray, draws((5, 8, 9)))
    means = np.random.default_rng(1).normal(size=(2, 5))
    kernels = [np.asarray(kernel_fn(one)) for one in (student, teacher)]
    noise = 0.05 * np.trace(kernels[1]) / 5 * np.eye(5)
    own, other = (
        dist.MultivariateNormal(jnp.asarray(mean), covariance_matrix=jnp.asarray(kernel + noise))
        for mean, kernel in zip(means, kernels, strict=True)
    )

    def kl(own_mean, mean, teacher):
        given = {"kernel_fn": kernel_fn, "jitter": 0.05}
        return gaussian_process_kl(student, teacher, means=(own_mean, mean), **given)

    value, slopes = jax.value_and_grad(kl, argnums=(0, 1, 2))(*map(jnp.asarray, means), teacher)
    assert float(value) == pytest.approx(float(dist.kl_divergence(own, other)), rel=1e-9)
    assert np.all(slopes[0]) and not np.any(slopes[1]) and not np.any(slopes[2])


def test_a_jitter_may_fall_with_the_steps(x64):
    """Traced, with the same values, and no slope of its own."""
    student, teacher = map(jnp.asarray, draws((5, 8, 9)))
    fn = jax.jit(lambda jitter: gaussian_process_kl(student, teacher, jitter=jitter))
    for jitter in (0.1, 0.01):
        expected = by_hand(gaussian_process_kl, *map(np.asarray, (student, teacher)), jitter)
        assert float(fn(jitter)) == pytest.approx(expected, rel=1e-6)
    assert float(jax.grad(fn)(0.1)) == 0


@pytest.mark.parametrize("loss", [one for one in LOSSES], ids=lambda loss: loss.__name__)
def test_another_kernel(loss, x64):
    """Distances' kernel: by the same formulas on features whose products it is."""
    student, teacher = draws((5, 3, 4))
    kernel = rbf_kernel(1.5)
    given = {"jitter": 0.05} if "jitter" in loss.__kwdefaults__ else {}
    factors = []
    for one in (student, teacher):
        square = np.sum((one[:, None] - one[None]) ** 2, axis=-1)
        gram = np.exp(-0.5 * square / (1.5**2 * one.shape[1]))
        np.testing.assert_allclose(kernel(jnp.asarray(one)), gram, rtol=1e-9)
        factors.append(np.linalg.cholesky(gram) * 5**0.5)  # Their width is 5.
    expected = by_hand(loss, *factors, 0.05)
    fn = lambda s: loss(s, jnp.asarray(teacher), kernel_fn=kernel, **given)
    assert float(fn(jnp.asarray(student))) == pytest.approx(expected, rel=1e-4)
    flat = lambda x: np.array([float(fn(jnp.asarray(x.reshape(student.shape))))])
    steps = oracles.central_jacobian(flat, student.ravel())[0].reshape(student.shape)
    np.testing.assert_allclose(jax.grad(fn)(jnp.asarray(student)), steps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@given(seed=st.integers(0, 1000), shape=st.sampled_from(SHAPES))
def test_rotations_are_not_seen_and_factors_are(loss, seed, shape):
    student, teacher = draws(shape, seed)
    rng = np.random.default_rng(seed + 1)
    turns = [linalg.qr(rng.normal(size=(one.shape[1],) * 2))[0] for one in (student, teacher)]
    with jax.enable_x64(True):
        given = map(jnp.asarray, (student, teacher, student @ turns[0], teacher @ turns[1]))
        student, teacher, turned, turned_teacher = given
        expected = float(loss(student, teacher))
        assert float(loss(turned, turned_teacher)) == pytest.approx(expected, rel=1e-7)
        # The teacher's own features, rotated: nothing is left of it.
        assert abs(float(loss(turned_teacher, teacher))) < 1e-9
        slope = jax.grad(loss)(turned_teacher, teacher)
        np.testing.assert_allclose(slope, np.zeros_like(slope), atol=1e-9)
        assert float(loss(1.5 * turned_teacher, teacher)) > 1e-3


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("shape", [(5, 8, 9), (9, 4, 3)], ids=str)
def test_single_precision_at_singular_kernels(loss, shape):
    """Inputs that are twice in a batch, a student that is dead, and one that is the teacher."""
    student, teacher = (jnp.asarray(one, jnp.float32) for one in draws(shape))
    twice = student.at[1].set(student[0]), teacher.at[1].set(teacher[0])
    for s, t in (twice, (jnp.zeros_like(student), teacher), (teacher, teacher)):
        value, slope = jax.value_and_grad(loss)(s, t)
        assert np.isfinite(value) and np.all(np.isfinite(slope))
        exact = by_hand(loss, np.asarray(s, float), np.asarray(t, float), JITTER)
        assert float(value) == pytest.approx(exact, rel=1e-3, abs=3e-4)
        _, _, _, exact_slope = in_single_and_double(loss, s, t)
        # Of the teacher itself it is 0, and of the roots of a singular kernel not defined.
        if s is not t and loss is not gaussian_process_wasserstein:
            np.testing.assert_allclose(slope, exact_slope, rtol=0.01, atol=0.01 * np.max(slope))
    assert float(loss(teacher, teacher)) == pytest.approx(0.0, abs=3e-4)


def rbf(features, length_scale):
    """The kernel entry by entry, in float64."""
    square = np.sum((features[:, None] - features[None]) ** 2, axis=-1)
    return np.exp(-0.5 * square / (length_scale**2 * features.shape[1]))


@pytest.mark.parametrize("length_scale", [1.0, 10.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("size", "width", "times"), [(128, 2, 1), (64, 8, 2), (48, 8, 1)])
def test_a_smooth_kernel_and_inputs_that_are_twice(size, width, times, dtype, length_scale, x64):
    """Of a rank far below its size: the transport's value and slope, against float64."""
    rng = np.random.default_rng(0)
    student, teacher = (np.repeat(rng.normal(size=(size, width)), times, axis=0) for _ in range(2))
    noise = 1e-6 * np.eye(size * times)
    target = rbf(teacher, length_scale)
    by_hand = lambda s: wasserstein_of(rbf(s, length_scale) + noise, target + noise)
    fn = lambda s: gaussian_process_wasserstein(
        s, jnp.asarray(teacher, dtype), kernel_fn=rbf_kernel(length_scale)
    )
    value, slope = jax.jit(jax.value_and_grad(fn))(jnp.asarray(student, dtype))
    assert value.dtype == dtype and np.all(np.isfinite(slope))
    exact = dtype == jnp.float64
    assert float(value) == pytest.approx(by_hand(student), rel=1e-6 if exact else 2e-3)
    # Along the slope itself, where rounding cannot hide.
    direction = np.asarray(slope, np.float64) / np.linalg.norm(slope)
    step = 1e-4 * direction
    expected = (by_hand(student + step) - by_hand(student - step)) / 2e-4
    assert np.linalg.norm(slope) == pytest.approx(expected, rel=1e-3 if exact else 2e-2)
    # The teacher itself: nothing is left but rounding.
    value, slope = jax.value_and_grad(fn)(jnp.asarray(teacher, dtype))
    assert float(value) <= 1e-6 * len(teacher)
    assert np.max(np.abs(slope)) < (1e-7 if exact else 5e-3)


def test_the_transport_of_a_kernel_of_rank_one_or_none():
    """Kernels of a user's own that are singular at the start: finite, forwards and back."""
    squared = lambda h: jnp.square(h @ h.T)
    _, teacher = (jnp.asarray(one, jnp.float32) for one in draws((6, 3, 2)))
    for start in (jnp.zeros((6, 3)), jnp.ones((6, 3)), jnp.eye(6, 3)):
        fn = lambda s: gaussian_process_wasserstein(s, teacher, kernel_fn=squared)
        value, slope = jax.value_and_grad(fn)(start)
        k, t = (np.asarray(squared(one), np.float64) for one in (start, teacher))
        assert float(value) == pytest.approx(wasserstein_of(k, t), rel=1e-2)
        assert np.all(np.isfinite(slope))


def test_distances_kernel_far_from_zero():
    """Of features around 1,000, as precise as of the same ones around 0."""
    h = np.float32(1000 + np.random.default_rng(0).normal(size=(64, 8)))
    expected = rbf(np.float64(h), 1.0)
    np.testing.assert_allclose(rbf_kernel()(jnp.asarray(h)), expected, atol=2e-6)
    # A mean that is taken off must not be missing from the gradient.
    slope = jax.grad(lambda h: rbf_kernel()(h)[0, 1])(jnp.asarray(h))
    wanted = np.zeros_like(h)
    wanted[0] = -expected[0, 1] * (h[0] - h[1]) / 8
    wanted[1] = -wanted[0]
    np.testing.assert_allclose(slope, wanted, atol=2e-6)


def test_the_square_distance_is_its_integral(x64):
    """Of two inputs, by a sum over a grid."""
    student, teacher = draws((2, 3, 4), seed=1)
    k, t = covariances(student, teacher, 0.05)
    side = np.linspace(-12, 12, 1201)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    p, q = (stats.multivariate_normal(cov=cov).pdf(grid) for cov in (k, t))
    expected = np.sum((p - q) ** 2) / np.sum(p**2 + q**2)
    found = gaussian_process_square_distance(
        jnp.asarray(student), jnp.asarray(teacher), jitter=0.05
    )
    assert float(found) == pytest.approx(expected, rel=1e-6) and 0.05 < expected < 0.95


def test_the_square_distance_saturates_and_does_not_overflow():
    """Densities of 100 dimensions, of features that are dead or large: 1, in single precision."""
    one, other = (jnp.asarray(x, jnp.float32) for x in draws((100, 30, 20)))
    for scale in (0.0, 1e-4, 1.0, 1e4):
        value, slope = jax.value_and_grad(gaussian_process_square_distance)(scale * one, other)
        assert float(value) == 1.0 and np.all(np.isfinite(slope))
    near = other + 1e-3 * jnp.ones_like(other)
    distances = [
        float(loss(near, other, jitter=0.1))
        for loss in (gaussian_process_hellinger, gaussian_process_square_distance)
    ]
    assert 0 <= distances[0] <= distances[1] + 1e-3 < 0.5


def test_without_means_no_gram_matrix_is_made():
    """Of many inputs and few features nothing is as large as their Gram matrix."""
    one, other = (jnp.asarray(x, jnp.float32) for x in draws((50, 4, 3)))
    assert "[50,50]" not in str(jax.make_jaxpr(jax.grad(gaussian_process_kl))(one, other))
    with_means = lambda s: gaussian_process_kl(s, other, means=(jnp.zeros(50), jnp.ones(50)))
    assert "[50,50]" in str(jax.make_jaxpr(with_means)(one))


SIDES = [(64, 1024, 1024), (64, 16, 1024), (64, 1024, 16)]


@pytest.mark.parametrize("shape", [*SIDES, (1024, 32, 32), (1024, 32, 16), (1024, 16, 32)], ids=str)
def test_memory_and_arithmetic_are_linear_in_the_larger_side(shape):
    """Of value and gradient, compiled: four times the larger side, or both widths of it."""

    def costs(size, student, teacher):
        pair = jnp.zeros((size, student)), jnp.zeros((size, teacher))
        program = jax.jit(jax.value_and_grad(gaussian_process_kl)).lower(*pair).compile()
        numbers = program.memory_analysis().temp_size_in_bytes / 4
        return numbers, program.cost_analysis()["flops"]

    larger = max(shape)
    few, more = costs(*shape), costs(*(4 * x if x == larger else x for x in shape))
    assert all(other <= 4 * one for one, other in zip(few, more, strict=True))
    # Numbers at once, beside arguments and gradient: n d of each, and squares of the smaller side.
    size, widths = shape[0], shape[1] + shape[2]
    for numbers, factor in ((few[0], 1), (more[0], 4)):
        assert numbers <= 2.5 * factor * size * widths + 4 * min(shape) ** 2


LAYERS = {
    "rectified": lambda x: np.maximum(x, 0),
    "far from 0": lambda x: x + 30,
    "of rank 8": lambda x: np.maximum(x[:, :8] @ x[:8], 0),
    "half dead": lambda x: np.maximum(x, 0) * (np.arange(x.shape[1]) < x.shape[1] // 2),
}


def in_single_and_double(loss, student, teacher):
    def at(dtype):
        pair = jnp.asarray(student, dtype), jnp.asarray(teacher, dtype)
        return [np.asarray(x, np.float64) for x in jax.value_and_grad(loss)(*pair)]

    single = at(jnp.float32)
    with jax.enable_x64(True):
        return (*single, *at(jnp.float64))


@pytest.mark.parametrize("widths", [(512, 384), (64, 512), (512, 64), (64, 96)], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_single_precision_is_enough_for_a_batch(layer, widths):
    """256 inputs, on either side of the widths, whatever the spectrum."""
    one, other = (LAYERS[layer](x) for x in draws((256, *widths)))
    value, slope, exact, exact_slope = in_single_and_double(gaussian_process_kl, one, other)
    assert value == pytest.approx(exact, rel=1e-3)
    # Where both are narrower, errors are of the root of the jitter and not of itself.
    bound = 1e-4 if max(widths) < 256 else 2e-2
    assert np.linalg.norm(slope - exact_slope) < bound * np.linalg.norm(exact_slope)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("width", [64, 512])
def test_equal_kernels_in_single_precision(layer, width):
    """Rotated features, and those that are a hundredth off, where no digit is to be lost."""
    features, _ = draws((256, width, width))
    features = LAYERS[layer](features)
    rng = np.random.default_rng(1)
    rotated = features @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    for divergence in (gaussian_process_kl, gaussian_process_bhattacharyya):
        value, _, exact, _ = in_single_and_double(divergence, rotated, features)
        assert 0 <= value < 5e-3
        off = rotated + 0.01 * np.random.default_rng(2).normal(size=rotated.shape)
        value, _, exact, _ = in_single_and_double(divergence, off, features)
        assert value == pytest.approx(exact, rel=1e-3, abs=5e-3)
        if divergence is gaussian_process_kl and width < 256:
            assert value == pytest.approx(exact, rel=1e-4, abs=3e-5)


def test_the_published_prior_rewards_collapse_and_the_divergence_does_not(x64):
    """A student whose features vanish, as by the paper's last display and as by its KL."""
    student, teacher = draws((6, 8, 8))

    def published(scale):
        k, t = covariances(scale * student, teacher, 1e-3)
        return (
            np.linalg.slogdet(t)[1]
            - np.linalg.slogdet(k)[1]
            - 0.5 * np.trace(np.linalg.solve(t, k))
        )

    def prior(scale):
        return -float(gaussian_process_kl(jnp.asarray(scale * student), jnp.asarray(teacher)))

    scales = [1.0, 0.1, 0.01, 0.0]
    assert [published(s) for s in scales] == sorted(published(s) for s in scales)
    # Down to where the scale is the teacher's; then the density of what vanishes falls too.
    best = max(np.linspace(0.01, 2, 200), key=prior)
    assert 0.05 < best and prior(0.0) < prior(0.01) < prior(best)


def test_no_gradient_flows_into_a_teacher():
    student, teacher = (jnp.asarray(one, jnp.float32) for one in draws((5, 3, 4)))
    for loss in LOSSES:
        slope = jax.grad(loss, argnums=1)(student, teacher)
        np.testing.assert_array_equal(slope, np.zeros_like(slope))


def test_centring_takes_means_of_features_off(x64):
    student, teacher = map(jnp.asarray, draws((6, 4, 5), offset=3.0))
    for loss in LOSSES:
        found = float(loss(student, teacher, centre=True))
        moved = float(loss(student + 7.0, teacher - 2.0, centre=True))
        assert moved == pytest.approx(found, rel=1e-9)
        assert float(loss(student, teacher)) != pytest.approx(found, rel=1e-3)
        by_hand = loss(
            student - student.mean(0, keepdims=True), teacher - teacher.mean(0, keepdims=True)
        )
        assert float(by_hand) == pytest.approx(found, rel=1e-9)


def test_images_are_rows_of_features():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(4, 3, 3, 2)), jnp.float32)
    flat = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)
    found = gaussian_process_kl(image, flat)
    assert float(found) == float(gaussian_process_kl(image.reshape(4, 18), flat))
    half = gaussian_process_kl(image.astype(jnp.bfloat16), flat)
    assert half.dtype == jnp.float32 and float(half) == pytest.approx(float(found), rel=0.05)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_means_and_kernels_of_half_precision_are_computed_in_single(dtype):
    h, t = (jnp.asarray(one, jnp.float32) for one in draws((5, 8, 9)))
    means = jnp.full(5, -4e4, dtype), jnp.full(5, 4e4, dtype)
    single = tuple(mean.astype(jnp.float32) for mean in means)
    found = gaussian_process_kl(1e4 * h, 1e4 * t, means=means)
    assert float(found) == float(gaussian_process_kl(1e4 * h, 1e4 * t, means=single))
    kernel = lambda h: rbf_kernel()(h).astype(dtype)
    rounded = lambda h: kernel(h).astype(jnp.float32)
    for loss in LOSSES:
        found = loss(h, t, kernel_fn=kernel)
        assert found.dtype == jnp.float32
        assert float(found) == pytest.approx(float(loss(h, t, kernel_fn=rounded)), rel=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (np.zeros((1, 3)), np.ones((1, 3)), "a batch of one input"),
        (np.zeros((3, 3)), np.eye(4), "3 of the one's and 4"),
        (np.zeros(3), np.eye(3), r"student's features must be \[N, ...\]"),
        (np.eye(3), np.zeros((3, 0)), r"teacher's features must be \[N, ...\]"),
        (np.full((3, 3), np.nan), np.eye(3), "student's features must be finite"),
        (np.eye(3), np.full((3, 3), np.inf), "teacher's features must be finite"),
        (np.eye(3), np.ones((3, 3)), "the same at all 3 inputs"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_raises(loss, student, teacher, message):
    student, teacher = (jnp.asarray(one, jnp.float32) for one in (student, teacher))
    with pytest.raises(ValueError, match=message):
        loss(student, teacher)
    with pytest.raises(ValueError, match=message):  # A teacher that is known where all is traced.
        jax.jit(lambda: loss(student, teacher))()


def test_raises_of_other_arguments():
    one = jnp.eye(3)
    for loss in LOSSES:
        with pytest.raises(TypeError, match="student's features must be floating"):
            loss(jnp.eye(3, dtype=jnp.int32), one)
        if "jitter" in loss.__kwdefaults__:
            with pytest.raises(ValueError, match="jitter"):
                loss(one, one, jitter=0.0)
        for shape in ((), (3, 1), (1, 3)):  # Which would broadcast.
            with pytest.raises(ValueError, match=r"the kernel must have shape \(3, 3\)"):
                loss(one, one, kernel_fn=lambda _, shape=shape: jnp.ones(shape))
        with pytest.raises(TypeError, match="kernel_fn must be a function, got str"):
            loss(one, one, kernel_fn="rbf")
        with pytest.raises(TypeError, match="teacher's features must be an array, got"):
            loss(one, None)
    with pytest.raises(ValueError, match="means must be the student's and the teacher's, got 1"):
        gaussian_process_kl(one, one, means=(jnp.zeros(3),))
    with pytest.raises(TypeError, match="the mean of the student must be an array, got"):
        gaussian_process_kl(one, one, means=([0.0] * 3, [0.0] * 3))
    for off in (jnp.array([0.0, jnp.nan, 0.0]), jnp.array([jnp.inf, 0.0, 0.0])):
        with pytest.raises(ValueError, match="the mean of the student must be finite"):
            gaussian_process_kl(one, one, means=(off, jnp.zeros(3)))
    with pytest.raises(ValueError, match="length_scale"):
        rbf_kernel(-1.0)
    with pytest.raises(ValueError, match="the mean of the teacher"):
        gaussian_process_kl(one, one, means=(jnp.zeros(3), jnp.zeros(2)))


@pytest.mark.parametrize("divergence", [gaussian_process_kl, gaussian_process_bhattacharyya])
@pytest.mark.parametrize(("size", "jitter"), [(256, 1e-5), (1024, 1e-6), (20_000, 1e-3)])
def test_spectra_beyond_single_precision(divergence, size, jitter):
    """Features of rank 10, far from 0: the jitter is less than rounding."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(size, 10)) @ rng.normal(size=(10, 32))
    value, slope, exact, _ = in_single_and_double(
        lambda s, t: divergence(s, t, jitter=jitter), one, one + 3
    )
    assert value == pytest.approx(exact, rel=5e-3) and np.all(np.isfinite(slope))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("factor", [10, 1e3, 1e5])
def test_a_larger_student_and_inputs_that_are_twice(loss, factor):
    """Where the jitter, which is of the teacher's scale, is lost in the student's rounding."""
    student, teacher = draws((32, 64, 48))
    student = factor * np.repeat(student[:8], 4, axis=0)
    value, slope, exact, _ = in_single_and_double(loss, student, teacher)
    assert np.all(np.isfinite(slope))
    assert value == pytest.approx(exact, rel=1e-3)


def test_students_of_either_scale_at_once():
    """Under vmap, where determinants are found in two ways: as each student by itself."""
    student, teacher = (jnp.asarray(one, jnp.float32) for one in draws((32, 64, 48)))
    students = jnp.stack([student, 1e3 * jnp.repeat(student[:8], 4, axis=0)])
    fn = jax.value_and_grad(lambda s: gaussian_process_bhattacharyya(s, teacher))
    values, slopes = jax.vmap(fn)(students)
    alone = [fn(one) for one in students]
    np.testing.assert_allclose(values, [value for value, _ in alone], rtol=1e-5)
    np.testing.assert_allclose(slopes[0], alone[0][1], atol=1e-6)
    assert np.all(np.isfinite(slopes))  # The second's, of directions that are twice, is rounding.


def test_a_student_much_larger_than_its_teacher():
    one, other = draws((6, 3, 4))
    for divergence in (gaussian_process_kl, gaussian_process_bhattacharyya):
        value, slope, exact, exact_slope = in_single_and_double(divergence, 1e4 * one, other)
        assert value == pytest.approx(exact, rel=1e-5)
        assert np.linalg.norm(slope - exact_slope) < 1e-2 * np.linalg.norm(exact_slope)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_gradient_flows_through_the_teachers_kernel(loss):
    one, other = (jnp.asarray(x, jnp.float32) for x in draws((6, 3, 4)))

    def total(scale):
        def kernel_fn(features):
            return rbf_kernel()(features * (scale if features.shape[1] == 4 else 1.0))

        return loss(one, other, kernel_fn=kernel_fn)

    assert float(jax.grad(total)(1.5)) == 0


def test_curvature_of_a_smooth_kernel_at_equal_inputs(x64):
    kernel = lambda a: rbf_kernel()(jnp.stack([a, 1.0])[:, None])[0, 1]
    assert float(jax.hessian(kernel)(1.0)) == pytest.approx(-1.0)
