"""torchdistill's values and gradients on the same tensors: stored, and asked anew where it is.

`torchdistill.npz` holds the tensors and what torchdistill 1.1.5 says of them, with PyTorch 2.13, in
double precision. With `KD_TORCH_PYTHON` naming a Python that has both it was made by

    python -m experiments.benchmarks.agreement tests/losses/features/torchdistill.npz
"""

import copy
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import agreement, cases
from experiments.benchmarks.expectations import TORCH_PYTHON

STORED = Path(__file__).with_name("torchdistill.npz")
EPS = 1e-7
SAME = [name for name, one in agreement.COMPARISONS.items() if np.isfinite(one.bar)]
OTHER = {
    # The largest relative differences of values and slopes that the constant makes there.
    "knowledge transfer, eps = 1e-7": (3e-6, 6e-6),
    "knowledge transfer, opposite inputs": (0.09, 0.07),
}


@pytest.fixture(scope="module")
def stored():
    return cases.load(STORED)


def with_constant(student, teacher, eps):
    """Probabilistic knowledge transfer, with a constant added to lengths and to shares."""
    shares = []
    for h in (student, teacher):
        units = h / (np.linalg.norm(h, axis=1, keepdims=True) + eps)
        similarity = (units @ units.T + 1) / 2
        shares.append(similarity / similarity.sum(axis=1, keepdims=True))
    return np.sum(shares[1] * np.log((shares[1] + eps) / (shares[0] + eps))) / len(student)


@pytest.mark.parametrize("name", SAME)
def test_values_and_gradients_are_those_stored(name, stored):
    found = agreement.compare(name, stored)
    assert found.bar <= (2e-11 if name.startswith("soft targets") else 1e-12)
    assert found.value <= found.bar and found.slope <= found.bar
    assert found.verdict == "ok" and "MISSED" not in str(found)


@pytest.mark.parametrize("off", [1e-9, np.nan])
def test_a_difference_is_found(off, stored):
    moved = copy.deepcopy(stored)
    moved["regressed/4 x 3 x 2 x 5"]["square_error/slope/student"][0, 0, 0, 0] += off
    found = agreement.compare("hint", moved)
    assert found.value <= found.bar and not found.slope <= found.bar
    assert found.verdict == "MISSED" and "MISSED" in str(found)


@pytest.mark.parametrize("name", OTHER)
def test_how_much_the_constant_does(name, stored):
    found = agreement.compare(name, stored)
    value, slope = OTHER[name]
    assert value / 2 < found.value < value and slope / 2 < found.slope < slope
    assert found.verdict == ""


def test_the_constant_alone_makes_the_difference(stored, x64):
    transfer = agreement.COMPARISONS["knowledge transfer, eps = 0"].ours
    for case, x in stored.items():
        kind = case.split("/")[0]
        if kind not in ("features", "opposites"):
            continue
        theirs = len(x["student"]) * x["knowledge_transfer/value"]
        assert theirs == pytest.approx(with_constant(x["student"], x["teacher"], EPS), rel=1e-7)
        if kind == "features":
            ours = float(jax.jit(lambda x=x: transfer(x))())
            assert ours == pytest.approx(with_constant(x["student"], x["teacher"], 0.0), rel=1e-11)


def test_of_opposite_inputs_two_floors_differ_as_they_must(stored, x64):
    """By log(S + 1 / length) of each such pair, weighted by the teacher's share."""
    (x,) = (x for case, x in stored.items() if case.startswith("opposites/"))
    own, wanted = (
        (h @ h.T / np.outer(*2 * [np.linalg.norm(h, axis=1)]) + 1) / 2
        for h in (x["student"], x["teacher"])
    )
    sums = own.sum(axis=1, keepdims=True)
    lengths = np.linalg.norm(x["student"], axis=1, keepdims=True)
    shares = wanted / wanted.sum(axis=1, keepdims=True)
    is_opposite = own < EPS
    assert np.all(is_opposite.sum(axis=1) == 1)
    expected = np.sum(np.where(is_opposite, shares * np.log(sums + 1 / lengths), 0)) / len(own)
    transfer = agreement.COMPARISONS["knowledge transfer, opposite inputs"].ours
    ours = float(jax.jit(lambda: transfer(x))())
    theirs = len(own) * x["knowledge_transfer/value"]
    assert ours - theirs == pytest.approx(expected, rel=1e-4)


def test_what_is_stored_is_small_and_has_every_loss(stored):
    assert STORED.stat().st_size < 50_000
    for one in agreement.COMPARISONS.values():
        kinds = [x for case, x in stored.items() if case.split("/")[0] == one.kind]
        assert kinds and all(f"{one.theirs}/value" in x for x in kinds)
    for x in stored.values():  # Each of the student's tensors has a slope.
        own = {name for name in x if name.startswith("student")}
        assert own == {name.rsplit("/")[-1] for name in x if "/slope/" in name}


@pytest.mark.skipif(
    TORCH_PYTHON not in os.environ, reason=f"{TORCH_PYTHON} names no Python with torchdistill"
)
def test_torchdistill_still_says_so(stored, tmp_path):
    python = agreement.torchdistill_python()
    assert python is not None
    tensors = {
        case: {name: array for name, array in found.items() if "/" not in name}
        for case, found in stored.items()
    }
    agreement.answer(python, cases.named(tensors), tmp_path / "answers.npz")
    for case, found in cases.load(tmp_path / "answers.npz").items():
        assert found.keys() == stored[case].keys()
        for name, array in found.items():
            np.testing.assert_allclose(array, stored[case][name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("script", ["exit 1", "echo 'No module named torchdistill' >&2; exit 1"])
def test_without_torchdistill_there_is_one_line(script, tmp_path, monkeypatch, capsys):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    for given in (python, tmp_path / "none"):
        monkeypatch.setenv(TORCH_PYTHON, str(given))
        monkeypatch.setattr("sys.argv", ["benchmarks", "agreement"])
        assert benchmarks.main() == 0
        _, line = capsys.readouterr().out.splitlines()
        assert line.startswith(f"no torchdistill in {given} (") and "pip install" in line
