"""Settings of the study, with the quick and the thesis's value of each."""

import dataclasses
from typing import ClassVar

from experiments.flags import setting

MOST = 10_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
DATASETS = ("points", "breast_cancer", "wine")
SAMPLERS = ("slice", "sgld", "sghmc")
MODES, LOSSES = ("batch", "online"), ("ce", "dse")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "dataset": "what is done",
        "prior_variance": "teacher",
        "num_members": "students",
        "num_repeats": "evaluation and repeats",
    }

    dataset: str = setting(
        "points",
        "points",
        "24 points in the plane, as in the thesis; or scikit-learn's, two classes and three",
        choices=DATASETS,
    )
    input_variance: tuple[float, ...] = setting(
        (10.0,),
        (10.0, 100.0),
        "of the inputs at which students learn: 10 in the thesis's code, 100 in its text; of real "
        "data times its covariance, where 1 is near the data",
        above=0,
        at_most=1e6,
        is_set=True,
    )
    mode: tuple[str, ...] = setting(
        MODES, MODES, "from a stored bag of samples, or from the chain as it runs", choices=MODES
    )
    loss: tuple[str, ...] = setting(LOSSES, LOSSES, "what the student matches", choices=LOSSES)
    prior_variance: float = setting(100.0, 100.0, "of each weight", above=0, at_most=1e6)
    sampler: str = setting(
        "slice",
        "slice",
        "of the posterior: slice sampling, or Langevin steps with or without momentum",
        choices=SAMPLERS,
    )
    step_size: float = setting(
        0.1, 0.1, "of sgld and sghmc, for all data at once: minibatches need a smaller one", above=0
    )
    friction: float = setting(0.02, 0.02, "of sghmc; 1 is sgld", above=0, at_most=1)
    minibatch: int = setting(
        0, 0, "examples a step of sgld and sghmc; 0 is all of them", at_least=0, at_most=MOST
    )
    thin: int = setting(1, 1, "steps of a chain a sample", at_least=1, at_most=MOST)
    num_samples: int = setting(
        10_000, 10_000, "of the posterior, in the bag", at_least=100, at_most=MOST
    )
    num_chains: int = setting(
        4,
        4,
        "that the bag comes from; 100 times it divides num_samples",
        at_least=2,
        at_most=10_000,
    )
    burn_in: int = setting(
        1000,
        1000,
        "steps (of slice sampling: sweeps) before the first sample",
        at_least=0,
        at_most=MOST,
    )
    num_members: int = setting(10, 10, "sigmoids of the student", at_least=1, at_most=MOST)
    num_iterations: int = setting(5000, 5000, "steps of the student", at_least=2, at_most=MOST)
    batch_size: int = setting(10, 10, "inputs a step", at_least=1, at_most=MOST)
    learning_rate: float = setting(
        1.0, 1.0, "of gradient descent at the start; it falls linearly to 0", above=0
    )
    num_repeats: int = setting(
        3,
        10,
        "students of each kind, with starts and chains of their own",
        at_least=1,
        at_most=10_000,
    )
    num_inputs: int = setting(
        4000, 10_000, "at which predictions are compared", at_least=10, at_most=MOST
    )
    train_fraction: float = setting(
        0.5, 0.5, "of real data; the rest is held out", above=0, at_most=0.95
    )
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    def conditions(self) -> list[tuple[str, str, float]]:
        """All (mode, loss, input variance) to run, in the order in which they are reported."""
        return [
            (mode, loss, variance)
            for variance in self.input_variance
            for mode in self.mode
            for loss in self.loss
        ]
