"""Markov kernels, each a `Sampler(init, step)`."""

from kd.samplers.gibbs import GibbsInfo, block_gibbs

__all__ = ["GibbsInfo", "block_gibbs"]
