"""The study's figures of merit, beside the thesis's (tables 2.1-2.5)."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import costs, report
from experiments.compress_ensemble.settings import Settings
from experiments.report import Row
from kd import metrics
from kd.data import Dataset
from kd.metrics import Estimate
from kd.types import PyTree

SPLITS = ("train", "test")
LATENCY_BATCHES = (1, 256)
NUM_TIMINGS = 30

# Tables 2.1-2.4: (accuracy in %, log-probability in nats, and the two differences to
# the network trained directly), by loss, generator and fraction. Table 2.5 and the text
# of section 2.2.1: (accuracy, log-probability).
THESIS_STUDENT = {
    ("ce", "dataset", 1.0): (97.46, -0.110, 0.32, 0.072),
    ("dse", "dataset", 1.0): (96.50, -0.184, -0.64, -0.002),
    ("ce", "dataset", 0.1): (94.63, -0.232, 0.20, 0.089),
    ("dse", "dataset", 0.1): (96.36, -0.198, 1.93, 0.124),
    ("ce", "nade", 1.0): (97.60, -0.083, 0.46, 0.099),
    ("dse", "nade", 1.0): (96.27, -0.177, -0.87, 0.005),
    ("ce", "nade", 0.1): (96.64, -0.113, 2.21, 0.209),
    ("dse", "nade", 0.1): (95.33, -0.209, 0.90, 0.112),
    ("ce", "noise", 1.0): (91.98, -0.323, -5.16, -0.141),
    ("dse", "noise", 1.0): (63.98, -1.328, -33.16, -1.146),
    ("ce", "noise", 0.1): (85.04, -0.507, -9.39, -0.185),
    ("dse", "noise", 0.1): (75.17, -0.662, -19.26, -0.341),
}
THESIS_DIRECT = {1.0: (97.14, -0.182), 0.1: (94.43, -0.321)}
THESIS_TEACHER = (98.67, -0.053)
# Settings that may differ from the paper preset's: they choose or repeat conditions, or
# act on losses that the thesis has not.
UNLIKE_THESIS = (
    "loss",
    "generator",
    "train_fraction",
    "grid",
    "num_repeats",
    "seed",
    "derivative_weight",
    "num_projections",
    "temperature",
    "label_weight",
    "swap_probability",
    "local_variance",
)


class Trained(NamedTuple):
    """A trained model, and what it says of the test set.

    Attributes:
      log_prob_fn: `(params, x) -> [C]`, one input.
      params: of the ensemble; or of R repeats, with a leading axis R.
      test_log_probs: `[R, N, C]`; R = 1 for the ensemble.
      is_independent: whether the repeats were trained on batches of their own.
    """

    log_prob_fn: Callable[[PyTree, jax.Array], jax.Array]
    params: PyTree
    test_log_probs: np.ndarray
    is_independent: bool = True


Students = dict[tuple[str, str, float], Trained]


def curve_figures(log_probs: jax.Array, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Test accuracy in % and mean log-probability in nats, over repeats: a training curve."""
    log_probs = np.asarray(log_probs)
    return {
        "accuracy": 100 * np.mean(metrics.correct(log_probs, labels)),
        "log_prob": np.mean(metrics.label_log_prob(log_probs, labels)),
    }


def rows(
    settings: Settings,
    dataset: Dataset,
    teacher: Trained,
    direct: dict[float, Trained],
    students: Students,
) -> list[Row]:
    """All final figures of a run."""
    is_thesis = _is_thesis(settings)
    labels, asked = dataset.test_y, teacher.test_log_probs[0]
    found = [
        Row(f"data.{part}_examples", len(y), None, 1, "")
        for part, y in zip(SPLITS, (dataset.train_y, dataset.test_y), strict=True)
    ]
    found += _figures("teacher", "", teacher, labels, None, THESIS_TEACHER if is_thesis else ())
    for fraction, baseline in direct.items():
        name = f"[{fraction:g}]" if len(direct) > 1 else ""
        paper = THESIS_DIRECT.get(fraction, ()) if is_thesis else ()
        found += _figures("direct", name, baseline, labels, asked, paper)
    for condition, student in students.items():
        loss, generator, fraction = condition
        name = f"[{loss},{generator},{fraction:g}]" if len(students) > 1 else ""
        paper = THESIS_STUDENT.get(condition, ()) if is_thesis else ()
        found += _figures("student", name, student, labels, asked, paper[:2])
        found += _differences(name, student, direct[fraction], labels, paper[2:])
    one = next(iter(students.values()))
    first = one._replace(params=jax.tree.map(lambda leaf: leaf[0], one.params))
    return found + _costs("teacher", teacher, dataset) + _costs("student", first, dataset)


def _is_thesis(settings: Settings) -> bool:
    """Whether all that decides a figure is as in the thesis, so that its own may stand beside."""
    return all(
        getattr(settings, field.name) == field.metadata["paper"]
        for field in dataclasses.fields(settings)
        if field.name not in UNLIKE_THESIS
    )


