"""The study's figures of merit, beside the paper's."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from scipy.spatial.distance import cdist

from experiments import report
from experiments.feature_distillation import networks
from experiments.feature_distillation.settings import (
    ALONE,
    CONTRASTIVE,
    LAST,
    Condition,
    Settings,
)
from experiments.report import Row
from kd import metrics
from kd.data import Dataset
from kd.types import PyTree

METRICS = ("euclidean", "cosine")
TOP = 100  # Answers whose share of the query's class is counted; fewer where there are not as many.
READINGS = ("", "_released")  # As defined, and as the released code has it.
# mAP by Euclidean distance and by cosine, precision of the first 100 by both, %: as released.
PAPER_NETWORKS = {
    "teacher": (87.18, 90.47, 92.15, 92.26),
    "aux_labels": (41.41, 47.36, 66.03, 70.15),
    "aux": (62.12, 66.78, 73.72, 75.91),
}
PAPER = {
    ALONE: {
        "labels": (35.30, 39.00, 55.87, 58.77),
        "soft": (37.39, 40.53, 56.17, 58.56),
        "hint": (43.99, 48.99, 60.69, 62.42),
        "mkt": (36.26, 38.20, 50.55, 52.72),
        "pkt": (48.07, 51.56, 60.02, 62.50),
        "hint_aux": (42.65, 46.46, 58.51, 60.59),
        "mkt_aux": (41.16, 43.99, 55.10, 57.63),
        "pkt_aux": (48.05, 51.73, 60.39, 63.01),
        "flow": (49.20, 53.06, 61.54, 64.24),
    },
    CONTRASTIVE: {
        "labels": (47.69, 48.72, 57.46, 58.50),
        "hint": (43.56, 48.73, 60.44, 62.43),
        "mkt": (45.34, 46.84, 55.89, 57.10),
        "pkt": (48.87, 49.95, 58.44, 59.48),
        "hint_aux": (43.24, 47.46, 58.97, 61.07),
        "mkt_aux": (44.83, 47.12, 56.28, 57.90),
        "pkt_aux": (48.69, 50.09, 58.71, 60.20),
        "flow": (49.55, 50.82, 59.50, 60.79),
    },
}
NETWORKS = {
    "teacher": "teacher",
    "aux_labels": "auxiliary, labels",
    "aux": "auxiliary, taught",
}
TITLES = {
    "labels": "labels",
    "soft": "soft targets",
    "hint": "hint",
    "mkt": "MKT",
    "pkt": "PKT",
    "vid": "VID",
    "hint_aux": "hint, auxiliary",
    "mkt_aux": "MKT, auxiliary",
    "pkt_aux": "PKT, auxiliary",
    "vid_aux": "VID, all layers",
    "flow": "proposed, all layers",
    "flow_random": "random layer weights",
    "flow_direct": "teacher's own stages",
}
HEADINGS = {
    ALONE: "Each method alone",
    CONTRASTIVE: "With contrastive supervision",
}


class Found(NamedTuple):
    """What one network's features find, %.

    Attributes:
      nearest_mean: test images nearest to their own class's mean.
      by_metric: by distance, what `metrics.retrieval` says, each a mean over queries.
    """

    nearest_mean: float
    by_metric: dict[str, dict[str, float]]


class NearestMean:
    """Share of test images that are nearest to the mean features of their class, %."""

    def __init__(self, model: nn.Module, layer: str, dataset: Dataset):
        self._embed = [
            networks.embedder(model, layer, x) for x in (dataset.train_x, dataset.test_x)
        ]
        self._dataset = dataset

    def __call__(self, params: PyTree) -> dict[str, float]:
        """Of networks, each leaf under "student" `[R, ...]`; the mean over them."""
        first = jax.tree.leaves(params["student"])[0]
        shares = []
        for index in range(len(first)):
            one = jax.tree.map(lambda leaf, i=index: leaf[i], params["student"])
            train, test = (np.asarray(embed(one)) for embed in self._embed)
            shares.append(nearest_mean(self._dataset, train, test))
        return {"nearest_mean": float(np.mean(shares))}


def nearest_mean(dataset: Dataset, train: np.ndarray, test: np.ndarray) -> float:
    """Share of the test's images, of features, that are nearest to their class's mean, %."""
    classes = np.unique(dataset.train_y)
    means = np.stack([np.mean(train[dataset.train_y == label], axis=0) for label in classes])
    nearest = classes[np.argmin(cdist(test, means), axis=1)]
    return 100 * float(np.mean(nearest == dataset.test_y))


def find(settings: Settings, dataset: Dataset, test: np.ndarray, train: np.ndarray) -> Found:
    """Looks up test images among the training images, by features of both."""
    count = settings.num_queries or len(test)
    top = min(TOP, len(train))
    by_metric = {}
    for metric in METRICS:
        found = metrics.retrieval(
            *(test[:count], dataset.test_y[:count], train, dataset.train_y),
            metric=metric,
            tops=(top,),
        )
        by_metric[metric] = {
            "map": 100 * float(np.mean(found.average_precision)),
            "map_released": 100 * float(np.mean(found.released_average_precision)),
            "top100": 100 * float(np.mean(found.precision[top])),
            "top100_released": 100 * float(np.mean(found.released_precision[top])),
        }
    return Found(nearest_mean(dataset, train, test), by_metric)


def rows(settings: Settings, dataset: Dataset, found: dict[str, list[Found]]) -> list[Row]:
    """All final figures of a run."""
    made = [
        Row("data.train_examples", len(dataset.train_y), None, 1, ""),
        Row("data.queries", settings.num_queries or len(dataset.test_y), None, 1, ""),
    ]
    for name, each in found.items():
        paper = _paper_of(settings, name)
        made.append(_row(f"nearest_mean[{name}]", [one.nearest_mean for one in each], None))
        for metric in METRICS:
            for what in each[0].by_metric[metric]:
                values = [one.by_metric[metric][what] for one in each]
                made.append(_row(f"{what}_{metric}[{name}]", values, paper.get((what, metric))))
    return made


def _row(name: str, values: list[float], paper: float | None) -> Row:
    return report.mean_row(name, np.array(values), "%")._replace(paper=paper)


def _paper_of(settings: Settings, name: str) -> dict[tuple[str, str], float]:
    """The paper's figures of a network or a kind of student, in the released code's reading."""
    if settings.dataset != "cifar10":
        return {}
    supervision, _, method = name.partition(",")
    values = PAPER_NETWORKS.get(name) or PAPER.get(supervision, {}).get(method)
    names = [(what, metric) for what in ("map_released", "top100_released") for metric in METRICS]
    return dict(zip(names, values, strict=True)) if values else {}


def title_of(condition: Condition) -> str:
    """In tables and figures."""
    if condition.method != "layer":
        return TITLES[condition.method]
    if condition.layer == LAST:
        return "last layer alone"
    return f"last and {condition.layer}"


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables, in both readings."""
    by_name = report.RowsByName(summary, workdir)
    parts = {"Networks that teach": NETWORKS if settings.needs_aux() else {"teacher": "teacher"}}
    for supervision in settings.supervision:
        parts[HEADINGS[supervision]] = {
            condition.name: title_of(condition)
            for condition in settings.conditions()
            if condition.supervision == supervision
        }
    header = ["", "mAP e", "mAP c", "top-100 e", "top-100 c"]
    for reading in READINGS:
        for heading, titles in parts.items():
            lines = [
                line
                for name, title in titles.items()
                for line in _lines(by_name, title, name, reading)
            ]
            title = f"{heading}, as the released code reads them" if reading else heading
            report.print_table(title, header, lines)
    print("All in %: mAP at eleven levels of recall, precision of the first 100 answers;")
    print("by Euclidean distance (e) and cosine (c). The released code interpolates both,")
    print("among the first 128 answers alone. Shares nearest to their own class's mean are")
    print("in summary.json.")
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} students.")
    report.print_end(summary, workdir)


def _lines(by_name: report.RowsByName, title: str, name: str, reading: str) -> list[list[str]]:
    """A network's figures, and below them the paper's where it has any."""
    merits = [
        by_name[f"{what}{reading}_{metric}[{name}]"]
        for what in ("map", "top100")
        for metric in METRICS
    ]
    lines = [[title, *(report.pm(one, 1) for one in merits)]]
    if merits[0]["paper"] is not None:
        lines.append(["  in the paper", *(f"{one['paper']:.2f}" for one in merits)])
    return lines
