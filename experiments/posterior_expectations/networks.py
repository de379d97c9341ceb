"""Teachers' networks and students of other widths."""

import flax.linen as nn

from experiments.posterior_expectations.settings import Settings, Student
from kd import models

HIDDEN_SIZES = {"fcnn": (400, 400), "cnn": (80,), "cnn_cifar": (200, 50)}
CHANNELS = {"cnn": (10, 20), "cnn_cifar": (16, 32)}
KERNEL_SIZES = {"cnn": 4, "cnn_cifar": 5}


def build(
    settings: Settings, num_outputs: int, channel_multiplier: float = 1, unit_multiplier: float = 1
) -> nn.Module:
    """A network of the teacher's kind, its widths multiplied and rounded."""
    name = settings.model
    units = [max(1, round(size * unit_multiplier)) for size in HIDDEN_SIZES[name]]
    if name == "fcnn":
        return models.MLP(units, num_outputs)
    channels = [max(1, round(size * channel_multiplier)) for size in CHANNELS[name]]
    return models.CNN(channels, units, num_outputs, kernel_size=KERNEL_SIZES[name])


def of_student(settings: Settings, student: Student, num_classes: int) -> nn.Module:
    """With as many outputs as its kind needs."""
    num_outputs = {"entropy": 1, "both": num_classes + 1}.get(student.kind, num_classes)
    return build(settings, num_outputs, student.channel_multiplier, student.unit_multiplier)
