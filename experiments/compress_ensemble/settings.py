"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses
from typing import ClassVar

from experiments.flags import setting

LOSSES = ("ce", "dse", "dse_projected", "ce+dse", "logits", "soft_target")
GENERATORS = ("dataset", "nade", "noise", "munge")
THESIS_GENERATORS = ("dataset", "nade", "noise")
FRACTIONS = (1.0, 0.1)
MOST = 1_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.

# What decides the ensemble, so that one run may borrow it from another.
ENSEMBLE_SETTINGS = (
    "dataset",
    "num_members",
    "teacher_hidden",
    "batch_size",
    "teacher_epochs",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "dataset": "what is done",
        "num_members": "networks",
        "batch_size": "training",
        "derivative_weight": "losses",
        "noise_scale": "generators",
        "seed": "repeats",
    }

    dataset: str = setting(
        "digits", "mnist", "digits, mnist, fashion_mnist, kmnist, or the path of an .npz"
    )
    loss: tuple[str, ...] = setting(
        ("ce", "dse"), ("ce", "dse"), "what the student matches", choices=LOSSES
    )
    generator: tuple[str, ...] = setting(
        ("dataset",), THESIS_GENERATORS, "where the student's inputs come from", choices=GENERATORS
    )
    train_fraction: tuple[float, ...] = setting(
        (0.1,),
        FRACTIONS,
        "part of the training set, from its beginning, that the students and the direct "
        "baseline may use; the ensemble always has all of it",
        above=0,
        at_most=1,
        is_set=True,
    )
    grid: bool = setting(
        False,
        False,
        "every loss x every generator x 100 %, 10 %, with one ensemble; then the three "
        "settings above do not count",
    )
    num_members: int = setting(10, 30, "networks in the ensemble", at_least=1, at_most=MOST)
    teacher_hidden: tuple[int, ...] = setting(
        (200, 120), (500, 300), "hidden units of each member", at_least=1, at_most=MOST
    )
    student_hidden: tuple[int, ...] = setting(
        (20, 12), (50, 30), "hidden units of the student", at_least=1, at_most=MOST
    )
    batch_size: int = setting(20, 20, "examples a step", at_least=1, at_most=MOST)
    teacher_epochs: float = setting(30.0, 20.0, "passes of each member over its bootstrap", above=0)
    direct_epochs: float = setting(
        200.0, 20.0, "passes of the baseline, trained on the labels", above=0
    )
    student_epochs: float = setting(
        400.0, 40.0, "passes of the student; of other inputs, as many steps", above=0
    )
    num_repeats: int = setting(
        5, 3, "students, and baselines, from different starts", at_least=1, at_most=MOST
    )
    derivative_weight: float = setting(1.0, 1.0, "w in ce + w dse, for ce+dse", at_least=0)
    num_projections: int = setting(
        1, 1, "random projections a step, for dse_projected", at_least=1, at_most=MOST
    )
    temperature: float = setting(4.0, 4.0, "for soft_target", at_least=1e-3, at_most=1e6)
    label_weight: float = setting(
        0.0, 0.0, "weight of the hard label in soft_target", at_least=0, at_most=1
    )
    noise_scale: float = setting(1.0, 1.0, "standard deviation of the noise inputs", above=0)
    nade_hidden: int = setting(
        100, 500, "hidden units of the NADE that generates inputs", at_least=1, at_most=MOST
    )
    nade_epochs: float = setting(
        100.0, 10.0, "passes of NADE over the students' part of the training set", above=0
    )
    swap_probability: float = setting(0.2, 0.2, "of an attribute, for munge", at_least=0, at_most=1)
    local_variance: float = setting(1.0, 1.0, "s of munge: noise is distance / s", above=0)
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    def conditions(self) -> list[tuple[str, str, float]]:
        """All (loss, generator, fraction) to run, in the order in which they are reported."""
        losses, generators, fractions = self.loss, self.generator, self.train_fraction
        if self.grid:
            losses, generators, fractions = LOSSES, GENERATORS, FRACTIONS
        return [
            (loss, generator, fraction)
            for generator in generators
            for fraction in fractions
            for loss in losses
        ]
