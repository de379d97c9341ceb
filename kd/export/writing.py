"""Writing an export: the weights by name, the computation lowered, both verified."""

import contextlib
import json
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export as jax_export

from kd import checks
from kd.export.format import MANIFEST, MODULE, VERSION, WEIGHTS, check_dtype, check_x64, sha256
from kd.export.verification import ExportError, make_probes, verify
from kd.files import replace_directory, write_atomically
from kd.types import ApplyFn, Array, PyTree

_PLATFORMS = ("cpu", "cuda", "tpu")


def export_student(
    directory: str | Path,
    apply_fn: ApplyFn,
    params: PyTree,
    *,
    input_shape: Sequence[int],
    dtype: Any = jnp.float32,
    metadata: dict[str, Any] | None = None,
    platforms: Sequence[str] = _PLATFORMS,
    tolerance: float = 1e-5,
) -> Path:
    r"""Writes the student, loads it in a fresh process, and keeps it only if it agrees.

    The files are written and verified in a sibling directory, which then takes the
    place of `directory`; an export that was there stays whole until then, and stays if
    anything fails.

    .. math:: \max_x |f(x) - \hat{f}(x)| \le \text{tolerance}

    over standard normal inputs (0 or 1 for other dtypes) in batches of 1 and 5, where
    :math:`f` is `apply_fn` here and :math:`\hat{f}` the loaded student there; a value
    that is not finite must be the same in both. Both run on the CPU, since an
    accelerator may belong to one process and rounds its products; only where this
    process has no CPU backend does :math:`f` run on its default device, at the highest
    matmul precision, and then the tolerance is relative to the largest output above 1.

    Args:
      directory: to be created, or an earlier export to be replaced.
      apply_fn: `(params, x) -> output` for one example, one array out, usually
        log-probabilities `[C]` in nats. Arrays that it closes over instead of taking
        from `params` are written into the computation.
      params: a pytree of arrays. A leaf is named by its path, joined with `/`.
      input_shape: of one example, without a batch axis.
      dtype: of the input.
      metadata: anything JSON can hold, in a dictionary.
      platforms: to lower for, among cpu, cuda and tpu; cpu, on which the export is
        verified, must be one.
      tolerance: largest absolute difference allowed, in the unit of the output.

    Returns:
      The resolved path of `directory`.

    Raises:
      ExportError: if the loaded student differs by more than `tolerance`, or cannot run;
        or if `directory` holds anything else than an export.
      ValueError: if two leaves share a name, a name is not UTF-8 or is reserved, an
        argument is out of range, or `metadata` is not JSON.
      TypeError: if a leaf, the input or the output is not an array of a dtype that
        safetensors holds, or `apply_fn` does not return one array.

    Example:
      >>> import tempfile
      >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
      >>> apply_fn = lambda params, x: jax.nn.log_softmax(x @ params["w"] + params["b"])
      >>> path = Path(tempfile.mkdtemp()) / "student"
      >>> path = export_student(path, apply_fn, params, input_shape=(3,))
      >>> from kd.export import load_student
      >>> student = load_student(path)
      >>> student(jnp.ones((7, 3))).shape
      (7, 2)
      >>> sorted(student.params)
      ['b', 'w']
    """
    example = _checked_example(input_shape, dtype)
    checks.check_positive("tolerance", tolerance)
    _check_platforms(platforms)
    _check_json(metadata)
    target = Path(directory).resolve()
    _check_replaceable(target)
    weights, unflatten_fn = _flatten(params)
    with _without_locations():
        exported = _lower(apply_fn, weights, unflatten_fn, example, platforms)
        files = _serialize(exported, weights, example, metadata)
    with replace_directory(target) as partial:
        for name, content in files.items():
            write_atomically(partial / name, content)
        verify(partial, make_probes(apply_fn, params, example), tolerance)
    return target


# Checks.


