"""experiments.distil_density: a run file by file, resumed; quadrature, teachers and routes."""

import json
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs
from flax.traverse_util import unflatten_dict
from PIL import Image
from scipy import stats

from experiments.distil_density import quadrature, routes, tables, teachers
from experiments.distil_density.settings import LOSSES, TEACHERS, Settings
from experiments.flags import UserError, resolve
from kd import models
from kd.export import load_student

MODULE = "experiments.distil_density"
# The posterior has chains, the banana none; se_then_kl has two stages of 4 and 16 steps.
TINY = {
    "loss": "score,se_then_kl",
    "num_components": 2,
    "num_samples": 200,
    "batch_size": 10,
    "se_fraction": 0.2,
    "num_repeats": 2,
    "burn_in": 30,
    "thinning": 2,
    "floor_steps": 4,
    "grid_points": 80,
}
PHASES = {
    f"{phase},{teacher}{rest}]": steps
    for teacher in ("banana", "logistic")
    for phase, rest, steps in [
        ("student[score", "", 20),
        ("student[se_then_kl", ",se", 4),
        ("student[se_then_kl", ",kl", 16),
    ]
} | {"floor[banana]": 4, "floor[logistic]": 4}


def refused(workdir, settings):
    return study_runs.refusal(workdir, settings, module=MODULE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("distil_density") / "run"
    return study_runs.succeed_here(path, TINY, module=MODULE)


# A run.


def test_a_run_leaves_what_it_promises_and_nothing_else(finished):
    found = {
        str(path.relative_to(finished.path))
        for folder in (".", "figures", "checkpoints", "student", "student/banana")
        for path in (finished.path / folder).iterdir()
    }
    assert found - {".seconds"} == {
        *(".lock", ".seal.json", "config.json", "metrics.csv", "summary.json"),
        *("figures", "figures/kl.png", "figures/contours.png"),
        *("checkpoints", "student", "student/banana", "student/logistic"),
        *(f"student/banana/student.{end}" for end in ("json", "safetensors", "stablehlo")),
        *(f"checkpoints/{p.replace('[', '-').replace(',', '-').rstrip(']')}" for p in PHASES),
    }
    assert finished.stderr == ""
    for name in ("kl", "contours"):
        pixels = np.asarray(Image.open(finished.path / "figures" / f"{name}.png").convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5


def test_config_has_every_setting_resolved(finished):
    config = json.loads((finished.path / "config.json").read_text())
    given = {k: str(v) for k, v in TINY.items() if k in Settings.__dataclass_fields__}
    assert config["experiment"] == "distil_density" and config["preset"] == "quick"
    expected = json.loads(json.dumps(vars(resolve(Settings, "quick", given))))
    assert config["settings"] == expected
    assert expected["teacher"] == ["banana", "logistic"] and expected["num_samples"] == 200


def test_metrics_have_true_steps_and_divergences(finished):
    phases = finished.metrics()
    assert phases.keys() == PHASES.keys()
    for phase, rows in phases.items():
        assert [int(row["step"]) for row in rows] == list(range(1, PHASES[phase] + 1))
        for row in rows:
            assert math.isfinite(float(row["loss"]))
            # One floor has no standard error; every figure that there is is positive.
            assert (row["kl"] == "") >= (row["kl_stderr"] == "") - phase.startswith("floor")
            assert row["kl"] == "" or float(row["kl"]) > 0
        assert rows[-1]["kl"] != ""


def test_the_summary_has_a_row_for_every_condition(finished):
    rows = {row["name"]: row for row in finished.summary()["rows"]}
    names = [
        f"{figure}[{loss},{teacher}]"
        for teacher in ("banana", "logistic")
        for figure in ("kl", "kl_best")
        for loss in ("floor", "score", "se_then_kl")
    ]
    of_teachers = [
        f"{figure}[{teacher}]"
        for teacher in ("banana", "logistic")
        for figure in ("log_z", "log_z_bound", "offset")
    ]
    assert sorted(rows) == sorted(names + of_teachers)
    for row in rows.values():
        assert row["unit"] == "nats" and row["paper"] is None and math.isfinite(row["value"])
    for loss in ("score", "se_then_kl"):
        for teacher in ("banana", "logistic"):
            row, best = rows[f"kl[{loss},{teacher}]"], rows[f"kl_best[{loss},{teacher}]"]
            assert row["repeats"] == 2 and 0 < best["value"] < row["value"]
            # Of two: half their difference.
            np.testing.assert_allclose(row["stderr"], row["value"] - best["value"], rtol=1e-9)
    for teacher in ("banana", "logistic"):
        log_z, bound, offset = (rows[f"{f}[{teacher}]"]["value"] for f in of_figures())
        assert bound < log_z and offset == pytest.approx(log_z - 1.0)
        best = min(rows[f"kl_best[{loss},{teacher}]"]["value"] for loss in ("score", "se_then_kl"))
        assert rows[f"kl[floor,{teacher}]"]["value"] < best


def of_figures():
    return ("log_z", "log_z_bound", "offset")


def test_the_last_point_of_a_curve_is_the_final_figure(finished):
    values, metrics = finished.values(), finished.metrics()
    for phase, name in [
        ("student[score,banana]", "kl[score,banana]"),
        ("student[se_then_kl,logistic,kl]", "kl[se_then_kl,logistic]"),
        ("floor[logistic]", "kl[floor,logistic]"),
    ]:
        assert float(metrics[phase][-1]["kl"]) == pytest.approx(values[name], rel=1e-12)


def test_the_exported_student_has_the_divergence_it_says(finished):
    """By another quadrature: a finer grid, the teacher's density in NumPy, sums in a loop."""
    student = load_student(finished.path / "student" / "banana")
    metadata = json.loads((finished.path / "student" / "banana" / "student.json").read_text())
    loss, teacher = metadata["metadata"]["condition"]
    values = finished.values()
    assert teacher == "banana" and loss in ("score", "se_then_kl")
    assert values[f"kl[{loss},banana]"] == min(
        values[f"kl[{other},banana]"] for other in ("score", "se_then_kl")
    )
    x1, x2 = np.meshgrid(np.linspace(-6, 6, 301), np.linspace(-4, 20, 601), indexing="ij")
    log_p = stats.norm.logpdf(x1) + stats.norm.logpdf(x2, 0.5 * (x1**2 - 1), 0.4)
    x = np.stack([x1, x2], axis=-1).reshape(-1, 2).astype(np.float32)
    log_q = np.asarray(student(jnp.array(x)), np.float64).reshape(log_p.shape)
    kl = float(np.sum(np.exp(log_p) * (log_p - log_q)) * 0.04 * 0.04)
    np.testing.assert_allclose(metadata["metadata"]["kl"], kl, rtol=1e-3)
    mixture = models.GaussianMixture(**student.metadata["model"])
    again = mixture.log_prob(unflatten_dict(student.params, sep="/"), x[:9])
    np.testing.assert_allclose(again, log_q.ravel()[:9], rtol=1e-3, atol=1e-3)
    assert metadata["metadata"]["kl"] == pytest.approx(values[f"kl_best[{loss},banana]"])


def test_the_table_at_the_end(finished):
    shown = finished.stdout[: finished.stdout.index("Look at")]  # A path may be long.
    assert all(len(line) <= 80 for line in shown.splitlines())
    values = finished.values()
    (line,) = [line for line in finished.stdout.splitlines() if "logistic, se_then_kl" in line]
    assert f"{values['kl[se_then_kl,logistic]']:.5f} ±" in line
    gap = values["kl[se_then_kl,logistic]"] - values["kl[floor,logistic]"]
    assert f"{gap:+.5f}" in line


def test_a_finished_run_is_shown_and_not_redone(finished):
    before = (finished.path / "summary.json").read_bytes()
    again = study_runs.succeed_here(finished.path, TINY, module=MODULE)
    assert "student[" not in again.stdout
    assert "logistic, se_then_kl" in again.stdout
    assert (finished.path / "summary.json").read_bytes() == before


def test_a_run_killed_again_and_again_ends_with_the_same_bits(finished, tmp_path):
    """In the second stage of a route on chains, and while an export is written."""
    path = tmp_path / "run"

    for when in (
        lambda: study_runs.checkpoints(path, "student-se_then_kl-logistic-kl"),
        lambda: list((path / "student").glob(".banana*/student.safetensors")),
    ):
        process = study_runs.start(path, TINY | {"checkpoint_seconds": 0}, module=MODULE)
        stopped = study_runs.interrupt(process, when, signal.SIGKILL)
        assert stopped.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()
    resumed = study_runs.succeed_here(path, TINY, module=MODULE)
    assert "done before" in resumed.stdout
    study_runs.assert_same_bits(resumed, finished)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"loss": "ce"}, "--loss must be kl | se | score | se_then_kl; got 'ce'."),
        ({"se_fraction": 1}, "--se_fraction must be a number and > 0 and <= 0.99; got '1'."),
        ({"batch_size": 300}, "leaves a stage of score without a step"),
        ({"batch_size": 100}, "leaves a stage of se_then_kl without a step"),
        ({"batch_size": 10_000, "thinning": 10_000}, "are 100,000,000 chains, and 10,000,000"),
        ({"grid_points": 40}, "--grid_points must be an integer and >= 80"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    path = tmp_path / "run"
    assert expected in refused(path, TINY | changed)
    assert not (tmp_path / "run").exists()


def test_other_settings_are_refused(finished):
    line = refused(finished.path, TINY | {"offset_gap": 2})
    assert "offset_gap (1.0 there, 2.0 here)" in line


# Its quadrature.


GAUSSIAN = teachers.Teacher(
    lambda x: -0.5 * (x[0] - 1.0) ** 2 - 0.5 * (x[1] / 0.5) ** 2 + 7.0, (-9.0, -6.0), (11.0, 6.0)
)


def test_quadrature_against_two_gaussians():
    """log Z, moments, the bound on log Z and the divergence of Gaussians are known."""
    found = quadrature.quadrature(GAUSSIAN, 80)
    log_z = math.log(2 * math.pi * 0.5) + 7.0
    assert found.log_z == pytest.approx(log_z, abs=1e-12)
    mean, covariance = quadrature.moments(found)
    np.testing.assert_allclose(mean, [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(covariance, np.diag([1.0, 0.25]), atol=1e-11)
    # The bound is an equality where q is the teacher.
    assert quadrature.gaussian_bound(GAUSSIAN, found) == pytest.approx(log_z, abs=1e-9)

    mixture = models.GaussianMixture(1, 2)
    means, other = np.array([[0.0, 0.5], [1.0, 0.0]]), np.array([[2.0, 0.3], [0.3, 1.0]])
    params = jax.vmap(mixture.from_moments)(
        jnp.ones((2, 1)),
        jnp.array(means)[:, None],
        jnp.broadcast_to(jnp.array(other), (2, 1, 2, 2)),
    )
    inverse, true = np.linalg.inv(other), np.diag([1.0, 0.25])
    expected = [
        0.5
        * (
            np.trace(inverse @ true)
            - 2
            + (m - [1.0, 0.0]) @ inverse @ (m - [1.0, 0.0])
            + np.log(np.linalg.det(other) / np.linalg.det(true))
        )
        for m in means
    ]
    got = quadrature.kl_divergences(found, mixture.log_prob)(params)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # The parameters are float32.


@pytest.mark.parametrize("name", TEACHERS)
def test_the_preset_grid_is_fine_and_wide_enough(name):
    """log Z as on a finer grid and a wider one; a student's divergence as on a finer one."""
    teacher = teachers.BY_NAME[name]
    found, fine = (quadrature.quadrature(teacher, num) for num in (120, 480))
    wide = teacher._replace(
        low=tuple(2 * low - high for low, high in zip(teacher.low, teacher.high, strict=True)),
        high=tuple(2 * high - low for low, high in zip(teacher.low, teacher.high, strict=True)),
    )
    assert found.log_z == pytest.approx(fine.log_z, abs=1e-7)
    assert found.log_z == pytest.approx(quadrature.quadrature(wide, 600).log_z, abs=1e-7)
    mixture = models.GaussianMixture(8, 2)
    x = fine.points[
        np.random.default_rng(0).choice(len(fine.points), 8, p=fine.masses / sum(fine.masses))
    ]
    covariance = np.diag([0.2, 0.1])
    params = jax.vmap(mixture.from_moments)(
        jnp.ones((1, 8)), jnp.array(x)[None], jnp.broadcast_to(jnp.array(covariance), (1, 8, 2, 2))
    )
    coarse, exact = (quadrature.kl_divergences(q, mixture.log_prob)(params) for q in (found, fine))
    np.testing.assert_allclose(coarse, exact, rtol=2e-3)


def test_known_constants():
    half = math.log(2 * math.pi * teachers.WIDTH)
    for name in ("banana", "modes"):
        found = quadrature.quadrature(teachers.BY_NAME[name], 120)
        assert found.log_z == pytest.approx(half, abs=1e-7)
        assert quadrature.gaussian_bound(teachers.BY_NAME[name], found) < half
    left = found.points[:, 0] < 0
    assert found.masses[left].sum() == pytest.approx(teachers.SHARE, abs=1e-3)


def test_the_posterior_is_the_prior_times_the_likelihood():
    w = np.array([0.7, -1.2])
    margins = teachers.SIGNED_INPUTS @ w
    expected = -np.sum(np.log1p(np.exp(-margins))) - np.sum(w**2) / (2 * 25)
    np.testing.assert_allclose(teachers.logistic(jnp.array(w)), expected, rtol=1e-5)


# Its samples.


@pytest.mark.parametrize("name", TEACHERS)
def test_samples_have_the_teachers_law(name):
    """Independent chains after a burn-in, or exact: means of bins and moments."""
    teacher = teachers.BY_NAME[name]
    stream = teachers.samples(teacher, 5000, burn_in=500, thinning=1)
    state = jax.jit(stream.init)(jax.random.key(0))
    _, batch = jax.jit(stream.next)(jax.random.key(1), state)
    x = np.array(batch["x"], np.float64)
    found = quadrature.quadrature(teacher, 400)
    mean, covariance = quadrature.moments(found)
    error = np.sqrt(np.diag(covariance) / len(x))
    assert np.all(np.abs(x.mean(axis=0) - mean) < 4 * error)
    centred = (found.points - mean) ** 2
    spread = np.sqrt(found.masses @ centred**2 - np.diag(covariance) ** 2) / np.sqrt(len(x))
    assert np.all(np.abs(np.mean((x - mean) ** 2, axis=0) - np.diag(covariance)) < 4 * spread)
    # Each coordinate's distribution function, where a tenth, half and nine tenths are below.
    for axis in range(2):
        order = np.argsort(found.points[:, axis])
        below = np.cumsum(found.masses[order])
        for share in (0.1, 0.5, 0.9):
            at = found.points[order, axis][np.searchsorted(below, share)]
            step = 0.5 * (teacher.high[axis] - teacher.low[axis]) / 399
            exact = found.masses[found.points[:, axis] < at + step].sum()
            count = np.mean(x[:, axis] < at + step)
            assert abs(count - exact) < 4 * math.sqrt(0.25 / len(x))


def test_a_step_of_metropolis_leaves_the_teacher_where_it_is():
    """Detailed balance of the kernel: exact samples of the banana remain such."""
    teacher = teachers.BY_NAME["banana"]
    x = teacher.sample_fn(jax.random.key(0), 20_000)
    sampler = teachers.metropolis(teacher)
    moved, is_accepted = sampler.step(jax.random.key(1), sampler.init(x))
    assert 0.1 < np.mean(is_accepted) < 0.9
    np.testing.assert_array_equal(np.any(moved != x, axis=1), is_accepted)
    rest = np.array(moved[:, 1] - 0.5 * (moved[:, 0] ** 2 - 1)) / 0.4
    assert stats.kstest(np.array(moved[:, 0]), "norm").pvalue > 1e-3
    assert stats.kstest(rest, "norm").pvalue > 1e-3


# Its routes.


def test_stages_follow_each_other_to_the_last_step():
    settings = resolve(Settings, "quick", {"num_samples": "1000", "batch_size": "10"})
    found = routes.stages_of_all(settings)
    assert found["kl"] == [routes.Stage("kl", 0, 100)]
    assert found["se_then_kl"] == [routes.Stage("se", 0, 10), routes.Stage("kl", 10, 100)]
    with pytest.raises(UserError, match="leaves a stage of kl without a step"):
        routes.stages_of_all(resolve(Settings, "quick", {"num_samples": "10"}))
    assert [c for c in settings.conditions() if c[1] == "banana"] == [
        (loss, "banana") for loss in LOSSES
    ]


def test_a_teacher_has_no_gradient_for_a_student_that_is_it():
    """Each objective, with labels as a stream gives them, at a Gaussian teacher's own student."""
    mixture = models.GaussianMixture(1, 2)
    params = mixture.from_moments(
        jnp.ones(1), jnp.array([[1.0, 0.0]]), jnp.diag(jnp.array([1.0, 0.25]))[None]
    )
    found = quadrature.quadrature(GAUSSIAN, 80)
    batch = {"x": jnp.asarray(found.points, jnp.float32)}
    for loss, least in (("se", 0.0), ("score", 0.0), ("se", 2.0)):
        labelled = routes.labelled(GAUSSIAN, loss, batch)
        offset = found.log_z - (2 * least) ** 0.5
        objective = routes.objective_of(loss, mixture.log_prob, offset)
        value, slopes = jax.value_and_grad(objective)(params, labelled)
        np.testing.assert_allclose(value, least, atol=1e-6)
        if least == 0.0:
            assert all(np.all(np.abs(leaf) < 1e-3) for leaf in jax.tree.leaves(slopes))
    kl = routes.objective_of("kl", mixture.log_prob, 0.0)
    assert routes.labelled(GAUSSIAN, "kl", batch) == batch
    np.testing.assert_allclose(
        kl(params, batch), -np.mean(mixture.log_prob(params, batch["x"])), rtol=1e-5
    )


def test_mean_and_error_and_the_best_route():
    assert tables.mean_and_error(np.array([2.0])) == (2.0, None)
    value, error = tables.mean_and_error(np.array([1.0, 2.0, 6.0]))
    assert value == 3.0 and error == pytest.approx(math.sqrt(7.0) / math.sqrt(3))
    students = {
        "kl": tables.Trained(None, np.array([1.0, 3.0])),
        "se": tables.Trained(None, np.array([0.5, 3.4])),
    }
    assert tables.best_loss(tables.Results(None, None, None, students)) == "se"
