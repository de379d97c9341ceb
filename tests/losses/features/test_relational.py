"""Relations of inputs, by NumPy's loops."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd.losses import features
from kd.losses.features import (
    cosine_similarity,
    information_flow,
    mutual_information_square_error,
    probabilistic_knowledge_transfer,
    quadratic_mutual_information,
    rbf_kernel,
    same_label,
    similarity_divergence,
    student_t_similarity,
    supervised_knowledge_transfer,
)

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 4))
LABELS = np.array([0, 2, 0, 1, 2])
KERNELS = [cosine_similarity, student_t_similarity]


def similarity(fn, h):
    """Entry by entry."""
    found = np.empty((len(h), len(h)))
    for i, a in enumerate(h):
        for j, b in enumerate(h):
            if fn is cosine_similarity:
                found[i, j] = (a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 1) / 2
            else:
                found[i, j] = 1 / (1 + np.linalg.norm(a - b))
    return found


def divergence_of(student, teacher, divergence, with_self):
    total = 0.0
    for i in range(len(student)):
        others = [j for j in range(len(student)) if with_self or j != i]
        q, p = (one[i, others] / one[i, others].sum() for one in (student, teacher))
        weights = p - q if divergence == "jeffreys" else p
        total += np.sum(weights * np.log(p / q))
    return total / len(student)


@pytest.mark.parametrize("with_self", [True, False])
@pytest.mark.parametrize("divergence", ["kl", "jeffreys"])
@pytest.mark.parametrize("fn", KERNELS, ids=lambda fn: fn.__name__)
def test_value_and_gradient_by_loops(fn, divergence, with_self, x64):
    loss = lambda s: probabilistic_knowledge_transfer(
        s, jnp.asarray(TEACHER), similarity_fn=fn, divergence=divergence, with_self=with_self
    )
    by_hand = lambda s: divergence_of(
        similarity(fn, s), similarity(fn, TEACHER), divergence, with_self
    )
    value, slope = jax.value_and_grad(loss)(jnp.asarray(STUDENT))
    assert float(value) == pytest.approx(by_hand(STUDENT), rel=1e-8)
    flat = lambda x: np.array([by_hand(x.reshape(STUDENT.shape))])
    steps = oracles.central_jacobian(flat, STUDENT.ravel())[0].reshape(STUDENT.shape)
    np.testing.assert_allclose(slope, steps, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fn", KERNELS, ids=lambda fn: fn.__name__)
def test_what_is_alike_costs_nothing(fn):
    h = jnp.asarray(TEACHER, jnp.float32)
    turned = h @ jnp.asarray(np.linalg.qr(RNG.normal(size=(4, 4)))[0], jnp.float32)
    value, slope = jax.value_and_grad(probabilistic_knowledge_transfer)(turned, h, similarity_fn=fn)
    assert float(value) == pytest.approx(0, abs=1e-6) and np.max(np.abs(slope)) < 1e-5
    slope = jax.grad(probabilistic_knowledge_transfer, argnums=1)(
        jnp.asarray(STUDENT, jnp.float32), h, similarity_fn=fn
    )
    assert not np.any(slope)  # Nothing flows into a teacher.


@pytest.mark.parametrize("fn", KERNELS, ids=lambda fn: fn.__name__)
def test_features_that_are_alike_opposite_or_dead(fn):
    """Distances of 0, cosines of -1 and lengths of 0: finite, forwards and back."""
    h = jnp.asarray(STUDENT, jnp.float32)
    for given in (h.at[1].set(h[0]), h.at[1].set(-h[0]), h.at[1].set(0.0), jnp.zeros_like(h)):
        for divergence in ("kl", "jeffreys"):
            value, slope = jax.value_and_grad(probabilistic_knowledge_transfer)(
                given, jnp.asarray(TEACHER, jnp.float32), similarity_fn=fn, divergence=divergence
            )
            assert np.isfinite(value) and np.all(np.isfinite(slope))
    far = 1e4 + h
    np.testing.assert_allclose(student_t_similarity(far), student_t_similarity(h), atol=2e-3)


@pytest.mark.parametrize("fn", KERNELS, ids=lambda fn: fn.__name__)
def test_supervised_by_loops(fn, x64):
    is_same = np.maximum(LABELS[:, None] == LABELS[None, :], 1e-7)
    found = supervised_knowledge_transfer(jnp.asarray(STUDENT), LABELS, similarity_fn=fn)
    expected = divergence_of(similarity(fn, STUDENT), is_same, "kl", True)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    # Alone with its label and without itself: as alike to all.
    found = supervised_knowledge_transfer(
        jnp.asarray(STUDENT), LABELS, similarity_fn=fn, with_self=False
    )
    expected = divergence_of(similarity(fn, STUDENT), is_same, "kl", False)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_mean_over_inputs_does_not_shrink_with_the_batch():
    """Of unrelated features: where released code's mean over pairs is 32 times less."""
    found = []
    for size in (16, 512):
        one, other = (jnp.asarray(RNG.normal(size=(size, 16)), jnp.float32) for _ in range(2))
        found.append(float(probabilistic_knowledge_transfer(one, other)))
    assert 0.5 < found[1] / found[0] < 2


