"""Settings of the study, with a quick value of each, and one for sentences of one's own.

Those are called the paper's as elsewhere, but are ours: the methods' papers have BERT to teach.
"""

import dataclasses
from typing import ClassVar, NamedTuple

from experiments.flags import Need, of_any, setting

MOST = 100_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.
NEGATIONS = "negations"
# What each first matches, before it learns answers; the others learn answers alone.
MATCHED = {
    "hidden": ("hidden",),
    "gram": ("gram",),
    "flow": ("flow",),
    "embedding": ("embedding",),
    "all": ("embedding", "hidden", "gram", "flow"),
    "tiny": ("embedding", "hidden", "attention"),
}
METHODS = (
    *("labels", "soft", "embedding", "hidden", "gram", "flow", "all"),
    *("tiny_labels", "tiny"),
)
TINY = ("tiny_labels", "tiny")
BY_TEACHER = ("soft", "all", "tiny")  # Whose answers are the teacher's, beside labels.


class Condition(NamedTuple):
    """One kind of student.

    Attributes:
      method: of `METHODS`.
      share: of the sentences that have labels.
    """

    method: str
    share: float

    @property
    def name(self) -> str:
        """In phases and rows."""
        return f"{self.method},{self.share:g}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "dataset": "what is done",
        "num_sentences": "sentences",
        "teacher_layers": "networks",
        "teacher_epochs": "training",
        "temperature": "soft targets",
        "num_repeats": "repeats",
    }

    dataset: str = setting(
        NEGATIONS,
        "",
        "a folder with two files of sentences, one a line, *.neg and *.pos; or negations: "
        "sentences by a law in which a negation turns the next word round",
    )
    method: tuple[str, ...] = setting(
        tuple(one for one in METHODS if one not in ("embedding", "flow")),
        METHODS,
        "what the LSTM learns from; labels: alone; soft: the teacher's answers at a temperature; "
        "embedding, hidden, gram, flow: first the teacher's embeddings or hidden states through "
        "a projection, their products between positions, or what leads from one layer to the "
        "next, then labels; all: these four together, then soft; tiny: a small Transformer, by "
        "embeddings, hidden states and attention, then the teacher's answers alone, as TinyBERT; "
        "tiny_labels: that by labels alone",
        choices=METHODS,
    )
    label_share: tuple[float, ...] = setting(
        (0.05,),
        (1.0, 0.1),
        "of the training sentences, those whose labels the students have; the teacher has all",
        above=0,
        at_most=1,
        is_set=True,
    )
    num_sentences: int = setting(
        5000,
        5000,
        "of negations, test included",
        at_least=1,
        at_most=10_000_000,
        needs=of_any("dataset", (NEGATIONS,)),
    )
    length: int = setting(10, 40, "words that are read of a sentence", at_least=2, at_most=1000)
    num_words: int = setting(
        5000,
        5000,
        "the most frequent, in the vocabulary",
        at_least=1,
        at_most=1_000_000,
        needs=Need(
            lambda settings: settings.dataset != NEGATIONS, "sentences of a --dataset of files"
        ),
    )
    test_share: float = setting(
        0.2, 0.1, "of the sentences of each class, for the test", above=0, at_most=0.9
    )
    teacher_layers: int = setting(2, 2, "blocks of the teacher", at_least=1, at_most=100)
    teacher_width: int = setting(32, 64, "of its embeddings and blocks", at_least=2, at_most=10_000)
    num_heads: int = setting(
        2, 4, "of attention, of both Transformers; divides their widths", at_least=1, at_most=1000
    )
    student_layers: int = setting(
        1, 1, "of the LSTM; divides --teacher_layers", at_least=1, at_most=100
    )
    student_width: int = setting(
        16, 32, "of the LSTM's embeddings and layers", at_least=1, at_most=10_000
    )
    bidirectional: bool = setting(False, True, "whether the LSTM reads backwards too")
    tiny_layers: int = setting(
        1, 1, "blocks of the small Transformer; divides --teacher_layers", at_least=1, at_most=100
    )
    tiny_width: int = setting(16, 32, "of its embeddings and blocks", at_least=2, at_most=10_000)
    teacher_epochs: int = setting(15, 6, "of its training", at_least=1, at_most=100_000)
    student_epochs: int = setting(
        8, 6, "over all sentences, of all stages together", at_least=1, at_most=100_000
    )
    feature_share: float = setting(
        0.5, 0.5, "of the steps, for layers before answers", above=0, at_most=0.99
    )
    batch_size: int = setting(100, 100, "sentences a step", at_least=1, at_most=MOST)
    teacher_rate: float = setting(3e-3, 1e-3, "of the teacher's Adam", above=0, at_most=1e6)
    student_rate: float = setting(1e-2, 3e-3, "of every student's Adam", above=0, at_most=1e6)
    teacher_dropout: float = setting(
        0.0, 0.3, "share of its units that are dropped", at_least=0, at_most=0.99
    )
    student_dropout: float = setting(0.0, 0.3, "share of every student's", at_least=0, at_most=0.99)
    temperature: float = setting(
        2.0, 2.0, "of soft targets", above=0, at_most=1e6, needs=of_any("method", BY_TEACHER)
    )
    label_weight: float = setting(
        0.5,
        0.5,
        "lambda, of labels beside soft targets",
        at_least=0,
        at_most=1,
        needs=of_any("method", ("soft", "all")),
    )
    num_repeats: int = setting(3, 3, "students of each kind", at_least=1, at_most=10_000)
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    def conditions(self) -> list[Condition]:
        """All kinds of students, in order."""
        return [Condition(method, share) for share in self.label_share for method in self.method]
