"""Images that a study's networks can take."""

from collections.abc import Sequence

from experiments.flags import UserError


def check_pixels(shape: Sequence[int], pool_size: Sequence[int]) -> None:
    """Refuses images that 3 x 3 convolutions without padding, each pooled, leave nothing of."""
    side = min(shape[:2])
    for pool in pool_size:
        side = (side - 2) // pool
        if side < 1:
            raise UserError(
                f"images of {shape[0]} x {shape[1]} are too small for "
                f"{len(pool_size)} convolutions with --pool_size={','.join(map(str, pool_size))}."
            )
