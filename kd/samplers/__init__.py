"""Markov kernels, each a `Sampler(init, step)`, and `sample`, which runs them."""

from kd.samplers.adapters import DrawState, fixed, from_blackjax, from_draws
from kd.samplers.base import Samples, position_of, sample
from kd.samplers.diagnostics import Diagnosis, diagnose, diagnosis_table, save_draws
from kd.samplers.flips import FlipInfo, FlipState, bit_flips
from kd.samplers.gibbs import GibbsInfo, block_gibbs
from kd.samplers.posteriors import (
    control_variates,
    cyclical_step_size,
    cyclical_temperature,
    minibatch_log_posterior,
    polynomial_step_size,
)
from kd.samplers.sgld import SgldInfo, SgldState, normal_like, preconditioned_sgld, sghmc, sgld
from kd.samplers.slice import SliceInfo, SliceState, slice_sampler

__all__ = [
    "Diagnosis",
    "DrawState",
    "FlipInfo",
    "FlipState",
    "GibbsInfo",
    "Samples",
    "SgldInfo",
    "SgldState",
    "SliceInfo",
    "SliceState",
    "bit_flips",
    "block_gibbs",
    "control_variates",
    "cyclical_step_size",
    "cyclical_temperature",
    "diagnose",
    "diagnosis_table",
    "fixed",
    "from_blackjax",
    "from_draws",
    "minibatch_log_posterior",
    "normal_like",
    "polynomial_step_size",
    "position_of",
    "preconditioned_sgld",
    "sample",
    "save_draws",
    "sghmc",
    "sgld",
    "slice_sampler",
]
