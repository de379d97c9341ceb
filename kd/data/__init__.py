"""Data sets: small arrays held in memory."""

from kd.data.binary import BinaryDataset, load_binary, load_rbm
from kd.data.datasets import (
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
    "fingerprint",
    "load",
    "load_binary",
    "load_rbm",
    "load_test_inputs",
    "mask_squares",
    "subsample",
    "take_first",
]
