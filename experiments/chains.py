"""Chains in a run: what they say of themselves, and the one line when they go wrong."""

import contextlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from experiments.flags import UserError
from experiments.workdir import MetricsLog
from kd import training
from kd.samplers.sgld import SgldInfo
from kd.samplers.slice import SliceInfo
from kd.types import Metrics

MOST_EXHAUSTED = 0.01  # Coordinates a sweep.


def langevin_figures(info: SgldInfo) -> Metrics:
    """Metrics of Langevin steps, for `kd.training.observe`; NaN once the chain has diverged."""
    value = jnp.mean(info.log_posterior)
    return {"log_posterior": jnp.where(jnp.any(info.is_diverged), jnp.nan, value)}


def slice_figures(info: SliceInfo) -> Metrics:
    """Metrics of sweeps: coordinates a sweep that kept their value, or stepped out to the limit."""
    return {
        "num_exhausted": jnp.mean(info.num_exhausted, dtype=jnp.float32),
        "num_limited": jnp.mean(info.num_limited, dtype=jnp.float32),
    }


def check_slices(log: MetricsLog, phase: str) -> None:
    """Raises UserError if coordinates often find no place in their slices.

    Rarely they do where single precision rounds a large log-density more than the slice is deep.
    """
    shares = [row["num_exhausted"] for row in log.rows(phase) if "num_exhausted" in row]
    share = np.mean(shares or [0.0])
    if share > MOST_EXHAUSTED:
        raise UserError(
            f"slice sampling found no place in {share:.2g} slices a sweep during {phase}: "
            "the log-density gives different values for the same weights."
        )


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