def _checked_example(input_shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    for size in input_shape:
        checks.check_count("each size in input_shape", size)
    dtype = jnp.dtype(dtype)
    check_dtype("the input", dtype)
    check_x64("dtype", dtype)
    return jax.ShapeDtypeStruct(tuple(map(int, input_shape)), dtype)


def _check_platforms(platforms: Sequence[str]) -> None:
    for platform in platforms:
        checks.check_choice("platforms", platform, _PLATFORMS)
    if "cpu" not in platforms:
        raise ValueError(f"platforms must include cpu, to verify the export on; got {platforms}.")


def _check_json(metadata: dict[str, Any] | None) -> None:
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a dictionary, got {type(metadata).__name__}.")
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON: {error}.") from error


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{target} is not a directory; move it away.")
    others = sorted({path.name for path in target.iterdir()} - {WEIGHTS, MODULE, MANIFEST})
    if others:
        raise ExportError(
            f"{target} holds {others[0]!r}, no part of an export: not replaced; move it away."
        )


# Weights.


def _flatten(params: PyTree) -> tuple[dict[str, np.ndarray], Callable[[dict], PyTree]]:
    """The leaves by name, and the function that puts them back into the tree."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    weights = {}
    for path, leaf in leaves:
        where = f"params{jax.tree_util.keystr(path)}"
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "params"
        _check_name(where, name, weights)
        weights[name] = _as_numpy(where, leaf)
    names = tuple(weights)

    def unflatten_fn(weights: dict) -> PyTree:
        return jax.tree.unflatten(treedef, [weights[name] for name in names])

    return weights, unflatten_fn


def _check_name(where: str, name: str, taken: Container[str]) -> None:
    if name in taken:
        raise ValueError(f"{where} would be named {name!r}, which is another leaf's name too.")
    if name == "__metadata__":
        raise ValueError(f"{where} would be named {name!r}, which is reserved by safetensors.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{ascii(where)} has a name that is not UTF-8.") from error


def _as_numpy(where: str, leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{where} must be an array, got {type(leaf).__name__}.")
    check_dtype(where, leaf.dtype)
    # A wide one becomes what jit would make it.
    return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype), order="C")


# The computation.


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Keeps the paths of this machine's source files out of what is lowered."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _lower(
    apply_fn: ApplyFn,
    weights: dict[str, np.ndarray],
    unflatten_fn: Callable[[dict], PyTree],
    example: jax.ShapeDtypeStruct,
    platforms: Sequence[str],
) -> jax_export.Exported:
    def forward(weights: dict[str, Array], x: Array) -> Array:
        params = unflatten_fn(weights)
        return jax.vmap(lambda example: apply_fn(params, example))(x)

    (batch,) = jax_export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, *example.shape), example.dtype)
    exported = jax_export.export(jax.jit(forward), platforms=tuple(platforms))(weights, x)
    if exported.out_tree != jax.tree.structure(0):
        raise TypeError(f"apply_fn must return one array, got {exported.out_tree}.")
    check_dtype("apply_fn's output", exported.out_avals[0].dtype)
    return exported


def _serialize(
    exported: jax_export.Exported,
    weights: dict[str, np.ndarray],
    example: jax.ShapeDtypeStruct,
    metadata: dict[str, Any] | None,
) -> dict[str, bytes]:
    """The content of each file, by its name."""
    files = {
        WEIGHTS: safetensors.numpy.save(weights),
        MODULE: bytes(exported.serialize(vjp_order=1)),
    }
    manifest = {
        "version": VERSION,
        "jax_version": jax.__version__,
        "input_shape": list(example.shape),
        "dtype": example.dtype.name,
        "output_shape": list(exported.out_avals[0].shape[1:]),
        "platforms": list(exported.platforms),
        "num_parameters": sum(value.size for value in weights.values()),
        "sha256": {name: sha256(content) for name, content in files.items()},
        "metadata": metadata or {},
    }
    return files | {MANIFEST: json.dumps(manifest, indent=2).encode() + b"\n"}