def test_supervised_jeffreys_is_set_by_its_floor():
    h, labels = jnp.asarray(RNG.normal(size=(128, 16)), jnp.float32), RNG.integers(10, size=128)
    values = [
        float(supervised_knowledge_transfer(h, labels, divergence=one))
        for one in ("kl", "jeffreys")
    ]
    assert values == pytest.approx([2.3, 14.3], rel=0.1)


def test_quadratic_mutual_information_is_its_integral(x64):
    """Of densities on a line, whose kernel's square root is a narrower Gaussian."""
    h = RNG.normal(size=6)
    labels = np.array([0, 0, 1, 1, 1, 2])
    scale = 0.7
    grid = np.linspace(-8, 8, 20_001)
    width = scale / 2**0.5  # Two of that width convolve to one of the scale.
    bumps = np.exp(-0.5 * ((grid[None] - h[:, None]) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    everything = bumps.mean(0)
    expected = 0.0
    for label in range(3):
        joint = bumps[labels == label].sum(0) / 6
        expected += np.trapezoid((joint - np.mean(labels == label) * everything) ** 2, grid)
    kernel = rbf_kernel(scale)(jnp.asarray(h[:, None])) / (scale * np.sqrt(2 * np.pi))
    found = quadratic_mutual_information(kernel, labels)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    alone = quadratic_mutual_information(kernel, np.zeros(6, int))
    assert float(alone) == pytest.approx(0.0, abs=1e-12)
    slope = jax.grad(lambda k: quadratic_mutual_information(k, labels))(kernel)
    # It is linear in the similarities.
    assert float(jnp.sum(slope * kernel)) == pytest.approx(float(found), rel=1e-9)


@pytest.mark.parametrize("fn", KERNELS, ids=lambda fn: fn.__name__)
def test_mutual_information_is_matched(fn, x64):
    """By loops over pairs; the teacher is data."""

    def known(h):
        total, kernel = 0.0, similarity(fn, h)
        shares = [np.mean(LABELS == label) for label in LABELS]
        for i in range(5):
            for j in range(5):
                all_classes = sum(np.mean(LABELS == label) ** 2 for label in np.unique(LABELS))
                total += kernel[i, j] * ((LABELS[i] == LABELS[j]) + all_classes - 2 * shares[i])
        return total / 25

    def by_hand(h):
        return (known(h) - known(TEACHER)) ** 2

    loss = lambda s, t: mutual_information_square_error(s, t, LABELS, similarity_fn=fn)
    given = jnp.asarray(STUDENT), jnp.asarray(TEACHER)
    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(*given)
    assert float(value) == pytest.approx(by_hand(STUDENT), rel=1e-9)
    flat = lambda x: np.array([by_hand(x.reshape(5, 3))])
    steps = oracles.central_jacobian(flat, STUDENT.ravel())[0].reshape(5, 3)
    np.testing.assert_allclose(slopes[0], steps, rtol=1e-5, atol=1e-9)
    assert not np.any(slopes[1])
    with pytest.raises(ValueError, match=r"similarities must have shape \(5, 5\)"):
        mutual_information_square_error(*given, LABELS, similarity_fn=lambda h: h[:2] @ h[:2].T)
    with pytest.raises(ValueError, match="the same at all 5 inputs"):
        mutual_information_square_error(given[0], jnp.ones((5, 2)), LABELS)


def test_raises():
    h = jnp.asarray(STUDENT, jnp.float32)
    for loss in (
        lambda s, **given: probabilistic_knowledge_transfer(s, h, **given),
        lambda s, **given: supervised_knowledge_transfer(s, LABELS, **given),
    ):
        with pytest.raises(ValueError, match="divergence must be one of kl, jeffreys; got 'js'"):
            loss(h, divergence="js")
        with pytest.raises(ValueError, match="a batch of one input"):
            loss(h[:1])
        with pytest.raises(ValueError, match="student's features must be finite"):
            loss(h.at[0].set(np.nan))
        with pytest.raises(TypeError, match="student's features must be floating"):
            loss(h.astype(int))
    with pytest.raises(ValueError, match="the same at all 5 inputs"):
        probabilistic_knowledge_transfer(h, jnp.ones((5, 2)))
    with pytest.raises(ValueError, match="labels must have shape"):
        supervised_knowledge_transfer(h, LABELS[:3])
    with pytest.raises(TypeError, match="labels must be integers"):
        supervised_knowledge_transfer(h, jnp.zeros(5))
    with pytest.raises(ValueError, match=r"similarities must be \[N, N\]"):
        similarity_divergence(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="must have the same shape"):
        similarity_divergence(jnp.ones((2, 2)), jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="similarities"):
        quadratic_mutual_information(jnp.ones((3, 3)), LABELS)
    with pytest.raises(ValueError, match="a batch of one input"):
        quadratic_mutual_information(jnp.ones((1, 1)), LABELS[:1])
    with pytest.raises(ValueError, match="labels must have rank 1"):
        same_label(LABELS[None])
    with pytest.raises(ValueError, match=r"similarities must have shape \(5, 5\)"):
        probabilistic_knowledge_transfer(h, 2 * h, similarity_fn=lambda h: h[:2] @ h[:2].T)
    off = jnp.eye(5).at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="student's similarities must be finite"):
        similarity_divergence(off, jnp.eye(5))
    with pytest.raises(ValueError, match="similarities must be finite"):
        quadratic_mutual_information(off, LABELS)
    with pytest.raises(TypeError, match="similarities must be an array, got list"):
        quadratic_mutual_information([[1.0, 0.0], [0.0, 1.0]], LABELS[:2])


def test_information_flow_is_a_sum_over_layers_and_kernels(x64):
    own = {"a": jnp.asarray(STUDENT), "b": jnp.asarray(TEACHER[:, :2])}
    told = {"a": jnp.asarray(TEACHER), "b": jnp.asarray(STUDENT), "c": jnp.ones((5, 1))}
    wanted = sum(
        weight
        * divergence_of(similarity(fn, np.array(own[name])), similarity(fn, told[name]), *how)
        for name, weight in (("a", 1.0), ("b", 30.0))
        for fn in KERNELS
        for how in [("jeffreys", True)]
    )
    found = information_flow(own, told, {"a": 1.0, "b": jnp.array(30.0)})
    assert float(found) == pytest.approx(wanted, rel=1e-8)
    slope = jax.grad(information_flow, argnums=1)(own, told, {"a": 1.0, "b": 1.0})
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))


