"""The chain over the weights: by one of several samplers, as a stream under `"w"`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.chains import langevin_figures, slice_figures
from experiments.logistic_regression.problems import Problem
from experiments.logistic_regression.settings import Settings
from kd import samplers, streams, training
from kd.types import Array, Sampler, Stream, Update


def stream(
    problem: Problem, settings: Settings, batch_size: int, num_chains: int | None = None
) -> Stream:
    """Samples of the posterior as the chains go, `{"w", "info"}`, those of the burn-in too."""
    chart = problem.chart(settings.prior_variance)
    size = len(chart.factor)
    chain = streams.chain(
        sampler(problem, settings, chart.weights),
        jnp.zeros(size if num_chains is None else (num_chains, size)),
        batch_size=batch_size,
        thin=settings.thin,
        num_chains=num_chains,
        name="z",
    )
    return streams.map_batch(
        lambda batch: {"w": jax.vmap(chart.weights)(batch["z"]), "info": batch["info"]}, chain
    )


def sampler(problem: Problem, settings: Settings, weights_fn: Callable[[Array], Array]) -> Sampler:
    """Of coordinates from which `weights_fn` makes weights."""
    if settings.sampler == "slice":
        return samplers.slice_sampler(
            lambda z: problem.log_posterior(weights_fn(z), settings.prior_variance),
            width=1.0,
            adapt_steps=settings.burn_in,
            order="random",
        )
    log_posterior_fn = samplers.minibatch_log_posterior(
        lambda z: problem.log_prior(weights_fn(z), settings.prior_variance),
        lambda z, one: problem.log_likelihood(weights_fn(z), one["x"], one["y"]),
        num_examples=len(problem.train_y),
    )
    data = {"x": jnp.asarray(problem.train_x), "y": jnp.asarray(problem.train_y)}
    if 0 < settings.minibatch < len(problem.train_y):
        examples = streams.resample(data, settings.minibatch)
    else:
        examples = Stream(lambda key: (), lambda key, state: (state, data))
    size = settings.step_size
    if settings.sampler == "sghmc":
        return samplers.sghmc(
            log_posterior_fn, examples, step_size=size, friction=settings.friction
        )
    return samplers.sgld(log_posterior_fn, examples, step_size=size)


def observed(update: Update, settings: Settings) -> Update:
    """The update of a student beside such a chain, or of a bag, with the chain's own figures."""
    figures_fn = slice_figures if settings.sampler == "slice" else langevin_figures
    return training.observe(update, lambda batch: figures_fn(batch["info"]))
