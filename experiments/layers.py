"""What a teacher's layers say, before students learn from it."""

from experiments.flags import UserError
from kd.losses.features.batches import check_varied
from kd.types import Batch


def check_told(features: Batch) -> None:
    """Refuses layers, `[N, ...]` by name, that say the same of all inputs."""
    for name, values in features.items():
        try:
            check_varied(f"the features of layer {name!r}", values)
        except ValueError as error:
            raise UserError(
                f"{error} The teacher has not learned there: another rate, another seed or more "
                "epochs of its training may help."
            ) from error
