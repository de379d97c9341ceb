"""Sentences: files to numbers by hand, what is refused, and the law of negations."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kd import data
from kd.data import sentences as module

# Beside the checkout, as the Makefile looks for data sets.
BESIDE = Path(__file__).parents[2] / ".." / "shared" / "data" / "mr"
BAD = [b"so dull", b"dull and dull", b"a bore", b"no"]
GOOD = [b"so fine", b"fine and bright , so fine", b"a joy", b"yes"]


def write(folder, negative=BAD, positive=GOOD):
    folder.mkdir(exist_ok=True)
    (folder / "own.neg").write_bytes(b"\n".join(negative))
    (folder / "own.pos").write_bytes(b"\n".join(positive) + b"\n")
    return folder


def words_of(dataset, row):
    return [
        {0: "", 1: "?"}.get(token) or ("" if token == 0 else dataset.vocabulary[token - 2])
        for token in row
    ]


def load(folder, **given):
    return data.load_sentences(
        folder, **{"length": 4, "num_words": 100, "test_share": 0.25, "seed": 0} | given
    )


def test_every_sentence_is_in_one_part_with_its_label(tmp_path):
    found = load(write(tmp_path / "a"), length=6)
    assert found.num_classes == 2 and found.train_x.dtype == found.train_y.dtype == np.int32
    # A quarter of each class of four.
    assert sorted(found.test_y) == [0, 1] and sorted(found.train_y) == [0, 0, 0, 1, 1, 1]
    known = set(found.vocabulary)
    expected = Counter()
    for label, lines in enumerate((BAD, GOOD)):
        for line in lines:
            words = [w if w in known else "?" for w in line.decode().split()]
            expected[label, *words] += 1
    seen = Counter()
    for x, y in ((found.train_x, found.train_y), (found.test_x, found.test_y)):
        for row, label in zip(x, y, strict=True):
            seen[int(label), *[word for word in words_of(found, row) if word]] += 1
    assert seen == expected
    assert "?" not in {w for row in found.train_x for w in words_of(found, row)}


def test_the_vocabulary_is_of_training_sentences_by_frequency_then_alphabet(tmp_path):
    found = load(write(tmp_path / "a"), length=10)
    counts = Counter(w for row in found.train_x for w in words_of(found, row) if w)
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert list(found.vocabulary) == expected and found.num_tokens == len(expected) + 2
    few = load(write(tmp_path / "a"), length=10, num_words=3)
    assert list(few.vocabulary) == expected[:3] and few.num_tokens == 5
    for row, other in zip(found.train_x, few.train_x, strict=True):
        np.testing.assert_array_equal(np.where(row > 4, 1, row), other)


def test_sentences_are_cut_and_filled_up_at_their_end(tmp_path):
    long, short = load(write(tmp_path / "a"), length=10), load(write(tmp_path / "a"), length=2)
    assert short.train_x.shape == (6, 2) and long.train_x.shape == (6, 10)
    np.testing.assert_array_equal(short.train_x, long.train_x[:, :2])
    for row in long.train_x:
        size = np.sum(row > 0)
        assert (row[:size] > 0).all() and not row[size:].any()


def test_the_seed_decides(tmp_path):
    folder = write(tmp_path / "a", [b"bad %d" % i for i in range(50)], [b"good"] * 30)
    first, again, other = (load(folder, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.train_x, other.train_x)
    assert np.sum(first.test_y == 0) == 12 and np.sum(first.test_y == 1) == 8


def test_latin_1_has_no_lines_and_spaces_of_its_own(tmp_path):
    """An ellipsis of cp1252 (0x85) and a hard space (0xa0) are within words."""
    folder = write(tmp_path / "a", [b"un\x85clear caf\xe9"] * 4, [b"a\xa0b\r", b"", b"  ", b"c"])
    found = load(folder, test_share=0.5)
    assert len(found.train_y) == 3 and len(found.test_y) == 3
    words = {w for x in (found.train_x, found.test_x) for row in x for w in words_of(found, row)}
    assert {"un\x85clear", "caf\xe9"} <= words


def test_the_fingerprint_is_of_the_files_that_are_read(tmp_path):
    folder = write(tmp_path / "a")
    before = data.sentences_fingerprint(folder)
    (folder / "README").write_text("nothing")
    assert data.sentences_fingerprint(folder) == before
    write(folder, BAD[:3])
    assert data.sentences_fingerprint(folder) != before
    swapped = write(tmp_path / "b", GOOD, BAD)
    assert data.sentences_fingerprint(swapped) != before


def extra(folder):
    (folder / "more.pos").write_bytes(b"good")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "own.neg").unlink(), r"must hold one \*.neg .* it has 0"),
        (extra, r"must hold one \*.pos .* it has 2"),
        (lambda folder: (folder / "own.pos").write_bytes(b" \n\n"), "own.pos holds no sentence"),
        (lambda folder: (folder / "own.pos").write_bytes(b"a\0b"), "own.pos holds NUL"),
        (lambda folder: (folder / "own.pos").write_bytes(b"one"), "own.pos has 1 sentences"),
    ],
)
def test_files_that_will_not_do(change, expected, tmp_path):
    folder = write(tmp_path / "a")
    change(folder)
    with pytest.raises(data.DataError, match=expected):
        load(folder)


def test_missing_folders_and_large_files(tmp_path, monkeypatch):
    with pytest.raises(data.DataError, match="nowhere: no such folder; expected one with two"):
        load(tmp_path / "nowhere")
    with pytest.raises(data.DataError, match="no such folder"):
        data.sentences_fingerprint(tmp_path / "nowhere")
    folder = write(tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(module, "LARGEST_FILE", 20.0)
        with pytest.raises(data.DataError, match=r"own.neg has 0 MB, where 2e-05 MB are the most"):
            load(folder)
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(5, "I/O")))
    with pytest.raises(data.DataError, match="own.neg could not be read: I/O"):
        load(folder)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"num_words": 0}, "num_words must be at least 1"),
        ({"test_share": 1.0}, r"test_share must be in \(0, 1\), got 1.0"),
        ({"test_share": float("nan")}, "test_share"),
    ],
)
def test_numbers_out_of_range(given, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        load(write(tmp_path / "a"), **given)


# The law.


def label_of(words):
    """Written anew: each polar word counts, the other way round after a negation."""
    total = 0
    for before, word in zip(["", *words], words, strict=False):
        sign = word.startswith("good") - word.startswith("bad")
        total += -sign if before in module.NEGATIONS else sign
    assert total != 0
    return int(total > 0)


@pytest.fixture(scope="module")
def negations():
    return data.negated_sentences(4000, length=10, test_share=0.25, seed=3)


def test_labels_are_those_of_the_law(negations):
    for x, y in ((negations.train_x, negations.train_y), (negations.test_x, negations.test_y)):
        found = [label_of([w for w in words_of(negations, row) if w]) for row in x]
        np.testing.assert_array_equal(found, y)
    sizes = np.sum(negations.train_x > 0, axis=1)
    assert set(sizes) == {5, 6, 7, 8, 9, 10}
    # Good and bad are alike: 4 standard deviations of 3,000 coins.
    assert abs(np.mean(negations.train_y) - 0.5) < 4 * 0.5 / 3000**0.5
    # A negation never stands alone.
    numbers = [negations.vocabulary.index(word) + 2 for word in module.NEGATIONS]
    for row in negations.train_x:
        for place in np.flatnonzero(np.isin(row, numbers)):
            assert words_of(negations, row)[place + 1].startswith(("good", "bad"))


def test_order_matters(negations):
    """Counts of words say something, and far from all."""

    def counts(x):
        return np.stack([np.bincount(row, minlength=negations.num_tokens)[2:] for row in x])

    model = LogisticRegression(max_iter=1000).fit(counts(negations.train_x), negations.train_y)
    score = model.score(counts(negations.test_x), negations.test_y)
    assert 0.55 < score < 0.75


def test_a_law_of_nothing_is_refused():
    with pytest.raises(ValueError, match="length must be at least 2"):
        data.negated_sentences(10, length=1)
    with pytest.raises(ValueError, match="num_sentences"):
        data.negated_sentences(0, length=4)
    with pytest.raises(data.DataError, match="too few for a test share of 0.5"):
        data.negated_sentences(2, length=4)


# The movie reviews, where they are.


def test_movie_reviews():
    folder = Path(os.environ.get("KD_MOVIE_REVIEWS_DIR") or BESIDE)
    if not folder.is_dir():
        pytest.skip(f"no {folder}; KD_MOVIE_REVIEWS_DIR names the folder of rt-polarity.pos, .neg")
    found = data.load_sentences(folder, length=60, num_words=100_000, test_share=0.1)
    assert len(found.train_y) == 2 * 4798 and len(found.test_y) == 2 * 533
    assert np.bincount(found.train_y).tolist() == [4798, 4798]
    assert found.vocabulary[:5] == (".", ",", "the", "a", "and")
    # The longest has 59 words.
    assert max(np.sum(x > 0, axis=1).max() for x in (found.train_x, found.test_x)) <= 59
