"""What teachers and students say of the test inputs, and of those out of distribution."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments import answers
from experiments.posterior_expectations import students
from experiments.posterior_expectations.settings import PAIR, Student
from kd import inference, metrics
from kd.metrics import Uncertainties
from kd.training import MonteCarloState
from kd.types import PyTree

TEST = "test"


class Learned(NamedTuple):
    """A student that has learned.

    Attributes:
      student: its kind.
      model: its network, smaller than that of its kind when it was pruned.
      params: of it.
    """

    student: Student
    model: nn.Module
    params: PyTree


class Judged(NamedTuple):
    """What a teacher or a student says of test inputs.

    Attributes:
      log_probs: `[N, C]`, nats; None of a student of the entropy alone.
      entropy: `[N]`, nats, the expected one; None of a student of the predictive alone.
      uncertainties: by place, "test" and the data sets out of distribution; empty without both.
    """

    log_probs: np.ndarray | None
    entropy: np.ndarray | None
    uncertainties: dict[str, Uncertainties]


def judge_teacher(means: MonteCarloState, places: dict[str, np.ndarray]) -> Judged:
    """The averages over a teacher's networks; nothing before the first."""
    if not int(means.num_samples):
        return Judged(None, None, {})
    parts = split(np.asarray(means.means["probs"], np.float64), places)
    entropies = split(np.asarray(means.means["entropy"], np.float64), places)
    return Judged(
        np.log(np.maximum(parts[TEST], 1e-30)),
        entropies[TEST],
        {name: metrics.uncertainties(parts[name], entropies[name]) for name in places},
    )


def judge_fitted(means: MonteCarloState, places: dict[str, np.ndarray]) -> Judged:
    """The Dirichlet distributions nearest to the teacher's answers, one at each input.

    The most that a Dirichlet student could learn.
    """
    concentrations = np.maximum(inference.fit_dirichlet(means.means["log_probs"]), 1e-300)
    parts = split(np.log(concentrations), places)
    own = {name: metrics.dirichlet_uncertainties(part) for name, part in parts.items()}
    return Judged(special.log_softmax(parts[TEST], axis=-1), own[TEST].data, own)


def judge_student(learned: Learned, places: dict[str, np.ndarray]) -> Judged:
    """A student's answers."""
    return _judged(learned.student, outputs_at(learned, places))


def judge_students(found: dict[str, Learned], places: dict[str, np.ndarray]) -> dict[str, Judged]:
    """Each student's answers, and those of two together that learned the expectations apart."""
    outputs = {name: outputs_at(one, places) for name, one in found.items()}
    judged = {name: _judged(one.student, outputs[name]) for name, one in found.items()}
    for name, one in found.items():
        alike = one.student._replace(kind="entropy")
        if one.student.kind == "predictive" and alike.name in found:
            pair = one.student._replace(kind=PAIR)
            judged[pair.name] = Judged(
                judged[name].log_probs,
                judged[alike.name].entropy,
                {
                    place: metrics.uncertainties(
                        np.exp(students.log_probs_of(one.student, outputs[name][place])),
                        students.entropy_of(alike, outputs[alike.name][place]),
                    )
                    for place in places
                },
            )
    return judged


def outputs_at(learned: Learned, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a network gives, `[N, outputs]`, by place."""
    x = np.concatenate(list(places.values()))
    outputs = answers.outputs_of(learned.model, learned.params, jnp.asarray(x))
    return split(np.asarray(outputs, np.float64), places)


def _judged(student: Student, outputs: dict[str, np.ndarray]) -> Judged:
    own = {name: students.uncertainties_of(student, part) for name, part in outputs.items()}
    return Judged(
        students.log_probs_of(student, outputs[TEST]),
        students.entropy_of(student, outputs[TEST]),
        {name: one for name, one in own.items() if one is not None},
    )


def split(values: np.ndarray, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of several places, one after another, by place."""
    ends = np.cumsum([len(x) for x in places.values()])[:-1]
    return dict(zip(places, np.split(values, ends), strict=True))


def scores(judged: dict[str, Judged], labels: np.ndarray) -> dict[str, float]:
    """Negative log-likelihoods, for metrics.csv, of those that say something of the classes."""
    return {
        f"{name}.nll": float(-np.mean(metrics.label_log_prob(one.log_probs, labels)))
        for name, one in judged.items()
        if one.log_probs is not None
    }
