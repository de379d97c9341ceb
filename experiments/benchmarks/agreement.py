"""Losses of answers and of features beside torchdistill's, values and gradients.

Both in double precision on the same tensors, through a file. Each of theirs is brought to ours by
a factor and a constant, that follow from the two definitions and from shapes alone:

- Soft targets: theirs has the factor T² only where it is given labels, and none without. Ours, so
  as to keep its digits where both agree, has a Taylor series where their logarithms differ by
  d < 1/2: in double precision its remainder, d^11 / 11! in a slope of exp(d) - 1, is what differs.
- Hints and logits: theirs is the mean over entries, ours half the sum over those of one input.
- Probabilistic knowledge transfer: theirs is the mean over the N² pairs of inputs, ours over the N
  inputs. With its constant, 1e-7, at 0 it is the same function. As it comes, that is added to
  lengths and, in logarithms, to shares, which are about 1 / N: a relative N 1e-7. Of inputs that
  are opposite to the student the similarity is 0, and logarithms are kept finite in two
  ways: ours takes 1e-7 for it; to theirs the lengths l leave 1e-7 / l, divided by the row's sum S,
  and the share gets 1e-7 more. So they differ by the teacher's share times log(S + 1 / l).
- Variational information: theirs is the mean over entries, without log(2 pi) / 2 for each.
- Attention: theirs is the mean over positions (its mode "paper" has no square).
- Kernels: theirs, of correlations, is a distance, of plain products. Ours is its square over N²,
  of products divided by the layer's width.
- Flows: theirs adds up norms of columns; ours is the mean of the squares under their roots.

`python -m experiments.benchmarks.agreement FILE.npz` stores the small cases and torchdistill's
answers.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.cases import Tensors, draw, load, named
from experiments.benchmarks.expectations import TORCH_PYTHON
from kd import losses
from kd.losses import features
from kd.types import Array

SCRIPT = Path(__file__).with_name("torch_features.py")
REMAINDER = 0.5**11 / math.factorial(11) / math.expm1(0.5)  # 2e-11, of soft targets' series.
PROBE = "import torchdistill.losses.mid_level"


class Comparison(NamedTuple):
    """A loss of ours, and one of torchdistill's.

    Attributes:
      ours: the mean over a batch's inputs, or the batch's loss, of its tensors.
      kind: of tensors.
      theirs: its name in `torch_features.py`.
      factor, constant: of tensors: ours is the factor times theirs and the constant.
      note: the two in words.
      bar: of the relative difference; infinite where the definitions differ.
    """

    ours: Callable[[dict[str, Array]], Array]
    kind: str
    theirs: str
    factor: Callable[[Tensors], float]
    note: str
    constant: Callable[[Tensors], float] = lambda x: 0.0
    bar: float = 1e-12


class Difference(NamedTuple):
    """One row: the largest relative differences over cases.

    Attributes:
      name: of the comparison.
      value, slope: of values, and of gradients, by each one's largest entry.
      bar: what neither must exceed.
      note: theirs and ours in words.
    """

    name: str
    value: float
    slope: float
    bar: float
    note: str

    @property
    def verdict(self) -> str:
        """Whether it is met; nothing without a bar."""
        if math.isinf(self.bar):
            return ""
        is_met = self.value <= self.bar and self.slope <= self.bar  # NaN is not.
        return "ok" if is_met else "MISSED"

    def __str__(self) -> str:
        bar = "" if math.isinf(self.bar) else f"<= {self.bar:.0e}"
        title = f"{self.name}: value, gradient"
        return (
            f"{title:<56} {self.value:.1e}, {self.slope:.1e} {bar:<8} {self.verdict:<7} {self.note}"
        )


def _mean(loss_fn: Callable[..., Array], *names: str) -> Callable[[dict[str, Array]], Array]:
    """Over a batch, of a loss of one input."""
    return lambda x: jnp.mean(jax.vmap(loss_fn)(*(x[name] for name in names)))


def _soft_target(x: dict[str, Array]) -> Array:
    loss_fn = partial(losses.soft_target, temperature=float(x["temperature"]))
    return _mean(loss_fn, "student", "teacher")(x)


def _soft_target_with_label(x: dict[str, Array]) -> Array:
    settings = {name: float(x[name]) for name in ("temperature", "label_weight")}
    loss_fn = partial(losses.soft_target_with_label, **settings)
    return _mean(loss_fn, "student", "teacher", "label")(x)


def _knowledge_transfer(x: dict[str, Array]) -> Array:
    return features.probabilistic_knowledge_transfer(x["student"], x["teacher"])


def _variational_information(x: dict[str, Array]) -> Array:
    loss_fn = jax.vmap(features.variational_information, in_axes=(0, 0, None))
    return jnp.mean(loss_fn(x["student"], x["teacher"], x["student_raw_variance"]))


def _gram_square_error(x: dict[str, Array]) -> Array:
    """Of features times the root of their width, by which our kernel divides their products."""
    student, teacher = (x[name] * x[name].shape[1] ** 0.5 for name in ("student", "teacher"))
    return features.gram_square_error(student, teacher)


def _flow_square_error(x: dict[str, Array]) -> Array:
    def loss_fn(*layers: Array) -> Array:
        states = [layer.reshape(-1, layer.shape[-1]) for layer in layers]
        there = jnp.ones(len(states[0]), bool)
        return features.flow_square_error(tuple(states[:2]), tuple(states[2:]), there)

    names = ("student_first", "student_second", "teacher_first", "teacher_second")
    return _mean(loss_fn, *names)(x)


def _size(x: Tensors) -> int:
    """Entries of one input."""
    return x["student"][0].size


def _entries(first: Array, second: Array) -> int:
    """Of all inputs' flows."""
    return len(first) * first.shape[-1] * second.shape[-1]


