"""The study's figures of merit, beside the thesis's (tables 4.1-4.5)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import report
from experiments.report import Row
from kd import metrics

if TYPE_CHECKING:
    from experiments.rbm_to_nade.estimates import Found
    from experiments.rbm_to_nade.study import Teacher

# By (loss, hidden units): mean test log-probability, and log Z by the upper bound, the lower
# bound, importance sampling and the bridge. Tables 4.1-4.5.
THESIS = {
    ("kl", 250): (-94.75, 459.01, 442.80, 450.86, 451.27),
    ("se", 250): (-94.62, 459.71, 439.21, 450.81, 451.24),
    ("kl", 500): (-93.19, 458.20, 442.98, 450.96, 451.28),
    ("se", 500): (-93.83, 458.87, 440.85, 450.96, 451.30),
    ("kl", 750): (-92.93, 457.66, 443.41, 450.79, 451.22),
    ("se", 750): (-93.61, 458.72, 439.19, 450.95, 451.21),
    ("kl", 1000): (-92.49, 457.70, 443.74, 450.79, 451.24),
    ("se", 1000): (-93.01, 458.52, 438.11, 451.51, 451.36),
}
ESTIMATORS = ("upper", "lower", "importance", "bridge")
THESIS_AIS = 451.28
THESIS_RULE = "bridge_thesis_rule"  # The bridge, with the interval by the thesis's rule.
ENDS = {"low", "high", "effective"}
FEWEST_EFFECTIVE = 1  # Per cent of the samples.
# Of the thesis's RBM: the log-potential of the blank image, by which it is known.
THESIS_BLANK = 436.4938


def rows(
    teacher: "Teacher",
    offset: float | None,
    found: "Found",
    covered: tuple[dict[str, float], int],
    log_probs: dict[tuple[str, int], np.ndarray],
    potentials: np.ndarray,
    *,
    published: float | None = None,
) -> list[Row]:
    """All final figures of a run.

    Args:
      teacher: the RBM.
      offset: c of the square error, if any.
      found: estimates of log Z by name.
      covered: share of the intervals that hold the exact one, by name, and of how many.
      log_probs: of each NADE at the test images, `[N]`.
      potentials: of the RBM at them, `[N]`.
      published: a log Z of others, by which the RBM is to be normalised as well; without error.
    """
    is_thesis = _is_thesis(teacher)
    made = []
    if offset is not None:
        made.append(Row("offset", offset, None, 1, "nats", 436.49 if is_thesis else None))
    for name, estimate in found.items():
        paper = _thesis_log_z(name) if is_thesis else None
        made += _estimate_rows(name, estimate, paper)
    shares, num_repeats = covered
    for name, share in shares.items():
        stderr = 100 * (share * (1 - share) / num_repeats) ** 0.5
        made.append(Row(f"coverage.{name}", 100 * share, stderr, num_repeats, "%"))
    made.append(_rbm_row("rbm.log_prob", potentials, *_best(found)))
    if published is not None:
        made.append(_rbm_row("rbm.log_prob[reference]", potentials, published, 0.0))
    for condition, values in log_probs.items():
        paper = THESIS.get(condition, (None,))[0] if is_thesis else None
        name = f"nade.log_prob[{condition[0]},{condition[1]}]"
        made.append(report.row(name, metrics.estimate(values[None]), "nats", paper=paper))
    return made


def _estimate_rows(name: str, estimate: dict[str, float], paper: float | None) -> list[Row]:
    """An estimate of log Z, the ends of its interval and what its samples are worth."""
    value, ends = estimate["value"], (estimate["low"], estimate["high"])
    made = [Row(f"log_z.{name}", value, estimate["stderr"], 1, "nats", paper)]
    made += _end_rows(name, *ends)
    share = _effective_share(name, estimate)
    if share is not None:
        made.append(Row(f"log_z.{_within(name, 'effective')}", 100 * share, None, 1, "%"))
    if name.startswith("bridge"):
        # Its ends lie unevenly about the value: half its width is three standard errors.
        ends = estimate["thesis_low"], estimate["thesis_high"]
        stderr = (ends[1] - ends[0]) / 6 if np.isfinite(ends).all() else None
        name = name.replace("bridge", THESIS_RULE)
        made += [Row(f"log_z.{name}", value, stderr, 1, "nats"), *_end_rows(name, *ends)]
    return made


def _end_rows(name: str, low: float, high: float) -> list[Row]:
    """JSON has no infinity: such an end has no row."""
    return [
        Row(f"log_z.{_within(name, end)}", value, None, 1, "nats")
        for end, value in (("low", low), ("high", high))
        if np.isfinite(value)
    ]


def _rbm_row(name: str, potentials: np.ndarray, log_z: float, stderr: float) -> Row:
    """Its mean test log-probability; the error of log Z adds to that of the mean."""
    test = metrics.estimate((potentials - log_z)[None])
    return report.row(name, test._replace(stderr=float(np.hypot(test.stderr, stderr))), "nats")


def _effective_share(name: str, estimate: dict[str, float]) -> float | None:
    """Of the samples of an estimate that weighs them, in (0, 1]; of the bridge's poorer side."""
    if name.startswith("bridge"):
        sides = [("effective_proposal", "num_proposal"), ("effective_target", "num_target")]
    elif name.startswith(("ais", "importance")):
        sides = [("effective_samples", "num_samples")]
    else:
        return None
    return min(estimate[effective] / estimate[num] for effective, num in sides)


