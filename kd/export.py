"""The student alone: weights as safetensors, computation as StableHLO, verified on write.

An export is a directory of three files, and none of them is code of this library:

- `student.safetensors`: the weights, by name, and the only place that holds them;
- `student.stablehlo`: a serialised `jax.export` module of `(weights, x)` whose batch
  size is symbolic, lowered for every platform asked for;
- `student.json`: shapes, dtypes, metadata, and the SHA-256 of the two others.

`load_student` needs jax (with flatbuffers), numpy and safetensors, and nothing of
the training side; no file is ever unpickled.
"""

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax import export as jax_export

from kd import checks
from kd.files import replace_directory, write_atomically
from kd.types import ApplyFn, Array, PyTree

_VERSION = 1
_WEIGHTS = "student.safetensors"
_MODULE = "student.stablehlo"
_MANIFEST = "student.json"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_VERIFIED_BATCHES = (1, 5)
_VERIFY_SECONDS = 600
_DTYPES = dict(
    zip(
        "BOOL U8 I8 U16 I16 U32 I32 U64 I64 F16 BF16 F32 F64 C64".split(),
        "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 "
        "float32 float64 complex64".split(),
        strict=True,
    )
)


class ExportError(RuntimeError):
    """An export that, loaded in a fresh process, is not the student it was made from."""


@dataclasses.dataclass(frozen=True)
class Student:
    """A loaded student: `student(x[b, ...]) -> [b, C]`, for any batch size b >= 1.

    Attributes:
      params: the weights by name, on the device they were loaded to.
      metadata: what `export_student` was given, as JSON gives it back.
      input_shape: of one example, without the batch axis.
      dtype: the name of the input's dtype.
      forward_fn: `(params, x) -> output`, jitted; for inference, so not differentiable.
    """

    params: dict[str, Array]
    metadata: dict[str, Any]
    input_shape: tuple[int, ...]
    dtype: str
    forward_fn: Callable[[dict[str, Array], Array], Array]

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


