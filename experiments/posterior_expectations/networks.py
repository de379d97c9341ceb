"""Teachers' networks and students of other widths."""

import flax.linen as nn

from experiments.posterior_expectations.settings import Settings, Student
from kd import models

HIDDEN_SIZES = {"cnn": (80,), "cnn_cifar": (200, 50)}
CHANNELS = {"cnn": (10, 20), "cnn_cifar": (16, 32)}
MOST_UNITS = 100_000
KERNEL_SIZES = {"cnn": 4, "cnn_cifar": 5}


def build(settings: Settings, num_outputs: int) -> nn.Module:
    """The teacher's network."""
    name = settings.model
    if name == "fcnn":
        return models.MLP(settings.hidden_sizes, num_outputs)
    return models.CNN(
        CHANNELS[name], HIDDEN_SIZES[name], num_outputs, kernel_size=KERNEL_SIZES[name]
    )


def of_student(settings: Settings, student: Student, num_classes: int) -> nn.Module:
    """The teacher's with its widths multiplied, or one of its own sizes.

    With as many outputs as its kind needs.
    """
    num_outputs = {"entropy": 1, "both": num_classes + 1}.get(student.kind, num_classes)
    if student.hidden:
        sizes = hidden_sizes(student.hidden)
        return models.MLP(sizes, num_outputs, dropout_rate=student.dropout)
    channels, units = student.widths
    model = models.widened(
        build(settings, num_outputs), channel_multiplier=channels, unit_multiplier=units
    )
    return model.clone(dropout_rate=student.dropout)


def hidden_sizes(text: str) -> tuple[int, ...]:
    """Of a student, from "10-10"; ValueError if the text is something else."""
    sizes = tuple(int(part) for part in text.split("-"))
    if not all(0 < size <= MOST_UNITS for size in sizes):
        raise ValueError(f"hidden sizes must be from 1 to {MOST_UNITS}, got {text}.")
    return sizes
