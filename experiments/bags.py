"""Bags of samples as phases of a run: how they are filled, so that a run may stop in between."""

import numpy as np

from experiments.flags import UserError

BAG_STEPS = 100  # Batches in which a bag is filled.


def check_bag(num_samples: int, num_chains: int) -> None:
    """Raises UserError unless every batch holds as many samples of each chain."""
    share = num_chains * BAG_STEPS
    if num_samples % share:
        raise UserError(
            f"--num_samples must be a multiple of {BAG_STEPS} x --num_chains = {share}; got "
            f"{num_samples}."
        )


def by_chain(kept: np.ndarray, num_chains: int) -> np.ndarray:
    """Samples `[S, ...]`, batches of all chains one after another, as chains `[C, S / C, ...]`."""
    batches = np.asarray(kept).reshape(BAG_STEPS, num_chains, -1, *kept.shape[1:])
    return batches.swapaxes(0, 1).reshape(num_chains, -1, *kept.shape[1:])