def export_student(
    directory: str | Path,
    apply_fn: ApplyFn,
    params: PyTree,
    *,
    input_shape: Sequence[int],
    dtype: Any = jnp.float32,
    metadata: dict[str, Any] | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    tolerance: float = 1e-5,
) -> Path:
    r"""Writes the student, loads it in a fresh process, and keeps it only if it agrees.

    The files are written and verified in a sibling directory, which then takes the
    place of `directory`; an export that was there stays whole until then, and stays if
    anything fails.

    The verification bounds :math:`\max |f(x) - \hat{f}(x)|` over standard normal inputs
    (0 or 1 for other dtypes) in batches of 1 and 5, where :math:`f` is `apply_fn` here
    and :math:`\hat{f}` the loaded student there; a value that is not finite must be the
    same in both. Both run on the CPU, since an accelerator may belong to one process
    and rounds its products; only where this process has no CPU backend does
    :math:`f` run on its default device, at the highest matmul precision.

    Args:
      directory: to be created, or an earlier export to be replaced.
      apply_fn: `(params, x) -> output` for one example, one array out, usually
        log-probabilities `[C]` in nats. Arrays that it closes over instead of taking
        from `params` are written into the computation.
      params: a pytree of arrays. A leaf is named by its path, joined with `/`.
      input_shape: of one example, without a batch axis.
      dtype: of the input.
      metadata: anything JSON can hold.
      platforms: to lower for, among cpu, cuda, rocm and tpu; cpu, on which the export
        is verified, must be one.
      tolerance: largest absolute difference allowed, in the unit of the output.

    Returns:
      The resolved path of `directory`.

    Raises:
      ExportError: if the loaded student differs by more than `tolerance`, or cannot run.
      ValueError: if two leaves share a name, a name is not UTF-8 or is reserved, an
        argument is out of range, `metadata` is not JSON, or `directory` holds anything
        else than an export.
      TypeError: if a leaf is not an array of a dtype that safetensors holds, or
        `apply_fn` does not return one array.

    Example:
      >>> import tempfile
      >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
      >>> apply_fn = lambda params, x: jax.nn.log_softmax(x @ params["w"] + params["b"])
      >>> path = Path(tempfile.mkdtemp()) / "student"
      >>> student = load_student(export_student(path, apply_fn, params, input_shape=(3,)))
      >>> student(jnp.ones((7, 3))).shape
      (7, 2)
      >>> sorted(student.params)
      ['b', 'w']
    """
    input_shape = _checked_shape(input_shape)
    dtype = _checked_dtype("dtype", dtype)
    checks.check_positive("tolerance", tolerance)
    for platform in platforms:
        checks.check_choice("platforms", platform, _PLATFORMS)
    if "cpu" not in platforms:
        raise ValueError(f"platforms must include cpu, to verify the export on; got {platforms}.")
    _check_json(metadata)
    weights, unflatten_fn = _flatten(params)
    exported = _lower(apply_fn, weights, unflatten_fn, input_shape, dtype, platforms)
    module = bytes(exported.serialize())
    content = safetensors.numpy.save(weights)
    manifest = {
        "version": _VERSION,
        "jax_version": jax.__version__,
        "input_shape": list(input_shape),
        "dtype": dtype.name,
        "output_shape": list(exported.out_avals[0].shape[1:]),
        "platforms": list(exported.platforms),
        "num_parameters": sum(value.size for value in weights.values()),
        "sha256": {_WEIGHTS: _sha256(content), _MODULE: _sha256(module)},
        "metadata": metadata or {},
    }

    target = Path(directory).resolve()
    _check_replaceable(target)
    with replace_directory(target) as partial:
        write_atomically(partial / _WEIGHTS, content)
        write_atomically(partial / _MODULE, module)
        write_atomically(partial / _MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
        _verify(partial, _probe(apply_fn, params, input_shape, dtype), tolerance)
    return target


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
    """
    directory = Path(directory)
    manifest = _read_manifest(directory / _MANIFEST)
    module, content = (_read(directory / name, manifest) for name in (_MODULE, _WEIGHTS))
    exported = _deserialize(directory / _MODULE, module, manifest)
    weights = _parse_weights(directory / _WEIGHTS, content)
    x = jax.ShapeDtypeStruct((1, *manifest["input_shape"]), manifest["dtype"])
    _check_fits(directory, exported, weights, x)
    return Student(
        params={name: jax.device_put(value, device) for name, value in weights.items()},
        metadata=manifest["metadata"],
        input_shape=x.shape[1:],
        dtype=manifest["dtype"],
        forward_fn=jax.jit(exported.call),
    )


# Writing.


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    for size in shape:
        checks.check_count("each size in input_shape", size)
    return tuple(int(size) for size in shape)


def _checked_dtype(name: str, dtype: Any) -> np.dtype:
    dtype = jnp.dtype(dtype)
    if dtype.name not in _DTYPES.values():
        raise TypeError(f"{name} must be a dtype that safetensors holds, got {dtype}.")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{name} is {dtype}: set JAX_ENABLE_X64=1 to use it.")
    return dtype


def _check_json(metadata: dict[str, Any] | None) -> None:
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON: {error}.") from error
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a dictionary, got {type(metadata).__name__}.")


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is not a directory.")
    others = sorted({path.name for path in target.iterdir()} - {_WEIGHTS, _MODULE, _MANIFEST})
    if others:
        raise ValueError(f"{target} holds {others[0]!r}, no part of an export: not replaced.")


def _flatten(params: PyTree) -> tuple[dict[str, np.ndarray], Callable[[dict], PyTree]]:
    """The leaves by name, and the function that puts them back into the tree."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") or "params" for path, _ in leaves
    ]
    weights = {}
    for name, (path, leaf) in zip(names, leaves, strict=True):
        where = f"params{jax.tree_util.keystr(path)}"
        if name in weights or name == "__metadata__":
            cause = "reserved by safetensors" if name not in weights else "another leaf's name too"
            raise ValueError(f"{where} would be named {name!r}, which is {cause}.")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{ascii(where)} has a name that is not UTF-8.") from error
        weights[name] = _as_numpy(where, leaf)

    def unflatten_fn(weights: dict) -> PyTree:
        return jax.tree.unflatten(treedef, [weights[name] for name in names])

    return weights, unflatten_fn


