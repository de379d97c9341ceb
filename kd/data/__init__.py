"""Data sets: small arrays held in memory."""

from kd.data.binary import BinaryDataset, load_binary, load_rbm
from kd.data.datasets import (
    NAMES,
    TEST_ONLY_NAMES,
    DataError,
    Dataset,
    fingerprint,
    load,
    load_test_inputs,
    take_first,
)
from kd.data.masking import mask_squares, subsample

__all__ = [
    "BinaryDataset",
    "DataError",
    "Dataset",
    "NAMES",
    "TEST_ONLY_NAMES",
    "fingerprint",
    "load",
    "load_binary",
    "load_rbm",
    "load_test_inputs",
    "mask_squares",
    "subsample",
    "take_first",
]
