"""Labelled sentences as numbers of words: from two files of text, or by a law of our own."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd import checks
from kd.data.datasets import DataError

PADDING, UNKNOWN = 0, 1  # Numbers that are no word's; those of words begin after them.
ENDINGS = (".neg", ".pos")  # Of the files, in the order of their classes.
LARGEST_FILE = 100e6  # Bytes.

# What the law of `negated_sentences` speaks with.
FILLERS = tuple(f"word{index}" for index in range(5))
GOOD = tuple(f"good{index}" for index in range(3))
BAD = tuple(f"bad{index}" for index in range(3))
NEGATIONS = ("not",)
NEGATED, POLAR = 0.4, 0.5  # Probabilities: of a negation before a polar word; of such a word.


class SentenceDataset(NamedTuple):
    """A labelled data set of sentences.

    Attributes:
      train_x: `[N, L]` int32, numbers of words; 0 fills up, 1 is any word not in the vocabulary.
      train_y: `[N]` int32, in [0, num_classes).
      test_x: `[M, L]`, as `train_x`.
      test_y: `[M]`, as `train_y`.
      num_classes: C.
      vocabulary: words by their number less 2.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    vocabulary: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Numbers that may stand in a sentence, padding and the unknown word among them."""
        return len(self.vocabulary) + 2


def load_sentences(
    folder: str | os.PathLike,
    *,
    length: int,
    num_words: int,
    test_share: float = 0.1,
    seed: int = 0,
) -> SentenceDataset:
    """Loads sentences of two classes from a folder with one `.neg` and one `.pos` file.

    Each has one sentence a line in Latin-1, its words between spaces; lines without a word count
    for nothing. The vocabulary is of the training sentences alone.

    Args:
      folder: with the two files, and whatever else.
      length: L, words of a sentence: what is longer is cut, what is shorter filled up at its end.
      num_words: most in the vocabulary: the most frequent, of equals the alphabetically first.
      test_share: of each class, in (0, 1).
      seed: decides which sentences are the test's, and the order of the others.

    Returns:
      A `SentenceDataset`: class 0 is `.neg`'s.

    Raises:
      ValueError: if a number is out of range.
      DataError: if the folder is missing or has not one file of either kind; if a file is empty,
        holds NUL, is larger than 100 MB or cannot be read; if a class has too few sentences for
        one in each part.
    """
    paths = find_sentences(folder)
    sentences = [_read(path) for path in paths]
    return from_sentences(
        *(sentences, [str(path) for path in paths]),
        length=length,
        num_words=num_words,
        test_share=test_share,
        seed=seed,
    )


def sentences_fingerprint(folder: str | os.PathLike) -> str:
    """SHA-256 of the files that `load_sentences` would read.

    Args:
      folder: as for `load_sentences`.

    Raises:
      DataError: if there are no such files.
    """
    total = hashlib.sha256()
    for path in find_sentences(folder):
        total.update(hashlib.sha256(_bytes(path)).digest())
    return total.hexdigest()


def find_sentences(folder: str | os.PathLike) -> list[Path]:
    """The files with a folder's sentences, by class.

    Raises:
      DataError: if there is no such folder, or not one file of either kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; expected one with two files of sentences, one a line: "
            "*.neg and *.pos."
        )
    found = []
    for ending in ENDINGS:
        paths = sorted(path for path in folder.glob(f"*{ending}") if path.is_file())
        if len(paths) != 1:
            raise DataError(
                f"{folder} must hold one *{ending} of sentences, one a line; it has {len(paths)}."
            )
        found += paths
    return found


def negated_sentences(
    num_sentences: int, *, length: int, test_share: float = 0.5, seed: int = 0
) -> SentenceDataset:
    """Sentences in which the order of words decides: a negation turns the next word round.

    A sentence has from half of L to L words. Each is a filler or, with probability 1/2, a polar
    word, good or bad; before a polar word there is, with probability 2/5 where there is room for
    both, a negation, which makes it say the opposite. The class is whether more is said that is
    good than bad; sentences that say as much of both are drawn again. Which words there are tells
    little: a negation may be of any of them.

    Args:
      num_sentences: N + M.
      length: L >= 2, words of the longest.
      test_share: M as a share of all, of each class, in (0, 1).
      seed: decides the sentences and the parts.

    Returns:
      A `SentenceDataset` with the classes bad, 0, and good, 1.

    Raises:
      ValueError: if a number is out of range.
      DataError: if a class has too few sentences for one in each part.

    Example:
      >>> found = negated_sentences(100, length=8)
      >>> found.train_x.shape[1], found.num_tokens
      (8, 14)
    """
    checks.check_count("num_sentences", num_sentences)
    checks.check_count("length", length, at_least=2)
    rng = np.random.default_rng([seed, 1])
    sentences: list[list[list[str]]] = [[], []]
    for _ in range(num_sentences):
        balance = 0
        while balance == 0:
            words, balance = _negated_sentence(rng, length)
        sentences[int(balance > 0)].append(words)
    num_words = len(FILLERS) + len(GOOD) + len(BAD) + len(NEGATIONS)
    return from_sentences(
        *(sentences, ("the bad", "the good")),
        length=length,
        num_words=num_words,
        test_share=test_share,
        seed=seed,
    )


