"""A feature prior as the paper reads it: the posterior that it makes, maximised or sampled."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import chains
from experiments.feature_priors import inputs
from experiments.feature_priors.settings import Condition, Settings
from experiments.feature_priors.tasks import Task
from experiments.run import Run
from kd import inference, models, samplers, streams, training
from kd.losses import features
from kd.types import Array, Batch, PyTree, Stream

LogPosterior = Callable[[PyTree, Batch], Array]


def is_sampled(condition: Condition) -> bool:
    """Whether it is a chain's average, and no single network."""
    return condition.method.startswith("chain")


def posterior(
    run: Run, task: Task, told: Batch, condition: Condition, evaluate_fn: Callable
) -> tuple[PyTree, np.ndarray]:
    """Weights at the posterior's maxima, or a chain's last, `[R, ...]`, and log-probabilities.

    Args:
      run: of the study.
      task: what is to be learned.
      told: images with the teacher's features.
      condition: the kind of student.
      evaluate_fn: weights `[R, ...]` to log-probabilities `[R, M, C]` of the test inputs.
    """
    settings = run.settings
    split = inputs.split_of(settings, task.dataset, condition.share, is_trial=False)
    labelled = inputs.labelled_part(task.dataset, split)
    examples = {"x": labelled["labelled_x"], "y": labelled["labelled_y"]}
    log_posterior_fn = log_posterior_of(settings, task, told, condition, len(examples["y"]))
    stream = streams.resample(examples, min(settings.batch_size, len(examples["y"])))
    params = maximise(run, task, condition, log_posterior_fn, stream, len(examples["y"]))
    if not is_sampled(condition):
        return params, np.asarray(evaluate_fn(params))
    ends, log_probs = [], []
    for index in range(settings.num_repeats):
        start = jax.tree.map(lambda leaf, i=index: leaf[i], params)
        end, found = sample(run, task, condition, log_posterior_fn, stream, start, index)
        ends.append(end)
        log_probs.append(found)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends), np.stack(log_probs)


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
                divergence_fn=partial(features.gaussian_process_kl, jitter=settings.jitter),
            )
        )
    return samplers.minibatch_log_posterior(
        lambda params: sum(log_prior_fn(params) for log_prior_fn in log_priors),
        lambda params, one: jax.nn.log_softmax(model.apply(params, one["x"]))[one["y"]],
        num_examples=num_examples,
    )


def maximise(
    run: Run,
    task: Task,
    condition: Condition,
    log_posterior_fn: LogPosterior,
    stream: Stream,
    num_examples: int,
) -> PyTree:
    """Maxima, each from a start and by minibatches of its own, each leaf `[R, ...]`."""
    settings = run.settings
    num_steps = inputs.num_steps(settings, task.dataset, settings.student_epochs)
    schedule = optax.cosine_decay_schedule(settings.maximum_rate, num_steps)
    update = training.gradient(
        lambda params, batch: -log_posterior_fn(params, batch) / num_examples, optax.adam(schedule)
    )
    phase = f"maximum[{condition.name}]"
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
) -> tuple[PyTree, np.ndarray]:
    """One chain's last weights, and the logarithm of its mean probabilities, `[M, C]`."""
    settings, model = run.settings, task.student
    sampler = samplers.sgld(log_posterior_fn, examples, step_size=settings.step_size)
    stream = streams.chain(sampler, start, batch_size=1, thin=settings.thin, name="weights")
    stream = streams.map_batch(_as_chain, stream)
    update = training.monte_carlo(
        lambda params, x: jax.nn.log_softmax(model.apply(params, x)),
        {"probs": inference.predictive},
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
    return final.stream.sampler.position, np.log(np.asarray(final.student.means["probs"]))


def _as_chain(batch: Batch) -> Batch:
    """One position, without an axis, as averages over a chain take it."""
    position = jax.tree.map(lambda leaf: leaf[0], batch["weights"])
    return {"chain": {"position": position, "info": jax.tree.map(lambda x: x[0], batch["info"])}}
