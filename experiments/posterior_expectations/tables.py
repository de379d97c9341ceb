"""The study's figures of merit: likelihoods, entropies, detection and ranking, costs."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from experiments import costs
from experiments.posterior_expectations import toy
from experiments.posterior_expectations.judging import TEST, Judged, Learned
from experiments.posterior_expectations.settings import TEACHER, Chain, Settings
from experiments.report import Row, mean_row
from kd import metrics
from kd.metrics import Uncertainties

TIMED_INPUTS, TIMED_ROUNDS = 100, 30
KINDS = ("total", "knowledge")
COSTS = ("parameters", "flops", "latency")
TOP, DRAW_SIZE = 20, 100  # Of the ranking, as in the paper.


def rows(
    settings: Settings, found: dict[Chain, dict[str, Judged]], labels: np.ndarray
) -> list[Row]:
    """Means over repeats, with the standard error where there are several."""
    expected, extra = None, []
    if settings.dataset == toy.NAME:
        expected, r_hat = toy.reference(settings)
        alone = toy.kl_divergence(expected, toy.plug_in(settings))
        extra = [
            Row("reference.r_hat", r_hat, None, 1, ""),
            Row(f"kl[{toy.PLUG_IN}]", alone, None, 1, "nats"),
        ]
    options = (labels, settings.seed, expected)
    return extra + _over_repeats(
        (chain, {name: figures_of(judged, name, *options) for name in judged})
        for chain, judged in found.items()
    )


def cost_rows(found: dict[Chain, dict[str, Learned]], x: np.ndarray) -> list[Row]:
    """Parameters, arithmetic and measured time of each student's prediction."""
    x = jnp.asarray(np.resize(x, (TIMED_INPUTS, *x.shape[1:])))

    def of(learned: Learned) -> dict[str, float]:
        compiled = costs.compile_batch(learned.model.apply, learned.params, x)
        return {
            "parameters": float(costs.num_parameters(learned.params)),
            "flops": costs.flops(compiled, TIMED_INPUTS),
            "latency": costs.milliseconds(lambda: compiled(learned.params, x), rounds=TIMED_ROUNDS),
        }

    return _over_repeats(
        (chain, {name: of(one) for name, one in learned.items()})
        for chain, learned in found.items()
    )


def _over_repeats(found: Iterable[tuple[Chain, dict[str, dict[str, float]]]]) -> list[Row]:
    """Means over repeats; of a student pruned to nothing in some, over the others."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for chain, figures in found:
        for name, of_name in figures.items():
            for figure, value in of_name.items():
                values.setdefault((figure, name_of(chain), name), []).append(value)
    return [
        mean_row(f"{figure}[{group},{name}]", np.array(each), unit_of(figure))
        for (figure, group, name), each in values.items()
    ]


def has_costs(settings: Settings) -> bool:
    """Whether there are students of several sizes whose likelihoods mean something."""
    sizes = {student[2:] for student in settings.students()}
    return len(sizes) > 1 and settings.dataset != toy.NAME


def frontier(cost: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Numbers of those that none beats in both, by cost; of equal ones the first."""
    order = np.lexsort((loss, cost))
    best = np.minimum.accumulate(loss[order])
    is_new = np.concatenate([[True], best[1:] < best[:-1]])
    return order[is_new]


def name_of(chain: Chain) -> str:
    """Of a kind of chain."""
    return f"{chain.mask_rate:g},{chain.train_size}"


def figures_of(
    judged: dict[str, Judged],
    name: str,
    labels: np.ndarray,
    seed: int,
    expected: np.ndarray | None = None,
) -> dict[str, float]:
    """All figures of one teacher or student, by name; `expected` is the reference's answer."""
    one, teacher, found = judged[name], judged[TEACHER], {}
    if one.log_probs is not None:
        found["nll"] = -float(np.mean(metrics.label_log_prob(one.log_probs, labels)))
        found["accuracy"] = 100 * float(np.mean(metrics.correct(one.log_probs, labels)))
        found["ece"] = metrics.expected_calibration_error(one.log_probs, labels)
        if expected is not None:
            found["kl"] = toy.kl_divergence(expected, one.log_probs)
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
    units = {"nll": "nats", "kl": "nats", "entropy_mae": "nats", "accuracy": "%"}
    units |= {"flops": "an input", "latency": f"ms, {TIMED_INPUTS} inputs"}
    return units.get(what, "")
