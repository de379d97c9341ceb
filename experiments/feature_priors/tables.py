"""The study's figures of merit, beside the paper's (tables 1 and 2)."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from experiments import report
from experiments.feature_priors.settings import (
    CHAINS,
    DATASETS,
    FAIR,
    SAMPLED,
    SGD,
    WRITTEN,
    Condition,
    Settings,
)
from experiments.feature_priors.tasks import Task
from experiments.report import Row
from kd import metrics

TOPS = (2, 3)
DIVERGED = "–"
# Accuracies in %; of table 1 also macro F1, of table 2 those among the first two and three guesses.
PAPER_FASHION = {
    "naive": (80.65, 77.45),
    "logits": (83.51, 83.47),
    "soft": (86.61, 86.60),
    "noisy": (82.69, 82.62),
    "fitnets": (88.51, 88.55),
    "prior": (89.81, 89.81),
}
PAPER_CIFAR = {
    "naive": (10.0, 19.98, 30.03),
    "soft": (10.0, 19.95, 30.68),
    "prior": (51.9, 71.64, 81.75),
}
PAPER_TEACHERS = {"fashion": (92.7,), "cifar": (65.6, 82.08, 89.77)}
# What the tables show besides accuracy, and what the paper gives, in that order.
SHOWN = {"fashion": ("f1",), "cifar": tuple(f"top{top}" for top in TOPS)}
HEADINGS = {"f1": "macro F1 %"} | {f"top{top}": f"top {top}" for top in TOPS}
TITLES = {
    "naive": "labels alone",
    "logits": "logits",
    "soft": "soft targets",
    "noisy": "noisy logits",
    "fitnets": "hint → soft",
    "prior": "prior → labels",
    "hint_labels": "hint → labels",
    "expert_0": "first expert's prior",
    "expert_1": "second expert's prior",
    "experts": "both experts' priors",
    "experts_shared": "both priors on one layer",
    "copied": "copied → labels",
    "prior_soft": "prior → soft",
    "map": "the maximum",
    "map_prior": "the maximum, prior",
    "chain": "sampled",
    "chain_prior": "sampled, prior",
}
R_HATS = {"r_hat_median": 0.5, "r_hat_95": 0.95}
TEACHERS = {
    "fashion": {"teacher": "teacher"},
    "sampled": {"teacher": "teacher"},
    "cifar": {"teacher": "teacher"},
    "experts": {"0": "first expert, its classes", "1": "second expert, its classes"},
    "transfer": {"source": "teacher, its own task"},
}
PROTOCOL_TITLES = {
    WRITTEN: "As written: the teacher's optimiser for all",
    SGD: "Plain SGD for all",
    FAIR: "The same care for each: Adam",
}


def heading(settings: Settings, protocol: str) -> str:
    """Of a table, or a column of a figure."""
    if settings.experiment == SAMPLED:
        return "The posterior of all weights"
    return PROTOCOL_TITLES[protocol]


def curve(log_probs: Any, labels: np.ndarray) -> dict[str, float]:
    """Test accuracy in % and negative log-likelihood in nats, over students."""
    log_probs = np.asarray(log_probs)
    return {
        "accuracy": 100 * float(np.mean(metrics.correct(log_probs, labels))),
        "nll": -float(np.mean(metrics.label_log_prob(log_probs, labels))),
    }


def rows(settings: Settings, task: Task, teachers: dict, found: dict) -> list[Row]:
    """All final figures of a run; one says which kinds of students diverged."""
    labels = task.dataset.test_y
    made = [
        Row(f"data.{part}_examples", len(y), None, 1, "")
        for part, y in (("train", task.dataset.train_y), ("test", labels))
    ]
    is_papers = settings.data_name == DATASETS.get(settings.experiment, "fashion_mnist")
    for name, lesson in task.lessons.items():
        values = PAPER_TEACHERS.get(settings.experiment, ()) if is_papers else ()
        paper = dict(zip(_shown(settings), values, strict=False))
        made += _figures(name, teachers[name].log_probs[None], lesson.dataset.test_y, paper)
    for condition in settings.conditions():
        students = found.get(condition)
        if students is None:
            made.append(Row(f"diverged[{condition.name}]", 1.0, None, 1, ""))
            continue
        paper = _paper_of(settings, condition) if is_papers else {}
        made += _figures(condition.name, students.log_probs, labels, paper)
        made.append(Row(f"rate[{condition.name}]", students.rate, None, 1, ""))
        if len(students.r_hats):
            for name, share in R_HATS.items():
                value = float(np.quantile(students.r_hats, share))
                made.append(Row(f"{name}[{condition.name}]", value, None, 1, ""))
    return made


def _paper_of(settings: Settings, condition: Condition) -> dict[str, float]:
    """The paper's figures of this kind of student, of all labels, by name."""
    of_experiment = {"fashion": PAPER_FASHION, "cifar": PAPER_CIFAR}.get(settings.experiment, {})
    if condition.share != 1 or condition.protocol == FAIR or condition.method not in of_experiment:
        return {}
    return dict(zip(_shown(settings), of_experiment[condition.method], strict=True))


