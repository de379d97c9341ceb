"""Whether an export, loaded in a fresh process, is the student it was made from."""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from kd.export.loading import load_student, parse_weights
from kd.types import ApplyFn, Array, PyTree

_BATCH_SIZES = (1, 5)
_TIMEOUT_SECONDS = 600


class ExportError(RuntimeError):
    """An export that is not the student it was made from, or that cannot be put in its place."""


def make_probes(
    apply_fn: ApplyFn, params: PyTree, example: jax.ShapeDtypeStruct
) -> dict[str, np.ndarray]:
    """Fixed random inputs and the live student's outputs, named by batch size."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(np.asarray, params)  # Free of the devices they were on.
    forward_fn = jax.jit(jax.vmap(apply_fn, in_axes=(None, 0)))
    probes = {}
    with jax.default_device(_cpu_device()), jax.default_matmul_precision("highest"):
        for size in _BATCH_SIZES:
            x = rng.normal(size=(size, *example.shape))
            x = (x if jnp.issubdtype(example.dtype, jnp.inexact) else x > 0).astype(example.dtype)
            probes[f"{size}/x"] = x
            probes[f"{size}/output"] = np.asarray(forward_fn(params, x), order="C")
    return probes


def verify(directory: Path, probes: dict[str, np.ndarray], tolerance: float) -> None:
    """Loads an export in a fresh process and holds it to the live student's outputs.

    Raises:
      ExportError: if it differs by more than `tolerance`, or cannot run; where the live one
        ran on an accelerator, `tolerance` of the largest output if that is above 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probes.safetensors"
        path.write_bytes(safetensors.numpy.save(probes))
        result = _run_fresh_process(directory, path)
    if result.returncode != 0:
        cause = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"the exported student does not run in a fresh process: {cause}")
    if _cpu_device() is None:  # Which sums in another order.
        outputs = [value for name, value in probes.items() if name.endswith("/output")]
        tolerance *= max(1.0, *(_largest(value) for value in outputs))
    difference = float(result.stdout.split()[-1])
    if not difference <= tolerance:
        raise ExportError(
            "the exported student, loaded in a fresh process, differs from the live one "
            f"by {difference:.3g}; tolerance is {tolerance:.3g}."
        )


def largest_difference(directory: str, probes: str) -> float:
    """The largest absolute difference between an export's outputs and those in `probes`."""
    student = load_student(directory)
    arrays = parse_weights(Path(probes), Path(probes).read_bytes())
    return max(
        _difference(student(arrays[f"{size}/x"]), arrays[f"{size}/output"]) for size in _BATCH_SIZES
    )


def _cpu_device() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names an accelerator only.
        return None


def _run_fresh_process(directory: Path, probes: Path) -> subprocess.CompletedProcess:
    """Runs `__main__.py` in another interpreter, which sees this copy of the library."""
    library = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (library, os.environ.get("PYTHONPATH")))),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64)),
        "JAX_TRACEBACK_FILTERING": "off",  # Its notice would be the last line of an error.
    }
    # -P: nothing is imported from the working directory.
    command = [sys.executable, "-P", "-m", "kd.export", str(directory), str(probes)]
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"verification took more than {_TIMEOUT_SECONDS} seconds.") from error


def _difference(actual: Array, expected: np.ndarray) -> float:
    """Infinite if shapes, dtypes or values that are not finite differ."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return math.inf
    actual, expected = (np.asarray(value).astype(np.float64) for value in (actual, expected))
    finite = np.isfinite(actual) & np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return math.inf
    return _largest(actual[finite] - expected[finite])


def _largest(values: np.ndarray) -> float:
    """In absolute value, of those that are finite."""
    values = np.asarray(values).astype(np.float64)
    return float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0))
