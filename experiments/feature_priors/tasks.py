"""Who teaches what to whom: teachers, students, and which layer is matched to which."""

from typing import NamedTuple

import flax.linen as nn
import numpy as np

from experiments.feature_priors.settings import EXPERTS, HINTED, PRIORS, Settings
from kd import models
from kd.data import Dataset
from kd.types import Array


class Lesson(NamedTuple):
    """What one teacher learns itself.

    Attributes:
      model: its network.
      dataset: its examples; its labels are numbered from 0.
      classes: their numbers in the students' data set; empty if they are others altogether.
    """

    model: nn.Module
    dataset: Dataset
    classes: tuple[int, ...]


class Link(NamedTuple):
    """A layer that is matched.

    Attributes:
      own: the student's.
      teacher: whose.
      layer: the teacher's.
      part: which of how many equal parts of the student's units; all of them by default.
    """

    own: str
    teacher: str
    layer: str
    part: tuple[int, int] = (0, 1)

    @property
    def told(self) -> str:
        """Under which name a batch has the teacher's features."""
        return f"{self.teacher}/{self.layer}"

    def units(self, features: Array) -> Array:
        """The part of a batch of the student's features, `[N, ...]` to `[N, ...]`."""
        index, count = self.part
        edges = [features.shape[-1] * i // count for i in (index, index + 1)]
        return features[..., slice(*edges)]


class Task(NamedTuple):
    """What the students are to learn.

    Attributes:
      dataset: their examples, and the test's.
      lessons: by teacher.
      student: their network.
      links: of all methods.
      rest: layers of the student that no link is of.
    """

    dataset: Dataset
    lessons: dict[str, Lesson]
    student: nn.Module
    links: tuple[Link, ...]
    rest: tuple[str, ...]

    def links_of(self, method: str) -> tuple[Link, ...]:
        """Those that a method matches."""
        if method.startswith("expert_"):
            return tuple(link for link in self.links if link.teacher == method.split("_")[1])
        if method == EXPERTS:
            count = len(self.links)
            return tuple(link._replace(part=(i, count)) for i, link in enumerate(self.links))
        return self.links if method in (*HINTED, *PRIORS) else ()


def task_of(settings: Settings, dataset: Dataset, source: Dataset | None) -> Task:
    """By `--experiment`."""
    if settings.experiment == "experts":
        return _experts(settings, dataset)
    if settings.experiment == "transfer":
        return _transfer(settings, dataset, source)
    lesson = Lesson(_convolutional(settings, dataset), dataset, tuple(range(dataset.num_classes)))
    last = len(settings.channels) - 1
    layers = [last]
    if settings.experiment == "cifar":
        layers = [last // 2, last]
    links = [Link(f"hidden_{i}", "teacher", f"Conv_{layer}") for i, layer in enumerate(layers)]
    return Task(
        dataset,
        {"teacher": lesson},
        _dense(settings, dataset),
        tuple(links),
        _dense_from(settings, len(links)),
    )


def _experts(settings: Settings, dataset: Dataset) -> Task:
    """Two teachers of half of the classes each, of other widths; a student of all."""
    half = dataset.num_classes // 2
    groups = [range(half), range(half, dataset.num_classes)]
    last = f"Conv_{len(settings.channels) - 1}"
    layers = settings.expert_layer or (last, last)
    lessons, links = {}, []
    for index, classes in enumerate(groups):
        part = of_classes(dataset, classes)
        channels = tuple(max(1, size * (2 + index) // 2) for size in settings.channels)
        model = _convolutional(settings, part).clone(channels=channels)
        lessons[str(index)] = Lesson(model, part, tuple(classes))
        links.append(Link("hidden_0", str(index), layers[index]))
    student = _dense(settings, dataset)
    return Task(dataset, lessons, student, tuple(links), _dense_from(settings, 1))


def _transfer(settings: Settings, dataset: Dataset, source: Dataset | None) -> Task:
    """A teacher of another task; a student of the same kind, whose convolutions are matched."""
    if source is None:
        half = dataset.num_classes // 2
        source = of_classes(dataset, range(half))
        dataset = of_classes(dataset, range(half, dataset.num_classes))
    teacher = _convolutional(settings, source)
    layers = [f"Conv_{index}" for index in range(len(settings.channels))]
    count = len(settings.teacher_hidden) + 1
    return Task(
        dataset,
        {"source": Lesson(teacher, source, ())},
        _convolutional(settings, dataset),
        tuple(Link(layer, "source", layer) for layer in layers),
        tuple(f"Dense_{index}" for index in range(count)),
    )


def of_classes(dataset: Dataset, classes: range) -> Dataset:
    """The examples of some classes in a row, which are numbered from 0."""

    def part(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.isin(y, classes)
        return x[chosen], (y[chosen] - classes.start).astype(y.dtype)

    train, test = part(dataset.train_x, dataset.train_y), part(dataset.test_x, dataset.test_y)
    return Dataset(*train, *test, len(classes))


def _convolutional(settings: Settings, dataset: Dataset) -> nn.Module:
    return models.CNN(
        settings.channels,
        settings.teacher_hidden,
        dataset.num_classes,
        kernel_size=3,
        pool_size=settings.pools,
    )


def _dense(settings: Settings, dataset: Dataset) -> nn.Module:
    return models.MLP(settings.hidden, dataset.num_classes)


def _dense_from(settings: Settings, first: int) -> tuple[str, ...]:
    return tuple(f"Dense_{index}" for index in range(first, len(settings.hidden) + 1))
