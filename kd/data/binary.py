"""Binary images, and restricted Boltzmann machines from files."""

import os
from typing import NamedTuple

import numpy as np

from kd import checks
from kd.data.datasets import DataError, find_npz, load, read_npz

RBM_KEYS = ("W", "a", "b")
PIXEL_ORDERS = ("rows", "columns")


class BinaryDataset(NamedTuple):
    """Binary images as vectors.

    Attributes:
      train: `[N, I]` uint8, zeros and ones.
      test: `[M, I]`, as `train`.
    """

    train: np.ndarray
    test: np.ndarray


def load_binary(
    name: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    num_visible: int | None = None,
    pixel_order: str = "rows",
) -> BinaryDataset:
    """Loads binary images.

    Args:
      name: a data set that `load` knows, whose pixels become 1 above one half; or the path
        of an `.npz` with arrays `train` and `test`, zeros and ones `[N, I]` or the same
        packed into bytes along their second axis (`numpy.packbits`).
      data_dir: as for `load`.
      num_visible: I, where it is known; packed arrays need it.
      pixel_order: "rows" or "columns", in which the images of a named data set are gone
        through; an `.npz` has its own order.

    Returns:
      Training and test images, `[N, I]` zeros and ones, uint8.

    Raises:
      ValueError: if `pixel_order` is another word.
      DataError: if the data are missing, or their content bad.
    """
    checks.check_choice("pixel_order", pixel_order, PIXEL_ORDERS)
    name = os.fspath(name)
    if not name.endswith(".npz"):
        dataset = load(name, data_dir=data_dir)
        arrays = {
            part: _flat(getattr(dataset, f"{part}_x"), pixel_order)
            for part in BinaryDataset._fields
        }
    else:
        arrays = read_npz(find_npz(name), BinaryDataset._fields)
        arrays = {part: _unpacked(name, part, x, num_visible) for part, x in arrays.items()}
    if len({x.shape[1] for x in arrays.values()}) > 1 or (
        num_visible is not None and arrays["train"].shape[1] != num_visible
    ):
        shapes = " and ".join(str(x.shape) for x in arrays.values())
        expected = "as many pixels" if num_visible is None else f"{num_visible} pixels"
        raise DataError(f"{name}: train and test must have {expected}, got {shapes}.")
    return BinaryDataset(**arrays)


def load_rbm(path: str | os.PathLike) -> dict[str, dict[str, np.ndarray]]:
    """Reads the parameters of a binary RBM, for `kd.models.RBM`.

    Args:
      path: of an `.npz` with arrays `W`, `[I, J]`, `a`, `[I]`, visible biases, and `b`,
        `[J]`, hidden biases.

    Returns:
      `{"params": {"w": [I, J], "a": [I], "b": [J]}}`, float64.

    Raises:
      DataError: if there is no such file, an array is missing, is not floating, has a
        shape that does not fit, or holds NaN or infinite values.
    """
    path = os.fspath(path)
    if not path.endswith(".npz"):
        raise DataError(f"{path}: expected an .npz with arrays {', '.join(RBM_KEYS)}.")
    arrays = read_npz(find_npz(path), RBM_KEYS)
    for name, x in arrays.items():
        if x.dtype.kind != "f":
            raise DataError(f"{path}: {name} must hold floating numbers, got {x.dtype}.")
        arrays[name] = x = x.astype(np.float64)
        if not np.isfinite(x).all():
            raise DataError(
                f"{path}: {name} holds {np.sum(~np.isfinite(x))} NaN or infinite values."
            )
    shape = arrays["W"].shape
    if len(shape) != 2 or 0 in shape:
        raise DataError(f"{path}: W must have shape [I, J], got {shape}.")
    for name, size in zip("ab", shape, strict=True):
        if arrays[name].shape != (size,):
            raise DataError(
                f"{path}: {name} must have shape ({size},) to go with W {shape}, "
                f"got {arrays[name].shape}."
            )
    return {"params": {name.lower(): x for name, x in arrays.items()}}


def _flat(x: np.ndarray, pixel_order: str) -> np.ndarray:
    """`[N, I]` of zeros and ones."""
    if x.ndim > 2 and pixel_order == "columns":
        x = x.swapaxes(1, 2)
    return (x > 0.5).reshape(len(x), -1).astype(np.uint8)


def _unpacked(path: str, part: str, x: np.ndarray, num_visible: int | None) -> np.ndarray:
    if x.ndim != 2 or len(x) < 2 or not x.size or x.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {part} must be [N, I] with N >= 2 and I >= 1, got {x.dtype} {x.shape}."
        )
    is_packed = num_visible is not None and x.shape[1] == -(-num_visible // 8) != num_visible
    if is_packed and x.dtype == np.uint8:
        x = np.unpackbits(x, axis=1)
        if x[:, num_visible:].any():
            raise DataError(f"{path}: {part} has bits beyond the {num_visible} pixels of an image.")
        x = x[:, :num_visible]
    if not ((x == 0) | (x == 1)).all():
        raise DataError(f"{path}: {part} must hold zeros and ones alone, or bits packed in bytes.")
    return x.astype(np.uint8)
