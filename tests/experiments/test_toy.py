"""The toy of posterior expectations: its grid, its reference, one network, its run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs
from PIL import Image

from experiments.flags import resolve
from experiments.posterior_expectations import teachers, toy
from experiments.posterior_expectations.judging import Judged
from experiments.posterior_expectations.settings import Settings

MODULE = "experiments.posterior_expectations"


@pytest.fixture
def short(monkeypatch):
    """A reference of fewer samples, and a coarser grid."""
    monkeypatch.setattr(toy, "NUM_SAMPLES", 1500)
    monkeypatch.setattr(toy, "NUM_WARMUP", 300)
    monkeypatch.setattr(toy, "NUM_CHAINS", 2)
    monkeypatch.setattr(toy, "TEST_SPACING", 2.0)
    toy.reference.cache_clear()
    toy.plug_in.cache_clear()
    yield
    toy.reference.cache_clear()
    toy.plug_in.cache_clear()


def settings_of(**given):
    return resolve(Settings, "toy", {name: str(value) for name, value in given.items()})


def test_the_preset_is_the_papers_toy():
    settings = settings_of()
    assert [student.name for student in settings.students()] == [
        f"predictive,current,{hidden}" for hidden in ("10", "100", "10-10")
    ]
    assert settings.hidden_sizes == (10,) and settings.outside == ()
    found, unlabelled = toy.dataset(0)
    assert found.train_x.shape == (20, 2) and np.bincount(found.train_y).tolist() == [10, 10]
    assert len(unlabelled) == 121**2 and len(found.test_x) == 31**2
    assert np.abs(unlabelled).max() == 6 and not np.array_equal(
        found.train_x, toy.dataset(1)[0].train_x
    )


def test_the_reference_is_the_posteriors_mean(short):
    """Against importance sampling from the prior, of six weights: there are no hidden units."""
    settings = settings_of(hidden_sizes="", student_hidden="10")
    log_probs, r_hat = toy.reference(settings)
    assert r_hat < 1.1
    found, _ = toy.dataset(settings.seed)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(200_000, 3))  # Of the difference of two logits, of variance 2.
    w = w * 2**0.5
    x = np.c_[found.train_x, np.ones(20)]
    signs = 2 * found.train_y - 1
    weight = -np.logaddexp(0, -signs[:, None] * (x @ w.T)).sum(0)
    weight = np.exp(weight - weight.max())
    grid = np.c_[found.test_x, np.ones(len(found.test_x))]
    expected = (1 / (1 + np.exp(-grid @ w.T))) @ weight / weight.sum()
    off = np.abs(np.exp(log_probs[:, 1]) - expected)
    assert off.max() < 0.03 and off.mean() < 0.01
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, rtol=1e-6)


def test_a_student_that_was_pruned_away_has_no_panel(short):
    settings = settings_of()
    log_probs = np.log(np.full_like(toy.reference(settings)[0], 0.5))
    left = settings.students()[0].name
    judged = {name: Judged(log_probs, None, {}) for name in ("teacher", left)}
    titles = [axis.get_title().split("\n")[0] for axis in toy.draw(settings, judged).axes]
    assert [title for title in titles if title] == [
        "NUTS",
        "one network",
        "teacher",
        "student 2-10-2",
    ]


def test_divergence_by_hand_and_one_network_is_sure_of_itself(short):
    expected = np.log([[0.5, 0.5], [0.25, 0.75]])
    found = np.log([[0.25, 0.75], [0.25, 0.75]])
    by_hand = (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert toy.kl_divergence(expected, found) == pytest.approx(by_hand)
    assert toy.kl_divergence(expected, expected) == 0
    settings = settings_of()
    alone = np.exp(toy.plug_in(settings))
    assert np.mean(alone.max(axis=1) > 0.99) > 0.8
    data, _ = toy.dataset(0)
    weights = teachers.start(settings, data, jax.random.key(0))
    assert weights["params"]["Dense_0"]["kernel"].shape == (2, 10)
    assert jnp.isfinite(teachers.log_prob_fn_of(settings, 2)(weights, jnp.zeros(2))).all()


def test_a_run_compares_everything_with_the_reference(short, tmp_path):
    given = {"num_steps": 200, "burn_in": 50, "thin": 10, "test_thin": 2, "num_repeats": 2}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE, preset="toy")
    values = finished.values()
    names = [f"predictive,current,{hidden}" for hidden in ("10", "100", "10-10")]
    for name in ["teacher", *names]:
        assert 0 < values[f"kl[0,0,{name}]"] < 3
    assert values["reference.r_hat"] > 0.9 and values["kl[one network]"] > 0.05
    shown = finished.stdout[finished.stdout.index("KL from NUTS") :]
    assert "one network" in shown and "what a student costs" not in shown
    pixels = np.asarray(Image.open(finished.path / "figures" / "toy.png").convert("L"))
    assert min(pixels.shape) > 200 and np.std(pixels) > 5
