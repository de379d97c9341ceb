"""What Markov chains, and fitting compact models to bags of their samples, cost."""

import warnings
from collections.abc import Callable

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc.slice import stepping_out
from numpyro.diagnostics import effective_sample_size
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as TheirMixture
from threadpoolctl import threadpool_limits

import kd.random
from experiments.benchmarks.timing import Ratio, exact, ratio
from kd import inference, models, samplers, streams, training
from kd.hoisting import hoisted_jit
from kd.inference.em import fit_mixture
from kd.models import GaussianMixture
from kd.types import Array, Key, PyTree, Sampler, Stream, Update

NUM_POINTS, NUM_DIMS, NUM_COMPONENTS, EM_ITERATIONS = 20_000, 32, 20, 10
LANGEVIN_DATA, LANGEVIN_BATCH, LANGEVIN_STEPS = 2000, 100, 20
SLICE_SAMPLES, SLICE_BURN_IN, SLICE_SHORT, NUM_CHAINS = 10_000, 1000, 100, 100
FEW_SAMPLES, MANY_SAMPLES, DISTIL_BATCH = 1000, 100_000, 100


def em_iteration() -> list[Ratio]:
    """Scikit-learn's iterations of batch EM over ours, from the same start to the same place.

    Ours in single precision; theirs in double, as it is used, and in single. On one thread of
    its BLAS: on cores that are shared it is many times slower with more.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(NUM_COMPONENTS, NUM_DIMS))
    x = centres[rng.integers(NUM_COMPONENTS, size=NUM_POINTS)]
    x = x + rng.normal(size=x.shape)
    mixture = GaussianMixture(NUM_COMPONENTS, NUM_DIMS)
    start = mixture.from_moments(
        jnp.full(NUM_COMPONENTS, 1 / NUM_COMPONENTS),
        jnp.array(x[:NUM_COMPONENTS], jnp.float32),
        jnp.broadcast_to(jnp.eye(NUM_DIMS), (NUM_COMPONENTS, NUM_DIMS, NUM_DIMS)),
    )
    data = jnp.array(x, jnp.float32)

    def ours() -> Array:
        found = fit_mixture(mixture, start, data, tolerance=0.0, max_iterations=EM_ITERATIONS)
        return found.log_likelihood

    found = []
    for dtype, bar in ((np.float64, 3.0), (np.float32, float("inf"))):
        theirs = _theirs(x.astype(dtype))
        gap = abs(float(ours()) - theirs().score(x))
        if gap > 1e-4:
            raise ArithmeticError(f"the log-likelihoods differ by {gap} nats.")
        found.append(
            ratio(
                f"scikit-learn's EM in {np.dtype(dtype).name} / fit_mixture",
                theirs,
                ours,
                bar=bar,
                at_least=True,
                units=(EM_ITERATIONS, EM_ITERATIONS),
                rounds=7,
            )
        )
    return found


def _theirs(x: np.ndarray) -> Callable[[], TheirMixture]:
    """As many iterations; like ours, with one more pass for the last log-likelihood."""
    identities = np.broadcast_to(np.eye(NUM_DIMS), (NUM_COMPONENTS, NUM_DIMS, NUM_DIMS))
    fitted = TheirMixture(
        NUM_COMPONENTS,
        tol=0.0,
        reg_covar=0.0,
        max_iter=EM_ITERATIONS,
        weights_init=np.full(NUM_COMPONENTS, 1 / NUM_COMPONENTS, x.dtype),
        means_init=x[:NUM_COMPONENTS],
        precisions_init=identities.astype(x.dtype),
    )

    def run() -> float:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return fitted.fit(x)

    return run


def langevin_step() -> list[Ratio]:
    """A step of SGLD on a network of 478 k weights over a bare gradient step, in the same scan."""
    model = models.MLP((400, 400), 10)
    rng = np.random.default_rng(0)
    data = {
        "x": jnp.asarray(rng.normal(size=(LANGEVIN_DATA, 784)), jnp.float32),
        "y": jnp.asarray(rng.integers(10, size=LANGEVIN_DATA)),
    }
    stream = streams.resample(data, LANGEVIN_BATCH)
    params = model.init(jax.random.key(0), data["x"][0])

    log_posterior = samplers.minibatch_log_posterior(
        lambda params: -0.5 * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params)),
        lambda params, one: jax.nn.log_softmax(model.apply(params, one["x"]))[one["y"]],
        num_examples=LANGEVIN_DATA,
    )

    def bare() -> Sampler:
        def step(key: Key, state: tuple[PyTree, PyTree]) -> tuple[tuple[PyTree, PyTree], tuple]:
            params, where = state
            where, batch = stream.next(key, where)
            slope = jax.grad(log_posterior)(params, batch)
            return (jax.tree.map(lambda x, g: x + 0.5e-6 * g, params, slope), where), ()

        return Sampler(lambda params, key: (params, stream.init(key)), step)

    def scan(sampler: Sampler) -> Callable[[], PyTree]:
        state = sampler.init(params, jax.random.key(1))
        keys = jax.random.split(jax.random.key(2), LANGEVIN_STEPS)
        run = hoisted_jit(
            lambda state: jax.lax.scan(lambda s, k: (sampler.step(k, s)[0], None), state, keys)[0],
            state,
        )
        return lambda: run(state)

    alone = scan(bare())
    found = []
    for name, normal_fn, bar in (
        ("hashed counters", kd.random.normal, 1.5),
        ("jax.random", jax.random.normal, float("inf")),
    ):
        noisy = scan(samplers.sgld(log_posterior, stream, step_size=1e-6, normal_fn=normal_fn))
        title = f"SGLD, 478 k weights ({name}) / a gradient step"
        units = (LANGEVIN_STEPS, LANGEVIN_STEPS)
        found.append(ratio(title, noisy, alone, bar=bar, units=units))
    return found


def slice_sampling() -> list[Ratio]:
    """Effective samples a second of the logistic posterior, ours over blackjax's.

    Fewer of the two weights' are counted. Theirs with its defaults (doubling from a width of 1),
    and stepping out from a width chosen by hand.
    """
    log_density_fn = _logistic_posterior()
    sampler = samplers.slice_sampler(log_density_fn, adapt_steps=SLICE_BURN_IN, order="random")
    ours = jax.jit(lambda: _slice_run(sampler, jnp.zeros(2)))
    found = []
    for name, options, bar in (
        ("defaults", {}, 5.0),
        ("stepping out by 10", {"interval": stepping_out, "initial_widths": 10.0}, float("inf")),
    ):
        algorithm = blackjax.coordinate_slice(log_density_fn, **options)
        theirs = jax.jit(lambda algorithm=algorithm: _slice_run(algorithm, jnp.zeros(2)))
        title = f"slice, effective samples a second: ours / blackjax, {name}"
        scale = _effective(ours()) / _effective(theirs())
        units = (SLICE_SAMPLES, SLICE_SAMPLES)
        found.append(ratio(title, theirs, ours, bar=bar, at_least=True, scale=scale, units=units))
    return found


def many_chains() -> list[Ratio]:
    """A hundred chains over a hundred times one, as the library runs them and by vmap."""
    sampler = samplers.slice_sampler(_logistic_posterior(), width=10.0, order="random")
    starts = jnp.zeros((NUM_CHAINS, 2))
    one = jax.jit(lambda: _slice_run(sampler, starts[0], num_samples=SLICE_SHORT))
    found = []
    for method, bar in (("auto", 1.0), ("vmap", float("inf"))):
        many = jax.jit(
            lambda method=method: _slice_run(
                sampler, starts, num_samples=SLICE_SHORT, num_chains=NUM_CHAINS, method=method
            )
        )
        title = f"slice, {NUM_CHAINS} chains ({method}) / {NUM_CHAINS} times one"
        units = (NUM_CHAINS * SLICE_SHORT, SLICE_SHORT)
        found.append(ratio(title, many, one, bar=bar, scale=1 / NUM_CHAINS, units=units, rounds=7))
    return found


def distillation_memory() -> list[Ratio]:
    """Peak bytes of compiled loops by samples: distilling a chain as it goes, and storing it."""
    sampler = samplers.slice_sampler(_logistic_posterior(), width=10.0)
    stream = streams.chain(sampler, jnp.zeros(2), batch_size=DISTIL_BATCH, name="x")
    mixture = GaussianMixture(3, 2, "full")
    online = inference.expectation_maximization(mixture, step_size=0.1)
    start = online.init(mixture.init(jax.random.key(0), jnp.zeros(2)))
    stored = training.store("x")

    def peaks(update: Update, state_fn: Callable[[int], PyTree]) -> list[int]:
        return [
            _peak_bytes(stream, update, state_fn(num), num // DISTIL_BATCH)
            for num in (FEW_SAMPLES, MANY_SAMPLES)
        ]

    flat = peaks(online, lambda num: start)
    linear = peaks(stored, lambda num: stored.init(jnp.zeros((num, 2))))
    samples = f"{MANY_SAMPLES:,} / {FEW_SAMPLES:,} samples"
    return [
        exact(f"online EM, peak bytes: {samples}", flat[1], flat[0], bar=1.0),
        exact(f"a stored bag, peak bytes: {samples}", linear[1], linear[0]),
        exact(f"online EM / a bag of {MANY_SAMPLES:,}, peak bytes", flat[1], linear[1], bar=0.1),
    ]


def _peak_bytes(stream: Stream, update: Update, state: PyTree, num_steps: int) -> int:
    """Of a loop of `fit`'s steps, compiled: what it returns, and what it needs to get there."""
    step = training.make_step(stream, update)
    run = training.init_fit(jax.random.key(0), stream, state)
    loop = jax.jit(
        lambda run: jax.lax.fori_loop(0, num_steps, lambda _, run: step(run)[0], run),
        donate_argnums=0,
    )
    memory = loop.lower(run).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def _logistic_posterior() -> Callable[[Array], Array]:
    """Of 24 separable points in the plane and a broad prior, as in the thesis's section 3.3.4."""
    rng = np.random.default_rng(0)
    centres = np.repeat([[-4.0, 0.0], [4.0, 0.0]], 12, axis=0)
    x = jnp.asarray(centres + rng.normal(size=centres.shape), jnp.float32)
    y = (x[:, 0] > 0).astype(jnp.float32)

    def log_density(w: Array) -> Array:
        z = x[:, 0] * w[0] + x[:, 1] * w[1]
        return jnp.sum(y * z - jax.nn.softplus(z)) - 0.5 * jnp.sum(w**2) / 100

    return log_density


def _slice_run(sampler: Sampler, start: Array, **options) -> Array:
    options = {"num_samples": SLICE_SAMPLES, "burn_in": SLICE_BURN_IN} | options
    return samplers.sample(jax.random.key(0), sampler, start, **options).position


def _effective(x: Array) -> float:
    return min(float(effective_sample_size(np.asarray(x[None, :, i]))) for i in range(2))


BENCHMARKS = {
    "em": em_iteration,
    "sgld": langevin_step,
    "slice": slice_sampling,
    "chains": many_chains,
    "bytes": distillation_memory,
}
