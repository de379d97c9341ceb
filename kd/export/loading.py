"""Reading an export. Each file is checked on its own, then against the others."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax import export as jax_export

from kd.export.format import DTYPES, MANIFEST, MODULE, VERSION, WEIGHTS, check_x64, sha256
from kd.types import Array


@dataclasses.dataclass(frozen=True, repr=False)
class Student:
    """A loaded student: `student(x[b, ...]) -> [b, C]`, for any batch size b >= 1.

    Attributes:
      params: the weights by name, on the device they were loaded to.
      metadata: what `export_student` was given, as JSON gives it back.
      input_shape: of one example, without the batch axis.
      dtype: the name of the input's dtype.
      forward_fn: `(params, x) -> output`, jitted, of a whole batch: it can be
        differentiated once (`jax.grad`, `jax.vjp`), and not under `jax.vmap`.
    """

    params: dict[str, Array]
    metadata: dict[str, Any]
    input_shape: tuple[int, ...]
    dtype: str
    forward_fn: Callable[[dict[str, Array], Array], Array]

    def __repr__(self) -> str:
        num_parameters = sum(value.size for value in self.params.values())
        return (
            f"Student({num_parameters:,} parameters; {self.dtype} inputs [b, "
            f"{', '.join(map(str, self.input_shape))}]; {self.metadata})"
        )

    def __call__(self, x: Array) -> Array:
        """The student's outputs for a batch.

        Raises:
          ValueError: if `x` is not a non-empty batch of examples of `input_shape`.
          TypeError: if its dtype, as jax reads it, is not the exported one.
        """
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[0] == 0 or x.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, ("b >= 1", *self.input_shape)))
            raise ValueError(f"x must have shape ({expected}), got {x.shape}.")
        if x.dtype != self.dtype:
            raise TypeError(f"x must be {self.dtype}, got {x.dtype}.")
        return self.forward_fn(self.params, x)


def load_student(directory: str | Path, *, device: jax.Device | None = None) -> Student:
    """Reads an export, checking every file before it is believed.

    Args:
      directory: written by `export_student`.
      device: where the weights go and the student runs; by default, jax's default.

    Returns:
      A `Student`.

    Raises:
      FileNotFoundError: if one of the three files is missing.
      ValueError: if one is damaged, disagrees with another, has a version this library
        or this jax cannot read, or needs `JAX_ENABLE_X64`. The message is one line
        that names the file and the cause.

    Example:
      See `export_student`.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory / MANIFEST)
    module, content = (_read_sealed(directory / name, manifest) for name in (MODULE, WEIGHTS))
    exported = _deserialize(directory / MODULE, module, manifest)
    weights = parse_weights(directory / WEIGHTS, content)
    example = jax.ShapeDtypeStruct(tuple(manifest["input_shape"]), manifest["dtype"])
    _check_weights(directory / WEIGHTS, exported, weights)
    _check_example(directory / MANIFEST, exported, example)
    return Student(
        params={name: jax.device_put(value, device) for name, value in weights.items()},
        metadata=manifest["metadata"],
        input_shape=example.shape,
        dtype=manifest["dtype"],
        forward_fn=jax.jit(exported.call),
    )


def parse_weights(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The arrays in the bytes of a safetensors file; `path` is for the message.

    Raises:
      ValueError: if `content` is not safetensors, or has a dtype not in `DTYPES`.
    """
    try:
        return {
            name: np.frombuffer(view["data"], DTYPES[view["dtype"]]).reshape(view["shape"])
            for name, view in safetensors.deserialize(content)
        }
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: not a safetensors file ({_one_line(error)}).") from error


# The files.


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: missing, so there is no exported student.") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({_one_line(error)}).") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise ValueError(f"{path}: version must be {VERSION}, got {version!r}.")
    for name, is_valid in _FIELDS.items():
        if not is_valid(manifest.get(name)):
            raise ValueError(f"{path}: {name} is missing or malformed: {manifest.get(name)!r}.")
    return manifest


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "jax_version": lambda value: isinstance(value, str),
    "input_shape": _is_shape,
    "dtype": lambda value: value in list(DTYPES.values()),
    "sha256": lambda value: isinstance(value, dict) and {WEIGHTS, MODULE} <= set(value),
    "metadata": lambda value: isinstance(value, dict),
}


def _read_sealed(path: Path, manifest: dict[str, Any]) -> bytes:
    content = _read(path)
    if sha256(content) != manifest["sha256"][path.name]:
        raise ValueError(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}.")
    return content


def _deserialize(path: Path, content: bytes, manifest: dict[str, Any]) -> jax_export.Exported:
    try:
        return jax_export.deserialize(bytearray(content))
    except ImportError:  # jax asks for flatbuffers only here, and says what to install.
        raise
    except Exception as error:  # flatbuffers meets bad bytes with whatever Python raises.
        raise ValueError(
            f"{path}: jax {jax.__version__} cannot read this module, which jax "
            f"{manifest['jax_version']} is said to have written ({_one_line(error)})."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# What the module takes.


def _check_weights(
    path: Path, exported: jax_export.Exported, weights: dict[str, np.ndarray]
) -> None:
    if exported.in_tree != jax.tree.structure(((weights, 0), {})):
        raise ValueError(f"{path}: its names are not the ones {MODULE} takes.")
    for name, aval in zip(sorted(weights), exported.in_avals[:-1], strict=True):
        shape, dtype = weights[name].shape, weights[name].dtype
        if (shape, dtype) != (aval.shape, aval.dtype):
            raise ValueError(f"{path}: {name} must be {aval.str_short()}, got {dtype}{shape}.")
        check_x64(f"{path}: {name}", dtype)


def _check_example(
    path: Path, exported: jax_export.Exported, example: jax.ShapeDtypeStruct
) -> None:
    batch = exported.in_avals[-1]
    if (example.shape, example.dtype) != (batch.shape[1:], batch.dtype):
        raise ValueError(
            f"{path}: {MODULE} takes {batch.str_short()}, "
            f"not {example.dtype} examples of shape {example.shape}."
        )
    check_x64(f"{path}: dtype", example.dtype)
