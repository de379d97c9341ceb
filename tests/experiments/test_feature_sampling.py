"""experiments.feature_priors, --experiment=sampled: the posterior of all weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from numpyro import diagnostics

from experiments.feature_priors import inputs, sampling, tasks
from experiments.feature_priors.settings import Condition, Settings
from experiments.flags import resolve
from kd import data, models
from kd.export import load_student
from kd.losses import features

MODULE = "experiments.feature_priors"
TINY = {
    "experiment": "sampled",
    "teacher_channels": "3,4",
    "teacher_hidden": "6",
    "student_hidden": "8,6",
    "teacher_epochs": 2,
    "student_epochs": 2,
    "maximum_rate": 0.01,
    "label_share": "0.1",
    "num_compared": 30,
    "num_samples": 6,
    "burn_in": 3,
    "thin": 2,
    "num_repeats": 2,
}


def settings_of(given):
    return resolve(Settings, "quick", {name: str(value) for name, value in given.items()})


@pytest.mark.parametrize("method", ["map", "chain_prior"])
def test_the_log_posterior_by_hand(method):
    """Half of 20 labelled images; two normal priors of a precision, and the features' on top."""
    settings = settings_of(TINY | {"prior_precision": 3, "strength": 0.5, "jitter": 0.05})
    task = tasks.task_of(settings, data.load("digits"), None)
    x = jnp.asarray(task.dataset.train_x[:40])
    model = task.lessons["teacher"].model
    taught = model.init(jax.random.key(1), x[0])
    features_fn = models.features_of(model, ["Conv_1"])
    told = jax.vmap(lambda one: features_fn(taught, one)["Conv_1"])(x)
    condition = Condition("fair", method, 0.1)
    log_posterior_fn = sampling.log_posterior_of(
        settings, task, {"x": x, "features": {"teacher/Conv_1": told}}, condition, 20
    )
    params = task.student.init(jax.random.key(0), x[0])
    y = task.dataset.train_y[:10]
    batch = {"x": x[:10], "y": jnp.asarray(y)}
    logits = np.asarray(jax.vmap(lambda one: task.student.apply(params, one))(x[:10]), float)
    expected = 20 / 10 * np.sum(oracles.log_softmax(logits)[np.arange(10), y])
    squares = sum(np.sum(np.square(leaf, dtype=float)) for leaf in jax.tree.leaves(params))
    expected -= 0.5 * 3 * squares
    if method == "chain_prior":
        own_fn = models.features_of(task.student, ["hidden_0"])
        own = jax.vmap(lambda one: own_fn(params, one)["hidden_0"])(x[:30])
        kl = features.gaussian_process_kl(own, told[:30], jitter=0.05)
        expected -= 0.5 * float(kl)
    assert float(log_posterior_fn(params, batch)) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampled") / "run"
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, TINY, module=MODULE)


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    names = {path.name for path in (finished.path / "figures").iterdir()}
    assert names == {"methods.png", "kernels-fair.png"}
    # A chain's average is no one network.
    names = {path.name for path in (finished.path / "student").iterdir()}
    assert names == {"fair-map-0.1", "fair-map_prior-0.1"}
    rows = {row["name"]: row for row in finished.summary()["rows"]}
    assert rows["nll[fair,chain_prior,0.1]"]["repeats"] == 2
    assert "The posterior of all weights, 10 % of the labels" in finished.stdout
    assert "R-hat of test images' probabilities, chains sampled, prior: median" in finished.stdout
    assert (
        0.9
        < rows["r_hat_median[fair,chain,0.1]"]["value"]
        <= rows["r_hat_95[fair,chain,0.1]"]["value"]
    )
    assert "r_hat_median[fair,map,0.1]" not in rows


def test_r_hats_are_numpyros_of_whole_chains():
    """Of three chains of 50 draws, of which two entries are decided and count not."""
    draws = np.random.default_rng(0).uniform(size=(3, 50, 4)) * [0.5, 0.9, 0.0, 0.1]
    draws[..., 2] = 0.999
    draws[1, :, 1] /= 2  # One chain is elsewhere.
    found = sampling.r_hats(draws.mean(1), (draws**2).mean(1), 50)
    expected = diagnostics.gelman_rubin(draws)[[0, 1, 3]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[1] > 1.1 > 1.05 > found[0]
    assert sampling.r_hats(draws[:1].mean(1), draws[:1].mean(1), 50).shape == (0,)


def test_chains_that_do_not_move_disagree_as_far_as_can_be_told():
    """Within a file that JSON can read; and those at one place agree."""
    means = np.array([[0.5, 0.5], [0.5, 0.6]])
    found = sampling.r_hats(means, means**2, 50)
    assert found[0] == pytest.approx(1, abs=0.02) and 1e3 < found[1] < 1e6


def test_images_are_compared_where_a_prior_is_sampled_under_alone():
    given = {name: value for name, value in TINY.items() if name != "num_compared"}
    settings = dataclasses.replace(settings_of(given | {"method": "chain,map"}), num_compared=5000)
    inputs.check_sizes(settings, tasks.task_of(settings, data.load("digits"), None))


def test_a_maximums_file_has_its_likelihood(finished):
    digits = data.load("digits")
    student = load_student(finished.path / "student" / "fair-map_prior-0.1")
    log_probs = np.asarray(student(jnp.asarray(digits.test_x)), float)
    own = -np.mean(log_probs[np.arange(len(log_probs)), digits.test_y])
    row = {row["name"]: row for row in finished.summary()["rows"]}["nll[fair,map_prior,0.1]"]
    assert abs(own - row["value"]) == pytest.approx(row["stderr"], rel=1e-3)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    path = tmp_path / "run"
    given = TINY | {"method": "map_prior,chain_prior", "num_repeats": 1}
    phases = ("maximum-prior-0.1", "chain-fair-chain_prior-0.1-0")
    with study_runs.unverified_exports():
        whole = study_runs.succeed_here(tmp_path / "whole", given, module=MODULE)
        study_runs.kill_again_and_again(path, given, phases, module=MODULE)
        resumed = study_runs.succeed_here(path, given, module=MODULE)
    study_runs.assert_same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"method": "map_prior,chain,prior"},
            "--experiment=sampled has no --method=prior; it has map, map_prior",
        ),
        ({"num_compared": 1201}, "--num_compared=1201 is more than the 1200 training images"),
        ({"step_size": 1e3}, "the chain diverged, by step"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    assert expected in study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)
