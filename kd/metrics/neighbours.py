"""What features are worth for finding inputs of the same class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kd import checks

METRICS = ("cosine", "euclidean")
LEVELS = np.linspace(0, 1, 11)  # Of recall.


class Retrieval(NamedTuple):
    """Figures of each query, `[Q]`, or by number of answers `{k: [Q]}`.

    Attributes:
      average_precision: interpolated at eleven levels of recall: at each the best precision at that
        recall or a larger one.
      released_average_precision: as released code of knowledge transfer has it: the best precision
        of the ranks from there on among the first 128 alone, and at each level that of the rank
        whose recall is nearest.
      precision: share of the query's class among the first k answers.
      released_precision: as the same code prints it, interpolated as there: the best precision of
        rank k and of those after it among the first 128; `precision` for k beyond.
    """

    average_precision: np.ndarray
    released_average_precision: np.ndarray
    precision: dict[int, np.ndarray]
    released_precision: dict[int, np.ndarray]


def retrieval(
    queries: np.ndarray,
    query_labels: np.ndarray,
    database: np.ndarray,
    database_labels: np.ndarray,
    *,
    metric: str = "cosine",
    tops: Sequence[int] = (10, 20, 50, 100, 200),
    block_size: int = 100,
    interpolated_ranks: int = 128,
) -> Retrieval:
    r"""Ranks a database by its distance from each query, and counts the query's class.

    .. math:: \mathrm{AP} = \frac{1}{11} \sum_{\ell \in \{0, 0.1, \dots, 1\}}
       \max_{r : R_r \ge \ell} P_r

    with precision :math:`P_r` and recall :math:`R_r` among the first r answers.

    Args:
      queries: `[Q, D]`, features.
      query_labels: `[Q]`, integers.
      database: `[M, D]`, features.
      database_labels: `[M]`; each class of a query must be among them.
      metric: "cosine", or "euclidean".
      tops: the numbers of answers k, each at most M.
      block_size: queries at once, which is a matter of memory alone.
      interpolated_ranks: of both released readings. The released code has the number of queries
        that it looks up at once, 128; where that does not divide all of them, as it does not
        10,000, the 16 that are left have 16 ranks, which is not done here.

    Raises:
      ValueError: for shapes that do not fit, features that are not finite, another metric, a k out
        of range, or a query whose class has no answer.

    Example:
      >>> database, labels = np.array([[0.0], [1.0], [3.0]]), np.array([0, 1, 0])
      >>> found = retrieval(np.array([[0.1]]), np.array([0]), database, labels,
      ...                   metric="euclidean", tops=(2,))
      >>> print(found.average_precision.round(4), found.precision[2])
      [0.8485] [0.5]
      >>> print(found.released_precision[2].round(4))  # Of three answers two are right.
      [0.6667]

    Reference:
      Manning, Raghavan and Schütze (2008), "Introduction to information retrieval", section 8.4;
      Passalis and Tefas (2018), "Learning deep representations with probabilistic knowledge
      transfer", and their code; that of Passalis, Tzelepi and Tefas (2020), "Heterogeneous
      knowledge distillation using information flow modeling", is the same, and its table's.
    """
    queries, query_labels, database, database_labels = map(
        np.asarray, (queries, query_labels, database, database_labels)
    )
    for name, x in (("queries", queries), ("database", database)):
        checks.check_rank(name, x, 2)
        checks.check_count(f"the number of {name}", len(x))
        checks.check_finite(name, x)
    checks.check_last_axis("queries", queries, database.shape[1])
    checks.check_shape("query_labels", query_labels, (len(queries),))
    checks.check_shape("database_labels", database_labels, (len(database),))
    checks.check_choice("metric", metric, METRICS)
    checks.check_count("block_size", block_size)
    checks.check_count("interpolated_ranks", interpolated_ranks)
    for top in tops:
        checks.check_count("each of tops", top, at_most=len(database))
    missing = np.setdiff1d(query_labels, database_labels)
    if len(missing):
        raise ValueError(f"there are queries of class {missing[0]}, and no answers of it.")
    found = []
    for start in range(0, len(queries), block_size):
        part = slice(start, start + block_size)
        order = np.argsort(_distances(queries[part], database, metric), axis=1, kind="stable")
        hits = database_labels[order] == query_labels[part, None]
        found.append(_figures(hits, tops, interpolated_ranks))
    average, released, *precisions = (np.concatenate(one) for one in zip(*found, strict=True))
    plain, interpolated = (
        dict(zip(tops, part, strict=True))
        for part in (precisions[: len(tops)], precisions[len(tops) :])
    )
    return Retrieval(average, released, plain, interpolated)


def _distances(queries: np.ndarray, database: np.ndarray, metric: str) -> np.ndarray:
    """Up to what does not change a query's order."""
    queries, database = np.asarray(queries, np.float64), np.asarray(database, np.float64)
    if metric == "cosine":
        lengths = np.linalg.norm(database, axis=1)
        return -(queries @ database.T) / np.where(lengths > 0, lengths, 1.0)
    # Distances do not change, and there is less to cancel.
    centre = np.mean(database, axis=0)
    queries, database = queries - centre, database - centre
    return np.sum(database**2, axis=1) - 2 * queries @ database.T


def _figures(hits: np.ndarray, tops: Sequence[int], interpolated: int) -> tuple[np.ndarray, ...]:
    """Of hits `[Q, M]` in order of rank."""
    counts = np.cumsum(hits, axis=1)
    precision = counts / np.arange(1, hits.shape[1] + 1)
    recall = counts / counts[:, -1:]
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    average, released = np.zeros(len(hits)), np.zeros(len(hits))
    short = precision.copy()
    head = short[:, :interpolated]
    short[:, :interpolated] = np.maximum.accumulate(head[:, ::-1], axis=1)[:, ::-1]
    for level in LEVELS:
        first = np.argmax(recall >= level - 1e-12, axis=1)
        average += np.take_along_axis(best, first[:, None], axis=1)[:, 0]
        nearest = np.argmin(np.abs(recall - level), axis=1)
        released += np.take_along_axis(short, nearest[:, None], axis=1)[:, 0]
    return (
        average / len(LEVELS),
        released / len(LEVELS),
        *(precision[:, top - 1] for top in tops),
        *(short[:, top - 1] for top in tops),
    )
