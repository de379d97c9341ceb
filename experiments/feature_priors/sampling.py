"""A feature prior as the paper reads it: the posterior that it makes, maximised or sampled."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import chains
from experiments.feature_priors import inputs, methods
from experiments.feature_priors.settings import CHAINS, PRIORS, Condition, Settings
from experiments.feature_priors.tasks import Task
from experiments.run import Run
from kd import inference, models, samplers, streams, training
from kd.types import Array, Batch, PyTree, Stream

LogPosterior = Callable[[PyTree, Batch], Array]
UNDECIDED = 0.01, 0.99  # Between them probabilities can disagree.
LEAST_PROB = float(np.finfo(np.float32).tiny)  # To have a logarithm.
LEAST_VARIANCE = 1e-12  # Of a chain's probability, less than its rounding.


class Inferred(NamedTuple):
    """Weights under a posterior, and what they say of the test inputs.

    Attributes:
      params: at its maxima, or a chain's last, each leaf `[R, ...]`.
      log_probs: `[R, M, C]`, a chain's the logarithm of its mean probabilities.
      r_hats: `[K]`, of probabilities that chains leave undecided; empty without two chains.
    """

    params: PyTree
    log_probs: np.ndarray
    r_hats: np.ndarray


def is_sampled(condition: Condition) -> bool:
    """Whether it is a chain's average, and no single network."""
    return condition.method in CHAINS


def maxima(run: Run, task: Task, told: Batch) -> dict[tuple[bool, float], PyTree]:
    """Weights at the maxima of every posterior that a kind of student has, each leaf `[R, ...]`.

    Returns:
      By whether it has the features' prior, and the share of labels: `kind_of` a condition.
    """
    found = {}
    for condition in run.settings.conditions():
        if kind_of(condition) not in found:
            found[kind_of(condition)] = _maximise(run, task, told, condition)
    return found


def kind_of(condition: Condition) -> tuple[bool, float]:
    """Of its posterior: whether it has the features' prior, and the share of labels."""
    return condition.method in PRIORS, condition.share


def posterior(
    run: Run, task: Task, told: Batch, condition: Condition, params: PyTree, evaluate_fn: Callable
) -> Inferred:
    """Weights at a posterior's maxima, or of chains from there.

    Args:
      run: of the study.
      task: what is to be learned.
      told: images with the teacher's features.
      condition: the kind of student.
      params: its `maxima`.
      evaluate_fn: weights `[R, ...]` to log-probabilities `[R, M, C]` of the test inputs.
    """
    if not is_sampled(condition):
        return Inferred(params, np.asarray(evaluate_fn(params)), np.zeros(0))
    settings = run.settings
    log_posterior_fn, stream, _ = _target(run, task, told, condition)
    ends, means, squares = [], [], []
    for index in range(settings.num_repeats):
        start = jax.tree.map(lambda leaf, i=index: leaf[i], params)
        end, found = sample(run, task, condition, log_posterior_fn, stream, start, index)
        ends.append(end)
        means.append(np.asarray(found["probs"], float))
        squares.append(np.asarray(found["squares"], float))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends)
    agreement = r_hats(np.stack(means), np.stack(squares), settings.num_samples)
    return Inferred(params, np.log(np.maximum(np.stack(means), LEAST_PROB)), agreement)


def r_hats(means: np.ndarray, squares: np.ndarray, num_samples: int) -> np.ndarray:
    r"""Gelman and Rubin's ratio of each probability that chains of one posterior leave undecided.

    .. math:: \hat R = \sqrt{\frac{n - 1}{n} + \frac{1}{n} \frac{B}{W}}

    with n samples a chain, n times the variance B of the chains' means, and the mean W of their own
    variances.

    Args:
      means: `[R, ...]`, by chain.
      squares: `[R, ...]`, means of squares.
      num_samples: n.

    Returns:
      `[K]`, of the entries whose mean over chains is in (0.01, 0.99); none of one chain.
    """
    if len(means) < 2:
        return np.zeros(0)
    average = np.mean(means, axis=0)
    chosen = (average > UNDECIDED[0]) & (average < UNDECIDED[1])
    means, squares = means[:, chosen], squares[:, chosen]
    own = np.maximum(squares - means**2, 0) * num_samples / (num_samples - 1)
    within, between = np.mean(own, axis=0), num_samples * np.var(means, axis=0, ddof=1)
    # Of chains that do not move: as far apart as can be told, unless they are all at one place.
    ratios = between / np.maximum(within, LEAST_VARIANCE)
    return np.sqrt((num_samples - 1 + ratios) / num_samples)


