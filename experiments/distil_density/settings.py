"""Settings of the study, with the quick and the large value of each."""

import dataclasses
from typing import ClassVar

from experiments.flags import setting

TEACHERS = ("banana", "modes", "logistic")
LOSSES = ("kl", "se", "score", "se_then_kl")
COVARIANCES = ("full", "diagonal", "spherical")
MOST = 1_000_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result; the thesis has no figures for the paper preset."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "teacher": "what is done",
        "num_components": "students",
        "num_repeats": "evaluation and repeats",
    }

    teacher: tuple[str, ...] = setting(
        ("banana", "logistic"),
        TEACHERS,
        "the density to distil: a curved one, two of them far apart, the posterior of a "
        "logistic regression",
        choices=TEACHERS,
    )
    loss: tuple[str, ...] = setting(LOSSES, LOSSES, "what the student matches", choices=LOSSES)
    num_components: int = setting(8, 8, "Gaussians in the student", at_least=1, at_most=1000)
    covariance: str = setting(
        "full", "full", "of each Gaussian of the student", choices=COVARIANCES
    )
    num_samples: int = setting(
        50_000, 1_000_000, "of the teacher, for every student", at_least=1, at_most=MOST
    )
    batch_size: int = setting(50, 50, "samples a step", at_least=1, at_most=1_000_000)
    learning_rate: float = setting(
        0.05, 0.05, "of Adam at the start; it falls to 0 along a cosine", above=0
    )
    se_fraction: float = setting(
        0.1, 0.1, "part of the steps that se_then_kl spends on se", above=0, at_most=0.99
    )
    offset_gap: float = setting(
        1.0,
        1.0,
        "log Z - c of the square error, nats; below 0 proposition 4.1 does not hold",
        at_least=-1e6,
        at_most=1e6,
    )
    num_repeats: int = setting(
        4, 10, "students of each kind, from different starts", at_least=1, at_most=10_000
    )
    burn_in: int = setting(
        1000, 1000, "steps of Metropolis before the first sample", at_least=0, at_most=MOST
    )
    thinning: int = setting(
        20, 50, "steps of Metropolis between samples of a chain", at_least=1, at_most=1_000_000
    )
    floor_steps: int = setting(
        1000,
        5000,
        "of the floor: the best student, trained on with the teacher itself",
        at_least=1,
        at_most=MOST,
    )
    grid_points: int = setting(
        120, 400, "of the quadrature along an axis", at_least=80, at_most=5000
    )
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    def conditions(self) -> list[tuple[str, str]]:
        """All (loss, teacher) to run, in the order in which they are reported."""
        return [(loss, teacher) for teacher in self.teacher for loss in self.loss]