def _as_numpy(where: str, leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{where} must be an array, got {type(leaf).__name__}.")
    # A typed key has a dtype that numpy does not know; a wide one is what jit would make it.
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        dtype = _checked_dtype(where, jax.dtypes.canonicalize_dtype(leaf.dtype))
        return np.asarray(leaf, dtype, order="C")
    raise TypeError(f"{where} must be an array of numbers, got {leaf.dtype}.")


def _lower(
    apply_fn: ApplyFn,
    weights: dict[str, np.ndarray],
    unflatten_fn: Callable[[dict], PyTree],
    input_shape: tuple[int, ...],
    dtype: np.dtype,
    platforms: Sequence[str],
) -> jax_export.Exported:
    def forward(weights: dict[str, Array], x: Array) -> Array:
        params = unflatten_fn(weights)
        return jax.vmap(lambda example: apply_fn(params, example))(x)

    (batch,) = jax_export.symbolic_shape("b")
    weights = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in weights.items()
    }
    x = jax.ShapeDtypeStruct((batch, *input_shape), dtype)
    exported = jax_export.export(jax.jit(forward), platforms=tuple(platforms))(weights, x)
    if exported.out_tree != jax.tree.structure(0):
        raise TypeError(f"apply_fn must return one array, got {exported.out_tree}.")
    return exported


