"""Who teaches whom, and which layer is matched to which."""

from typing import NamedTuple

import flax.linen as nn

from experiments.sentence_distillation.settings import MATCHED, TINY, Settings
from kd import models
from kd.data import SentenceDataset

# Which layers each loss is of.
KINDS = {
    "embedding": ("embedding",),
    "hidden": ("hidden",),
    "gram": ("hidden",),
    "flow": ("embedding", "hidden"),
    "attention": ("attention",),
}


class Link(NamedTuple):
    """A layer that is matched.

    Attributes:
      own: the student's.
      teacher: the teacher's.
    """

    own: str
    teacher: str


class Task(NamedTuple):
    """Sentences and networks.

    Attributes:
      dataset: the sentences.
      teacher: a Transformer.
      lstm: the student of another architecture.
      tiny: the student of the same.
      links: of `"embedding"`, `"hidden"` and `"attention"`, by `"lstm"` and `"tiny"`.
    """

    dataset: SentenceDataset
    teacher: nn.Module
    lstm: nn.Module
    tiny: nn.Module
    links: dict[str, dict[str, tuple[Link, ...]]]

    def student_of(self, method: str) -> nn.Module:
        """The network that learns."""
        return self.tiny if method in TINY else self.lstm

    def links_of(self, method: str) -> dict[str, tuple[Link, ...]]:
        """Layers that the method may match, by what they are."""
        return self.links["tiny" if method in TINY else "lstm"]

    def told(self, methods: tuple[str, ...]) -> list[str]:
        """Layers of the teacher's that any of the methods matches."""
        names = set()
        for method in methods:
            links, matched = self.links_of(method), MATCHED.get(method, ())
            for kind in sorted({kind for term in matched for kind in KINDS[term]}):
                names |= {link.teacher for link in links[kind]}
        return sorted(names)


def task_of(settings: Settings, dataset: SentenceDataset) -> Task:
    """The networks of a run."""
    tokens, outputs = dataset.num_tokens, dataset.num_classes
    teacher = models.Transformer(
        *(tokens, settings.teacher_width, settings.teacher_layers, settings.num_heads, outputs),
        dropout_rate=settings.teacher_dropout,
    )
    lstm = models.LSTM(
        *(tokens, settings.student_width, settings.student_layers, outputs),
        is_bidirectional=settings.bidirectional,
        dropout_rate=settings.student_dropout,
    )
    tiny = models.Transformer(
        *(tokens, settings.tiny_width, settings.tiny_layers, settings.num_heads, outputs),
        dropout_rate=settings.student_dropout,
    )
    links = {
        name: _links(num_layers, settings.teacher_layers)
        for name, num_layers in (
            ("lstm", settings.student_layers),
            ("tiny", settings.tiny_layers),
        )
    }
    return Task(dataset, teacher, lstm, tiny, links)


def _links(num_layers: int, num_teacher: int) -> dict[str, tuple[Link, ...]]:
    """TinyBERT's uniform map: of a quarter of the layers, the fourth, the eighth and so on."""
    step = num_teacher // num_layers
    pairs = [(index, (index + 1) * step - 1) for index in range(num_layers)]
    return {
        "embedding": (Link("embedding", "embedding"),),
        "hidden": tuple(Link(f"hidden_{own}", f"hidden_{other}") for own, other in pairs),
        "attention": tuple(Link(f"attention_{own}", f"attention_{other}") for own, other in pairs),
    }
