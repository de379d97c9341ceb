"""Data sets: small arrays held in memory."""

from kd.data.binary import BinaryDataset, load_binary, load_rbm
from kd.data.datasets import DataError, Dataset, fingerprint, load, take_first

__all__ = [
    "BinaryDataset",
    "DataError",
    "Dataset",
    "fingerprint",
    "load",
    "load_binary",
    "load_rbm",
    "take_first",
]