def _shown(settings: Settings) -> tuple[str, ...]:
    """Figures in % of which tables speak."""
    return ("accuracy", *SHOWN.get(settings.experiment, ()))


def _figures(
    name: str, log_probs: np.ndarray, labels: np.ndarray, paper: dict[str, float | None]
) -> list[Row]:
    """Figures of `[R, M, C]`, with errors over students."""
    values = {"accuracy": 100 * np.mean(metrics.correct(log_probs, labels), axis=1)}
    for top in TOPS:
        values[f"top{top}"] = 100 * np.array([_share_among(one, labels, top) for one in log_probs])
    values["f1"] = 100 * np.array(
        [f1_score(labels, np.argmax(one, axis=1), average="macro") for one in log_probs]
    )
    values["nll"] = -np.mean(metrics.label_log_prob(log_probs, labels), axis=1)
    values["ece"] = np.array([metrics.expected_calibration_error(one, labels) for one in log_probs])
    units = {"nll": "nats", "ece": ""}
    return [
        report.mean_row(f"{what}[{name}]", value, units.get(what, "%"))._replace(
            paper=paper.get(what)
        )
        for what, value in values.items()
    ]


def _share_among(log_probs: np.ndarray, labels: np.ndarray, top: int) -> float:
    """Of inputs whose label is among the likeliest classes."""
    best = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    return float(np.mean(np.any(best == labels[:, None], axis=1)))


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables."""
    by_name = report.RowsByName(summary, workdir)
    teachers = TEACHERS[settings.experiment]
    shown = _shown(settings)
    header = ["", *("accuracy %" if name == "accuracy" else HEADINGS[name] for name in shown)]
    for protocol in settings.protocols:
        for share in settings.label_share:
            title = f"{heading(settings, protocol)}, {100 * share:g} % of the labels"
            names = dict(teachers) | {
                condition.name: TITLES[condition.method]
                for condition in settings.conditions()
                if (condition.protocol, condition.share) == (protocol, share)
            }
            lines = [_line(by_name, title, name, shown) for name, title in names.items()]
            report.print_table(title, [*header, "NLL", "ECE %"], lines)
            _show_paper(by_name, names, shown)
            _show_agreement(by_name, names)
    if any(f"diverged[{condition.name}]" in by_name for condition in settings.conditions()):
        print(f"{DIVERGED} The loss was no longer finite: a lower rate may do.")
    if any(method in CHAINS for method in settings.methods):
        print("What is sampled is an average over a chain, no one network: it has no export.")
    repeats = settings.num_repeats
    if repeats > 1:
        print(f"± is one standard error over {repeats} students.")
    report.print_end(summary, workdir)


def _line(by_name: report.RowsByName, title: str, name: str, shown: tuple[str, ...]) -> list[str]:
    if f"diverged[{name}]" in by_name:
        return [title, *(len(shown) + 2) * [DIVERGED]]
    first, *others = (by_name[f"{figure}[{name}]"] for figure in shown)
    if len(others) > 1:  # As many as fit.
        others = [other | {"stderr": None} for other in others]
    ece = by_name[f"ece[{name}]"]
    error = None if ece["stderr"] is None else 100 * ece["stderr"]
    return [
        title,
        *(report.pm(one, 2) for one in (first, *others)),
        report.pm(by_name[f"nll[{name}]"], 3),
        report.pm({"value": 100 * ece["value"], "stderr": error}, 2),
    ]


def _show_agreement(by_name: report.RowsByName, names: dict[str, str]) -> None:
    """How far chains of one posterior agree."""
    for name, title in names.items():
        if f"r_hat_median[{name}]" in by_name:
            median, most = (by_name[f"{what}[{name}]"]["value"] for what in R_HATS)
            print(
                f"R-hat of test images' probabilities, chains {title}: median {median:.2f}, "
                f"95 % below {most:.2f}"
            )


def _show_paper(by_name: report.RowsByName, names: dict[str, str], shown: tuple[str, ...]) -> None:
    """The paper's figures of the same, where it has any."""
    lines = []
    for name, title in names.items():
        if f"diverged[{name}]" in by_name:
            continue
        values = [by_name[f"{figure}[{name}]"]["paper"] for figure in shown]
        if any(value is not None for value in values):
            cells = ["–" if value is None else f"{value:.2f}" for value in values]
            lines.append(f"{title} {', '.join(cells)}")
    if lines:
        what = ", ".join(HEADINGS.get(name, "accuracy %") for name in shown)
        print(f"The paper, {what}:")
        for line in lines:
            print(f"  {line}")
