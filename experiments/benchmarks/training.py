"""What the loop, the losses, the ensemble and the labels cost, at the thesis's sizes."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Ratio, ratio
from experiments.compress_ensemble.objectives import (
    OPTIMIZER,
    distillation_objective,
    label_objective,
)
from experiments.compress_ensemble.settings import Settings
from kd import models, streams, training
from kd.hoisting import hoisted_jit

INPUT, CLASSES, BATCH = (28, 28, 1), 10, 20
TEACHER, STUDENT = (500, 300), (50, 30)
NUM_EXAMPLES, NUM_MEMBERS = 6000, 30
STUDENT_STEPS, MEMBER_STEPS = 400, 100


def _data() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.uniform(keys[0], (NUM_EXAMPLES, *INPUT))
    log_probs = jax.nn.log_softmax(jax.random.normal(keys[1], (NUM_EXAMPLES, CLASSES)))
    return {
        "x": x,
        "y": jax.random.randint(keys[2], (NUM_EXAMPLES,), 0, CLASSES),
        "teacher_log_probs": log_probs,
        "teacher_jacobian": jax.random.normal(keys[3], (NUM_EXAMPLES, CLASSES, *INPUT)),
    }


def _student():
    model = models.MLP(STUDENT, CLASSES)
    return model, model.init(jax.random.key(1), jnp.zeros(INPUT))


def _runner(stream, update, params, num_steps, *, num_replicas=None, method="auto"):
    """A thunk of `num_steps` compiled steps, its state kept between calls."""
    init = update.init if num_replicas is None else jax.vmap(update.init)
    run = training.init_fit(jax.random.key(2), stream, init(params), num_replicas=num_replicas)
    chunk = training.compile_chunk(
        training.make_step(stream, update), run, num_replicas=num_replicas, method=method
    )
    kept = [jax.tree.map(jnp.copy, run)]

    def thunk():
        kept[0], sums, _ = chunk(kept[0], jnp.array(num_steps, jnp.int32))
        return sums

    return thunk


def loop_overhead() -> list[Ratio]:
    """`fit`'s loop over a bare jitted scan of the same step."""
    model, params = _student()
    data = _data()
    stream = streams.resample({"x": data["x"], "y": data["y"]}, BATCH)
    update = training.gradient(label_objective(model.apply, CLASSES).fn, OPTIMIZER)
    step = training.make_step(stream, update)
    state = training.init_fit(jax.random.key(2), stream, update.init(params))
    bare = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: (step(s)[0], None), state, None, STUDENT_STEPS)[0],
        donate_argnums=0,
    )
    kept = [jax.tree.map(jnp.copy, state)]

    def scan():
        kept[0] = bare(kept[0])
        return kept[0].step

    return [
        ratio(
            "fit, a step / bare scan",
            _runner(stream, update, params, STUDENT_STEPS),
            scan,
            bar=1.05,
            units=(STUDENT_STEPS, STUDENT_STEPS),
        )
    ]


def derivative_losses() -> list[Ratio]:
    """Gradient of derivative losses over the gradient of cross-entropy, one minibatch."""
    model, params = _student()
    batch = {name: leaf[:BATCH] for name, leaf in _data().items()}
    signs = jax.random.rademacher(jax.random.key(3), (BATCH, 1, CLASSES), jnp.float32)
    vjps = jnp.einsum("bpc,bcijk->bpijk", signs, batch["teacher_jacobian"])
    batch |= {"signs": signs, "teacher_vjps": vjps}
    settings = Settings()
    names = ("ce", "dse", "dse_projected")
    gradients = {}
    for name in names:
        gradient = jax.grad(distillation_objective(name, model.apply, settings).fn)

        def repeated(params, batch, gradient=gradient):
            # Each gradient moves the parameters a little, so that none can be hoisted.
            def body(params, _):
                grads = gradient(params, batch)
                return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), None

            return jax.lax.scan(body, params, None, 100)[0]

        compiled = jax.jit(repeated)
        gradients[name] = lambda compiled=compiled: compiled(params, batch)
    return [
        ratio(
            f"{title}, gradient / cross-entropy's",
            gradients[name],
            gradients["ce"],
            bar=bar,
            units=(100, 100),
        )
        for name, title, bar in (
            ("dse", "exact derivative matching", 2.0 * CLASSES),
            ("dse_projected", "projected, 1 projection", 2.5),
        )
    ]


