"""Retrieval by loops over ranks."""

import jax.numpy as jnp
import numpy as np
import pytest

from kd.metrics import retrieval

RNG = np.random.default_rng(0)
DATABASE, LABELS = RNG.normal(size=(60, 3)), RNG.integers(3, size=60)
QUERIES, QUERY_LABELS = RNG.normal(size=(7, 3)), RNG.integers(3, size=7)


def ranked(query, metric):
    if metric == "cosine":
        scores = [-query @ x / np.linalg.norm(query) / np.linalg.norm(x) for x in DATABASE]
    else:
        scores = [np.linalg.norm(query - x) for x in DATABASE]
    return LABELS[np.argsort(scores)]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_by_loops(metric):
    found = retrieval(
        *(QUERIES, QUERY_LABELS, DATABASE, LABELS),
        metric=metric,
        tops=(1, 5, 9, 10, 60),
        block_size=3,
        interpolated_ranks=10,
    )
    for index, (query, label) in enumerate(zip(QUERIES, QUERY_LABELS, strict=True)):
        hits = ranked(query, metric) == label
        precision = [np.mean(hits[:r]) for r in range(1, 61)]
        recall = [np.sum(hits[:r]) / np.sum(hits) for r in range(1, 61)]
        levels = [round(0.1 * i, 1) for i in range(11)]
        best = [
            max(p for p, r in zip(precision, recall, strict=True) if r >= level - 1e-9)
            for level in levels
        ]
        assert found.average_precision[index] == pytest.approx(np.mean(best))
        short = list(precision)
        for rank in range(8, -1, -1):
            short[rank] = max(short[rank], short[rank + 1])
        nearest = [
            short[min(range(60), key=lambda r, level=level: abs(recall[r] - level))]
            for level in levels
        ]
        assert found.released_average_precision[index] == pytest.approx(np.mean(nearest))
        for top in (1, 5, 9, 10, 60):
            assert found.precision[top][index] == pytest.approx(np.mean(hits[:top]))
            later = precision[top - 1 : max(10, top)]
            assert found.released_precision[top][index] == pytest.approx(max(later))


def test_a_precision_that_is_interpolated_looks_ahead():
    """One right answer, at rank 3 of 4: among the first two are none, and a third soon after."""
    database = np.array([[1.0], [2.0], [3.0], [4.0]])
    given = (np.zeros((1, 1)), np.array([1]), database, np.array([0, 0, 1, 0]))
    found = retrieval(*given, metric="euclidean", tops=(2, 4))
    assert found.precision[2] == 0 and found.released_precision[2] == pytest.approx(1 / 3)
    assert found.precision[4] == found.released_precision[4] == 0.25
    short = retrieval(*given, metric="euclidean", tops=(2,), interpolated_ranks=2)
    assert short.released_precision[2] == 0


def test_classes_apart_are_found_without_fault():
    database = np.repeat(np.eye(3), 5, axis=0)
    found = retrieval(np.eye(3), np.arange(3), database, np.repeat(np.arange(3), 5), tops=(5,))
    assert (found.average_precision == 1).all() and (found.precision[5] == 1).all()
    assert (found.released_average_precision == 1).all()


def test_features_that_are_dead_have_no_cosine():
    database = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    found = retrieval(np.eye(3)[:1], np.array([1]), database, np.array([0, 1, 0, 0]), tops=(1,))
    assert found.precision[1] == 1


def test_raises():
    given = (QUERIES, QUERY_LABELS, DATABASE, LABELS)
    with pytest.raises(ValueError, match="metric must be one of cosine, euclidean"):
        retrieval(*given, metric="manhattan")
    with pytest.raises(ValueError, match="each of tops"):
        retrieval(*given, tops=(61,))
    with pytest.raises(ValueError, match="queries must have shape"):
        retrieval(QUERIES[:, :2], *given[1:], tops=(1,))
    with pytest.raises(ValueError, match="database must be finite"):
        retrieval(*given[:2], np.full_like(DATABASE, np.nan), LABELS, tops=(1,))
    with pytest.raises(ValueError, match="queries of class 9, and no answers"):
        retrieval(QUERIES, np.full(7, 9), DATABASE, LABELS, tops=(1,))
    with pytest.raises(ValueError, match="database_labels"):
        retrieval(*given[:3], LABELS[:5], tops=(1,))
    with pytest.raises(ValueError, match="block_size"):
        retrieval(*given, tops=(1,), block_size=0)


def test_other_kinds_of_arrays_and_what_is_none():
    rng = np.random.default_rng(0)
    queries, database = rng.normal(size=(4, 3)), rng.normal(size=(20, 3))
    labels, others = np.arange(4) % 2, np.arange(20) % 2
    found = retrieval(queries, labels, database, others, tops=(3,))
    again = retrieval(
        jnp.asarray(queries), labels.tolist(), database.tolist(), jnp.asarray(others), tops=(3,)
    )
    np.testing.assert_allclose(again.average_precision, found.average_precision)
    with pytest.raises(ValueError, match="number of queries must be at least 1"):
        retrieval(queries[:0], labels[:0], database, others, tops=(3,))
    with pytest.raises(ValueError, match="interpolated_ranks must be at least 1"):
        retrieval(queries, labels, database, others, tops=(3,), interpolated_ranks=0)


def test_distances_far_from_zero():
    rng = np.random.default_rng(0)
    queries, database = rng.normal(size=(4, 3)), rng.normal(size=(50, 3))
    labels, others = np.arange(4) % 2, np.arange(50) % 2
    near, far = (
        retrieval(queries + off, labels, database + off, others, metric="euclidean", tops=(3,))
        for off in (0.0, 1e8)
    )
    np.testing.assert_array_equal(near.average_precision, far.average_precision)