def log_posterior_of(
    settings: Settings, task: Task, told: Batch, condition: Condition, num_examples: int
) -> LogPosterior:
    """Of all weights, from a minibatch of labelled images, in nats."""
    model = task.student
    log_priors = [
        lambda params: -0.5 * settings.prior_precision * optax.tree.norm(params, squared=True)
    ]
    for link in task.links_of(condition.method):
        features_fn = models.features_of(model, [link.own])
        count = settings.num_compared
        compared = {link.own: told["features"][link.told][:count]}
        log_priors.append(
            inference.feature_log_prior(
                features_fn,
                told["x"][:count],
                compared,
                strength=settings.strength,
                divergence_fn=methods.divergence_of(settings),
            )
        )
    return samplers.minibatch_log_posterior(
        lambda params: sum(log_prior_fn(params) for log_prior_fn in log_priors),
        lambda params, one: jax.nn.log_softmax(model.apply(params, one["x"]))[one["y"]],
        num_examples=num_examples,
    )


def _target(
    run: Run, task: Task, told: Batch, condition: Condition
) -> tuple[LogPosterior, Stream, int]:
    """The log-posterior, minibatches of labelled images for it, and how many of these there are."""
    settings = run.settings
    split = inputs.split_of(settings, task.dataset, condition.share, is_trial=False)
    labelled = inputs.labelled_part(task.dataset, split)
    examples = {"x": labelled["labelled_x"], "y": labelled["labelled_y"]}
    count = len(examples["y"])
    log_posterior_fn = log_posterior_of(settings, task, told, condition, count)
    return log_posterior_fn, streams.resample(examples, min(settings.batch_size, count)), count


def _maximise(run: Run, task: Task, told: Batch, condition: Condition) -> PyTree:
    """Maxima, each from a start and by minibatches of its own, each leaf `[R, ...]`."""
    settings = run.settings
    log_posterior_fn, stream, num_examples = _target(run, task, told, condition)
    num_steps = inputs.num_steps(settings, task.dataset, settings.student_epochs)
    schedule = optax.cosine_decay_schedule(settings.maximum_rate, num_steps)
    update = training.gradient(
        lambda params, batch: -log_posterior_fn(params, batch) / num_examples, optax.adam(schedule)
    )
    has_prior, share = kind_of(condition)
    phase = f"maximum[{'prior' if has_prior else 'alone'},{share:g}]"
    key = run.key("students")
    keys = jax.random.split(jax.random.fold_in(key, 1), settings.num_repeats)
    x = jnp.asarray(task.dataset.train_x[0])
    starts = jax.vmap(lambda key: update.init(task.student.init(key, x)))(keys)
    return run.fit(
        phase, key, stream, update, starts, num_steps, num_replicas=settings.num_repeats
    ).student.params


def sample(
    run: Run,
    task: Task,
    condition: Condition,
    log_posterior_fn: LogPosterior,
    examples: Stream,
    start: PyTree,
    index: int,
) -> tuple[PyTree, dict[str, Array]]:
    """One chain's last weights, and means of its probabilities and their squares, `[M, C]`."""
    settings, model = run.settings, task.student
    sampler = samplers.sgld(log_posterior_fn, examples, step_size=settings.step_size)
    stream = streams.chain(sampler, start, batch_size=1, thin=settings.thin, name="weights")
    stream = streams.map_batch(_as_chain, stream)
    update = training.monte_carlo(
        lambda params, x: jax.nn.log_softmax(model.apply(params, x)),
        {"probs": inference.predictive, "squares": lambda log_probs: jnp.exp(2 * log_probs)},
        jnp.asarray(task.dataset.test_x),
    )
    watched = lambda update: training.observe(  # noqa: E731
        update, lambda batch: chains.langevin_figures(batch["chain"]["info"])
    )
    phase = f"chain[{condition.name},{index}]"
    with chains.divergence("sgld", settings.step_size):
        final = run.fit(
            phase,
            run.key(phase),
            stream,
            watched(update),
            update.init(start),
            settings.num_samples,
            burn_in=settings.burn_in,
            burn_in_update=watched(training.discard()),
        )
    return final.stream.sampler.position, final.student.means


def _as_chain(batch: Batch) -> Batch:
    """One position, without an axis, as averages over a chain take it."""
    position = jax.tree.map(lambda leaf: leaf[0], batch["weights"])
    return {"chain": {"position": position, "info": jax.tree.map(lambda x: x[0], batch["info"])}}
