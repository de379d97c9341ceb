"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses
from typing import ClassVar, NamedTuple

from experiments.flags import of_any, setting

MOST = 100_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
ALONE, CONTRASTIVE = SUPERVISIONS = ("none", "contrastive")
METHODS = (
    "labels",
    "soft",
    "hint",
    "mkt",
    "pkt",
    "vid",
    "hint_aux",
    "mkt_aux",
    "pkt_aux",
    "vid_aux",
    "flow",
    "flow_random",
    "flow_direct",
    "layer",
)
# What two minutes have time for.
QUICK_METHODS = (
    *("labels", "soft", "hint", "pkt", "vid_aux"),
    *("flow", "flow_random", "flow_direct", "layer"),
)
BY_AUX = ("hint_aux", "mkt_aux", "pkt_aux", "vid_aux", "flow", "flow_random", "layer")
# What some settings are of.
FALLING = of_any("method", ("flow", "flow_direct", "layer"))
DIRECT = of_any("method", ("flow_direct",))
SOFTENED = of_any("method", ("soft",))
SUPERVISED = of_any("supervision", (CONTRASTIVE,))
LAST = "last"  # Of method "layer": no other layer than that.


class Condition(NamedTuple):
    """One kind of student.

    Attributes:
      supervision: of `SUPERVISIONS`, beside what the method says.
      method: of `METHODS`.
      layer: of method "layer", the student's that is matched beside the last; or `LAST`.
    """

    supervision: str
    method: str
    layer: str = ""

    @property
    def name(self) -> str:
        """In phases and rows."""
        return ",".join(part for part in self if part)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "dataset": "what is done",
        "stage_sizes": "networks",
        "teacher_epochs": "training",
        "flow_weight": "losses",
        "num_queries": "evaluation and repeats",
    }

    dataset: str = setting(
        "digits", "cifar10", "digits, mnist, fashion_mnist, kmnist, cifar10 or the path of an .npz"
    )
    supervision: tuple[str, ...] = setting(
        (ALONE,),
        SUPERVISIONS,
        "none: the method alone; contrastive: with a contrastive loss by labels beside it",
        choices=SUPERVISIONS,
    )
    method: tuple[str, ...] = setting(
        QUICK_METHODS,
        METHODS,
        "labels: no teacher; soft: targets at a temperature; hint, mkt, pkt, vid: the teacher's "
        "last layer, by a regressor, distances, probabilities of neighbours, or a Gaussian; "
        "..._aux: the same of the auxiliary network (vid_aux of all its layers); flow: the "
        "proposed one, all of its layers, by weights that fall; flow_random: by random weights; "
        "flow_direct: the teacher's own stages; layer: each intermediate layer beside the last",
        choices=METHODS,
    )
    stage_sizes: tuple[int, ...] = setting(
        (1, 1),
        (2, 2, 2, 2),
        "residual blocks of each of the teacher's stages",
        never_empty=True,
        at_least=1,
        at_most=100,
    )
    stage_channels: tuple[int, ...] = setting(
        (8, 16),
        (64, 128, 256, 512),
        "channels of each",
        never_empty=True,
        at_least=1,
        at_most=10_000,
    )
    stage_grid: tuple[int, ...] = setting(
        (4, 4),
        (4, 4, 2, 1),
        "parts a side over which each stage's map is averaged for flow_direct; a smaller map is "
        "taken whole",
        at_least=1,
        at_most=100,
        needs=DIRECT,
    )
    channels: tuple[int, ...] = setting(
        (4, 8),
        (8, 16, 32),
        "of the student's 3 x 3 convolutions, which are not normalised",
        never_empty=True,
        at_least=1,
        at_most=10_000,
    )
    pool_size: tuple[int, ...] = setting(
        (1, 2), (2, 2, 2), "after each of them, and of the auxiliary's", at_least=1, at_most=100
    )
    hidden_size: int = setting(
        16,
        64,
        "units of the student's last layer but one, by which images are found",
        at_least=1,
        at_most=100_000,
    )
    aux_channels: tuple[int, ...] = setting(
        (8, 16), (16, 32, 64), "of the auxiliary's convolutions", at_least=1, at_most=10_000
    )
    aux_hidden_size: int = setting(
        32, 128, "units of its last layer but one", at_least=1, at_most=100_000
    )
    teacher_epochs: int = setting(20, 80, "of its training", at_least=1, at_most=100_000)
    aux_epochs: int = setting(
        30, 80, "of the auxiliary's, from labels", at_least=1, at_most=100_000
    )
    aux_transfer_epochs: int = setting(
        20, 40, "of the auxiliary's after that, from the teacher", at_least=1, at_most=100_000
    )
    student_epochs: int = setting(25, 50, "of each student's", at_least=1, at_most=100_000)
    batch_size: int = setting(100, 128, "examples a step", at_least=2, at_most=MOST)
    rate: float = setting(
        3e-3,
        1e-3,
        "of Adam, at first, of every network and method; it falls along a cosine",
        above=0,
        at_most=1e6,
    )
    padding: int = setting(
        0,
        4,
        "pixels that images are shifted by at most, with the mean colour around them, half "
        "mirrored; 0: as they are, and what teachers say is computed once",
        at_least=0,
        at_most=100,
    )
    flow_weight: float = setting(
        100.0,
        100.0,
        "of layers before the last, at first",
        at_least=0,
        at_most=1e6,
        needs=FALLING,
    )
    flow_decay: float = setting(
        0.7,
        0.7,
        "of that weight, an epoch",
        above=0,
        at_most=1,
        needs=FALLING,
    )
    temperature: float = setting(2.0, 2.0, "of soft targets", above=0, at_most=1e6, needs=SOFTENED)
    label_weight: float = setting(
        0.0,
        0.0,
        "lambda, of labels beside soft targets",
        at_least=0,
        at_most=1,
        needs=SOFTENED,
    )
    contrastive_weight: float = setting(
        0.1,
        0.1,
        "of contrastive supervision beside a method",
        above=0,
        at_most=1e6,
        needs=SUPERVISED,
    )
    margin: float = setting(
        1.0,
        1.0,
        "of contrastive supervision, between features of length 1",
        above=0,
        at_most=2,
        needs=SUPERVISED,
    )
    num_queries: int = setting(
        0, 0, "test images that are looked up; 0: all", at_least=0, at_most=MOST
    )
    num_repeats: int = setting(
        3, 3, "students of each kind, from the same starts", at_least=1, at_most=10_000
    )
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    @property
    def last(self) -> str:
        """The layer by which images are found."""
        return "hidden_0"

    @property
    def intermediate(self) -> tuple[str, ...]:
        """Layers of student and auxiliary before that."""
        return tuple(f"Conv_{index}" for index in range(len(self.channels)))

    def conditions(self) -> list[Condition]:
        """All kinds of students, in order."""
        return [
            Condition(supervision, method, layer)
            for supervision in self.supervision
            for method in self.method
            for layer in ((LAST, *self.intermediate) if method == "layer" else ("",))
        ]

    def needs_aux(self) -> bool:
        """Whether a method learns from the auxiliary network."""
        return any(method in BY_AUX for method in self.method)
