"""Data sets: small arrays held in memory."""

from kd.data.datasets import DataError, Dataset, fingerprint, load, take_first

__all__ = [
    "DataError",
    "Dataset",
    "fingerprint",
    "load",
    "take_first",
]
