"""Teachers: chains over a network's weights that go on, and networks that are stored first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import chains
from experiments.flags import UserError
from experiments.posterior_expectations import networks
from experiments.posterior_expectations.settings import STORED, Chain, Settings
from experiments.run import Run
from kd import inference, samplers, streams, training
from kd.data import Dataset
from kd.training import MonteCarloState
from kd.types import Array, Batch, Key, LogProbFn, PyTree, Sampler, Stream, Update

SAMPLED = 0.5  # Of a cycle, its end, which has noise, and from which positions are kept.


def log_prob_fn_of(settings: Settings, num_classes: int) -> Callable[[PyTree, Array], Array]:
    """The teacher's, of weights and one input."""
    model = networks.build(settings, num_classes)
    return lambda weights, x: jax.nn.log_softmax(model.apply(weights, x))


def start(settings: Settings, dataset: Dataset, key: Key) -> PyTree:
    """Weights at which a chain, or a member's training, begins."""
    model = networks.build(settings, dataset.num_classes)
    return model.init(key, jnp.zeros(dataset.train_x.shape[1:]))


def starts(settings: Settings, dataset: Dataset, key: Key, count: int) -> PyTree:
    """Several of them, each leaf `[count, ...]`."""
    return jax.vmap(lambda key: start(settings, dataset, key))(jax.random.split(key, count))


def is_stored(settings: Settings) -> bool:
    """Whether the teacher is known before its students learn."""
    return settings.teacher in STORED


def chain_of(settings: Settings, dataset: Dataset) -> Sampler:
    """The chain over the teacher's weights."""
    options = {"step_size": settings.step_size}
    if settings.teacher == "cyclical":
        cycles = {"num_cycles": settings.num_cycles, "num_steps": settings.num_steps}
        options["step_size"] = samplers.cyclical_step_size(settings.step_size, **cycles)
        options["temperature"] = samplers.cyclical_temperature(**cycles, exploration=1 - SAMPLED)
    make = samplers.sgld
    if settings.teacher == "sghmc":
        make, options = samplers.sghmc, options | {"friction": settings.friction}
    return make(log_posterior_fn_of(settings, dataset), examples(settings, dataset), **options)


def log_posterior_fn_of(settings: Settings, dataset: Dataset) -> Callable[[PyTree, dict], Array]:
    """Estimated from a minibatch, in nats."""
    log_prob_fn = log_prob_fn_of(settings, dataset.num_classes)
    return samplers.minibatch_log_posterior(
        lambda weights: -0.5 * settings.prior_precision * optax.tree.norm(weights, squared=True),
        lambda weights, one: log_prob_fn(weights, one["x"])[one["y"]],
        num_examples=len(dataset.train_x),
    )


def examples(settings: Settings, dataset: Dataset) -> Stream:
    """Minibatches of what the teacher learns from."""
    return streams.resample(
        {"x": jnp.asarray(dataset.train_x), "y": jnp.asarray(dataset.train_y)},
        min(settings.batch_size, len(dataset.train_x)),
    )


def stored(run: Run, dataset: Dataset, chain: Chain) -> PyTree:
    """The networks of a stored teacher, each leaf `[num_members, ...]`: a phase of the run."""
    phase = f"teacher[{chain.name}]"
    key = run.key(phase)
    if run.settings.teacher == "ensemble":
        return _ensemble(run, dataset, phase, key)
    with chains.divergence(run.settings.teacher, run.settings.step_size):
        return _bag(run, dataset, phase, key)


def _ensemble(run: Run, dataset: Dataset, phase: str, key: Key) -> PyTree:
    """Modes of the posterior, each found from a start and by minibatches of its own."""
    settings = run.settings
    log_posterior_fn = log_posterior_fn_of(settings, dataset)
    rate = optax.linear_schedule(settings.member_rate, 0.0, settings.num_steps)
    update = training.gradient(
        lambda weights, batch: -log_posterior_fn(weights, batch) / len(dataset.train_x),
        optax.adam(rate),
    )
    members = starts(settings, dataset, jax.random.fold_in(key, 1), settings.num_members)
    try:
        return run.fit(
            phase,
            key,
            examples(settings, dataset),
            update,
            jax.vmap(update.init)(members),
            settings.num_steps,
            num_replicas=settings.num_members,
        ).student.params
    except training.NonFiniteLossError as error:
        raise UserError(
            f"{phase} diverged, by step {error.step}: --member_rate={settings.member_rate:g} is "
            "too large; a smaller one needs another workdir."
        ) from error


