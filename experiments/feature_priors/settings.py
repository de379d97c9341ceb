"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses
from typing import ClassVar, NamedTuple

from experiments.flags import Need, of_any, setting

MOST = 100_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
SAMPLED = "sampled"
EXPERIMENTS = ("fashion", "cifar", "experts", "transfer", SAMPLED)
WRITTEN, SGD, FAIR = PROTOCOLS = ("written", "sgd", "fair")
# What each learns from. Of table 1, and two more that put both kinds of features on one footing.
PAPER_METHODS = ("naive", "logits", "soft", "noisy", "fitnets", "prior")
METHODS = {
    "fashion": (*PAPER_METHODS, "hint_labels", "prior_soft"),
    "cifar": (*PAPER_METHODS, "hint_labels", "prior_soft"),
    "experts": ("naive", "soft", "expert_0", "expert_1", "experts", "experts_shared"),
    "transfer": ("naive", "copied", "prior"),
    "sampled": ("map", "map_prior", "chain", "chain_prior"),
}
ALL_METHODS = tuple(dict.fromkeys(method for methods in METHODS.values() for method in methods))
HINTED = ("fitnets", "hint_labels")
EXPERTS, SHARED = "experts", "experts_shared"
PRIORS = (
    *("prior", "prior_soft", "expert_0", "expert_1", EXPERTS, SHARED),
    *("map_prior", "chain_prior"),
)
DATASETS = {"cifar": "cifar10"}
WASSERSTEIN = "wasserstein"  # The one divergence that needs no jitter.
DIVERGENCES = ("kl", "bhattacharyya", "hellinger", WASSERSTEIN)


def _is_fair(settings: "Settings") -> bool:
    return settings.experiment != SAMPLED and FAIR in settings.protocol


# What some settings are of.
LEARNED = of_any("experiment", EXPERIMENTS[:-1])
POSTERIOR = of_any("experiment", (SAMPLED,))
CHAINS = ("chain", "chain_prior")
JITTERED = Need(
    lambda settings: settings.divergence != WASSERSTEIN and bool({*PRIORS} & {*settings.methods}),
    f"--method={' or '.join(PRIORS)}, and a --divergence other than {WASSERSTEIN}",
)
WEIGHED = Need(
    lambda settings: (
        settings.experiment == SAMPLED and bool({"map_prior", "chain_prior"} & {*settings.methods})
    ),
    "--experiment=sampled and --method=map_prior or chain_prior",
)
SOFTENED = of_any("methods", ("soft", "fitnets", "prior_soft"))
NOISY = of_any("methods", ("noisy",))
CHAIN = Need(
    lambda settings: settings.experiment == SAMPLED and bool({*CHAINS} & {*settings.methods}),
    "--experiment=sampled and --method=chain or chain_prior",
)
# Of the paper's presets. It gives the numbers of layers, their 3 x 3 kernels, 128 units, and the
# student's 8,192 of table 2; the other sizes are ours. Convolutions are without padding.
FASHION = {"teacher_channels": (32, 64), "pool_size": (2, 2), "student_hidden": (512, 128)}
CIFAR = {
    "teacher_channels": (32, 32, 64, 64),
    "pool_size": (1, 2, 1, 2),
    "student_hidden": (8192, 8192),
}


