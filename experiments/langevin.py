"""Langevin chains in a run: what they say of themselves, and the one line when they diverge."""

import contextlib
from collections.abc import Iterator

import jax.numpy as jnp

from experiments.flags import UserError
from kd import training
from kd.samplers.sgld import SgldInfo
from kd.types import Metrics


def figures(info: SgldInfo) -> Metrics:
    """Metrics of the chain's last steps, for `kd.training.observe`."""
    return {"log_posterior": jnp.mean(info.log_posterior)}


@contextlib.contextmanager
def divergence(sampler: str, step_size: float) -> Iterator[None]:
    """A chain that has left for infinity is the fault of its step size, and is told so."""
    try:
        yield
    except training.NonFiniteLossError as error:
        if "log_posterior" not in error.names:
            raise
        raise UserError(
            f"the chain diverged, by step {error.step} of the phase: its log-posterior is not "
            f"finite. --step_size={step_size:g} is too large for {sampler}; a smaller one needs "
            "another workdir."
        ) from error
