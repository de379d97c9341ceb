"""The study's figures of merit."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.report import Row
from experiments.sentence_distillation.settings import TINY, Condition, Settings
from experiments.sentence_distillation.tasks import Task
from kd import metrics

TITLES = {
    "labels": "LSTM, labels alone",
    "soft": "LSTM, soft targets",
    "embedding": "LSTM, embeddings, labels",
    "hidden": "LSTM, hidden states, labels",
    "gram": "LSTM, Gram matrices, labels",
    "flow": "LSTM, flow, labels",
    "all": "LSTM, all four, soft",
    "tiny_labels": "small Transformer, labels",
    "tiny": "small Transformer, TinyBERT",
}
NETWORKS = {
    "teacher": "teacher, a Transformer",
    "student": "student, an LSTM",
    "tiny": "small Transformer",
}


def curve(log_probs: Any, labels: np.ndarray) -> dict[str, float]:
    """Test accuracy in % and negative log-likelihood in nats, over students."""
    merits = merits_of(np.asarray(log_probs), labels)
    return {name: float(np.mean(merits[name])) for name in ("accuracy", "nll")}


def merits_of(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of `[R, M, C]` by name, each `[R]`."""
    return {
        "accuracy": 100 * np.mean(metrics.correct(log_probs, labels), axis=1),
        "nll": -np.mean(metrics.label_log_prob(log_probs, labels), axis=1),
        "ece": np.array([metrics.expected_calibration_error(one, labels) for one in log_probs]),
    }


def rows(task: Task, teacher: Any, found: dict[Condition, Any]) -> list[Row]:
    """All final figures of a run that do not depend on the clock."""
    dataset = task.dataset
    made = [
        Row("data.train_sentences", len(dataset.train_y), None, 1, ""),
        Row("data.test_sentences", len(dataset.test_y), None, 1, ""),
        Row("data.words", len(dataset.vocabulary), None, 1, ""),
    ]
    made += _figures("teacher", teacher.log_probs[None], dataset.test_y)
    for condition, students in found.items():
        made += _figures(condition.name, students.log_probs, dataset.test_y)
    return made


def _figures(name: str, log_probs: np.ndarray, labels: np.ndarray) -> list[Row]:
    """Figures of `[R, M, C]`, with errors over students."""
    units = {"accuracy": "%", "nll": "nats", "ece": ""}
    return [
        report.mean_row(f"{what}[{name}]", values, units[what])
        for what, values in merits_of(log_probs, labels).items()
    ]


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables."""
    by_name = report.RowsByName(summary, workdir)
    for share in settings.label_share:
        lines = [_line(by_name, NETWORKS["teacher"], "teacher")]
        lines += [
            _line(by_name, TITLES[condition.method], condition.name)
            for condition in settings.conditions()
            if condition.share == share
        ]
        count = f"{by_name['data.train_sentences']['value']:,.0f}"
        title = f"{count} sentences, students with labels of {100 * share:g} %"
        report.print_table(title, ["test", "accuracy %", "NLL, nats", "ECE"], lines)
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} students.")
    shown = {"teacher", *("tiny" if method in TINY else "student" for method in settings.method)}
    lines = [
        [
            title,
            f"{by_name[f'parameters[{name}]']['value']:,.0f}",
            f"{by_name[f'latency[{name}]']['value']:.2f}",
        ]
        for name, title in NETWORKS.items()
        if name in shown
    ]
    report.print_table("what it costs", ["", "parameters", "latency, ms"], lines)
    report.print_end(summary, workdir)


def _line(by_name: report.RowsByName, title: str, name: str) -> list[str]:
    digits = {"accuracy": 2, "nll": 4, "ece": 3}
    return [title, *(report.pm(by_name[f"{what}[{name}]"], digits[what]) for what in digits)]
