"""The thesis's own RBM and images, where they are; and what is told of that RBM alone."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import report
from experiments.rbm_to_nade import tables
from experiments.rbm_to_nade.study import Teacher
from kd.data import load_binary, load_rbm
from kd.models import RBM

# Beside the checkout, as the Makefile looks for data sets.
BESIDE = Path(__file__).parents[2] / ".." / "shared" / "data" / "rbm_cd25_500"
LOG_Z = 451.28  # By Salakhutdinov and Murray.


@pytest.fixture(scope="module")
def folder():
    path = Path(os.environ.get("KD_THESIS_RBM_DIR") or BESIDE)
    for name in ("rbm_cd25_500.npz", "binarized_mnist.npz"):
        if not (path / name).exists():
            pytest.skip(f"no {name} in {path}; KD_THESIS_RBM_DIR names the folder that holds it")
    return path


@pytest.fixture(scope="module")
def params(folder):
    return load_rbm(folder / "rbm_cd25_500.npz")


@pytest.fixture(scope="module")
def images(folder):
    return load_binary(folder / "binarized_mnist.npz", num_visible=784)


def log_potentials(params, x):
    """In double precision, by the library."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        values = RBM(784, 500).log_potential(params, jnp.asarray(x, jnp.float64))
        assert values.dtype == jnp.float64
        return np.asarray(values)


def test_the_files_hold_what_the_thesis_has(params, images):
    weights = params["params"]
    assert {name: x.shape for name, x in weights.items()} == {
        "w": (784, 500),
        "a": (784,),
        "b": (500,),
    }
    found = [weights["w"].mean(), weights["w"].std(), weights["a"].mean(), weights["b"].mean()]
    np.testing.assert_allclose(found, [-0.0409, 0.2219, -0.938, -1.193], atol=6e-4)
    assert images.train.shape == (60_000, 784) and images.test.shape == (10_000, 784)
    for x, rate in ((images.train, 0.13066), (images.test, 0.13245)):
        assert x.dtype == np.uint8 and x.max() == 1 and x.min() == 0
        assert x.mean() == pytest.approx(rate, abs=6e-6)


def test_the_blank_image_by_which_the_rbm_is_known(params):
    blank = log_potentials(params, np.zeros((1, 784)))[0]
    assert blank == pytest.approx(436.4938, abs=1e-3)
    assert blank == pytest.approx(np.logaddexp(0, params["params"]["b"]).sum(), rel=1e-12)
    assert tables._is_thesis(Teacher(RBM(784, 500), params, False))
    other = {"params": params["params"] | {"b": params["params"]["b"] + 1e-3}}
    assert not tables._is_thesis(Teacher(RBM(784, 500), other, False))


def test_log_probabilities_of_images_at_the_published_log_z(params, images):
    log_probs = log_potentials(params, images.test) - LOG_Z
    assert log_probs.mean() == pytest.approx(-86.354, abs=1e-2)
    assert log_probs[:500].mean() == pytest.approx(-86.509, abs=1e-2)
    assert 3 * log_probs.std(ddof=1) / 100 == pytest.approx(0.68, abs=6e-3)
    first = log_potentials(params, images.train[:10_000]) - LOG_Z
    assert first.mean() == pytest.approx(-83.33, abs=1e-2)


def test_its_pixels_go_through_the_columns(params, images):
    """In the other order every image is far from what the RBM has seen."""
    exchanged = images.test.reshape(-1, 28, 28).swapaxes(1, 2).reshape(-1, 784)
    assert log_potentials(params, exchanged).mean() - LOG_Z == pytest.approx(-108.69, abs=1e-2)


CONDITIONS = (("kl", 1000), ("se_then_kl", 1000))


def estimates_of(thesis_low=451.161, thesis_high=451.431):
    """Log Z by AIS and by each bridge, whose second interval is by the thesis's rule."""
    ends = {"value": 451.281, "stderr": 0.03, "low": 451.19, "high": 451.371}
    found = {"ais": ends | {"num_samples": 10_000, "effective_samples": 10_000.0}}
    for loss, size in CONDITIONS:
        bridge = ends | {"thesis_low": thesis_low, "thesis_high": thesis_high}
        for side in ("proposal", "target"):
            bridge |= {f"num_{side}": 10_000, f"effective_{side}": 2_000.0}
        found[f"bridge[{loss},{size}]"] = bridge
    return found


@pytest.fixture
def show(tmp_path, capsys):
    """Rows by name, and the lines of the table, for an RBM with one hidden unit of that bias."""

    def show(found, *, b=tables.THESIS_BLANK):
        params = {"params": {"w": np.zeros((2, 1)), "b": np.array([b])}}
        log_probs = {condition: np.full(4, -90.0) for condition in CONDITIONS}
        rows = tables.rows(
            Teacher(RBM(2, 1), params, False),
            *(None, found, ({}, 0), log_probs, np.zeros(4)),
            published=LOG_Z,
        )
        summary = report.summary("rbm_to_nade", "paper", 1.0, rows)
        tables.show(json.loads(json.dumps(summary, allow_nan=False)), tmp_path)
        shown = capsys.readouterr().out
        return {row.name: row for row in rows}, shown[: shown.index("Look at")].splitlines()

    return show


def test_the_bridges_interval_by_the_thesis_rule_has_its_rows(show):
    rows, lines = show(estimates_of())
    assert rows["log_z.bridge[kl,1000]"].paper == 451.24
    for name in ("kl,1000", "se_then_kl,1000"):
        row = rows[f"log_z.bridge_thesis_rule[{name}]"]
        assert (row.value, row.unit, row.paper) == (451.281, "nats", None)
        assert 3 * row.stderr == pytest.approx((451.431 - 451.161) / 2)
        ends = [rows[f"log_z.bridge_thesis_rule.{end}[{name}]"].value for end in ("low", "high")]
        assert ends == [451.161, 451.431]
    assert max(map(len, lines)) <= 80
    below = [index for index, line in enumerate(lines) if "  by thesis's rule " in line]
    assert ["bridge, kl 1000 " in lines[below[0] - 1], len(below)] == [True, 2]
    assert "bridge, se_then_kl 1000 " in lines[below[1] - 1]
    assert "(451.161, 451.431)" in lines[below[0]] and "(451.190, 451.371)" in lines[below[0] - 1]


def test_of_other_rbms_the_table_has_no_interval_of_the_thesis(show):
    rows, lines = show(estimates_of(), b=1.0)
    assert "log_z.bridge_thesis_rule[kl,1000]" in rows
    assert not any("thesis" in line for line in lines)


def test_an_infinite_end_of_the_thesis_interval_has_no_row_and_no_width(show):
    rows, lines = show(estimates_of(thesis_low=-np.inf))
    assert rows["log_z.bridge_thesis_rule[kl,1000]"].stderr is None
    assert "log_z.bridge_thesis_rule.low[kl,1000]" not in rows
    assert rows["log_z.bridge_thesis_rule.high[kl,1000]"].value == 451.431
    assert any("(-inf, 451.431)" in line for line in lines)
