"""Teachers' networks and students of other widths."""

import flax.linen as nn

from experiments.posterior_expectations.settings import Settings, Student
from kd import models

HIDDEN_SIZES = {"cnn": (80,), "cnn_cifar": (200, 50)}
CHANNELS = {"cnn": (10, 20), "cnn_cifar": (16, 32)}
MOST_UNITS = 100_000
KERNEL_SIZES = {"cnn": 4, "cnn_cifar": 5}


def build(
    settings: Settings,
    num_outputs: int,
    channel_multiplier: float = 1,
    unit_multiplier: float = 1,
    dropout_rate: float = 0,
) -> nn.Module:
    """A network of the teacher's kind, its widths multiplied and rounded."""
    name = settings.model
    sizes = HIDDEN_SIZES.get(name, settings.hidden_sizes)
    units = [max(1, round(size * unit_multiplier)) for size in sizes]
    if name == "fcnn":
        return models.MLP(units, num_outputs, dropout_rate=dropout_rate)
    channels = [max(1, round(size * channel_multiplier)) for size in CHANNELS[name]]
    options = {"kernel_size": KERNEL_SIZES[name], "dropout_rate": dropout_rate}
    return models.CNN(channels, units, num_outputs, **options)


def of_student(settings: Settings, student: Student, num_classes: int) -> nn.Module:
    """With as many outputs as its kind needs."""
    num_outputs = {"entropy": 1, "both": num_classes + 1}.get(student.kind, num_classes)
    if student.hidden:
        sizes = hidden_sizes(student.hidden)
        return models.MLP(sizes, num_outputs, dropout_rate=student.dropout)
    return build(settings, num_outputs, *student.widths, student.dropout)


def hidden_sizes(text: str) -> tuple[int, ...]:
    """Of a student, from "10-10"; ValueError if the text is something else."""
    sizes = tuple(int(part) for part in text.split("-"))
    if not all(0 < size <= MOST_UNITS for size in sizes):
        raise ValueError(f"hidden sizes must be from 1 to {MOST_UNITS}, got {text}.")
    return sizes
