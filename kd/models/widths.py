"""Students of a teacher's architecture, of other widths."""

from collections.abc import Sequence

import flax.linen as nn

from kd import checks
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.resnet import ResNet
from kd.models.sequences import LSTM, Transformer

CHANNELS = {CNN: "channels", ResNet: "stage_channels"}
UNITS = {MLP: "hidden_sizes", CNN: "hidden_sizes", Transformer: "size", LSTM: "size"}
# What widths stay a multiple of.
PARTS = {ResNet: "num_groups", Transformer: "num_heads"}


def widened[Network: nn.Module](
    model: Network,
    *,
    channel_multiplier: float = 1.0,
    unit_multiplier: float = 1.0,
    num_outputs: int | None = None,
    channel_field: str | None = None,
    unit_field: str | None = None,
) -> Network:
    """The same architecture with its widths multiplied: one point of a search for a student.

    Args:
      model: any Flax module with its widths in its fields.
      channel_multiplier: K1, positive: of convolutions' channels, rounded to at least one; a
        `ResNet`'s to a multiple of its groups.
      unit_multiplier: K2, positive: of dense hidden layers' units, rounded to at least one; of a
        `Transformer` or `LSTM` its size, of the former a multiple of its heads.
      num_outputs: of the student, the field of that name; None has as many as the teacher. One more
        has room for an entropy (`predictive_and_entropy`).
      channel_field: the module's field of channels, an integer or several; None is that of a `CNN`
        or `ResNet`, and none of another.
      unit_field: that of units; None is that of an `MLP`, `CNN`, `Transformer` or `LSTM`.

    Raises:
      TypeError: if the model is no Flax module, or a field is none of its own or no sizes.
      ValueError: if a multiplier is not positive, or of layers that the model has not.

    Example:
      >>> widened(CNN((10, 20), (80,), 10), channel_multiplier=2, unit_multiplier=0.5).channels
      (20, 40)

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", section 3.3.
    """
    checks.check_type("model", model, nn.Module)
    kind = type(model)
    parts = getattr(model, PARTS[kind]) if kind in PARTS else 1
    changed = {}
    for what, multiplier, field in (
        ("channel", channel_multiplier, channel_field or CHANNELS.get(kind)),
        ("unit", unit_multiplier, unit_field or UNITS.get(kind)),
    ):
        checks.check_positive(f"{what}_multiplier", multiplier)
        if field is not None:
            changed[field] = _times(_field(model, field), multiplier, parts)
        elif multiplier != 1:
            raise ValueError(
                f"{what}_multiplier={multiplier:g} is of layers that {kind.__name__} lacks, or "
                f"whose field {what}_field must name."
            )
    if num_outputs is not None:
        checks.check_count("num_outputs", num_outputs)
        _field(model, "num_outputs")
        changed["num_outputs"] = num_outputs
    return model.clone(**changed)


def _field(model: nn.Module, name: str) -> int | Sequence[int]:
    """Sizes in a field."""
    found = getattr(model, name) if name in type(model).__dataclass_fields__ else None
    sizes = found if isinstance(found, Sequence) else (found,)
    if not all(type(size) is int for size in sizes):
        raise TypeError(f"{type(model).__name__}.{name} must be a size or several, got {found!r}.")
    return found


def _times(sizes: int | Sequence[int], multiplier: float, parts: int) -> int | tuple[int, ...]:
    """Rounded, to a whole number of parts where it is one now."""
    if isinstance(sizes, Sequence):
        return tuple(_times(size, multiplier, parts) for size in sizes)
    step = 1 if sizes % parts else parts
    return step * max(1, round(sizes * multiplier / step))
