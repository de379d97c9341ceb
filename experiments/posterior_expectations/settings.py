"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses
import itertools
from typing import Any, ClassVar, NamedTuple

from experiments.flags import setting

MOST = 100_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
EXPERIMENTS = ("1", "2", "3", "4")
MODELS = ("fcnn", "cnn", "cnn_cifar")
CHAINS = ("sgld", "sghmc")
STORED = ("bag", "cyclical", "ensemble")
TEACHERS = (*CHAINS, *STORED)
REGULARIZERS = ("proximal", "penalty")
STUDENTS = ("predictive", "entropy", "both", "dirichlet")
ESTIMATORS = ("current", "running")
CURRENT, RUNNING = ESTIMATORS
ABSOLUTE, SQUARE = ENTROPY_LOSSES = ("absolute", "square")
TEACHER, FITTED = "teacher", "fitted Dirichlets"
PAIR = "pair"  # Of a student of the predictive distribution and one of the entropy, for both.
# Shares of an image that is masked: squares of 10, 15, 20, 23 and 26 pixels of MNIST's 28. Of the
# paper's six, 0, 29 and 86.2 % are known, and of its sizes that of all; the others are ours, as are
# its three sizes of CIFAR-10, which it does not mask.
PAPER_RATES = (0.0, 0.13, 0.29, 0.51, 0.675, 0.862)
PAPER_SIZES = (10_000, 20_000, 30_000, 60_000)
CIFAR_SIZES = (10_000, 20_000, 50_000)
# A square of 4 of the digits' 8 pixels, and a sixth and all of the digits: four chains.
DIGITS_RATES = (0.0, 0.25)
DIGITS_SIZES = (200, 1200)
# Times the teacher's widths, in a search.
CHANNEL_WIDTHS = (1.0, 2.0, 4.0)
UNIT_WIDTHS, DIGITS_WIDTHS = (0.5, 1.0, 2.0, 4.0), (0.25, 0.5, 1.0, 2.0)
# Recorded nowhere. Proximal steps come after Adam's, which are of the size of the rate.
PENALTIES = {"proximal": (0.3, 1.0, 3.0), "penalty": (3e-4, 1e-3, 3e-3)}

