"""Data sets: small arrays held in memory."""

from kd.data.datasets import DataError as DataError
from kd.data.datasets import Dataset as Dataset
from kd.data.datasets import load as load
from kd.data.datasets import take_first as take_first