class Condition(NamedTuple):
    """One kind of student.

    Attributes:
      protocol: of `PROTOCOLS`.
      method: of `METHODS`.
      share: of the examples that have labels.
    """

    protocol: str
    method: str
    share: float

    @property
    def name(self) -> str:
        """In phases and rows."""
        return f"{self.protocol},{self.method},{self.share:g}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "experiment": "what is done",
        "label_share": "data",
        "teacher_channels": "networks",
        "teacher_epochs": "training",
        "divergence": "features as a prior",
        "num_compared": "a prior to sample under",
        "temperature": "what it is compared with",
        "num_repeats": "repeats",
    }

    experiment: str = setting(
        "fashion",
        "fashion",
        "fashion: table 1, all convolutions into one dense layer; cifar: table 2, each half of "
        "them into one; experts: two teachers, of half of the classes each; transfer: "
        "convolutions for another task; sampled: as fashion, a prior of all weights to maximise "
        "or sample under",
        choices=EXPERIMENTS,
    )
    dataset: str = setting(
        "digits",
        "",
        "digits, mnist, fashion_mnist, kmnist, cifar10 or the path of an .npz; empty: the "
        "experiment's own",
    )
    source: str = setting(
        "",
        "",
        "the data set whose features are transferred; empty: the first half of the classes, and "
        "the others are the task",
        needs=of_any("experiment", ("transfer",)),
    )
    expert_layer: tuple[str, ...] = setting(
        (),
        (),
        "the layer of each of the two experts that is matched; empty: the last convolution of both",
        needs=of_any("experiment", ("experts",)),
    )
    method: tuple[str, ...] = setting(
        (),
        (),
        "naive: labels alone; logits: regression; soft: targets at a temperature; noisy: logits "
        "with noise; fitnets: a hint, then soft targets; prior: features to the prior without "
        "labels, then labels for the rest; hint_labels: a hint, then as prior; prior_soft: the "
        "prior, then as fitnets; expert_0, expert_1: the prior of one; experts: of both, each of "
        "half of the layer's units; experts_shared: both of all of them; copied: the teacher's "
        "convolutions as they are; map, chain: the posterior by labels, at its largest "
        "or as a chain samples it, under a normal prior; map_prior, chain_prior: under that times "
        "the features' prior; empty: all that the experiment has",
    )
    protocol: tuple[str, ...] = setting(
        (FAIR,),
        (WRITTEN, FAIR),
        "written: the paper's, the teacher's optimiser and rate for everyone (it names none: Adam "
        "and a cosine); sgd: that with plain SGD; fair: Adam and a cosine, at the rate that is "
        "best for each method on labelled examples kept apart",
        choices=PROTOCOLS,
        needs=LEARNED,
    )
    label_share: tuple[float, ...] = setting(
        (1.0, 0.1),
        (1.0, 0.1, 0.01),
        "of the examples that have labels",
        above=0,
        at_most=1,
        is_set=True,
    )
    teacher_channels: tuple[int, ...] = setting(
        (16, 32),
        (),
        "of its 3 x 3 convolutions; empty: 32,64, in cifar 32,32,64,64",
        at_least=1,
        at_most=10_000,
    )
    pool_size: tuple[int, ...] = setting(
        (1, 2), (), "after each of them; empty: 2,2, in cifar 1,2,1,2", at_least=1, at_most=100
    )
    teacher_hidden: tuple[int, ...] = setting(
        (64,), (128,), "units of its dense layers", at_least=1, at_most=100_000
    )
    student_hidden: tuple[int, ...] = setting(
        (128, 64),
        (),
        "units of the student's two dense layers; empty: 512,128, in cifar 8192,8192",
        at_least=1,
        at_most=100_000,
    )
    teacher_epochs: int = setting(60, 25, "of its training", at_least=1, at_most=100_000)
    student_epochs: int = setting(60, 25, "of all stages together", at_least=1, at_most=100_000)
    feature_share: float = setting(
        0.5, 0.5, "of the epochs, for features before anything else", above=0, at_most=0.99
    )
    batch_size: int = setting(100, 128, "examples a step", at_least=2, at_most=MOST)
    teacher_rate: float = setting(
        1e-3,
        1e-3,
        "of the teachers' Adam, at first; it falls along a cosine; by the written protocol of "
        "everyone's",
        above=0,
        at_most=1e6,
    )
    sgd_rate: float = setting(
        0.01,
        0.01,
        "of plain SGD, throughout",
        above=0,
        at_most=1e6,
        needs=of_any("protocols", (SGD,)),
    )
    rate: tuple[float, ...] = setting(
        (3e-3,),
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        "of the fair protocol's Adam, those tried",
        above=0,
        at_most=1e6,
        is_set=True,
        needs=Need(
            _is_fair,
            "--protocol=fair, of students that are no posterior's",
        ),
    )
    kept_apart: float = setting(
        0.2,
        0.2,
        "share of the labelled examples, to choose a rate by",
        above=0,
        at_most=0.5,
        needs=Need(
            lambda settings: settings.chooses_rate,
            "several values of --rate to choose from, by --protocol=fair",
        ),
    )
    divergence: str = setting(
        "kl",
        "kl",
        "of the student's Gaussian process from the teacher's; the paper's is kl",
        choices=DIVERGENCES,
        needs=of_any("methods", PRIORS),
    )
    kernel: str = setting(
        "linear",
        "linear",
        "of features; rbf: of their distances, with a length scale of 1",
        choices=("linear", "rbf"),
        needs=of_any("methods", PRIORS),
    )
    jitter: float = setting(
        1e-2,
        1e-2,
        "of the prior's kernels, times the teacher's mean variance",
        above=0,
        at_most=1e3,
        needs=JITTERED,
    )
    num_compared: int = setting(
        200,
        500,
        "training images, without labels, at which a prior to sample under compares features",
        at_least=2,
        at_most=MOST,
        needs=WEIGHED,
    )
    strength: float = setting(
        1.0, 1.0, "alpha, of a prior to sample under", above=0, at_most=1e6, needs=WEIGHED
    )
    prior_precision: float = setting(
        10.0,
        10.0,
        "of the normal prior beside it, of each weight",
        above=0,
        at_most=1e9,
        needs=POSTERIOR,
    )
    maximum_rate: float = setting(
        3e-3,
        1e-3,
        "of the Adam that finds a posterior's maximum",
        above=0,
        at_most=1e6,
        needs=POSTERIOR,
    )
    step_size: float = setting(1e-4, 4e-6, "of the chain", above=0, at_most=1e3, needs=CHAIN)
    thin: int = setting(
        20, 100, "steps of the chain a sample", at_least=1, at_most=MOST, needs=CHAIN
    )
    num_samples: int = setting(200, 500, "of the chain", at_least=2, at_most=MOST, needs=CHAIN)
    burn_in: int = setting(
        150,
        500,
        "samples before them, from the posterior's maximum on",
        at_least=0,
        at_most=MOST,
        needs=CHAIN,
    )
    temperature: float = setting(4.0, 4.0, "of soft targets", above=0, at_most=1e6, needs=SOFTENED)
    label_weight: float = setting(
        0.5,
        0.5,
        "lambda, of labels beside soft targets",
        at_least=0,
        at_most=1,
        needs=SOFTENED,
    )
    noise_scale: float = setting(
        0.3,
        0.3,
        "standard deviation of noisy logits, relative",
        above=0,
        at_most=100,
        needs=NOISY,
    )
    noise_share: float = setting(
        0.5,
        0.5,
        "of the examples whose logits are noisy",
        above=0,
        at_most=1,
        needs=NOISY,
    )
    num_repeats: int = setting(3, 30, "students of each kind", at_least=1, at_most=10_000)
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    @property
    def chooses_rate(self) -> bool:
        """Whether several are tried on examples kept apart."""
        return len(self.rate) > 1 and _is_fair(self)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the teacher's convolutions."""
        return self.teacher_channels or self._sizes["teacher_channels"]

    @property
    def pools(self) -> tuple[int, ...]:
        """After each of them."""
        return self.pool_size or self._sizes["pool_size"]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the student's dense layers."""
        return self.student_hidden or self._sizes["student_hidden"]

    @property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return CIFAR if self.experiment == "cifar" else FASHION

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods, in order."""
        return self.method or METHODS[self.experiment]

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those that are compared; a posterior has but one."""
        return (FAIR,) if self.experiment == SAMPLED else self.protocol

    @property
    def data_name(self) -> str:
        """Of the data set."""
        return self.dataset or DATASETS.get(self.experiment, "fashion_mnist")

    def conditions(self) -> list[Condition]:
        """All kinds of students, in order."""
        return [
            Condition(protocol, method, share)
            for protocol in self.protocols
            for share in self.label_share
            for method in self.methods
        ]
