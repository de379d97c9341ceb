"""Data sets: small arrays held in memory."""

from kd.data.datasets import DataError, Dataset, load, take_first

__all__ = [
    "DataError",
    "Dataset",
    "load",
    "take_first",
]