def _bag(run: Run, dataset: Dataset, phase: str, key: Key) -> PyTree:
    """Positions of a chain, evenly over its steps, or over the ends of its cycles."""
    settings = run.settings
    is_cyclical = settings.teacher == "cyclical"
    num_kept = round(settings.num_members / SAMPLED) if is_cyclical else settings.num_members
    thin = settings.num_steps // num_kept
    weights = start(settings, dataset, jax.random.fold_in(key, 1))
    stream = streams.chain(
        chain_of(settings, dataset), weights, batch_size=1, thin=thin, name="weights"
    )
    update, info_fn = training.store("weights"), lambda batch: batch["info"]
    empty = jax.tree.map(lambda leaf: jnp.zeros((num_kept, *leaf.shape), leaf.dtype), weights)
    found = run.fit(
        phase,
        key,
        stream,
        watched(update, info_fn),
        update.init(empty),
        num_kept,
        burn_in_update=watched(training.discard(), info_fn),
        # The first half of each cycle is the burn-in of a cyclical chain.
        burn_in=0 if is_cyclical else -(-settings.burn_in // thin),
    )
    chosen = np.arange(num_kept)
    if is_cyclical:
        chosen = ends_of_cycles(num_kept, settings.num_cycles)
    return jax.tree.map(lambda leaf: leaf[chosen], found.student.kept)


def ends_of_cycles(num_kept: int, num_cycles: int) -> np.ndarray:
    """Numbers of the positions in the last half of each cycle, of all that are kept."""
    chosen = np.arange(num_kept)
    length = num_kept // num_cycles
    return chosen[chosen % length >= length * (1 - SAMPLED)]


def watched(
    update: Update, info_fn: Callable[[Batch], PyTree] = lambda batch: batch["chain"]["info"]
) -> Update:
    """The update, with what the chain says of itself: it stops a run that diverges."""
    return training.observe(update, lambda batch: chains.langevin_figures(info_fn(batch)))


def width(settings: Settings) -> int | None:
    """Networks that answer together at each step, if the stream has an axis for them."""
    if settings.all_members:
        return settings.num_members
    return settings.num_chains if settings.num_chains > 1 else None


def sampler_of(
    run: Run, dataset: Dataset, chain: Chain, key: Key
) -> tuple[Sampler, PyTree, PyTree | None]:
    """What the students learn beside: a sampler, where it starts, and the stored networks."""
    settings = run.settings
    if is_stored(settings):
        members = stored(run, dataset, chain)
        if settings.all_members:
            return samplers.fixed(), members, members
        first = jax.tree.map(lambda leaf: leaf[0], members)
        return samplers.from_draws(members), first, members
    if settings.num_chains > 1:
        return (
            chain_of(settings, dataset),
            starts(settings, dataset, key, settings.num_chains),
            None,
        )
    return chain_of(settings, dataset), start(settings, dataset, key), None


def asked(settings: Settings) -> dict[str, Callable[[Array], Array]]:
    """What the teacher is asked at the test; for Dirichlet students also what they fit."""
    found = {"probs": inference.predictive, "entropy": inference.entropy}
    if any(student.kind == "dirichlet" for student in settings.students()):
        found["log_probs"] = inference.mean_log_probs(smoothing=settings.smoothing).fn
    return found


def means_update(settings: Settings, log_prob_fn: LogProbFn, x: np.ndarray) -> Update:
    """The chain's means at the test inputs, on schedule."""
    num_chains = settings.num_chains if settings.num_chains > 1 else None
    return training.monte_carlo(
        log_prob_fn, asked(settings), x, every=settings.test_thin, num_chains=num_chains
    )


def means_of(
    settings: Settings, log_prob_fn: LogProbFn, members: PyTree, x: np.ndarray
) -> MonteCarloState:
    """Exact, of stored networks."""
    count = len(jax.tree.leaves(members)[0])
    update = training.monte_carlo(log_prob_fn, asked(settings), x, num_chains=count)
    state = update.init(jax.tree.map(lambda leaf: leaf[0], members))
    found, _ = jax.jit(update.apply)(state, {"chain": {"position": members}})
    return found