def _figures(who, name, model, labels, teacher_log_probs, paper) -> list[Row]:
    log_probs = model.test_log_probs
    estimate = functools.partial(metrics.estimate, is_independent=model.is_independent)
    accuracy, log_prob = (*paper, None, None)[:2]
    found = [
        report.row(
            f"{who}.accuracy{name}",
            estimate(metrics.correct(log_probs, labels)),
            "%",
            scale=100,
            paper=accuracy,
        ),
        report.row(
            f"{who}.log_prob{name}",
            estimate(metrics.label_log_prob(log_probs, labels)),
            "nats",
            paper=log_prob,
        ),
        report.row(f"{who}.brier{name}", estimate(metrics.brier_score(log_probs, labels)), ""),
        report.row(
            f"{who}.ece{name}",
            metrics.bootstrap_estimate(
                metrics.expected_calibration_error,
                log_probs,
                labels,
                is_independent=model.is_independent,
            ),
            "%",
            scale=100,
        ),
    ]
    if teacher_log_probs is not None:
        agreed = estimate(metrics.agreement(log_probs, teacher_log_probs))
        found.append(report.row(f"{who}.agreement{name}", agreed, "%", scale=100))
    return found


def _differences(name, student, baseline, labels, paper) -> list[Row]:
    """Student less direct, paired over test examples (tables 2.3 and 2.4)."""
    accuracy, log_prob = (*paper, None, None)[:2]

    def difference(metric) -> Estimate:
        values = [metric(model.test_log_probs, labels) for model in (student, baseline)]
        return metrics.estimate(values[0] - values[1], is_independent=student.is_independent)

    return [
        report.row(
            f"student_minus_direct.accuracy{name}",
            difference(metrics.correct),
            "points",
            scale=100,
            paper=accuracy,
        ),
        report.row(
            f"student_minus_direct.log_prob{name}",
            difference(metrics.label_log_prob),
            "nats",
            paper=log_prob,
        ),
    ]


def _costs(who: str, model: Trained, dataset: Dataset) -> list[Row]:
    """Parameters, arithmetic and measured time of a prediction."""
    found = [Row(f"{who}.parameters", costs.num_parameters(model.params), None, 1, "")]
    for batch_size in LATENCY_BATCHES:
        x = jnp.asarray(np.resize(dataset.test_x, (batch_size, *dataset.test_x.shape[1:])))
        compiled = costs.compile_batch(model.log_prob_fn, model.params, x)
        if batch_size == 1:
            flops = costs.flops(model.log_prob_fn, model.params, x[0])
            found.append(Row(f"{who}.flops", flops, None, 1, "per example"))
        (median,) = costs.milliseconds(
            [functools.partial(compiled, model.params, x)], rounds=NUM_TIMINGS
        )
        found.append(Row(f"{who}.latency[{batch_size}]", median, None, 1, "ms"))
    return found


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the table at the end of a run."""
    by_name = report.RowsByName(summary, workdir)
    conditions = settings.conditions()
    fractions = list(dict.fromkeys(fraction for _, _, fraction in conditions))

    def line(title: str, who: str, name: str) -> list[str]:
        get = {key: by_name[f"{who}.{key}{name}"] for key in ("accuracy", "log_prob", "ece")}
        gap = (
            None
            if who == "teacher"
            else f"{get['accuracy']['value'] - by_name['teacher.accuracy']['value']:+.2f}"
        )
        paper = get["accuracy"]["paper"]
        return [
            title,
            report.pm(get["accuracy"], 2),
            gap or "–",
            report.pm(get["log_prob"], 3),
            f"{get['ece']['value']:.1f}",
            "–" if paper is None else f"{paper:.2f}",
        ]

    lines = [line(f"teacher, {settings.num_members} nets", "teacher", "")]
    for fraction in fractions:
        name = f"[{fraction:g}]" if len(fractions) > 1 else ""
        lines.append(line(f"direct, {100 * fraction:g}%", "direct", name))
        for loss, generator, part in conditions:
            if part == fraction:
                name = f"[{loss},{generator},{part:g}]" if len(conditions) > 1 else ""
                is_shared = by_name[f"student.accuracy{name}"]["repeats"] < settings.num_repeats
                title = f"{loss}, {generator}, {100 * part:g}%{'*' * is_shared}"
                lines.append(line(title, "student", name))
    header = ["test set", "accuracy %", "gap", "log p, nats", "ECE %", "thesis %"]
    if all(line[-1] == "–" for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    num_train, num_test = (int(by_name[f"data.{part}_examples"]["value"]) for part in SPLITS)
    title = f"{settings.dataset}, {num_train:,} training and {num_test:,} test examples"
    report.print_table(title, header, lines)
    print("± is one standard error; the gap is to the teacher, in points.")
    if any(line[0].endswith("*") for line in lines):
        print(
            f"* The {settings.num_repeats} students of the row share one stream of the teacher's "
            "answers: they count\n  as one training, and ± holds their whole spread."
        )
    _show_costs(by_name)
    report.print_end(summary, workdir)


def _show_costs(by_name: dict[str, Any]) -> None:
    lines = []
    for key, name in (
        ("parameters", "parameters"),
        ("flops", "flops, per example"),
        ("latency[1]", "latency, ms"),
        ("latency[256]", "latency of a batch of 256, ms"),
    ):
        teacher, student = (by_name[f"{who}.{key}"]["value"] for who in ("teacher", "student"))
        form = ",.0f" if key in ("parameters", "flops") else ".2f"
        ratio = f"{teacher / student:,.0f} x" if student else "–"
        lines.append([name, f"{teacher:{form}}", f"{student:{form}}", ratio])
    report.print_table("what it costs", ("", "teacher", "student", "ratio"), lines)
