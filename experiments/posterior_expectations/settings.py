"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses
import itertools
from typing import NamedTuple

from experiments.flags import setting

MOST = 100_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
EXPERIMENTS = ("1", "2", "3", "4")
MODELS = ("fcnn", "cnn", "cnn_cifar")
TEACHERS = ("sgld", "sghmc", "cyclical")
STUDENTS = ("predictive", "entropy", "both", "dirichlet")
ESTIMATORS = ("current", "running")
CURRENT, RUNNING = ESTIMATORS
# Shares of an image that is masked: squares of 10, 15, 20, 23 and 26 pixels of MNIST's 28.
PAPER_RATES = (0.0, 0.13, 0.29, 0.51, 0.675, 0.862)
PAPER_SIZES = (10_000, 20_000, 30_000, 60_000)


class Chain(NamedTuple):
    """What one chain is about.

    Attributes:
      mask_rate: share of each image that is masked.
      train_size: examples; 0 is all of them.
      repeat: which repetition, from 0.
    """

    mask_rate: float
    train_size: int
    repeat: int

    @property
    def name(self) -> str:
        """In a phase's name."""
        return f"{self.mask_rate:g},{self.train_size},{self.repeat}"


class Student(NamedTuple):
    """One kind of student.

    Attributes:
      kind: of `STUDENTS`.
      estimator: of `ESTIMATORS`; what "both" learn of the predictive distribution: of the entropy
        they learn the running mean, as in the paper.
      channel_multiplier, unit_multiplier: times the teacher's widths.
    """

    kind: str
    estimator: str
    channel_multiplier: float
    unit_multiplier: float

    @property
    def name(self) -> str:
        """In metrics and rows."""
        widths = f"{self.channel_multiplier:g}x{self.unit_multiplier:g}"
        return f"{self.kind},{self.estimator},{widths}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    experiment: str = setting(
        "4",
        "4",
        "of the paper: 1 expectations, 2 masks and data, 3 widths, 4 uncertainties",
        choices=EXPERIMENTS,
    )
    dataset: str = setting(
        "digits", "mnist", "digits, mnist, fashion_mnist, cifar10, or the path of an .npz"
    )
    outside: tuple[str, ...] = setting(
        ("permuted",),
        ("kmnist", "notmnist"),
        "out of distribution: data sets of images of one size with the data, notmnist, or the "
        "test images permuted or inverted",
    )
    mask_rate: tuple[float, ...] = setting(
        (),
        (),
        "shares of each image under a square mask; empty: 0.29 in 3 and 4, six rates in 2, 0 in 1",
        at_least=0,
        at_most=1,
    )
    train_size: tuple[int, ...] = setting(
        (), (), "examples of the teacher; empty: all, four sizes in 2", at_least=1, at_most=MOST
    )
    model: str = setting("fcnn", "fcnn", "the teacher's network", choices=MODELS)
    teacher: str = setting("sgld", "sgld", "the chain over its weights", choices=TEACHERS)
    num_steps: int = setting(
        20_000, 1_000_000, "T, steps of the chain after the burn-in", at_least=10, at_most=MOST
    )
    burn_in: int = setting(1000, 1000, "B, steps before", at_least=0, at_most=MOST)
    thin: int = setting(10, 100, "H, steps of the chain a student's step", at_least=1, at_most=MOST)
    step_size: float = setting(1e-4, 4e-6, "eta, of the chain", above=0)
    friction: float = setting(0.1, 0.1, "of sghmc", above=0, at_most=1)
    num_cycles: int = setting(4, 10, "of the cyclical step size", at_least=1, at_most=MOST)
    prior_precision: float = setting(10.0, 10.0, "tau, of the weights", above=0)
    batch_size: int = setting(100, 100, "M, examples a step of the chain", at_least=1, at_most=MOST)
    student: tuple[str, ...] = setting(
        (), (), "empty: predictive and entropy in 1 and 2, both in 3, both and dirichlet in 4"
    )
    estimator: tuple[str, ...] = setting(
        ESTIMATORS,
        ESTIMATORS,
        "of the expectations: under the current sample, or their running mean",
        choices=ESTIMATORS,
    )
    channel_multiplier: tuple[float, ...] = setting(
        (1.0,), (1.0,), "K1, times the teacher's channels", above=0, at_most=64, is_set=True
    )
    unit_multiplier: tuple[float, ...] = setting(
        (1.0,), (1.0,), "K2, times the teacher's units", above=0, at_most=64, is_set=True
    )
    student_batch: int = setting(
        100, 100, "M', examples a step of a student", at_least=1, at_most=MOST
    )
    student_rate: float = setting(1e-3, 1e-3, "of the students' Adam", above=0)
    num_halvings: int = setting(8, 8, "of that rate, evenly over the run", at_least=0, at_most=1000)
    input_noise: float = setting(
        1e-3, 1e-3, "standard deviation, of the students' inputs", at_least=0, at_most=10
    )
    smoothing: float = setting(
        1e-3, 1e-3, "of the probabilities for dirichlet students", above=0, at_most=1
    )
    temperature: float = setting(
        1.0, 1.0, "of dirichlet students, for a third; linearly to 1 in the next", at_least=1
    )
    test_thin: int = setting(
        20, 20, "student's steps a sample of the teacher at the test", at_least=1, at_most=MOST
    )
    num_repeats: int = setting(1, 3, "chains of each kind", at_least=1, at_most=1000)
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    @property
    def student_steps(self) -> int:
        """Of each student."""
        return self.num_steps // self.thin

    def chains(self) -> list[Chain]:
        """All chains, in order."""
        rates = self.mask_rate or {"1": (0.0,), "2": PAPER_RATES}.get(self.experiment, (0.29,))
        sizes = self.train_size or (PAPER_SIZES if self.experiment == "2" else (0,))
        return [Chain(*one) for one in itertools.product(rates, sizes, range(self.num_repeats))]

    def students(self) -> list[Student]:
        """All kinds of students, each of which learns from every chain."""
        own = {"3": ("both",), "4": ("both", "dirichlet")}
        kinds = self.student or own.get(self.experiment, ("predictive", "entropy"))
        # Fully connected networks have no channels to multiply.
        channels = (1.0,) if self.model == "fcnn" else self.channel_multiplier
        found = itertools.product(kinds, self.estimator, channels, self.unit_multiplier)
        return [Student(*one) for one in found]
