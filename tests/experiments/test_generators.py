"""Inputs that are generated: NADE's training and order of pixels, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs

from experiments.compress_ensemble import figures, generators
from experiments.compress_ensemble.settings import Settings
from experiments.compress_ensemble.tables import Trained
from experiments.flags import UserError
from kd import data
from kd.export import load_student
from kd.models import NADE

SETTINGS = study_runs.TINY | {
    "loss": "ce",
    "generator": "nade,munge",
    "num_repeats": 1,
    "nade_hidden": 6,
    "nade_epochs": 3,
    "student_epochs": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with study_runs.unverified_exports():
        return study_runs.succeed_here(tmp_path_factory.mktemp("made") / "run", SETTINGS)


def test_phases_and_students(run):
    phases = run.metrics()
    steps = {phase: int(rows[-1]["step"]) for phase, rows in phases.items()}
    assert steps["nade[0.2]"] == 36
    for generator in ("nade", "munge"):
        assert steps[f"student[ce,{generator},0.2]"] == 12
        assert run.values()[f"student.accuracy[ce,{generator},0.2]"] > 5
        student = load_student(run.path / "student" / f"ce-{generator}-0.2")
        assert student.metadata["condition"] == ["ce", generator, 0.2]
    assert len(set(study_runs.students(run.path).values())) == 2


def test_nade_learns_the_rounded_images_by_columns(run):
    """Its logged figure is that of its checkpoint, whose pixels are in the columns' order."""
    digits = data.load("digits")
    order = tuple(np.arange(64).reshape(8, 8).T.ravel().tolist())
    nade = NADE(64, 6, order)
    params = study_runs.checkpointed(run.path, "nade-0.2")
    x = (digits.test_x > 0.5).reshape(-1, 64).astype(np.float32)
    expected = float(jnp.mean(nade.log_prob(params, x)))
    rows = run.metrics()["nade[0.2]"]
    assert float(rows[-1]["log_prob"]) == pytest.approx(expected, abs=1e-3)
    # Better than a fair coin a pixel, already.
    assert -64 * math.log(2) < float(rows[-1]["log_prob"]) < 0


def test_what_the_generators_make_is_drawn(run):
    assert {path.name for path in (run.path / "figures").iterdir()} == {
        *("training-0.2.png", "derivatives.png", "inputs.png")
    }


def test_each_generators_student_has_its_row_of_derivatives():
    digits = data.load("digits")
    log_prob_fn = lambda params, x: jax.nn.log_softmax(params["w"] @ x.ravel())
    rng = np.random.default_rng(0)
    models = [Trained(log_prob_fn, {"w": rng.normal(size=(1, 10, 64))}, None) for _ in range(3)]
    students = {("ce", "nade", 0.2): models[0], ("ce", "munge", 0.2): models[1]}
    teacher = models[2]._replace(params={"w": models[2].params["w"][0]})
    figure = figures._derivatives(digits, (8, 8), teacher, students, 1)
    axes = np.reshape(figure.axes, (4, -1))
    assert [axis.get_ylabel().split("\n")[-1] for axis in axes[:, 0]] == [
        *("input", "the ensemble", "on NADE", "on MUNGE")
    ]
    shown = [np.asarray(axis.images[0].get_array()) for axis in axes[1:, 0]]
    slopes = jax.jacobian(lambda x: log_prob_fn({"w": models[1].params["w"][0]}, x))
    zero = digits.test_x[np.argmax(digits.test_y == 0)]
    np.testing.assert_allclose(shown[2], slopes(zero)[0, ..., 0], rtol=1e-4, atol=1e-5)
    assert np.abs(shown[1] - shown[2]).max() > 0.1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3,), (0, 1, 2)), ((2, 3), (0, 3, 1, 4, 2, 5)), ((2, 2, 2), (0, 1, 4, 5, 2, 3, 6, 7))],
)
def test_order_of_pixels(shape, expected):
    assert generators._by_columns(np.zeros(shape)) == expected


def test_nade_needs_inputs_between_0_and_1():
    digits = data.load("digits")
    standardised = digits._replace(train_x=4 * digits.train_x - 1)
    settings = Settings(generator=("nade",))
    generators.check(settings, digits)
    with pytest.raises(UserError, match="has them from -1 to 3: scale them to .0, 1."):
        generators.check(settings, standardised)
    generators.check(Settings(generator=("munge", "noise")), standardised)


@pytest.mark.parametrize(
    ("settings", "num_pixels", "expected"),
    [
        ({"generator": ("nade",), "nade_epochs": 1e300}, 64, "31 are too many"),
        ({"generator": ("nade",)}, 1, "needs inputs of two values or more"),
        (
            {"generator": ("munge",), "train_fraction": (1.0, 0.001)},
            64,
            "munge needs two training examples; raise --train_fraction",
        ),
    ],
)
def test_what_a_generator_cannot_take_is_refused_at_once(settings, num_pixels, expected):
    digits = data.load("digits")
    digits = digits._replace(train_x=digits.train_x.reshape(-1, 64)[:, :num_pixels])
    with pytest.raises(UserError, match=expected):
        generators.check(Settings(**settings), digits)
