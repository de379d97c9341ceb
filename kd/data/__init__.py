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
from kd.data.sentences import (
    SentenceDataset,
    from_sentences,
    load_sentences,
    negated_sentences,
    sentences_fingerprint,
)

__all__ = [
    "BinaryDataset",
    "DataError",
    "Dataset",
    "NAMES",
    "SentenceDataset",
    "TEST_ONLY_NAMES",
    "fingerprint",
    "from_sentences",
    "load",
    "load_binary",
    "load_rbm",
    "load_sentences",
    "load_test_inputs",
    "mask_squares",
    "negated_sentences",
    "sentences_fingerprint",
    "subsample",
    "take_first",
]
