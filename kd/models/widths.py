"""Students of a teacher's architecture, of other widths."""

from kd import checks
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.resnet import ResNet

CHANNELS = {CNN: "channels", ResNet: "stage_channels"}
UNITS = {MLP: "hidden_sizes", CNN: "hidden_sizes"}
Network = MLP | CNN | ResNet


def widened(
    model: Network,
    *,
    channel_multiplier: float = 1.0,
    unit_multiplier: float = 1.0,
    num_outputs: int | None = None,
) -> Network:
    """The same architecture with its widths multiplied: one point of a search for a student.

    Args:
      model: an `MLP`, a `CNN` or a `ResNet`.
      channel_multiplier: K1, positive: of convolutions' channels, rounded to at least one; a
        `ResNet`'s to a multiple of its groups.
      unit_multiplier: K2, positive: of dense hidden layers' units, rounded to at least one.
      num_outputs: of the student; None has as many as the teacher. One more has room for an
        entropy (`predictive_and_entropy`).

    Raises:
      TypeError: if the model is of another kind.
      ValueError: if a multiplier is not positive, or of layers that the model has not.

    Example:
      >>> widened(CNN((10, 20), (80,), 10), channel_multiplier=2, unit_multiplier=0.5).channels
      (20, 40)

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", section 3.3.
    """
    if type(model) not in CHANNELS | UNITS:
        raise TypeError(
            f"model must be a kd.models.MLP, CNN or ResNet, got {type(model).__name__}."
        )
    changed = {}
    for what, multiplier, fields in (
        ("channel_multiplier", channel_multiplier, CHANNELS),
        ("unit_multiplier", unit_multiplier, UNITS),
    ):
        checks.check_positive(what, multiplier)
        field = fields.get(type(model))
        if field is not None:
            groups = getattr(model, "num_groups", 1)
            changed[field] = tuple(
                _times(size, multiplier, groups) for size in getattr(model, field)
            )
        elif multiplier != 1:
            raise ValueError(
                f"{what}={multiplier:g} is of layers that {type(model).__name__} lacks."
            )
    if num_outputs is not None:
        checks.check_count("num_outputs", num_outputs)
        changed["num_outputs"] = num_outputs
    return model.clone(**changed)


def _times(size: int, multiplier: float, groups: int) -> int:
    """Rounded, to a whole number of groups where it is one now."""
    step = 1 if size % groups else groups
    return step * max(1, round(size * multiplier / step))
