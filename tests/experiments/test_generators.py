"""Inputs that are generated: NADE's training and order of pixels, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs

from experiments.compress_ensemble import figures, generators
from experiments.compress_ensemble.settings import Settings
from experiments.compress_ensemble.study import COLUMNS
from experiments.compress_ensemble.tables import Trained
from experiments.flags import Options, UserError, resolve
from experiments.run import Run
from experiments.workdir import MetricsLog, Workdir
from kd import data, streams
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


# Each far from its default, so that no other value would do.
ODD = {
    "generator": "nade,munge,noise,dataset",
    "batch_size": "7",
    "swap_probability": "0.6",
    "local_variance": "0.25",
    "noise_scale": "3",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The streams of every generator, and the workdir whose NADE one of them samples."""
    given = {name: str(value) for name, value in SETTINGS.items()} | ODD
    settings = resolve(Settings, "quick", given)
    path = tmp_path_factory.mktemp("sources")
    workdir = Workdir(path, experiment="compress_ensemble", preset="quick", settings={})
    log = MetricsLog(workdir.file("metrics.csv"), list(COLUMNS))
    run = Run(settings, Options(path), workdir, log, None)
    try:
        yield generators.sources(run, data.load("digits")), path
    finally:
        workdir.leave()


def batches(stream, num):
    state, made = stream.init(jax.random.key(3)), []
    for index in range(num):
        state, batch = stream.next(jax.random.key(10 + index), state)
        made.append(np.asarray(batch["x"]))
    return made


def test_students_on_nade_see_the_conditionals_of_the_trained_nade(sources):
    """Exactly those of its own samples, two thousand at once, in the places of the pixels."""
    made, path = sources
    nade = NADE(64, 6, generators._by_columns(np.zeros((8, 8))))
    params = study_runs.checkpointed(path, "nade-0.2")
    _, conditionals = nade.sample(params, jax.random.key(10), 2000 // 7 * 7)
    expected = np.asarray(conditionals).reshape(-1, 7, 8, 8, 1)
    for found, batch in zip(batches(made["nade", 0.2], 2), expected[:2], strict=True):
        np.testing.assert_allclose(found, batch, rtol=1e-5, atol=1e-6)


def test_students_on_munge_see_neighbours_mixed_as_the_settings_say(sources):
    part = data.take_first(data.load("digits"), 0.2)
    flat = part.train_x.reshape(len(part.train_x), -1).astype(np.float64)
    distances = np.square(flat[:, None] - flat[None]).sum(-1)
    neighbours = (distances + np.diag(np.full(len(flat), np.inf))).argmin(1)
    stream = streams.munge(
        {"x": jnp.asarray(part.train_x)},
        jnp.asarray(neighbours),
        7,
        swap_probability=0.6,
        local_variance=0.25,
    )
    made = batches(sources[0]["munge", 0.2], 3)
    np.testing.assert_array_equal(made, batches(stream, 3))


def test_students_on_noise_and_on_the_data_set_see_those(sources):
    made, _ = sources
    noise = batches(made["noise", 0.2], 1)[0]
    np.testing.assert_allclose(noise, 3 * jax.random.normal(jax.random.key(10), (7, 8, 8, 1)))
    part = data.take_first(data.load("digits"), 0.2).train_x
    plain = streams.resample({"x": jnp.asarray(part)}, 7)
    np.testing.assert_array_equal(batches(made["dataset", 0.2], 2), batches(plain, 2))


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