def ensemble_training() -> list[Ratio]:
    """A member's step among thirty in one program over one network alone."""
    model = models.MLP(TEACHER, CLASSES)
    data = _data()
    stream = streams.bootstrap({"x": data["x"], "y": data["y"]}, BATCH)
    update = training.gradient(label_objective(model.apply, CLASSES).fn, OPTIMIZER)
    members = models.init_members(
        lambda key: model.init(key, data["x"][0]), jax.random.key(1), NUM_MEMBERS
    )
    one = jax.tree.map(lambda leaf: leaf[0], members)
    alone = _runner(stream, update, one, MEMBER_STEPS)
    found = []
    for method in ("auto", "vmap"):
        together = _runner(
            stream, update, members, MEMBER_STEPS, num_replicas=NUM_MEMBERS, method=method
        )
        found.append(
            ratio(
                f"{NUM_MEMBERS} members ({method}), a member's step / one alone",
                together,
                alone,
                bar=1.05 if method == "auto" else float("inf"),
                scale=1 / NUM_MEMBERS,
                units=(MEMBER_STEPS * NUM_MEMBERS, MEMBER_STEPS),
                rounds=5,
            )
        )
    return found


def labelling_in_blocks() -> list[Ratio]:
    """The thirty-member teacher asked twenty inputs at a time over blocks of two thousand."""
    model = models.MLP(TEACHER, CLASSES)
    members = models.init_members(
        lambda key: model.init(key, jnp.zeros(INPUT)), jax.random.key(1), NUM_MEMBERS
    )
    noise = streams.gaussian_noise(INPUT, BATCH)

    def thunk(num_batches: int):
        stream = streams.label(
            noise,
            lambda x: models.ensemble_log_probs(model.apply, members, x),
            num_batches=num_batches,
        )

        def drain(key, state):
            def body(state, key):
                state, batch = stream.next(key, state)
                return state, batch["teacher_log_probs"].sum()

            return jax.lax.scan(body, state, jax.random.split(key, 100))[1]

        state = stream.init(jax.random.key(0))
        drain = hoisted_jit(drain, jax.random.key(1), state)
        return lambda: drain(jax.random.key(1), state)

    return [
        ratio(
            "teacher asked 20 at a time / in blocks of 2000",
            thunk(1),
            thunk(100),
            bar=3.0,
            at_least=True,
            units=(100 * BATCH, 100 * BATCH),
            rounds=5,
        )
    ]


def cached_teacher() -> list[Ratio]:
    """A student's step on cached labels over the same step with nothing to look up."""
    model, params = _student()
    data = _data()
    settings = Settings()
    found = []
    for loss, bar in (("ce", 1.05), ("dse", 1.05)):
        objective = distillation_objective(loss, model.apply, settings)
        update = training.gradient(objective.fn, OPTIMIZER)
        cached = streams.resample({name: data[name] for name in ("x", *objective.labels)}, BATCH)
        # The same objective against labels that never change: no teacher, no look-up.
        constant = {name: data[name][:BATCH] for name in objective.labels}
        bare = streams.map_batch(
            lambda batch, constant=constant: batch | constant,
            streams.resample({"x": data["x"]}, BATCH),
        )
        found.append(
            ratio(
                f"{loss}, step with cached teacher / with none",
                _runner(cached, update, params, STUDENT_STEPS),
                _runner(bare, update, params, STUDENT_STEPS),
                bar=bar,
                units=(STUDENT_STEPS, STUDENT_STEPS),
            )
        )
    return found


def help_seconds() -> list[Ratio]:
    """Wall time of `--help`, in seconds: the one absolute bar."""
    command = [sys.executable, "-m", "experiments.compress_ensemble", "--help"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return [Ratio("--help, seconds", middle, low, high, 1.5, False, f"{len(times)} runs")]


# In the order in which they are measured.
BENCHMARKS = {
    "loop": loop_overhead,
    "derivatives": derivative_losses,
    "labelling": labelling_in_blocks,
    "cache": cached_teacher,
    "ensemble": ensemble_training,
    "help": help_seconds,
}