COMPARISONS = {
    "soft targets": Comparison(
        _soft_target,
        "logits",
        "soft_target",
        lambda x: float(x["temperature"]) ** 2,
        "T² KDLoss without labels",
        bar=REMAINDER,
    ),
    "soft targets and labels": Comparison(
        _soft_target_with_label,
        "logits",
        "soft_target_with_label",
        lambda x: 1.0,
        "KDLoss with labels",
        bar=REMAINDER,
    ),
    "logits": Comparison(
        _mean(losses.logit_square_error, "student", "teacher"),
        "logits",
        "square_error",
        lambda x: _size(x) / 2,
        "C / 2 times MSELoss",
    ),
    "hint": Comparison(
        _mean(features.hint, "student", "teacher"),
        "regressed",
        "square_error",
        lambda x: _size(x) / 2,
        "D / 2 times MSELoss",
    ),
    "knowledge transfer, eps = 0": Comparison(
        _knowledge_transfer,
        "features",
        "knowledge_transfer_without_eps",
        lambda x: len(x["student"]),
        "N PKTLoss(eps=0): its mean is over pairs",
    ),
    "knowledge transfer, eps = 1e-7": Comparison(
        _knowledge_transfer,
        "features",
        "knowledge_transfer",
        lambda x: len(x["student"]),
        "N PKTLoss: what its constant does",
        bar=math.inf,
    ),
    "knowledge transfer, opposite inputs": Comparison(
        _knowledge_transfer,
        "opposites",
        "knowledge_transfer",
        lambda x: len(x["student"]),
        "N PKTLoss: similarities of 0",
        bar=math.inf,
    ),
    "variational information": Comparison(
        _variational_information,
        "regressed",
        "variational_information",
        _size,
        "D (VIDLoss + log(2 pi) / 2), D entries of an input",
        constant=lambda x: _size(x) * math.log(2 * math.pi) / 2,
    ),
    "attention": Comparison(
        _mean(features.attention_transfer, "student", "teacher"),
        "maps",
        "attention",
        lambda x: math.prod(x["student"].shape[1:-1]),
        "positions times ATLoss",
    ),
    "kernels": Comparison(
        _gram_square_error,
        "features",
        "correlations",
        lambda x: len(x["student"]) ** -2,
        "CCKDLoss² / N²",
    ),
    "flow": Comparison(
        _flow_square_error,
        "flows",
        "flows",
        lambda x: 1 / _entries(x["student_first"], x["student_second"]),
        "FSPLoss of a column², mean over inputs and entries",
    ),
}


def torchdistill_python() -> str | None:
    """An interpreter that has torchdistill; without one says so in a line, and gives None."""
    python = os.environ.get(TORCH_PYTHON)
    if python is None and util.find_spec("torchdistill") is None:
        print(
            f"no torchdistill: install the extra 'bench', or set {TORCH_PYTHON} to a python with it"
        )
        return None
    python = python or sys.executable
    try:
        subprocess.run([python, "-c", PROBE], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        print(f"no torchdistill in {python} ({why}): there, pip install --no-deps torchdistill")
        return None
    return python


def answer(python: str, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Writes tensors, named `kind/case/tensor`, and torchdistill's answers."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "tensors.npz"
        np.savez(asked, **tensors)
        subprocess.run([python, str(SCRIPT), str(asked), str(path)], check=True)


def compare(name: str, cases: dict[str, Tensors]) -> Difference:
    """One comparison over all cases of its kind."""
    comparison = COMPARISONS[name]
    of_kind = [x for case, x in cases.items() if case.split("/")[0] == comparison.kind]
    with jax.enable_x64(True):
        off = [_differences(comparison, found) for found in of_kind]
    value, slope = np.max(off, axis=0)
    return Difference(name, value, slope, comparison.bar, comparison.note)


def _differences(comparison: Comparison, found: Tensors) -> tuple[float, float]:
    """Of the value, and of the slopes in all of the student's tensors, in one case."""
    tensors = {name: jnp.asarray(x) for name, x in found.items() if "/" not in name}
    start = f"{comparison.theirs}/slope/"
    theirs = {name.removeprefix(start): x for name, x in found.items() if name.startswith(start)}
    own = {name: tensors[name] for name in theirs}
    both = jax.jit(jax.value_and_grad(lambda own: comparison.ours(tensors | own)))
    value, slopes = both(own)
    factor = comparison.factor(tensors)
    expected = factor * found[f"{comparison.theirs}/value"] + comparison.constant(tensors)
    slope = np.max([_relative(slopes[name], factor * theirs[name]) for name in theirs])
    return _relative(value, expected), float(slope)


def _relative(ours: Array, theirs: np.ndarray) -> float:
    """The largest difference by the largest entry."""
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))


def agreement() -> list[Difference]:
    """Every comparison; nothing without torchdistill."""
    python = torchdistill_python()
    if python is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.npz"
        answer(python, named(draw()), path)
        cases = load(path)
    return [compare(name, cases) for name in COMPARISONS]


def main() -> int:
    """Stores the small cases and torchdistill's answers."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.agreement")
    parser.add_argument("path", type=Path, metavar="FILE.npz")
    path = parser.parse_args().path
    python = torchdistill_python()
    if python is None:
        return 1
    answer(python, named(draw(with_large=False)), path)
    return 0


BENCHMARKS = {"agreement": agreement}

if __name__ == "__main__":
    sys.exit(main())
