"""Bags of samples as phases of a run: how they are filled, so that a run may stop in between."""

import numpy as np

from experiments.flags import UserError
from experiments.workdir import Workdir
from kd import samplers
from kd.files import write_atomically

BAG_STEPS = 100  # Batches in which a bag is filled.


def check_bag(num_samples: int, num_chains: int) -> None:
    """Raises UserError unless every batch holds as many samples of each chain."""
    share = num_chains * BAG_STEPS
    if num_samples % share:
        raise UserError(
            f"--num_samples must be a multiple of {BAG_STEPS} x --num_chains = {share}; got "
            f"{num_samples}."
        )


def burn_in_batches(burn_in: int, batch_size: int, *, num_chains: int = 1, thin: int = 1) -> int:
    """Batches of a chain, or of several, in which each makes at least `burn_in` steps."""
    return -(-burn_in * num_chains // (batch_size * thin))


def by_chain(kept: np.ndarray, num_chains: int) -> np.ndarray:
    """Samples `[S, ...]`, batches of all chains one after another, as chains `[C, S / C, ...]`."""
    batches = np.asarray(kept).reshape(BAG_STEPS, num_chains, -1, *kept.shape[1:])
    return batches.swapaxes(0, 1).reshape(num_chains, -1, *kept.shape[1:])


def keep_draws(workdir: Workdir, name: str, draws: np.ndarray) -> tuple[float, float]:
    """Leaves draws `[C, S, ...]` in `draws/`, and a table of what they are worth.

    Returns:
      The largest split R-hat of a coordinate, and the least effective samples.
    """
    found = samplers.diagnose({"w": draws}, num_chains=len(draws))
    samplers.save_draws(workdir.file("draws", f"{name}.npz"), {"w": draws}, num_chains=len(draws))
    table = samplers.diagnosis_table(found, at_most=1000) + "\n"
    write_atomically(workdir.file("draws", f"{name}.txt"), table.encode())
    worth = found.values()
    return max(one.r_hat for one in worth), min(one.ess for one in worth)
