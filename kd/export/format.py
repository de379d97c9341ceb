"""What a written export looks like: the names of its files, its dtypes, its checksums."""

import hashlib

import jax
import numpy as np

VERSION = 1
WEIGHTS = "student.safetensors"
MODULE = "student.stablehlo"
MANIFEST = "student.json"

# By the name safetensors writes; its own reader into numpy does not know bfloat16.
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}


def check_dtype(name: str, dtype: np.dtype) -> None:
    """Raises TypeError unless an export can hold arrays of `dtype`."""
    if dtype.name not in DTYPES.values():
        raise TypeError(f"{name} must be of a dtype that safetensors holds, got {dtype}.")


def check_x64(name: str, dtype: np.dtype) -> None:
    """Raises ValueError if jax, as it is set, would narrow `dtype`."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{name} is {dtype}: set JAX_ENABLE_X64=1 to use it.")


def sha256(content: bytes) -> str:
    """The SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