def _negated_sentence(rng: np.random.Generator, length: int) -> tuple[list[str], int]:
    """Words, and how much more is said that is good than bad."""
    size = rng.integers(-(-length // 2), length + 1)
    words: list[str] = []
    balance = 0
    while len(words) < size:
        if rng.random() >= POLAR:
            words.append(FILLERS[rng.integers(len(FILLERS))])
            continue
        sign = 1 if rng.random() < 0.5 else -1
        is_negated = rng.random() < NEGATED
        if is_negated and len(words) + 1 < size:  # Else the polar word would be beyond the end.
            words.append(NEGATIONS[rng.integers(len(NEGATIONS))])
            balance -= 2 * sign
        polar = GOOD if sign > 0 else BAD
        words.append(polar[rng.integers(len(polar))])
        balance += sign
    return words, balance


def from_sentences(
    sentences: Sequence[Sequence[Sequence[str]]],
    names: Sequence[str],
    *,
    length: int,
    num_words: int,
    test_share: float,
    seed: int,
) -> SentenceDataset:
    """Words by class to a data set: parts, a vocabulary and numbers.

    Args:
      sentences: of each class, each a list of words.
      names: what an error calls the classes.
      length, num_words, test_share, seed: as for `load_sentences`.

    Raises:
      ValueError: if a number is out of range.
      DataError: if a class has too few sentences for one in each part.

    Example:
      >>> bad, good = [["so", "bad"], ["bad"]], [["so", "so", "good"], ["good"]]
      >>> found = from_sentences(
      ...     [bad, good], ["bad", "good"], length=2, num_words=1, test_share=0.5, seed=0)
      >>> len(found.train_y), len(found.test_y), len(found.vocabulary)
      (2, 2, 1)
    """
    checks.check_count("length", length)
    checks.check_count("num_words", num_words)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be in (0, 1), got {test_share}.")
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label, (name, own) in enumerate(zip(names, sentences, strict=True)):
        count = round(test_share * len(own))
        if not 1 <= count < len(own):
            raise DataError(
                f"{name} has {len(own)} sentences, too few for a test share of {test_share:g} and "
                "a rest."
            )
        order = rng.permutation(len(own))
        test += [(own[index], label) for index in order[:count]]
        train += [(own[index], label) for index in order[count:]]
    train = [train[index] for index in rng.permutation(len(train))]
    vocabulary = _vocabulary((words for words, _ in train), num_words)
    numbers = {word: index + UNKNOWN + 1 for index, word in enumerate(vocabulary)}
    parts = [_numbered(part, numbers, length) for part in (train, test)]
    return SentenceDataset(*parts[0], *parts[1], len(sentences), vocabulary)


def _vocabulary(sentences: Iterable[Sequence[str]], num_words: int) -> tuple[str, ...]:
    """The most frequent words, in order; of equals the alphabetically first."""
    counts = Counter(word for words in sentences for word in words)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:num_words])


def _numbered(
    part: Sequence[tuple[Sequence[str], int]], numbers: dict[str, int], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sentences as numbers, `[N, L]`, and their labels."""
    x = np.full((len(part), length), PADDING, np.int32)
    for row, (words, _) in zip(x, part, strict=True):
        found = [numbers.get(word, UNKNOWN) for word in words[:length]]
        row[: len(found)] = found
    return x, np.array([label for _, label in part], np.int32)


def _read(path: Path) -> list[list[str]]:
    """Words of each line that has some."""
    content = _bytes(path)
    if b"\0" in content:
        raise DataError(f"{path} holds NUL: it is no text, of one sentence a line.")
    # As bytes: Python's own idea of a line or a space would cut at letters of Latin-1's
    # neighbour cp1252, as an ellipsis.
    lines = [line.split() for line in content.split(b"\n")]
    sentences = [[word.decode("latin-1") for word in line] for line in lines if line]
    if not sentences:
        raise DataError(f"{path} holds no sentence.")
    return sentences


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError(
                f"{path} has {size / 1e6:,.0f} MB, where {LARGEST_FILE / 1e6:g} MB are the most; "
                "give a part of it."
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror}.") from error
