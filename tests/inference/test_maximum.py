"""kd.inference.max_lower_bound: against enumeration, and that it is a bound."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kd.inference import max_lower_bound
from kd.models import RBM

SIZE = 10
EVERY = np.array(list(itertools.product([0.0, 1.0], repeat=SIZE)), np.float32)


def rbm_potential(seed, scale=1.5):
    rng = np.random.default_rng(seed)
    shapes = {"w": (SIZE, 5), "a": (SIZE,), "b": (5,)}
    params = {
        name: jnp.array(scale * rng.normal(size=s), jnp.float32) for name, s in shapes.items()
    }
    return lambda x: RBM(SIZE, 5).log_potential({"params": params}, x)


@pytest.mark.parametrize("seed", range(4))
def test_the_maximum_of_a_small_rbm_is_found_and_is_below_log_z(seed):
    fn = rbm_potential(seed)
    starts = jax.random.bernoulli(jax.random.key(0), 0.5, (50, SIZE))
    value, x = max_lower_bound(fn, starts, num_ascents=20)
    values = np.array(fn(EVERY), float)
    assert float(value) == pytest.approx(values.max(), rel=1e-6)
    np.testing.assert_array_equal(x, EVERY[values.argmax()])
    assert float(value) < special.logsumexp(values)


def test_one_ascent_ends_where_no_flip_helps():
    fn = rbm_potential(2)
    for start in EVERY[::97]:
        value, x = max_lower_bound(fn, start[None])
        neighbours = np.abs(np.array(x)[None] - np.eye(SIZE, dtype=np.float32))
        assert float(value) == pytest.approx(float(fn(x[None])[0]), rel=1e-6)
        assert float(fn(neighbours).max()) <= float(value) + 1e-4
        assert float(value) >= float(fn(start[None])[0]) - 1e-4


def test_flips_may_be_limited_and_jit_is_eager():
    fn = lambda x: jnp.sum(x, -1)
    value, x = max_lower_bound(fn, jnp.zeros((1, SIZE)), max_flips=3)
    assert float(value) == 3.0 and float(x.sum()) == 3.0
    value, x = jax.jit(lambda x: max_lower_bound(fn, x))(jnp.zeros((2, SIZE)))
    assert float(value) == SIZE and (x == 1).all()


def test_the_best_candidates_climb():
    """A single flip gets nowhere from the others: the bound is the best one's own."""
    fn = lambda x: jnp.where(jnp.all(x == 1, -1), 5.0, 0.0)
    for num_ascents in (1, 3):
        candidates = np.eye(SIZE)[:3].tolist() + [[1] * SIZE]
        value, x = max_lower_bound(fn, jnp.array(candidates), num_ascents=num_ascents)
        assert float(value) == 5.0 and (x == 1).all()


def test_where_the_potential_is_no_number_is_passed_over():
    fn = lambda x: jnp.where(x[:, 0] == 1, jnp.nan, jnp.sum(x, -1))
    value, x = max_lower_bound(fn, jnp.eye(SIZE))
    assert float(value) == SIZE - 1 and x[0] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_finite_maximum_is_refused(value):
    with pytest.raises(ValueError, match="no finite maximum: the largest is (inf|-inf)"):
        max_lower_bound(lambda x: jnp.full(len(x), value), jnp.zeros((2, SIZE)))


def test_raises():
    fn = lambda x: jnp.sum(x, -1)
    for candidates, options, message in (
        (jnp.zeros(3), {}, "candidates must have rank 2"),
        (jnp.zeros((0, 3)), {}, "candidates must hold at least one example"),
        (jnp.full((2, 3), 0.5), {}, "candidates must hold zeros and ones alone"),
        (jnp.zeros((2, 3)), {"num_ascents": 0}, "num_ascents must be at least 1, got 0"),
        (jnp.zeros((2, 3)), {"max_flips": 0}, "max_flips must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            max_lower_bound(fn, candidates, **options)
    with pytest.raises(ValueError, match=r"log_potential_fn must give shape \(2,\), got \(\)"):
        max_lower_bound(jnp.sum, jnp.zeros((2, 3)))
