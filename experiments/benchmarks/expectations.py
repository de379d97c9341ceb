"""What posterior expectation distillation costs beside its chain, and beside PyTorch."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.timing import Ratio, exact, ratio
from kd import inference, losses, models, samplers, streams, training
from kd.hoisting import hoisted_jit
from kd.inference import Expectation
from kd.inference.expectations import Estimator
from kd.models.convolution import convolve_and_pool
from kd.types import Array, Batch, PyTree, Sampler, Stream, Update

NUM_EXAMPLES, NUM_CLASSES, BATCH, THIN = 2000, 10, 100, 100
STEP_SIZE, PRECISION, NOISE, RATE = 4e-6, 10.0, 1e-3, 1e-3
NUM_STEPS = 2  # Of a student, a timed call.
# The study's: inputs of students, and of the test and of two sets beside it, asked every so often.
NUM_INPUTS, NUM_TEST, EVERY = 60_000, 30_000, 20
NUM_ANSWERED = 500  # Images at once, at the test.
TORCH_PYTHON = "KD_TORCH_PYTHON"
MODEL = models.MLP((400, 400), NUM_CLASSES)


def distillation() -> list[Ratio]:
    """A student's step and the chain's steps before it, over those of the chain alone."""
    found = []
    alone = _loop(_chain(), training.discard(), lambda: ())
    for name, estimator in (
        ("current sample", inference.current_sample()),
        ("running mean", inference.running_mean()),
    ):
        both = _loop(_expectations(estimator), _student(), _start)
        title = f"distillation ({name}), H = {THIN} / the chain alone"
        units = (NUM_STEPS, NUM_STEPS)
        found.append(ratio(title, both, alone, bar=1.10, units=units))
    return [*found, _study()]


def _study() -> Ratio:
    """As a study has it: its sizes, and the teacher's averages at the test, on schedule."""
    test = training.monte_carlo(
        _log_prob,
        {"probs": inference.predictive, "entropy": inference.entropy},
        _data(NUM_TEST)["x"],
        every=EVERY,
    )
    whole = _loop(
        _expectations(inference.running_mean(), NUM_INPUTS),
        training.combine(student=_student(), test=test),
        lambda: {"student": _start(), "test": _start()},
        EVERY,
    )
    alone = _loop(_chain(NUM_INPUTS), training.discard(), lambda: (), EVERY)
    title = "distillation, tests on schedule too / the chain alone"
    return ratio(title, whole, alone, bar=1.10, units=(EVERY, EVERY), rounds=5)


def memory() -> list[Ratio]:
    """Bytes of the stream's state by examples: flat, and an estimate and a count each."""

    def size(estimator: Estimator, num_examples: int) -> int:
        state = jax.eval_shape(_expectations(estimator, num_examples).init, jax.random.key(0))
        kept = (state.counts, state.memories)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    current, running = inference.current_sample(), inference.running_mean()
    expected = 4 * NUM_EXAMPLES * (NUM_CLASSES + 1)
    return [
        exact("running mean, bytes / 4 |D| (C + 1)", size(running, NUM_EXAMPLES), expected, bar=1),
        exact("current sample, bytes / those", size(current, NUM_EXAMPLES), expected, bar=0),
    ]


def against_torch() -> list[Ratio]:
    """The same distillation in PyTorch's eager mode over ours; nothing without PyTorch."""
    python = os.environ.get(TORCH_PYTHON)
    if python is None and util.find_spec("torch") is None:
        print(f"no PyTorch: install the extra 'bench', or set {TORCH_PYTHON} to another python")
        return []
    ours = _loop(_expectations(inference.current_sample()), _student(), _start)
    with _peer(python or sys.executable) as theirs:
        title = f"PyTorch eager / distillation (current sample), H = {THIN}"
        units = (NUM_STEPS, NUM_STEPS)
        return [ratio(title, theirs, ours, bar=1.7, at_least=True, units=units, rounds=9)]


