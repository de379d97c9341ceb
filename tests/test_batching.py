"""kd.batching: replicas by a loop or side by side; what `vmap` does otherwise than by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.batching import cond_any, over_replicas, take_rows, with_batched


def halve_and_count(calls):
    """A refill that reports each execution of the branch, and with how many members."""

    def host(x):
        calls.append(x.shape[0] if x.ndim > 1 else 1)
        return np.asarray(x) / 2

    def refill(state):
        shape = jax.ShapeDtypeStruct(state["x"].shape, state["x"].dtype)
        # Effects are asked of the callback's *result*, so that it cannot be left out.
        halved = jax.pure_callback(host, shape, state["x"], vmap_method="broadcast_all")
        return {**state, "x": halved, "n": state["n"] + 1}

    return refill


def make_state(batch=()):
    x = np.arange(np.prod(batch, dtype=int) * 3, dtype=np.float32).reshape(*batch, 3)
    return {"x": jnp.array(x), "n": jnp.zeros(batch, jnp.int32)}


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_without_a_batch_it_is_a_branch(needed, wrap):
    calls = []
    refill = halve_and_count(calls)
    state = make_state()
    got = wrap(lambda needed, state: cond_any(needed, refill, state))(jnp.array(needed), state)
    assert calls == [1] * needed
    expected = jax.lax.cond(needed, refill, lambda state: state, state)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert got["n"] == int(needed)


@pytest.mark.parametrize(
    "needed", [[False] * 4, [True] * 4, [True, False, False, True], [False, False, True, False]]
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_under_vmap_only_those_in_need_change_and_the_branch_is_taken_only_for_them(needed, wrap):
    calls = []
    refill = halve_and_count(calls)
    state = make_state((4,))
    run = wrap(jax.vmap(lambda needed, state: cond_any(needed, refill, state)))
    got = jax.block_until_ready(run(jnp.array(needed), state))
    assert calls == ([4] if any(needed) else [])
    need = np.array(needed)
    np.testing.assert_array_equal(got["n"], need.astype(int))
    x = np.array(state["x"])
    np.testing.assert_array_equal(got["x"], np.where(need[:, None], x / 2, x))


def test_lax_cond_would_have_taken_the_branch():
    """What `cond_any` is for: if this ever fails, it is no longer needed."""
    calls = []
    refill = halve_and_count(calls)
    run = jax.vmap(lambda needed, state: jax.lax.cond(needed, refill, lambda state: state, state))
    jax.block_until_ready(run(jnp.array([False] * 4), make_state((4,))))
    assert calls == [4]


def test_state_shared_by_the_batch():
    """One state, many predicates: the state is broadcast."""
    run = jax.vmap(lambda needed: cond_any(needed, lambda x: x + 1, jnp.zeros(2)))
    np.testing.assert_array_equal(run(jnp.array([True, False])), [[1, 1], [0, 0]])


@pytest.mark.parametrize("needed", [True, False])
def test_predicate_shared_by_the_batch(needed):
    run = jax.vmap(lambda x: cond_any(jnp.array(needed), lambda x: x + 1, x))
    np.testing.assert_array_equal(run(jnp.arange(3.0)), np.arange(3.0) + needed)


def test_keys_and_nested_batches():
    """Typed keys have no bits to select with `where` of their own; nor is one vmap enough."""
    keys = jax.random.split(jax.random.key(0), (2, 3))
    needed = jnp.array([[True, False, False], [False, True, True]])

    def refill(state):
        return {"key": jax.random.fold_in(state["key"], 1)}

    run = jax.vmap(jax.vmap(lambda needed, key: cond_any(needed, refill, {"key": key})["key"]))
    got = jax.random.key_data(run(needed, keys))
    folded = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 1)))(keys)
    expected = np.where(needed[..., None], jax.random.key_data(folded), jax.random.key_data(keys))
    np.testing.assert_array_equal(got, expected)


def test_inside_a_scan():
    """A counter that starts anew at three, for three starts at once."""

    def step(count, _):
        count = cond_any(count >= 3, jnp.zeros_like, count)
        return count + 1, count

    run = jax.jit(jax.vmap(lambda start: jax.lax.scan(step, start, length=6)[1]))
    got = run(jnp.array([0, 1, 2]))
    np.testing.assert_array_equal(got, [[0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0], [2, 0, 1, 2, 0, 1]])


@pytest.mark.parametrize("method", ["auto", "loop", "vmap"])
def test_over_replicas_is_the_python_loop(method):
    tree = {"x": jnp.arange(12.0).reshape(4, 3), "key": jax.random.split(jax.random.key(0), 4)}

    def fn(tree):
        noise = jax.random.normal(tree["key"], (3,))
        return {"y": jnp.tanh(tree["x"]) + noise, "sum": jnp.sum(tree["x"])}

    got = over_replicas(fn, method)(tree)
    loop = [fn(jax.tree.map(lambda leaf: leaf[i], tree)) for i in range(4)]  # noqa: B023
    for name in got:
        np.testing.assert_allclose(got[name], [one[name] for one in loop], rtol=1e-6)


def test_loop_runs_one_replica_at_a_time():
    """A callback sees one replica in the loop and all of them side by side."""
    for method, expected in [("loop", [1, 1, 1, 1]), ("vmap", [4])]:
        calls = []
        jax.block_until_ready(over_replicas(halve_and_count(calls), method)(make_state((4,))))
        assert calls == expected


@pytest.mark.parametrize(
    ("backend", "primitives"), [("cpu", {"scan"}), ("gpu", {"tanh"}), ("tpu", {"tanh"})]
)
def test_auto_is_a_loop_on_a_cpu_alone(backend, primitives, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jaxpr = jax.make_jaxpr(over_replicas(jnp.tanh))(jnp.zeros((4, 3)))
    assert {equation.primitive.name for equation in jaxpr.eqns} == primitives


def test_a_bad_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of auto, loop, vmap; got 'pmap'"):
        over_replicas(lambda x: x, "pmap")


def test_take_rows_takes_rows_of_every_leaf():
    data = {"x": np.arange(24).reshape(4, 3, 2), "y": jnp.arange(4) * 10}
    for index in ([2, 0, 2], [3], []):
        found = take_rows(data, jnp.array(index, jnp.int32))
        for name, leaf in data.items():
            np.testing.assert_array_equal(found[name], np.asarray(leaf)[np.array(index, int)])


def scaled_sine(calls):
    """`w sin(x)` of a vector, in two forms that say when they are traced."""

    def one(x, w):
        calls.append("one")
        return w * jnp.sin(x)

    def many(x, w):
        calls.append("many")
        return w[:, None] * jnp.sin(x)

    return with_batched(one, many)


PLAIN = lambda x, w: w * jnp.sin(x)
W, X = jnp.array([1.0, -2.0, 0.5]), jnp.linspace(-1, 2, 15).reshape(5, 3)
TRANSFORMS = {
    "value": (lambda fn: fn(X[0], W), False),
    "batch": (lambda fn: jax.vmap(lambda x: fn(x, W))(X), True),
    "batch along another axis": (lambda fn: jax.vmap(lambda x: fn(x, W), 1, 1)(X.T), True),
    "gradient of a batch": (
        lambda fn: jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: fn(x, w))(X) ** 2))(W),
        True,
    ),
    "gradients of each": (
        lambda fn: jax.vmap(lambda x: jax.grad(lambda w: jnp.sum(fn(x, w) ** 2))(W))(X),
        False,
    ),
    "input Jacobian of each": (
        lambda fn: jax.vmap(lambda x: jax.jacrev(lambda x: fn(x, W))(x))(X),
        False,
    ),
    "forward mode": (
        lambda fn: jax.jvp(lambda w: jax.vmap(lambda x: fn(x, w))(X), (W,), (2 * W,))[1],
        True,
    ),
    "Hessian-vector product": (
        lambda fn: jax.jvp(
            jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: fn(x, w))(X) ** 4)), (W,), (2 * W,)
        )[1],
        True,
    ),
    "of one input": (
        lambda fn: jax.jvp(jax.grad(lambda x: jnp.sum(fn(x, W) ** 4)), (X[0],), (X[1],))[1],
        False,
    ),
    "weights batched": (lambda fn: jax.vmap(lambda w: fn(X[0], w))(jnp.stack([W, 2 * W])), False),
    "both batched": (lambda fn: jax.vmap(fn)(X, jnp.stack([W] * 5)), False),
    "weights over inputs": (
        lambda fn: jax.vmap(lambda w: jax.vmap(lambda x: fn(x, w))(X))(jnp.stack([W, 2 * W])),
        True,
    ),
    "in a loop": (
        lambda fn: jax.grad(
            lambda w: jnp.sum(jax.lax.map(lambda x: fn(x, w), X, batch_size=2) ** 2)
        )(W),
        True,
    ),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_function_with_a_form_for_batches(name, wrap):
    """Every transformation gives what it gives of the plain function, by the form expected."""
    transform, is_batched = TRANSFORMS[name]
    calls = []
    fn = scaled_sine(calls)
    found = wrap(lambda: transform(fn))()
    np.testing.assert_allclose(found, transform(PLAIN), rtol=1e-5, atol=1e-6)
    assert ("many" in calls) == is_batched


def test_a_form_for_batches_along_the_first_axis():
    fn = with_batched(PLAIN, lambda x, w: w[None] * jnp.sin(x), axis=0)
    found = jax.vmap(lambda x: fn(x, W), 1, 1)(X.T)
    np.testing.assert_allclose(found, (W[None] * jnp.sin(X)).T, rtol=1e-6)
    with pytest.raises(ValueError, match="axis must be one of 0, -1"):
        with_batched(fn, fn, axis=1)