def reference(found: "Found") -> float:
    """The log Z that others are compared with: the exact one, or annealed importance sampling's."""
    return _best(found)[0]


def _best(found: "Found") -> tuple[float, float]:
    """That log Z and its standard error, 0 where it is exact."""
    estimate = found.get("exact", found["ais"])
    return estimate["value"], estimate["stderr"]


def _within(name: str, end: str) -> str:
    head, bracket, rest = name.partition("[")
    return f"{head}.{end}{bracket}{rest}"


def _is_thesis(teacher: "Teacher") -> bool:
    blank = float(np.sum(np.logaddexp(0, np.asarray(teacher.params["params"]["b"], np.float64))))
    return not teacher.is_trained_here and abs(blank - THESIS_BLANK) < 1e-3


def _thesis_log_z(name: str) -> float | None:
    if name == "ais":
        return THESIS_AIS
    for condition, (_, *figures) in THESIS.items():
        for estimator, figure in zip(ESTIMATORS, figures, strict=True):
            if name == f"{estimator}[{condition[0]},{condition[1]}]":
                return figure
    return None


def show(summary: dict[str, Any], workdir: Path) -> None:
    """Prints the table at the end of a run."""
    by_name = report.RowsByName(summary, workdir)
    names = [
        name.removeprefix("log_z.")
        for name in by_name
        if name.startswith("log_z.") and not ENDS & set(name.split("[")[0].split("."))
    ]
    best = by_name["log_z.exact" if "log_z.exact" in by_name else "log_z.ais"]["value"]
    num_repeats = max(
        (r["repeats"] for n, r in by_name.items() if n.startswith("coverage.")), default=0
    )
    has_paper = any(by_name[f"log_z.{name}"]["paper"] is not None for name in names)
    if not has_paper:  # Then there is nothing to hold the thesis's intervals against.
        names = [name for name in names if not name.startswith(THESIS_RULE)]
    lines = []
    for name in names:
        row = by_name[f"log_z.{name}"]
        low, high = (
            by_name.get(f"log_z.{_within(name, end)}", {"value": infinity})["value"]
            for end, infinity in (("low", -np.inf), ("high", np.inf))
        )
        share = by_name.get(f"log_z.{_within(name, 'effective')}")
        is_poor = share is not None and share["value"] < FEWEST_EFFECTIVE
        line = [
            title(name) + "*" * is_poor,
            f"{row['value']:.3f}",
            "–" if name == "exact" else f"({low:.3f}, {high:.3f})",
            f"{row['value'] - best:+.3f}",
        ]
        line += ["–" if row["paper"] is None else f"{row['paper']:.2f}"] * has_paper
        if num_repeats:
            share = by_name.get(f"coverage.{name}")
            line.append("–" if share is None else f"{share['value']:.0f} %")
        lines.append(line)
    header = ["log Z, nats", "estimate", "3 sigma", "gap"] + ["thesis"] * has_paper
    header += ["held"] * bool(num_repeats)
    report.print_table("the RBM's partition function", header, lines)
    whom = "the exact value" if "exact" in names else "AIS"
    print(f"AIS is annealed importance sampling. The gap is to {whom}.")
    if any(line[0].endswith("*") for line in lines):
        print(f"* Less than {FEWEST_EFFECTIVE} % of the samples carry the weight: the interval")
        print("  is not to be trusted.")
    if num_repeats:
        print(f"Held: of {num_repeats} intervals made afresh, those with the exact value inside,")
        print("  or, of a bound, on its side.")
    _show_log_probs(by_name)
    report.print_end(summary, workdir, "the NADEs")


def title(name: str) -> str:
    """An estimate's name in words; the thesis's rule stands below the bridge that it is for."""
    words = {
        "exact": "exact",
        "ais": "AIS",
        "ais_reverse": "reverse AIS",
        "upper": "upper bound",
        "lower": "lower bound",
        "importance": "importance",
        "bridge": "bridge",
    }
    head, _, rest = name.partition("[")
    if head == THESIS_RULE:
        return "  by thesis's rule"
    return words.get(head, head) + (f", {rest.removesuffix(']').replace(',', ' ')}" if rest else "")


def _show_log_probs(by_name: dict[str, Any]) -> None:
    lines = []
    for name, row in by_name.items():
        if name.startswith(("rbm.log_prob", "nade.log_prob")):
            is_rbm = name.startswith("rbm")
            gap = f"{row['value'] - by_name['rbm.log_prob']['value']:+.2f}"
            paper = "–" if row["paper"] is None else f"{row['paper']:.2f}"
            lines.append([_who(name), report.pm(row, 2), "–" if is_rbm else gap, paper])
    header = ["mean test log-probability", "nats", "gap", "thesis"]
    if all(line[-1] == "–" for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    report.print_table("teacher and students", header, lines)


def _who(name: str) -> str:
    """Whose log-probabilities a row has, in words."""
    if name.startswith("rbm"):
        return "the RBM, by --reference_log_z" if "[" in name else "the RBM (teacher)"
    return f"NADE, {name.partition('[')[2].removesuffix(']').replace(',', ' ')}"