def _probe(
    apply_fn: ApplyFn, params: PyTree, input_shape: tuple[int, ...], dtype: np.dtype
) -> dict[str, np.ndarray]:
    """Fixed random inputs and the live student's outputs, named by batch size."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(np.asarray, params)  # Free of the devices they were on.
    forward_fn = jax.jit(jax.vmap(apply_fn, in_axes=(None, 0)))
    probes = {}
    with jax.default_device(_cpu_device()), jax.default_matmul_precision("highest"):
        for size in _VERIFIED_BATCHES:
            x = rng.normal(size=(size, *input_shape))
            x = (x if jnp.issubdtype(dtype, jnp.inexact) else x > 0).astype(dtype)
            probes[f"{size}/x"] = x
            probes[f"{size}/output"] = np.asarray(forward_fn(params, x), order="C")
    return probes


def _cpu_device() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names an accelerator only.
        return None


def _verify(directory: Path, probes: dict[str, np.ndarray], tolerance: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probes.safetensors"
        path.write_bytes(safetensors.numpy.save(probes))
        result = _run_verifier(directory, path)
    if result.returncode != 0:
        cause = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"the exported student does not run in a fresh process: {cause}")
    difference = float(result.stdout.split()[-1])
    if not difference <= tolerance:
        raise ExportError(
            "the exported student, loaded in a fresh process, differs from the live one "
            f"by {difference:.3g}; tolerance is {tolerance:.3g}."
        )


def _run_verifier(directory: Path, probes: Path) -> subprocess.CompletedProcess:
    """Runs `_main` below in another interpreter that sees this copy of the library."""
    library = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (library, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64)),
        "JAX_TRACEBACK_FILTERING": "off",  # Its notice would be the last line of an error.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    try:
        return subprocess.run(
            [sys.executable, "-m", "kd.export", str(directory), str(probes)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERIFY_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"verification took more than {_VERIFY_SECONDS} seconds.") from error


def _main(directory: str, probes: str) -> None:
    """Prints the largest difference between a student and the recorded outputs."""
    student = load_student(directory)
    weights = _parse_weights(Path(probes), Path(probes).read_bytes())
    differences = [
        _largest_difference(student(weights[f"{size}/x"]), weights[f"{size}/output"])
        for size in _VERIFIED_BATCHES
    ]
    print(max(differences))


def _largest_difference(actual: Array, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite if shapes, dtypes or non-finite values differ."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return math.inf
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    actual, expected = np.asarray(actual).astype(wide), expected.astype(wide)
    finite = np.isfinite(actual) & np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return math.inf
    return float(np.max(np.abs(actual[finite] - expected[finite]), initial=0.0))


# Reading. Each file is checked on its own, then against the others.


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: missing, so there is no exported student.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({_one_line(error)}).") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != _VERSION:
        raise ValueError(f"{path}: version must be {_VERSION}, got {version!r}.")
    for name, is_valid in _FIELDS.items():
        if not is_valid(manifest.get(name)):
            raise ValueError(f"{path}: {name} is missing or malformed: {manifest.get(name)!r}.")
    return manifest


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "jax_version": lambda value: isinstance(value, str),
    "input_shape": _is_shape,
    "dtype": lambda value: value in list(_DTYPES.values()),
    "sha256": lambda value: isinstance(value, dict) and {_WEIGHTS, _MODULE} <= set(value),
    "metadata": lambda value: isinstance(value, dict),
}


def _read(path: Path, manifest: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: missing, though {_MANIFEST} names it.") from error
    if _sha256(content) != manifest["sha256"][path.name]:
        raise ValueError(f"{path}: damaged, its SHA-256 is not the one in {_MANIFEST}.")
    return content


def _deserialize(path: Path, content: bytes, manifest: dict[str, Any]) -> jax_export.Exported:
    try:
        return jax_export.deserialize(bytearray(content))
    except ImportError:
        raise
    except Exception as error:  # flatbuffers meets bad bytes with whatever Python raises.
        raise ValueError(
            f"{path}: jax {jax.__version__} cannot read this module, which jax "
            f"{manifest['jax_version']} is said to have written ({_one_line(error)})."
        ) from error


def _parse_weights(path: Path, content: bytes) -> dict[str, np.ndarray]:
    try:
        # `safetensors.numpy.load` does not know bfloat16.
        return {
            name: np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
            for name, view in safetensors.deserialize(content)
        }
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file ({_one_line(error)}).") from error


def _check_fits(
    directory: Path,
    exported: jax_export.Exported,
    weights: dict[str, np.ndarray],
    x: jax.ShapeDtypeStruct,
) -> None:
    """Refuses weights and an input that the module does not take."""
    path = directory / _WEIGHTS
    if exported.in_tree != jax.tree.structure(((weights, x), {})):
        raise ValueError(f"{path}: its names are not the ones {_MODULE} takes.")
    *expected, expected_x = exported.in_avals
    for name, aval in zip(sorted(weights), expected, strict=True):
        found = weights[name]
        if (found.shape, found.dtype) != (aval.shape, aval.dtype):
            raise ValueError(
                f"{path}: {name} must be {aval.str_short()}, got {found.dtype}{found.shape}."
            )
        _check_x64(path, name, found.dtype)
    if (x.shape[1:], x.dtype) != (expected_x.shape[1:], expected_x.dtype):
        raise ValueError(
            f"{directory / _MANIFEST}: {_MODULE} takes {expected_x.str_short()}, "
            f"not {x.dtype} examples of shape {x.shape[1:]}."
        )
    _check_x64(directory / _MANIFEST, "the input", x.dtype)


def _check_x64(path: Path, name: str, dtype: np.dtype) -> None:
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{path}: {name} is {dtype}, so JAX_ENABLE_X64=1 must be set.")


if __name__ == "__main__":
    _main(*sys.argv[1:])
