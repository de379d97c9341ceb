"""Settings of the study, with the quick and the thesis's value of each."""

import dataclasses
from typing import ClassVar

from experiments.flags import setting

MOST = 10_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
STEP_SIZES = ("linear", "power")
ROUTES = ("one", "thinned", "parallel")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "num_points": "teacher",
        "num_fitted": "students",
        "num_repeats": "evaluation and repeats",
    }

    num_points: tuple[int, ...] = setting(
        (5, 50, 500),
        (2, 5, 10, 20, 50, 100, 200, 500, 1000),
        "N, points that the posterior is given",
        at_least=1,
        at_most=1_000_000,
        is_set=True,
    )
    num_samples: int = setting(
        10_000, 10_000, "of the posterior, in the bag", at_least=100, at_most=MOST
    )
    num_chains: int = setting(4, 4, "that the bag comes from", at_least=2, at_most=10_000)
    burn_in: int = setting(
        1000, 1000, "sweeps of slice sampling before the first sample", at_least=0, at_most=MOST
    )
    exchange: bool = setting(
        True, True, "two means after each sweep, by Metropolis's rule; the thesis has no such step"
    )
    thin: int = setting(1, 1, "sweeps a sample of the online chain", at_least=1, at_most=MOST)
    num_fitted: int = setting(
        1000, 1000, "draws from the Monte Carlo density, for batch EM", at_least=2, at_most=MOST
    )
    batch_size: int = setting(100, 100, "draws a step of online EM", at_least=1, at_most=MOST)
    num_iterations: int = setting(100, 100, "steps of online EM", at_least=2, at_most=MOST)
    step_size: str = setting(
        "linear", "linear", "of online EM: from 1 linearly to 0, or a power", choices=STEP_SIZES
    )
    power: float = setting(0.6, 0.6, "beta of the power (t0 + t) ** -beta", above=0.5, at_most=1)
    step_offset: float = setting(
        0.0,
        0.0,
        "t0 of the power (t0 + t) ** -beta; with 0 the first step is 1",
        at_least=0,
        at_most=1e6,
    )
    num_components: int = setting(3, 3, "of the student", at_least=1, at_most=1000)
    num_repeats: int = setting(
        5, 10, "data sets, each with chains and students", at_least=1, at_most=10_000
    )
    batch_sizes: tuple[int, ...] = setting(
        (),
        (1, 3, 10, 30, 100),
        "draws a step, to compare one chain, a thinned one, and a chain a draw; none if empty",
        at_least=1,
        at_most=MOST,
        is_set=True,
    )
    sweep_points: int = setting(10, 10, "N of that comparison", at_least=1, at_most=1_000_000)
    sweep_thin: int = setting(
        10, 10, "sweeps a draw of its thinned chain", at_least=2, at_most=MOST
    )
    grid_points: int = setting(4001, 4001, "of the quadrature", at_least=501, at_most=MOST)
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)