def convolution() -> list[Ratio]:
    """The two convolutions of the paper's networks, XLA's over patches'.

    Gradient steps in a loop, as every step of `fit` is: there XLA's take several times as long as
    outside. Answers to as many images as are asked at once at the test: what is quick to
    differentiate must not be half as quick there.
    """
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(BATCH, 28, 28, 1)), jnp.float32)
    kernels = [
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((4, 4, 1, 10), (4, 4, 10, 20))
    ]

    def forward(method: str, kernels: list[Array], x: Array) -> Array:
        for kernel in kernels:
            layer = partial(
                convolve_and_pool,
                kernel=kernel,
                bias=jnp.zeros(kernel.shape[-1]),
                pool_size=2,
                activation_fn=jax.nn.relu,
                method=method,
            )
            x = jax.vmap(layer)(x)
        return x

    def slope(method: str) -> Callable[[], PyTree]:
        def loss(kernels: list[Array]) -> Array:
            return jnp.sum(jnp.square(forward(method, kernels, images)))

        def step(_, kernels: list[Array]) -> list[Array]:
            return jax.tree.map(lambda k, g: k - 1e-9 * g, kernels, jax.grad(loss)(kernels))

        run = jax.jit(lambda kernels: jax.lax.fori_loop(0, NUM_STEPS, step, kernels))
        return lambda: run(kernels)

    def answers(method: str, shape: tuple[int, ...], sizes: list[tuple[int, ...]]):
        x = jnp.asarray(rng.uniform(size=(NUM_ANSWERED, *shape)), jnp.float32)
        kernels = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]
        run = jax.jit(partial(forward, method))
        return lambda: run(kernels, x)

    title = "two convolutions with pooling, gradient: XLA's / patches"
    is_cpu = jax.default_backend() == "cpu"  # Elsewhere XLA's are what is used.
    units = (NUM_STEPS, NUM_STEPS)
    bar = 3.0 if is_cpu else float("inf")
    found = [ratio(title, slope("native"), slope("patches"), bar=bar, at_least=True, units=units)]
    bar = 0.5 if is_cpu else float("inf")
    for name, shape, sizes in (
        ("MNIST's", (28, 28, 1), [(4, 4, 1, 10), (4, 4, 10, 20)]),
        ("CIFAR-10's", (32, 32, 3), [(5, 5, 3, 16), (5, 5, 16, 32)]),
    ):
        both = [answers(method, shape, sizes) for method in ("native", "patches")]
        title = f"{name} convolutions, {NUM_ANSWERED} images: XLA's / patches"
        found.append(ratio(title, *both, bar=bar, at_least=True, units=(1, 1)))
    return found


@contextlib.contextmanager
def _peer(python: str) -> Iterator[Callable[[], str]]:
    """A call that makes as many steps in the other process."""
    data = _data(NUM_EXAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, x=np.asarray(data["x"]), y=np.asarray(data["y"], np.int64))
        command = [python, str(Path(__file__).with_name("torch_peer.py")), str(path)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:

            def run() -> str:
                process.stdin.write(f"{NUM_STEPS}\n")
                answer = process.stdout.readline()
                if not answer:
                    raise ChildProcessError("the process with PyTorch ended; its error is above.")
                return answer

            try:
                yield run
            finally:
                process.stdin.close()


def _data(num_examples: int) -> Batch:
    rng = np.random.default_rng(0)
    return {
        "x": jnp.asarray(rng.uniform(size=(num_examples, 784)), jnp.float32),
        "y": jnp.asarray(rng.integers(NUM_CLASSES, size=num_examples)),
        "index": jnp.arange(num_examples),
    }


def _log_prob(weights: PyTree, x: Array) -> Array:
    return jax.nn.log_softmax(MODEL.apply(weights, x))


def _start() -> PyTree:
    return MODEL.init(jax.random.key(0), jnp.zeros(784))


def _sampler(data: Batch) -> Sampler:
    log_posterior = samplers.minibatch_log_posterior(
        lambda w: -0.5 * PRECISION * optax.tree.norm(w, squared=True),
        lambda w, one: _log_prob(w, one["x"])[one["y"]],
        num_examples=len(data["x"]),
    )
    return samplers.sgld(log_posterior, streams.resample(data, BATCH), step_size=STEP_SIZE)


def _chain(num_examples: int = NUM_EXAMPLES) -> Stream:
    return streams.chain(_sampler(_data(num_examples)), _start(), batch_size=1, thin=THIN)


def _expectations(estimator: Estimator, num_examples: int = NUM_EXAMPLES) -> Stream:
    data = _data(num_examples)
    inputs = streams.resample({"x": data["x"], "index": data["index"]}, BATCH)
    return streams.posterior_expectations(
        _sampler(data),
        _start(),
        _log_prob,
        {"probs": Expectation(inference.predictive, estimator)},
        streams.with_noise(inputs, scale=NOISE),
        num_examples=num_examples,
        thin=THIN,
    )


def _student() -> Update:
    def objective(params: PyTree, batch: Batch) -> Array:
        log_probs = jax.vmap(lambda x: _log_prob(params, x))(batch["x"])
        return jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, batch["probs"]))

    return training.gradient(objective, optax.adam(RATE))


def _loop(
    stream: Stream,
    update: Update,
    params_fn: Callable[[], PyTree],
    num_steps: int = NUM_STEPS,
) -> Callable[[], PyTree]:
    """So many steps of `fit`'s, compiled."""
    step = training.make_step(stream, update)
    run = training.init_fit(jax.random.key(0), stream, update.init(params_fn()))
    loop = hoisted_jit(
        lambda run: jax.lax.fori_loop(0, num_steps, lambda _, run: step(run)[0], run), run
    )
    return lambda: loop(run)


BENCHMARKS = {
    "distillation": distillation,
    "estimates": memory,
    "convolution": convolution,
    "torch": against_torch,
}
