"""kd.training.fit: against a plain loop, to the bit after any interruption, and its rows."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd import losses, streams, training
from kd.training import NonFiniteLossError, fit, log_spaced
from kd.training.checkpoint import Checkpointer
from kd.types import Stream, Update

DATA = {"x": jnp.array(np.random.default_rng(0).normal(size=(7, 4)), jnp.float32)}


def teacher_fn(x):
    return jax.nn.log_softmax(jnp.stack([jnp.sum(jnp.sin(x)), x[0]]))


def make_stream():
    """Everything that carries state: epochs, blocks of labels, and randomness of each step."""
    inner = streams.with_signs(streams.resample(DATA, 3), num_projections=1, num_classes=2)
    return streams.label(inner, teacher_fn, derivatives="projected", num_batches=2)


def make_update():
    def loss(params, batch):
        def one(x, log_probs, signs, vjps):
            fn = lambda x: jax.nn.log_softmax(jnp.sin(x) @ params["w"] + params["b"])
            value, pullback = jax.vjp(fn, x)
            projected = jax.vmap(lambda v: pullback(v)[0])(signs)
            return losses.kl_divergence(value, log_probs) + losses.projected_square_error(
                projected, vjps, num_classes=2
            )

        names = ("x", "teacher_log_probs", "signs", "teacher_vjps")
        return jnp.mean(jax.vmap(one)(*(batch[name] for name in names)))

    return training.gradient(loss, optax.adadelta(1.0, rho=0.95, eps=1e-6))


def start(seed=0):
    w, b = np.split(np.random.default_rng(seed).normal(size=(5, 2)).astype(np.float32), [4])
    return make_update().init({"w": jnp.array(w), "b": jnp.array(b[0])})


def starts(num_replicas):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start, range(num_replicas)))


def bits(tree):
    """NumPy leaves, keys as their data."""

    def to_numpy(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(to_numpy, tree)


def same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, bits(a), bits(b))


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), bits(a), bits(b)
    )


EMPTY = Stream(lambda key: (), lambda key, state: (state, {"x": jnp.zeros(1)}))


def counting(metric_fn=lambda count: {"loss": count}):
    """An update whose state is the number of steps made, and whose metrics are made of it."""

    def apply(count, batch):
        count = count + 1
        metrics = metric_fn(count.astype(jnp.float32))
        return count, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), metrics)

    return Update(lambda params: params, apply)


def count(num_steps, update=None, start=0, **settings):
    """Runs `counting`, and returns the final state and the rows by step."""
    rows = {}

    def on_row(step, row):
        assert step not in rows
        rows[step] = row

    update = counting() if update is None else update
    start = jnp.array(start, jnp.int32)
    final = fit(jax.random.key(0), EMPTY, update, start, num_steps, on_row=on_row, **settings)
    return final, rows


# The result.


def test_it_is_the_plain_loop_over_make_step():
    key, rows = jax.random.key(3), {}
    final = fit(
        key, make_stream(), make_update(), start(), 11, log_every=4, on_row=rows.__setitem__
    )
    step_fn = jax.jit(training.make_step(make_stream(), make_update()))
    state = training.init_fit(key, make_stream(), start())
    seen = []
    for _ in range(11):
        state, metrics = step_fn(state)
        seen.append(float(metrics["loss"]))
    close(final, state)
    assert final.step == 11
    assert list(rows) == [4, 8, 11]
    expected = [np.mean(seen[:4]), np.mean(seen[4:8]), np.mean(seen[8:])]
    np.testing.assert_allclose([row["loss"] for row in rows.values()], expected, rtol=1e-5)
    # And it is a run: the student has moved, by batches that differ.
    assert len(set(seen)) == 11
    moved = jax.tree.map(lambda a, b: bool(np.all(a != b)), start().params, final.student.params)
    assert all(jax.tree.leaves(moved))


def test_each_batch_is_drawn_with_the_key_of_its_step():
    stream = Stream(
        lambda key: jax.random.key_data(key),
        lambda key, state: (state, {"key": jax.random.key_data(key)}),
    )
    update = Update(
        lambda params: params,
        lambda seen, batch: (
            jnp.concatenate([seen[1:], batch["key"][None]]),
            {"loss": jnp.zeros(())},
        ),
    )
    final = fit(jax.random.key(0), stream, update, jnp.zeros((5, 2), jnp.uint32), 5, log_every=2)
    stream_key, step_key = jax.random.split(jax.random.key(0))
    expected = [jax.random.key_data(jax.random.fold_in(step_key, step)) for step in range(5)]
    np.testing.assert_array_equal(final.student, expected)
    np.testing.assert_array_equal(final.stream, jax.random.key_data(stream_key))


def test_same_key_same_bits_other_key_others():
    run = lambda key: fit(jax.random.key(key), make_stream(), make_update(), start(), 5)
    first = run(0)
    same_bits(first, run(0))
    assert not np.array_equal(
        *(jax.tree.leaves(final.student.params)[0] for final in (first, run(1)))
    )


def test_rows_do_not_change_the_result():
    """Chunks of 1, of 2 and 3, and of everything: the same bits."""
    run = lambda log_every: fit(
        jax.random.key(0), make_stream(), make_update(), start(), 5, log_every=log_every
    )
    first = run(1)
    same_bits(first, run(3))
    same_bits(first, run(5))


def test_the_arrays_of_the_caller_live_on():
    state, key = start(), jax.random.key(0)
    before = bits(state)
    first = fit(key, make_stream(), make_update(), state, 3, log_every=1)
    same_bits(state, before)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state, DATA)))
    same_bits(first, fit(key, make_stream(), make_update(), state, 3, log_every=1))
    # Nor does a run that goes on from another's result take that away.
    before = bits(first.student)
    fit(key, make_stream(), make_update(), first.student, 2, log_every=1)
    same_bits(first.student, before)


def test_a_state_may_hold_one_array_twice():
    """An average of parameters starts as the parameters: one buffer cannot be donated twice."""
    update = Update(
        lambda params: {"params": params, "average": params},
        lambda state, batch: (
            {"params": state["params"] + 2, "average": state["average"] + 1},
            {"loss": jnp.zeros(())},
        ),
    )
    final = fit(jax.random.key(0), EMPTY, update, update.init(jnp.zeros(3)), 4, log_every=1)
    np.testing.assert_array_equal(final.student["params"], [8, 8, 8])
    np.testing.assert_array_equal(final.student["average"], [4, 4, 4])


# Rows and evaluation.


@pytest.mark.parametrize("log_every", [1, 3, 10, 25, None])
def test_rows_hold_the_means_over_the_steps_since_the_row_before(log_every):
    metrics = counting(lambda count: {"loss": count, "square": count**2})
    final, rows = count(10, metrics, log_every=log_every)
    assert final.step == 10 and final.student == 10
    every = log_every or 1
    assert list(rows) == sorted({*range(every, 10, every), 10})
    before = 0
    for step, row in rows.items():
        steps = np.arange(before + 1, step + 1)
        assert set(row) == {"loss", "square"}
        np.testing.assert_allclose(row["loss"], steps.mean(), rtol=1e-6)
        np.testing.assert_allclose(row["square"], np.mean(steps**2), rtol=1e-6)
        before = step


def test_a_hundred_rows_by_default():
    assert list(count(250)[1]) == [*range(2, 250, 2), 250]


@given(
    num_steps=st.integers(1, 40),
    log_every=st.none() | st.integers(1, 50),
    evaluate_at=st.sets(st.integers(0, 50), max_size=4),
)
@settings(max_examples=20)
def test_row_steps_are_those_at_which_rows_come(num_steps, log_every, evaluate_at):
    options = {"log_every": log_every, "evaluate_at": evaluate_at}
    _, rows = count(num_steps, evaluate_fn=lambda state: {}, **options)
    assert training.row_steps(num_steps, **options) == list(rows)


@pytest.mark.parametrize("evaluate_at", [(), (0,), (0, 2, 5), (3, 7), (7, 100)])
def test_evaluation_sees_the_student_after_exactly_its_steps(evaluate_at):
    evaluated = []

    def evaluate_fn(state):
        evaluated.append(int(state))
        return {"seen": int(state)}

    _, rows = count(
        7, log_every=3, evaluate_fn=evaluate_fn, evaluate_at=(step for step in evaluate_at)
    )
    expected = sorted({step for step in evaluate_at if step <= 7} | {7})
    assert evaluated == expected
    assert {step: row["seen"] for step, row in rows.items() if "seen" in row} == {
        step: step for step in expected
    }
    assert set(rows) == {3, 6, 7} | set(expected)
    assert ("loss" in rows[0]) is False if 0 in expected else 0 not in rows
    # Rows of evaluations too start the mean anew.
    for before, step in itertools.pairwise(sorted({0} | set(rows))):
        assert rows[step]["loss"] == (before + 1 + step) / 2


def test_evaluation_steps_without_an_evaluation_are_refused():
    with pytest.raises(ValueError, match=r"evaluate_at = \[1, 2\] needs an evaluate_fn, got None"):
        count(6, log_every=3, evaluate_at=(2, 1))


def test_no_steps():
    final, rows = count(0, start=5)
    assert final.step == 0 and final.student == 5 and rows == {}
    _, rows = count(0, start=5, evaluate_fn=lambda state: {"seen": int(state)})
    assert rows == {0: {"seen": 5}}


def test_one_compilation_for_any_schedule():
    traces = []

    def metric_fn(count):
        traces.append(None)
        return {"loss": count}

    traced_by = []
    rows = {}

    def on_row(step, row):
        traced_by.append(len(traces))
        rows[step] = row

    stops = log_spaced(1000, 12)
    assert len(set(np.diff(stops))) > 8
    fit(
        jax.random.key(0),
        EMPTY,
        counting(metric_fn),
        jnp.array(0),
        1000,
        log_every=1000,
        evaluate_fn=lambda state: {},
        evaluate_at=stops,
        on_row=on_row,
    )
    assert list(rows) == stops
    assert traced_by == [traced_by[0]] * len(stops)


# Replicas.


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_replicas_are_independent_runs_with_keys_of_their_own(method):
    key, rows = jax.random.key(4), {}
    final = fit(
        key,
        make_stream(),
        make_update(),
        starts(3),
        7,
        num_replicas=3,
        method=method,
        log_every=3,
        on_row=rows.__setitem__,
    )
    assert list(rows) == [3, 6, 7]
    np.testing.assert_array_equal(final.step, [7, 7, 7])
    for i, replica_key in enumerate(jax.random.split(key, 3)):
        single_rows = {}
        single = fit(
            replica_key,
            make_stream(),
            make_update(),
            start(i),
            7,
            log_every=3,
            on_row=single_rows.__setitem__,
        )
        close(jax.tree.map(lambda leaf: leaf[i], final), single)  # noqa: B023
        for step, row in rows.items():
            np.testing.assert_allclose(row["loss"][i], single_rows[step]["loss"], rtol=1e-5)
    assert len(np.unique(rows[3]["loss"])) == 3


def test_a_bootstrap_of_its_own_for_each_replica():
    stream = streams.bootstrap({"x": jnp.arange(50)}, 50)
    update = Update(
        lambda params: params, lambda state, batch: (batch["x"], {"loss": jnp.zeros(())})
    )
    final = fit(jax.random.key(0), stream, update, jnp.zeros((4, 50), jnp.int32), 2, num_replicas=4)
    resamples = {tuple(np.sort(resample)) for resample in np.array(final.student)}
    assert len(resamples) == 4
    assert all(0.4 < len(set(resample)) / 50 < 0.85 for resample in resamples)


# Interruption.


class Interrupted(Exception):
    pass


def interrupt_at(stop, rows):
    def on_row(step, row):
        if step == stop:
            raise Interrupted
        rows[step] = float(np.sum(row["loss"]))

    return on_row


@pytest.mark.parametrize("num_replicas", [None, 2])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path, num_replicas):
    """Stops within an epoch, within a block, and before the last row; one run is cut twice."""
    stops = [(2,), (4, 8), (9,)] if num_replicas is None else [(6,)]

    def run(directory=None, stop=None):
        rows = {}
        final = None
        try:
            final = fit(
                jax.random.key(5),
                make_stream(),
                make_update(),
                start() if num_replicas is None else starts(num_replicas),
                9,
                num_replicas=num_replicas,
                log_every=2,
                on_row=interrupt_at(stop, rows),
                checkpointer=directory and Checkpointer(directory, every_seconds=0),
            )
        except Interrupted:
            assert final is None
        return final, rows

    whole, whole_rows = run()
    assert list(whole_rows) == [2, 4, 6, 8, 9]
    for cuts in stops:
        directory = tmp_path / "-".join(map(str, cuts))
        rows = {}
        for stop in (*cuts, None):
            final, some = run(directory, stop)
            # Nothing is lost and nothing twice: what was not saved had not been reported.
            assert not set(some) & set(rows)
            rows |= some
        same_bits(final, whole)
        assert rows == whole_rows
    if num_replicas is None:  # A finished run is not redone.
        again, some = run(directory)
        same_bits(again, whole)
        assert some == {}


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    run = lambda num_steps, directory: fit(
        jax.random.key(6),
        make_stream(),
        make_update(),
        start(),
        num_steps,
        log_every=100,
        checkpointer=Checkpointer(directory),
    )
    run(4, tmp_path / "a")
    same_bits(run(7, tmp_path / "a"), run(7, tmp_path / "b"))


def test_evaluation_at_zero_is_not_repeated_after_a_resume(tmp_path):
    settings = {
        "log_every": 2,
        "evaluate_fn": lambda state: {"seen": int(state)},
        "evaluate_at": (0,),
    }
    count(4, checkpointer=Checkpointer(tmp_path), **settings)
    _, rows = count(8, checkpointer=Checkpointer(tmp_path), **settings)
    assert list(rows) == [6, 8]
    assert [rows[step]["loss"] for step in rows] == [5.5, 7.5]


class Recorder:
    """A checkpointer that only tells what it was asked."""

    def __init__(self, due=()):
        self.due, self.events = set(due), []

    def restore(self, template):
        self.events.append("restore")
        return None

    def is_due(self):
        return max((step for kind, step in self.events[1:] if kind == "row"), default=0) in self.due

    def save(self, step, state):
        assert state.step == step == state.student
        self.events.append(("save", step))

    def on_row(self, step, row):
        self.events.append(("row", step))


def test_a_row_is_given_before_its_checkpoint_and_the_last_is_always_saved():
    recorder = Recorder(due=[2, 6])
    fit(
        jax.random.key(0),
        EMPTY,
        counting(),
        jnp.array(0),
        7,
        log_every=2,
        on_row=recorder.on_row,
        checkpointer=recorder,
    )
    assert recorder.events == [
        "restore", ("row", 2), ("save", 2), ("row", 4), ("row", 6), ("save", 6),
        ("row", 7), ("save", 7),
    ]  # fmt: skip


def test_a_full_disk_stops_the_run_and_it_resumes(tmp_path, monkeypatch):
    from kd.training import checkpoint

    save = checkpoint.ocp.save
    run = lambda: count(9, log_every=3, checkpointer=Checkpointer(tmp_path, every_seconds=0))

    def full_disk(path, state):
        if "000006" in str(path):
            raise OSError(28, "No space left on device")
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run()
    final, rows = run()
    assert final.student == 9 and list(rows) == [6, 9]


# Streams that go on.


@pytest.mark.parametrize("num_replicas", [None, 3])
def test_a_burn_in_may_be_a_run_of_its_own(num_replicas, tmp_path):
    """Stopped within, it goes on within; the run after it begins where the stream then stands."""
    counter = Stream(lambda key: jnp.zeros(()), lambda key, n: (n + 1, {"x": n[None]}))
    options = {"num_replicas": num_replicas}
    burn = lambda num_steps: fit(
        *(jax.random.key(0), counter, training.discard(), (), num_steps),
        checkpointer=Checkpointer(tmp_path, every_seconds=0),
        **options,
    )
    burn(4)
    burned = burn(7)
    assert np.all(burned.stream == 7) and burned.student == ()
    update = training.store("x")
    shape = (5,) if num_replicas is None else (num_replicas, 5)
    state = update.init(jnp.zeros(5))
    if num_replicas:
        state = jax.vmap(update.init)(jnp.zeros(shape))
    for _ in range(2):  # What it begins from is not donated.
        run = fit(
            jax.random.key(1), counter, update, state, 5, stream_state=burned.stream, **options
        )
        expected = np.broadcast_to(np.arange(7.0, 12.0), shape)
        np.testing.assert_array_equal(run.student.kept, expected)


def test_a_bag_that_is_not_finite_is_named():
    broken = Stream(
        lambda key: jnp.zeros(()),
        lambda key, n: (n + 1, {"x": jnp.where(n == 3, jnp.nan, n)[None]}),
    )
    update = training.store("x")
    with pytest.raises(NonFiniteLossError, match="the bag became NaN or infinite at step 4"):
        fit(jax.random.key(0), broken, update, update.init(jnp.zeros(9)), 9, log_every=2)


# Losses that are not finite.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [1, 5, 6, 7, 10, 12])
def test_a_loss_that_is_not_finite_names_its_step(bad, step):
    rows = []
    metrics = counting(lambda count: {"loss": count, "other": jnp.where(count == step, bad, 1.0)})
    why = r" So early .*\." if step == 1 else ""
    message = f"NaN or infinite at step {step}\\.{why}$"
    with pytest.raises(NonFiniteLossError, match=message) as error:
        fit(
            jax.random.key(0),
            EMPTY,
            metrics,
            jnp.array(0),
            12,
            log_every=5,
            on_row=lambda step, row: rows.append(step),
        )
    assert error.value.step == step and isinstance(error.value, ArithmeticError)
    assert error.value.names == ("other",) and str(error.value).startswith("the other became")
    assert rows == [stop for stop in (5, 10) if stop < step]


def test_the_checkpoint_before_a_bad_loss_stays(tmp_path):
    metrics = counting(lambda count: {"loss": jnp.where(count == 13, jnp.nan, count)})
    settings = {"log_every": 5, "checkpointer": Checkpointer(tmp_path, every_seconds=0)}
    for _ in range(2):  # Again after resuming, with the true number.
        with pytest.raises(NonFiniteLossError, match="step 13"):
            count(20, metrics, **settings)
    template = training.init_fit(jax.random.key(0), EMPTY, jnp.array(0, jnp.int32))
    restored = Checkpointer(tmp_path).restore(template)
    assert restored.step == 10 and restored.student == 10


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_the_first_replica_to_fail_names_the_step(method):
    update = Update(
        lambda params: params,
        lambda state, batch: (
            {**state, "count": state["count"] + 1},
            {"loss": jnp.where(state["count"] + 1 == state["bad"], jnp.nan, 1.0)},
        ),
    )
    state = {"count": jnp.zeros(3, jnp.int32), "bad": jnp.array([100, 8, 7])}
    with pytest.raises(NonFiniteLossError) as error:
        fit(
            jax.random.key(0),
            EMPTY,
            update,
            state,
            20,
            num_replicas=3,
            method=method,
            log_every=5,
        )
    assert error.value.step == 7


# Arguments.


def test_raises():
    for bad in (-1, -10):
        with pytest.raises(
            ValueError, match=f"num_steps must be at least 0 and at most 2147483647, got {bad}"
        ):
            count(bad)
    with pytest.raises(TypeError, match="num_steps must be an integer, got 2.5"):
        count(2.5)
    with pytest.raises(ValueError, match="log_every must be at least 1, got 0"):
        count(5, log_every=0)
    with pytest.raises(ValueError, match="num_replicas must be at least 1, got 0"):
        count(5, start=[0, 0], num_replicas=0)
    with pytest.raises(ValueError, match="leading axis of num_replicas = 3"):
        count(5, start=[0, 0], num_replicas=3)
    with pytest.raises(ValueError, match="state must hold arrays with one common length"):
        count(5, num_replicas=3)
    with pytest.raises(ValueError, match=re.escape("method must be one of auto, loop, vmap")):
        count(5, start=[0, 0], num_replicas=2, method="pmap")
    with pytest.raises(ValueError, match="each of evaluate_at must be at least 0, got -1"):
        count(5, evaluate_fn=lambda state: {}, evaluate_at=[2, -1])


def test_arguments_of_another_kind_are_named():
    key, data = jax.random.key(0), {"x": jnp.ones((4, 2))}
    stream = streams.resample(data, 2)
    update = training.gradient(lambda p, batch: jnp.sum(p * batch["x"]), optax.sgd(0.1))
    state = update.init(jnp.ones(2))
    for arguments, message in [
        ((0, stream, update, state), "key must be one typed key, as of jax.random.key(0); got int"),
        ((key, data, update, state), "stream must be of type Stream, got dict."),
        ((key, stream, optax.sgd(0.1), state), "update must be of type Update, got Gradient"),
        ((key, stream, update, {"w": jnp.ones(2)}), "state must be update.init(params), a Grad"),
    ]:
        with pytest.raises(TypeError, match=re.escape(message)):
            fit(*arguments, 3)


# Steps on a log axis.


def test_log_spaced_examples():
    assert log_spaced(1000, 4) == [1, 10, 100, 1000]
    assert log_spaced(100_000, 3, first=1000) == [1000, 10_000, 100_000]
    assert log_spaced(3, 50) == [1, 2, 3]
    assert log_spaced(5, 3, first=10) == [5]
    assert log_spaced(1, 7) == [1]


@given(num_steps=st.integers(1, 10**6), num_points=st.integers(2, 60), first=st.integers(1, 1000))
def test_log_spaced_points_are_ends_and_geometric_between(num_steps, num_points, first):
    points = log_spaced(num_steps, num_points, first=first)
    first = min(first, num_steps)
    assert points[0] == first and points[-1] == num_steps
    assert points == sorted(set(points)) and len(points) <= num_points
    assert all(isinstance(point, int) for point in points)
    ratio = (num_steps / first) ** (1 / (num_points - 1))
    ideal = [first * ratio**i for i in range(num_points)]
    for point in points:
        assert min(abs(point - x) for x in ideal) <= 0.5 + 1e-6 * point
    for x in ideal:
        assert min(abs(point - x) for point in points) <= 0.5 + 1e-6 * x


def test_log_spaced_raises():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        log_spaced(0, 3)
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        log_spaced(10, 0)
    for first in (0, -3):
        with pytest.raises(ValueError, match=f"first must be at least 1, got {first}"):
            log_spaced(10, 4, first=first)


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
    stream = streams.resample({"x": jnp.ones(4)}, 2)
    update = training.gradient(lambda p, batch: jnp.mean((p - batch["x"]) ** 2), optax.sgd(0.1))

    def run(num_steps):
        return fit(
            jax.random.key(0),
            stream,
            update,
            update.init(jnp.array(0.0)),
            num_steps,
            checkpointer=Checkpointer(tmp_path / "c", every_seconds=0),
        )

    run(6)
    with pytest.raises(ValueError, match="checkpoint is at step 6, beyond num_steps = 4"):
        run(4)


def test_a_student_that_broke_in_the_last_step_is_not_returned(tmp_path):
    """The gradient of a square root at 0 is infinite, its value is not."""
    stream = streams.resample({"x": jnp.ones(4)}, 2)
    update = training.gradient(lambda p, batch: jnp.sum(jnp.sqrt(p)), optax.sgd(0.1))
    checkpointer = Checkpointer(tmp_path / "c", every_seconds=0)
    with pytest.raises(
        NonFiniteLossError,
        match="student became NaN or infinite at step 1. So early it is the start",
    ):
        fit(
            jax.random.key(0),
            stream,
            update,
            update.init(jnp.zeros(2)),
            1,
            checkpointer=checkpointer,
        )
    assert not list((tmp_path / "c").glob("step_*"))
