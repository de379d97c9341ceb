"""The study's figures of merit: likelihoods, entropies, detection and ranking, costs."""

from collections.abc import Iterable
from functools import partial

import jax.numpy as jnp
import numpy as np

from experiments import costs
from experiments.posterior_expectations import inputs, toy
from experiments.posterior_expectations.judging import TEST, Judged, Learned
from experiments.posterior_expectations.settings import PAIR, TEACHER, Chain, Settings, Student
from experiments.report import Row, mean_row
from kd import metrics, models
from kd.data import Dataset
from kd.metrics import Uncertainties

TIMED_INPUTS, TIMED_ROUNDS = 100, 30
KINDS = ("total", "knowledge")
COSTS = ("parameters", "flops", "latency")
PLAIN = "plain"  # A student without what the others have.
TOP, DRAW_SIZE, DRAWS = 20, 100, 500  # Of the ranking, as in the paper.
_WRITTEN = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "notmnist": "notMNIST",
    "permuted": "permuted images",
    "inverted": "inverted images",
}


def rows(
    settings: Settings, found: dict[Chain, dict[str, Judged]], labels: np.ndarray
) -> list[Row]:
    """Means with standard errors, over repeats and, where it has a sense, test inputs."""
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
    """Hidden units, parameters, arithmetic and measured time of each student's prediction."""
    x = jnp.asarray(np.resize(x, (TIMED_INPUTS, *x.shape[1:])))
    every = [one for learned in found.values() for one in learned.values()]
    compiled = [costs.compile_batch(one.model.apply, one.params, x) for one in every]
    latencies = costs.milliseconds(
        [partial(call, one.params, x) for call, one in zip(compiled, every, strict=True)],
        rounds=TIMED_ROUNDS,
    )
    figures = iter(
        {
            "units": float(sum(map(len, models.group_norms(one.params).values()))),
            "parameters": float(costs.num_parameters(one.params)),
            "flops": costs.flops(one.model.apply, one.params, x[0]),
            "latency": latency,
        }
        for one, latency in zip(every, latencies, strict=True)
    )
    return _over_repeats(
        [(chain, {name: next(figures) for name in learned}) for chain, learned in found.items()]
    )


def data_rows(dataset: Dataset) -> list[Row]:
    """How many examples there are in all."""
    sizes = (("train", dataset.train_y), ("test", dataset.test_y))
    return [Row(f"data.{part}_examples", len(y), None, 1, "") for part, y in sizes]


def mask_rows(settings: Settings, images: np.ndarray) -> list[Row]:
    """The share of an image that each kind of chain's square really covers."""
    groups = {name_of(chain): chain.mask_rate for chain in settings.chains()}
    return [
        Row(f"masked[{group}]", inputs.share_of(rate, images), None, 1, "of an image")
        for group, rate in groups.items()
    ]


def _over_repeats(
    found: Iterable[tuple[Chain, dict[str, dict[str, float | np.ndarray]]]],
) -> list[Row]:
    """Means over repeats, and over test inputs of a figure that is an array of theirs.

    Of a student pruned to nothing in some repeats, over the others.
    """
    values: dict[tuple[str, str, str], list[float | np.ndarray]] = {}
    for chain, figures in found:
        for name, of_name in figures.items():
            for figure, value in of_name.items():
                values.setdefault((figure, name_of(chain), name), []).append(value)
    made = []
    for (figure, group, name), each in values.items():
        row_name, unit = f"{figure}[{group},{name}]", unit_of(figure)
        if np.ndim(each[0]) and len(each[0]) > 1:
            made.append(Row(row_name, *metrics.estimate(np.array(each)), unit))
        else:
            made.append(mean_row(row_name, np.array([np.mean(one) for one in each]), unit))
    return made


def has_costs(settings: Settings) -> bool:
    """Whether there are students of several sizes whose likelihoods mean something."""
    sizes = {
        (student.widths, student.hidden, student.strength)
        for student in settings.students()
        if student.kind != "entropy"
    }
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


def place_of(name: str) -> str:
    """What is out of distribution, as it is written."""
    return _WRITTEN.get(name, name)


def title_of(chain: Chain, share: float) -> str:
    """A kind of chain in words; `share` of an image is masked."""
    masks = f"{100 * share:.3g} % of each image masked" if share else "no masks"
    return f"{masks}, {f'{chain.train_size:,}' if chain.train_size else 'all'} examples"


def hidden_of(settings: Settings, student: Student) -> str:
    """Its own hidden sizes, of the toy between its inputs and outputs; "" without."""
    if student.hidden and settings.dataset == toy.NAME:
        return f"2-{student.hidden}-2"
    return student.hidden


def labels(settings: Settings) -> dict[str, str]:
    """Students, and pairs of them, by what they differ in."""
    parts = {
        student.name: (
            student.kind.replace("dirichlet", "Dirichlet"),
            student.estimator,
            hidden_of(settings, student)
            or f"{student.channel_multiplier:g}x{student.unit_multiplier:g}",
            f"lambda {student.strength:g}" if student.strength else "",
            f"dropout {student.dropout:g}" if student.dropout else "",
        )
        for student in [*settings.students(), *settings.pairs()]
    }
    differ = [len(set(column)) > 1 for column in zip(*parts.values(), strict=True)]
    if not any(differ):
        return {name: " ".join(filter(None, part)) for name, part in parts.items()}
    return {
        name: " ".join(text for text, is_own in zip(part, differ, strict=True) if is_own and text)
        or PLAIN
        for name, part in parts.items()
    }


def figures_of(
    judged: dict[str, Judged],
    name: str,
    labels: np.ndarray,
    seed: int,
    expected: np.ndarray | None = None,
) -> dict[str, float | np.ndarray]:
    """All figures of one teacher or student, by name; an array is of the test inputs.

    `expected` is the reference's answer.
    """
    one, teacher, found = judged[name], judged[TEACHER], {}
    is_pair = name.startswith(f"{PAIR},")  # Whose parts have rows of their own.
    if one.log_probs is not None and not is_pair:
        found["nll"] = -metrics.label_log_prob(one.log_probs, labels)
        found["accuracy"] = 100 * metrics.correct(one.log_probs, labels)
        found["ece"] = metrics.expected_calibration_error(one.log_probs, labels)
        if expected is not None:
            found["kl"] = toy.kl_divergence(expected, one.log_probs)
        found["brier"] = metrics.brier_score(one.log_probs, labels)
    if one.entropy is not None and name != TEACHER and not is_pair:  # Of a teacher it is 0.
        found["entropy_mae"] = np.abs(one.entropy - teacher.entropy)
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
    """NDCG of the order by uncertainty, gains the teacher's, and of a random order; over draws."""
    found = {}
    for kind in KINDS:
        gains = np.maximum(getattr(teacher, kind), 0.0)
        each = metrics.ranking(
            *(gains, getattr(own, kind)),
            top=min(TOP, len(gains)),
            draw_size=min(DRAW_SIZE, len(gains)),
            num_draws=DRAWS,
            seed=seed,
        )
        found[f"ndcg.{kind}"] = float(np.mean(each.ndcg))
        found[f"ndcg_std.{kind}"] = float(np.std(each.ndcg))
        found[f"ndcg_random.{kind}"] = float(np.mean(each.random))
    return found


def unit_of(figure: str) -> str:
    """Of a row."""
    what = figure.split(".")[0]
    units = {"nll": "nats", "kl": "nats", "entropy_mae": "nats", "accuracy": "%"}
    units |= {"flops": "an input", "latency": f"ms, {TIMED_INPUTS} inputs"}
    return units.get(what, "")
