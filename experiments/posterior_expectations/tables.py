"""The study's figures of merit: likelihoods, entropies, detection and ranking, costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import report
from experiments.posterior_expectations.settings import Chain, Settings
from experiments.report import Row, mean_row
from kd import metrics
from kd.metrics import Uncertainties

if TYPE_CHECKING:
    from experiments.posterior_expectations.study import Judged

TEACHER, TEST = "teacher", "test"
KINDS = ("total", "knowledge")
TOP, DRAW_SIZE = 20, 100  # Of the ranking, as in the paper.
# Of the paper's tables 2 to 4: MNIST, masked, largest students, current sample.


def rows(
    settings: Settings, found: dict[Chain, dict[str, "Judged"]], labels: np.ndarray
) -> list[Row]:
    """Means over repeats, with the standard error where there are several."""
    groups: dict[str, list[dict[str, dict[str, float]]]] = {}
    for chain, judged in found.items():
        groups.setdefault(name_of(chain), []).append(
            {name: figures_of(judged, name, labels, settings.seed) for name in judged}
        )
    made = []
    for group, repeats in groups.items():
        for name in repeats[0]:
            for figure in repeats[0][name]:
                values = np.array([one[name][figure] for one in repeats])
                made.append(mean_row(f"{figure}[{group},{name}]", values, unit_of(figure)))
    return made


def name_of(chain: Chain) -> str:
    """Of a kind of chain."""
    return f"{chain.mask_rate:g},{chain.train_size}"


def figures_of(
    judged: dict[str, "Judged"], name: str, labels: np.ndarray, seed: int
) -> dict[str, float]:
    """All figures of one teacher or student, by name."""
    one, teacher, found = judged[name], judged[TEACHER], {}
    if one.log_probs is not None:
        found["nll"] = -float(np.mean(metrics.label_log_prob(one.log_probs, labels)))
        found["accuracy"] = 100 * float(np.mean(metrics.correct(one.log_probs, labels)))
        found["ece"] = metrics.expected_calibration_error(one.log_probs, labels)
        found["brier"] = float(np.mean(metrics.brier_score(one.log_probs, labels)))
    if one.entropy is not None:
        found["entropy_mae"] = float(np.mean(np.abs(one.entropy - teacher.entropy)))
    for place, own in one.uncertainties.items():
        if place != TEST:
            found |= detection_of(one.uncertainties[TEST], own, place)
    if one.uncertainties:
        found |= ranking_of(one.uncertainties[TEST], teacher.uncertainties[TEST], seed)
        if one.log_probs is not None:
            wrong = 1 - metrics.correct(one.log_probs, labels)
            _, risks = metrics.risk_coverage(wrong, one.uncertainties[TEST].total)
            found["risk_area"] = float(np.mean(risks))
    return found


def detection_of(own: Uncertainties, other: Uncertainties, place: str) -> dict[str, float]:
    """Of inputs out of distribution, by total and by knowledge uncertainty."""
    found = {}
    for kind in KINDS:
        each = metrics.detection(getattr(own, kind), getattr(other, kind))
        found |= {f"{what}.{place}.{kind}": value for what, value in each._asdict().items()}
    return found


def ranking_of(own: Uncertainties, teacher: Uncertainties, seed: int) -> dict[str, float]:
    """NDCG of the order by uncertainty, gains the teacher's, and of a random order."""
    found = {}
    for kind in KINDS:
        gains = np.maximum(getattr(teacher, kind), 0.0)
        each = metrics.ranking(
            *(gains, getattr(own, kind)),
            top=TOP,
            draw_size=min(DRAW_SIZE, len(gains)),
            seed=seed,
        )
        found[f"ndcg.{kind}"] = float(np.mean(each.ndcg))
        found[f"ndcg_random.{kind}"] = float(np.mean(each.random))
    return found


def unit_of(figure: str) -> str:
    """Of a row."""
    what = figure.split(".")[0]
    return {"nll": "nats", "entropy_mae": "nats", "accuracy": "%"}.get(what, "")


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables at the end of a run."""
    by_name = report.RowsByName(summary, workdir)
    names = [TEACHER, *(student.name for student in settings.students())]
    groups = list(dict.fromkeys(name_of(chain) for chain in settings.chains()))

    def cell(figure: str, group: str, name: str, digits: int) -> str:
        return report.pm(by_name.get(f"{figure}[{group},{name}]"), digits)

    for group in groups:
        rate, size = group.split(",")
        title = f"mask {rate}, {'all' if size == '0' else size} examples"
        figures = [("nll", 4), ("accuracy", 2), ("ece", 4), ("entropy_mae", 4)]
        lines = [[name, *(cell(f, group, name, d) for f, d in figures)] for name in names]
        report.print_table(title, ["", "NLL", "accuracy %", "ECE", "MAE of E H"], lines)
        judged = [name for name in names if f"ndcg.total[{group},{name}]" in by_name]
        for place in settings.outside if judged else ():
            figures = [
                (f"{what}.{place}.{kind}", 3) for what in ("auroc", "fpr95") for kind in KINDS
            ]
            lines = [[name, *(cell(f, group, name, d) for f, d in figures)] for name in judged]
            header = ["", "AUROC, total", "knowledge", "FPR95, total", "knowledge"]
            report.print_table(f"telling {place} from the test", header, lines)
        figures = [(f"{what}.{kind}", 3) for kind in KINDS for what in ("ndcg", "ndcg_random")]
        lines = [[name, *(cell(f, group, name, d) for f, d in figures)] for name in judged[1:]]
        if lines:
            header = ["", "total", "random", "knowledge", "random"]
            report.print_table(f"nDCG@{TOP} of {DRAW_SIZE} test inputs", header, lines)
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} chains.", end=" ")
    print(f"{summary['seconds']:.0f} s. Look at {workdir / 'figures'}; the students are in")
    print(workdir / "student")
