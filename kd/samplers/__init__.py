"""Markov kernels, each a `Sampler(init, step)`, and `sample`, which runs them."""

from kd.samplers.base import Samples, position_of, sample
from kd.samplers.flips import FlipInfo, FlipState, bit_flips
from kd.samplers.gibbs import GibbsInfo, block_gibbs
from kd.samplers.slice import SliceInfo, SliceState, slice_sampler

__all__ = [
    "FlipInfo",
    "FlipState",
    "GibbsInfo",
    "Samples",
    "SliceInfo",
    "SliceState",
    "bit_flips",
    "block_gibbs",
    "position_of",
    "sample",
    "slice_sampler",
]