# Balan et al. (2015): network, step size, prior and length of their chain. Where their settings are
# not at hand, the noise and the prior of a re-implementation's students (the prior taken over N, as
# one over data), and the rate of Vadera et al.'s. There a student makes a step with each step of
# the chain, a million, of which these are a tenth.
_DARK_KNOWLEDGE = {"experiment": "1", "student": ("predictive",), "estimator": (CURRENT,)}
OTHER_PRESETS = {
    # Vadera et al.'s of CIFAR-10: a longer burn-in, and a rate that is halved twice as often.
    "cifar10": {
        "dataset": "cifar10",
        "model": "cnn_cifar",
        "burn_in": 10_000,
        "num_halvings": 16,
    },
    "dark_knowledge": _DARK_KNOWLEDGE
    | {
        "outside": (),
        "prior_precision": 1.0,
        "thin": 10,
        "test_thin": 100,
        "student_decay": 0.1 / 60_000,
        "input_noise": 0.1,
    },
    "toy": _DARK_KNOWLEDGE
    | {
        "dataset": "toy",
        "outside": (),
        "hidden_sizes": (10,),
        "student_hidden": ("10", "100", "10-10"),
        "prior_precision": 1.0,
        "step_size": 0.01,
        "num_steps": 100_000,
        "thin": 10,
        "student_rate": 3e-3,
        "input_noise": 0.0,
        "num_repeats": 5,
    },
}


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
      strength: of the group lasso, after which it is pruned and fine-tuned; 0 without.
      hidden: its own hidden sizes instead of the teacher's multiplied, as "10-10"; "" without.
      dropout: share of its units that are dropped while it learns.
    """

    kind: str
    estimator: str
    channel_multiplier: float
    unit_multiplier: float
    strength: float = 0.0
    hidden: str = ""
    dropout: float = 0.0

    @property
    def widths(self) -> tuple[float, float]:
        """Its two multipliers."""
        return self.channel_multiplier, self.unit_multiplier

    @property
    def name(self) -> str:
        """In metrics and rows."""
        widths = self.hidden or f"{self.channel_multiplier:g}x{self.unit_multiplier:g}"
        pruned = f",{self.strength:g}" if self.strength else ""
        dropped = f",dropout{self.dropout:g}" if self.dropout else ""
        return f"{self.kind},{self.estimator},{widths}{pruned}{dropped}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    OTHER_PRESETS: ClassVar[dict[str, dict[str, Any]]] = OTHER_PRESETS
    SECTIONS: ClassVar[dict[str, str]] = {
        "experiment": "what is done",
        "dataset": "data",
        "model": "teacher",
        "student": "students",
        "student_batch": "students' training",
        "unlabelled": "students' inputs",
        "smoothing": "dirichlet students",
        "test_thin": "evaluation and repeats",
    }

    experiment: str = setting(
        "4",
        "4",
        "of the paper: 1 expectations, 2 masks and data, 3 widths, 4 uncertainties",
        choices=EXPERIMENTS,
    )
    dataset: str = setting(
        "digits",
        "mnist",
        "digits, mnist, fashion_mnist, kmnist, cifar10, the path of an .npz; or toy, twenty "
        "points in the plane, where everything is compared with numpyro's NUTS",
    )
    outside: tuple[str, ...] = setting(
        ("permuted",),
        ("kmnist", "notmnist"),
        "out of distribution: data sets of images of one size with the data, or grey and smaller "
        "(then in the middle of a black one), notmnist, or the test images permuted or inverted",
    )
    mask_rate: tuple[float, ...] = setting(
        (),
        (),
        "shares of each image under a square mask, of whole pixels; empty: 0.29 (of digits 0.25) "
        "in 3 and 4, six rates in 2 (of digits 0 and 0.25), 0 in 1 and of cifar10",
        at_least=0,
        at_most=1,
    )
    train_size: tuple[int, ...] = setting(
        (),
        (),
        "examples of the teacher; empty: all, but in 2 10000, 20000, 30000 and 60000 (of digits "
        "200 and 1200, of cifar10 10000, 20000 and 50000)",
        at_least=1,
        at_most=MOST,
    )
    model: str = setting("fcnn", "fcnn", "the teacher's network", choices=MODELS)
    hidden_sizes: tuple[int, ...] = setting(
        (400, 400), (400, 400), "units of fcnn's hidden layers", at_least=1, at_most=100_000
    )
    teacher: str = setting(
        "sgld",
        "sgld",
        "a chain over its weights, distilled as it goes (sgld, sghmc); or networks that are stored "
        "first: a bag of sgld's, the ends of the cycles of a cyclical step size, or an ensemble",
        choices=TEACHERS,
    )
    num_chains: int = setting(
        1, 1, "of sgld or sghmc, side by side: each estimate is of all", at_least=1, at_most=10_000
    )
    num_members: int = setting(
        20,
        100,
        "networks that are stored, one chain's or an ensemble's",
        at_least=2,
        at_most=100_000,
    )
    all_members: bool = setting(
        False,
        False,
        "whether all stored networks answer at each step of the students, or one at random",
    )
    member_rate: float = setting(
        1e-3,
        1e-3,
        "of the Adam of an ensemble's members, falling linearly to 0",
        above=0,
        at_most=1e6,
    )
    num_steps: int = setting(
        20_000,
        1_000_000,
        "T, steps of the chain after the burn-in, or of a member; divided by thin, those of a "
        "student, whatever the teacher",
        at_least=10,
        at_most=MOST,
    )
    burn_in: int = setting(
        1000,
        1000,
        "B, steps before; of a cyclical chain the first half of each cycle, without noise",
        at_least=0,
        at_most=MOST,
    )
    thin: int = setting(10, 100, "H, steps of the chain a student's step", at_least=1, at_most=MOST)
    step_size: float = setting(1e-4, 4e-6, "eta, of the chain", above=0, at_most=1e6)
    friction: float = setting(0.1, 0.1, "of sghmc", above=0, at_most=1)
    num_cycles: int = setting(
        4, 10, "of the cyclical step size; a divisor of num_members", at_least=1, at_most=MOST
    )
    prior_precision: float = setting(10.0, 10.0, "tau, of the weights", above=0, at_most=1e9)
    batch_size: int = setting(100, 100, "M, examples a step of the chain", at_least=1, at_most=MOST)
    student: tuple[str, ...] = setting(
        (),
        (),
        "predictive, entropy, both in one network, dirichlet; empty: predictive and entropy in 1 "
        "and 2, both in 3, both and dirichlet in 4",
    )
    estimator: tuple[str, ...] = setting(
        (),
        (),
        "of the expectations: current (under the current sample) or running (the mean so far); "
        "students of both learn the entropy from running means with either; empty: running in 3, "
        "both elsewhere",
    )
    entropy_loss: str = setting(
        ABSOLUTE,
        ABSOLUTE,
        "absolute, as in released code: of the current sample it learns the median; square: the "
        "mean of either",
        choices=ENTROPY_LOSSES,
    )
    channel_multiplier: tuple[float, ...] = setting(
        (), (), "K1, times the teacher's channels; empty: 1, in 3 also 2 and 4", above=0, at_most=64
    )
    unit_multiplier: tuple[float, ...] = setting(
        (),
        (),
        "K2, times the teacher's units; empty: 1, in 3 also 0.5, 2, 4 (of digits 0.25, 0.5, 2)",
        above=0,
        at_most=64,
    )
    student_hidden: tuple[str, ...] = setting(
        (), (), "hidden sizes of fcnn's students, as 10-10, instead of multiples of the teacher's"
    )
    regularizer_strength: tuple[float, ...] = setting(
        (),
        (),
        "lambda of the group lasso, beside the mean loss, on the largest students, which are then "
        "pruned and fine-tuned; empty: several in 3, none elsewhere",
        above=0,
        at_most=1e6,
    )
    regularizer: str = setting(
        "proximal",
        "penalty",
        "the lasso's step: one that reaches exact zeros, or its gradient, as in the paper",
        choices=REGULARIZERS,
    )
    threshold: float = setting(
        1e-3, 1e-3, "a unit without a larger incoming weight is removed", at_least=0, at_most=1e6
    )
    fine_tune_steps: int = setting(
        500, 2000, "of a pruned student, with a tenth of the rate", at_least=1, at_most=MOST
    )
    student_batch: int = setting(
        100, 100, "M', examples a step of a student", at_least=1, at_most=MOST
    )
    student_rate: float = setting(1e-3, 1e-3, "of the students' Adam", above=0, at_most=1e6)
    num_halvings: int = setting(8, 8, "of that rate, evenly over the run", at_least=0, at_most=1000)
    dropout: tuple[float, ...] = setting(
        (0.0,),
        (0.0,),
        "shares of the students' units, and channels, that are dropped while they learn",
        at_least=0,
        at_most=0.99,
    )
    clip_norm: float = setting(
        0.0,
        0.0,
        "most that the norm of a student's gradient may be; 0: any",
        at_least=0,
        at_most=1e6,
    )
    student_decay: float = setting(
        0.0,
        0.0,
        "times half the square of a student's weights: the precision of a prior over N",
        at_least=0,
        at_most=1e9,
    )
    unlabelled: str = setting(
        "", "", "a data set whose images the students learn from; empty: the teacher's"
    )
    input_noise: float = setting(
        1e-3, 1e-3, "standard deviation, of the students' inputs", at_least=0, at_most=10
    )
    fresh_masks: bool = setting(
        False,
        False,
        "whether the masks of the students' inputs are drawn anew at each step; not for running "
        "means, which are of one input",
    )
    smoothing: float = setting(
        1e-3, 1e-3, "of the probabilities for dirichlet students", above=0, at_most=1
    )
    temperature: float = setting(
        1.0,
        1.0,
        "of dirichlet students and their teacher, for a third; linearly to 1 in the next; of "
        "running means at the nearest of five, each with a mean of its own",
        at_least=1,
        at_most=1e6,
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
        is_second = self.experiment == "2"
        all_rates, hard, all_sizes = {
            "digits": (DIGITS_RATES, DIGITS_RATES[1:2], DIGITS_SIZES),
            "cifar10": ((0.0,), (0.0,), CIFAR_SIZES),
        }.get(self.dataset, (PAPER_RATES, PAPER_RATES[2:3], PAPER_SIZES))
        rates = self.mask_rate or {"1": (0.0,), "2": all_rates}.get(self.experiment, hard)
        sizes = self.train_size or (all_sizes if is_second else (0,))
        return [Chain(*one) for one in itertools.product(rates, sizes, range(self.num_repeats))]

    def pairs(self) -> list[Student]:
        """Pairs of two networks that together say what one of both says; no kinds of their own."""
        alike = [student._replace(kind="entropy") for student in self.students()]
        return [
            student._replace(kind=PAIR)
            for student, other in zip(self.students(), alike, strict=True)
            if student.kind == "predictive" and other in self.students()
        ]

    def students(self) -> list[Student]:
        """All kinds of students, each of which learns from every chain."""
        is_search = self.experiment == "3"
        own = {"3": ("both",), "4": ("both", "dirichlet")}
        kinds = self.student or own.get(self.experiment, ("predictive", "entropy"))
        estimators = self.estimator or ((RUNNING,) if is_search else ESTIMATORS)
        channels = self.channel_multiplier or (CHANNEL_WIDTHS if is_search else (1.0,))
        if self.model == "fcnn":
            channels = (1.0,)  # Of which it has none.
        dropouts = self.dropout or (0.0,)
        searched = DIGITS_WIDTHS if self.dataset == "digits" else UNIT_WIDTHS
        units = self.unit_multiplier or (searched if is_search else (1.0,))
        strengths = self.regularizer_strength or (PENALTIES[self.regularizer] if is_search else ())
        if self.student_hidden:
            sizes = itertools.product(
                kinds, estimators, (1.0,), (1.0,), (0.0,), self.student_hidden, dropouts
            )
            return [Student(*one) for one in sizes]
        plain = itertools.product(kinds, estimators, channels, units, (0.0,))
        pruned = itertools.product(kinds, estimators, [max(channels)], [max(units)], strengths)
        return [
            Student(*one, dropout=dropout)
            for one, dropout in itertools.product((*plain, *pruned), dropouts)
        ]