LAYERS = {
    "rectified": lambda x: np.maximum(x, 0),
    "far from 0": lambda x: x + 100,
    "large": lambda x: 1e25 * x,
    "small": lambda x: 1e-25 * x,
    "a dead input": lambda x: x * (np.arange(len(x)) > 0)[:, None],
    "a small input": lambda x: x * np.where(np.arange(len(x)), 1, 1e-3)[:, None] + 1e-4,
    "all alike but one": lambda x: np.where(np.arange(len(x))[:, None] > 0, x[1:2], x),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_information_flow_in_single_precision(layer):
    """Of one product a layer, as near to float64 as of the two kernels by themselves."""
    rng = np.random.default_rng(1)
    given = [
        np.float32(LAYERS[layer](rng.normal(size=(64, width)).astype(np.float64)))
        for width in (48, 80)
    ]

    def values(dtype, fns):
        student, teacher = (jnp.asarray(one, dtype) for one in given)
        return [np.asarray(x, float) for x in jax.value_and_grad(fns)(student, teacher)]

    def apart(student, teacher):
        return sum(
            probabilistic_knowledge_transfer(
                student, teacher, similarity_fn=fn, divergence="jeffreys"
            )
            for fn in KERNELS
        )

    flow = lambda s, t: information_flow({"a": s}, {"a": t}, {"a": 1.0})
    value, slope = values(jnp.float32, flow)
    with jax.enable_x64(True):
        exact, exact_slope = values(jnp.float64, apart)
        same, same_slope = values(jnp.float64, flow)
    assert same == pytest.approx(exact, rel=1e-9)
    scale = np.max(np.abs(exact_slope))
    np.testing.assert_allclose(same_slope, exact_slope, rtol=1e-6, atol=1e-9 * scale)
    assert value == pytest.approx(exact, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(slope, exact_slope, rtol=2e-3, atol=2e-3 * scale)


def test_information_flow_between_layers_there_are():
    h = {"a": jnp.eye(3)}
    with pytest.raises(ValueError, match="the teacher has no layer 'b'; it has a"):
        information_flow({"b": jnp.eye(3), **h}, h, {"b": 1.0})
    with pytest.raises(ValueError, match="the student has no layer 'b'; it has a"):
        information_flow(h, {"b": jnp.eye(3)}, {"b": 1.0})
    with pytest.raises(ValueError, match="weights must name a layer or more"):
        information_flow(h, h, {})
    with pytest.raises(TypeError, match="weights must be of type Mapping, got list"):
        information_flow(h, h, ["a"])
    with pytest.raises(TypeError, match="teacher must be of type Mapping, got"):
        information_flow(h, h["a"], {"a": 1.0})


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_kernels_of_half_precision_are_computed_in_single(dtype):
    h = jnp.array([[300.0, 0.0], [0.0, 300.0], [300.0, 300.0]])
    labels = jnp.array([0, 0, 1])
    for fn in (
        features.cosine_similarity,
        features.pairwise_distances,
        features.student_t_similarity,
        features.linear_kernel,
        features.rbf_kernel(100.0),
    ):
        assert fn(h.astype(dtype)).dtype == jnp.float32
        np.testing.assert_array_equal(fn(h.astype(dtype)), fn(h))
    kernel = features.same_label(labels)
    np.testing.assert_array_equal(
        features.similarity_divergence(0.5 * kernel.astype(dtype) + 0.5, kernel.astype(dtype)),
        features.similarity_divergence(0.5 * kernel + 0.5, kernel),
    )
    np.testing.assert_array_equal(
        features.quadratic_mutual_information(kernel.astype(dtype), labels),
        features.quadratic_mutual_information(kernel, labels),
    )


@pytest.mark.parametrize("factor", [1e20, 1e-20])
def test_cosines_know_no_scale(factor):
    h = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    found, expected = features.cosine_similarity(factor * h), features.cosine_similarity(h)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 2, 2)])
def test_kernels_are_of_rows_of_features(shape):
    for fn in (
        features.cosine_similarity,
        features.pairwise_distances,
        features.linear_kernel,
        features.rbf_kernel(),
    ):
        with pytest.raises(ValueError, match="features must have rank 2"):
            fn(jnp.ones(shape))
        with pytest.raises(ValueError, match=r"with D >= 1, got shape \(4, 0\)"):
            fn(jnp.ones((4, 0)))
        with pytest.raises(ValueError, match="features must be finite"):
            fn(jnp.full((4, 2), jnp.inf))


def test_weights_of_layers():
    h = {"one": jnp.eye(3)}
    with pytest.raises(ValueError, match=r"weight of 'one' must be at least 0, got -1\.0"):
        features.information_flow(h, h, {"one": -1.0})
    with pytest.raises(TypeError, match="weight of 'one' must be one number"):
        features.information_flow(h, h, {"one": jnp.ones(2)})


def test_double_precision_leaves_single_as_it_is(x64):
    h = {"one": jnp.eye(3, dtype=jnp.float32)}
    assert features.information_flow(h, h, {"one": 1.0}).dtype == jnp.float32
    assert features.same_label(jnp.array([0, 1])).dtype == jnp.float64
