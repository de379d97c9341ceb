"""experiments.feature_priors: tasks, what each method minimises, runs, faults."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from PIL import Image

from experiments.feature_priors import inputs, methods, study, tables, tasks
from experiments.feature_priors.settings import DIVERGENCES, METHODS, Condition, Settings
from experiments.flags import resolve
from kd import data, models
from kd.checks import NotFiniteError
from kd.export import load_student
from kd.losses import features

MODULE = "experiments.feature_priors"
TINY = {
    "teacher_channels": "3,4",
    "teacher_hidden": "6",
    "student_hidden": "8,6",
    "teacher_epochs": 2,
    "student_epochs": 2,
    "rate": "0.01",
    "label_share": "1,0.1",
    "num_repeats": 2,
}


DIVERGES = TINY | {"protocol": "sgd", "sgd_rate": 1000, "label_share": "1"}
del DIVERGES["rate"]


def settings_of(given, preset="quick"):
    return resolve(Settings, preset, {name: str(value) for name, value in given.items()})


def task_of(given):
    settings = settings_of(TINY | given)
    return settings, tasks.task_of(settings, data.load("digits"), None)


# Tasks.


def test_every_experiment_matches_layers_of_its_own():
    _, fashion = task_of({})
    assert [(link.own, link.told) for link in fashion.links] == [("hidden_0", "teacher/Conv_1")]
    assert fashion.rest == ("Dense_1", "Dense_2")
    _, cifar = task_of({"experiment": "cifar"})
    assert [(link.own, link.told) for link in cifar.links] == [
        ("hidden_0", "teacher/Conv_0"),
        ("hidden_1", "teacher/Conv_1"),
    ]
    assert cifar.rest == ("Dense_2",)
    deep = {"experiment": "cifar", "teacher_channels": "2,2,2,2", "pool_size": "1,1,1,1"}
    assert [link.layer for link in task_of(deep)[1].links] == ["Conv_1", "Conv_3"]
    assert [link.told for link in cifar.links_of("naive")] == []
    assert cifar.links_of("fitnets") == cifar.links_of("prior_soft") == cifar.links


def test_the_papers_networks_are_those_of_their_tables():
    fashion = settings_of({}, "paper")
    assert (fashion.channels, fashion.pools, fashion.hidden) == ((32, 64), (2, 2), (512, 128))
    cifar = settings_of({"experiment": "cifar"}, "paper")
    assert (cifar.channels, cifar.pools) == ((32, 32, 64, 64), (1, 2, 1, 2))
    assert cifar.hidden == (8192, 8192)
    assert settings_of({"experiment": "cifar", "student_hidden": "9,8"}, "paper").hidden == (9, 8)


def test_experts_have_half_of_the_classes_each_and_widths_of_their_own():
    _, task = task_of({"experiment": "experts"})
    digits = data.load("digits")
    assert task.lessons["0"].classes == (0, 1, 2, 3, 4)
    assert task.lessons["1"].classes == (5, 6, 7, 8, 9)
    assert [lesson.model.channels for lesson in task.lessons.values()] == [(3, 4), (4, 6)]
    second = task.lessons["1"].dataset
    chosen = digits.train_y >= 5
    np.testing.assert_array_equal(second.train_x, digits.train_x[chosen])
    np.testing.assert_array_equal(second.train_y, digits.train_y[chosen] - 5)
    assert [link.told for link in task.links_of("experts")] == ["0/Conv_1", "1/Conv_1"]
    assert [link.told for link in task.links_of("expert_1")] == ["1/Conv_1"]
    # Each has half of the layer's units, or all of them.
    units = jnp.arange(9.0)[None]
    assert [link.units(units).tolist() for link in task.links_of("experts")] == [
        [[0, 1, 2, 3]],
        [[4, 5, 6, 7, 8]],
    ]
    for method in ("expert_0", "expert_1", "experts_shared"):
        assert all(link.units(units).shape == (1, 9) for link in task.links_of(method))


def test_experts_may_have_layers_of_their_own():
    _, task = task_of({"experiment": "experts", "expert_layer": "Conv_0,hidden_0"})
    assert [link.told for link in task.links] == ["0/Conv_0", "1/hidden_0"]
    assert {link.own for link in task.links} == {"hidden_0"}


def test_transfer_is_to_classes_that_the_teacher_has_not_seen():
    _, task = task_of({"experiment": "transfer"})
    lesson = task.lessons["source"]
    assert lesson.dataset.num_classes == task.dataset.num_classes == 5
    together = len(lesson.dataset.train_y) + len(task.dataset.train_y)
    assert together == len(data.load("digits").train_y)
    digits = data.load("digits")
    other = tasks.task_of(settings_of(TINY | {"experiment": "transfer"}), digits, digits)
    assert other.dataset is digits and other.lessons["source"].dataset is digits
    told = {"x": jnp.asarray(task.dataset.train_x)}
    params = lesson.model.init(jax.random.key(1), told["x"][0])
    start = methods.start_of(
        Condition("fair", "copied", 1.0), task, told, {"source": params}, jax.random.key(0)
    )["student"]["params"]
    for name in ("Conv_0", "Conv_1"):
        jax.tree.map(np.testing.assert_array_equal, start[name], params["params"][name])
    assert not np.array_equal(start["Dense_0"]["kernel"], params["params"]["Dense_0"]["kernel"])


# What is minimised.


def batch_of(task, teacher_seed=5):
    """Ten images, four of them with labels, and what a teacher says that has learned nothing."""
    dataset = task.dataset
    x = jnp.asarray(dataset.train_x[:10])
    told = {}
    for link in task.links:
        model = task.lessons[link.teacher].model
        params = model.init(jax.random.key(teacher_seed), x[0])
        features_fn = models.features_of(model, [link.layer, "output"])
        found = jax.vmap(lambda one, fn=features_fn, params=params: fn(params, one))(x)
        told[link.told], logits = found[link.layer], found["output"]
    labelled = {"labelled_x": x[6:], "labelled_y": jnp.asarray(dataset.train_y[6:10])}
    return {"x": x, "features": told, "logits": logits, **labelled}


def student_outputs(task, params, x):
    outputs = jax.vmap(lambda one: task.student.apply(params["student"], one))(x)
    return np.asarray(outputs, np.float64)


def test_answers_by_hand():
    settings, task = task_of({"temperature": 3, "label_weight": 0.3})
    batch = batch_of(task)
    params = {"student": task.student.init(jax.random.key(0), batch["x"][0])}
    logits = student_outputs(task, params, batch["x"])
    taught = np.asarray(batch["logits"], np.float64)
    log_probs = oracles.log_softmax(student_outputs(task, params, batch["labelled_x"]))
    labels = -np.mean(log_probs[np.arange(4), np.asarray(batch["labelled_y"])])
    soft = np.mean([oracles.soft_target(s, t, 3.0) for s, t in zip(logits, taught, strict=True)])
    expected = {
        "naive": labels,
        "logits": np.mean(0.5 * np.sum((logits - taught) ** 2, axis=1)),
        "soft": 0.3 * labels + 0.7 * soft,
    }
    expected |= {"prior": labels, "hint_labels": labels, "noisy": expected["logits"]}
    expected |= {"fitnets": expected["soft"], "prior_soft": expected["soft"]}
    assert set(expected) == set(METHODS["fashion"])
    for method, value in expected.items():
        condition = Condition("fair", method, 1.0)
        found = methods.answers(settings, condition, task.student)(params, batch)
        assert float(found) == pytest.approx(value, rel=1e-4), method


@pytest.mark.parametrize(
    ("experiment", "method"),
    [
        ("fashion", "fitnets"),
        ("cifar", "fitnets"),
        ("experts", "experts"),
        ("experts", "experts_shared"),
    ],
)
def test_priors_and_hints_by_hand(experiment, method):
    settings, task = task_of({"experiment": experiment, "jitter": 0.05})
    batch = batch_of(task)
    condition = Condition("fair", method, 1.0)
    params = methods.start_of(condition, task, batch, {}, jax.random.key(0))
    own = jax.vmap(lambda x: models.features_of(task.student)(params["student"], x))(batch["x"])
    parts = {"experts": [slice(0, 4), slice(4, 8)]}.get(method, [slice(None)] * 2)
    expected = sum(
        features.gaussian_process_kl(
            own[link.own][:, part], batch["features"][link.told], jitter=0.05
        )
        for link, part in zip(task.links, parts, strict=False)
    )
    found = methods.prior(settings, task.links_of(method), task.student)(params, batch)
    assert float(found) == pytest.approx(float(expected) / 10, rel=1e-5)
    if experiment == "experts":
        return
    expected = 0.0
    for link in task.links:
        layer = jax.tree.map(np.asarray, params["regressors"][link.own]["params"]["Dense_0"])
        guess = np.asarray(own[link.own]) @ layer["kernel"] + layer["bias"]
        target = np.asarray(batch["features"][link.told]).reshape(10, -1)
        expected += 0.5 * np.mean((guess - target) ** 2)
    found = methods.hints(task.links, task.student)(params, batch)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_other_divergences_and_kernels(name, kernel):
    settings, task = task_of({"divergence": name, "kernel": kernel})
    batch = batch_of(task)
    params = methods.start_of(Condition("fair", "prior", 1.0), task, batch, {}, jax.random.key(0))
    (link,) = task.links_of("prior")
    own_fn = models.features_of(task.student, [link.own])
    own = jax.vmap(lambda x: own_fn(params["student"], x)[link.own])(batch["x"])
    given = {} if name == "wasserstein" else {"jitter": 0.01}
    given |= {"kernel_fn": features.rbf_kernel()} if kernel == "rbf" else {}
    loss = getattr(features, f"gaussian_process_{name}")
    expected = float(loss(own, batch["features"][link.told], **given)) / 10
    found = methods.prior(settings, (link,), task.student)(params, batch)
    assert float(found) == pytest.approx(expected, rel=1e-5) and expected > 0


@pytest.mark.parametrize(
    ("experiment", "method", "moves_first", "moves_then"),
    [
        ("fashion", "prior", {"Dense_0"}, {"Dense_1", "Dense_2"}),
        ("fashion", "hint_labels", {"Dense_0"}, {"Dense_1", "Dense_2"}),
        ("fashion", "fitnets", {"Dense_0"}, {"Dense_0", "Dense_1", "Dense_2"}),
        ("fashion", "naive", {"Dense_0", "Dense_1", "Dense_2"}, {"Dense_0", "Dense_1", "Dense_2"}),
        ("experts", "experts_shared", {"Dense_0"}, {"Dense_1", "Dense_2"}),
        ("transfer", "copied", {"Dense_0", "Dense_1"}, {"Dense_0", "Dense_1"}),
        ("transfer", "prior", {"Conv_0", "Conv_1"}, {"Dense_0", "Dense_1"}),
        ("transfer", "naive", *2 * [{"Conv_0", "Conv_1", "Dense_0", "Dense_1"}]),
    ],
)
def test_what_each_stage_moves(experiment, method, moves_first, moves_then):
    settings, task = task_of({"experiment": experiment})
    condition, batch = Condition("sgd", method, 1.0), batch_of(task)
    update = methods.update_of(settings, condition, task, rate=0.1, num_steps=2)
    teachers = {
        name: lesson.model.init(jax.random.key(1), task.dataset.train_x[0])
        for name, lesson in task.lessons.items()
    }
    params = methods.start_of(condition, task, batch, teachers, jax.random.key(0))
    state = update.init(params)
    for moves in (moves_first, moves_then):
        before = state.params["student"]["params"]
        state, _ = update.apply(state, batch)
        after = state.params["student"]["params"]
        moved = {k for k in before if np.any(before[k]["kernel"] != after[k]["kernel"])}
        assert moved == moves


def test_labels_have_a_step_however_large_the_share_of_features():
    settings, task = task_of({"feature_share": 0.99})
    condition, batch = Condition("fair", "prior", 1.0), batch_of(task)
    update = methods.update_of(settings, condition, task, rate=0.1, num_steps=3)
    state = update.init(methods.start_of(condition, task, batch, {}, jax.random.key(0)))
    stages = []
    for _ in range(3):
        state, metrics = update.apply(state, batch)
        stages.append(int(metrics["stage"]))
    assert stages == [0, 0, 1]


def test_a_rate_is_chosen_on_labelled_examples_kept_apart():
    settings, task = task_of({"rate": "0.1,0.2,0.3", "kept_apart": 0.25})
    seen = []

    class Run:
        pass

    run = Run()
    run.settings = settings
    whole = task.dataset

    def train_(phase, task, told, labelled, *, rate, num_repeats):
        seen.append((phase, len(told["x"]), len(labelled["labelled_y"]), num_repeats))
        own = task.dataset
        assert len(own.train_y) == 1050 and len(own.test_y) == 150
        # Of 600 labelled ones they are 150: no label is used that the students do not have.
        final = inputs.split_of(settings, whole, 0.5, is_trial=False)
        trial = inputs.split_of(settings, whole, 0.5, is_trial=True)
        assert set(trial.apart) | set(trial.labelled) == set(final.labelled)
        assert len(final.labelled) == 600 and len(final.told) == 1200
        assert not set(trial.apart) & (set(trial.labelled) | set(trial.told))
        np.testing.assert_array_equal(own.test_x, whole.train_x[trial.apart])
        np.testing.assert_array_equal(told["x"], whole.train_x[trial.told])
        np.testing.assert_array_equal(labelled["labelled_y"], whole.train_y[trial.labelled])
        right = np.log(
            np.where(np.eye(10)[own.test_y] > 0, {0.1: 0.5, 0.2: 0.9, 0.3: 0.7}[rate], 0.1)
        )
        return study.Students(None, right[None], rate, np.zeros(0))

    told = {"x": jnp.asarray(whole.train_x)}
    condition = Condition("fair", "naive", 0.5)
    assert study.choose_rate(run, task, told, condition, train_) == 0.2
    assert [one[1:] for one in seen] == [(1050, 450, 1)] * 3
    assert seen[0][0] == "rate[fair,naive,0.5,0.1]"
    # Fewer labels are among the more; of two labelled examples one is kept apart.
    few, many = (inputs.split_of(settings, whole, s, is_trial=False) for s in (0.01, 0.5))
    assert set(few.labelled) < set(many.labelled) and len(few.labelled) == 12
    assert len(inputs.split_of(settings, whole, 2 / 1200, is_trial=True).apart) == 1


def test_experts_answer_for_classes_of_their_own():
    settings, task = task_of({"experiment": "experts"})
    x = task.dataset.train_x[0]
    teachers = {
        name: study.Teacher(lesson.model.init(jax.random.key(i), jnp.asarray(x)), np.zeros(0))
        for i, (name, lesson) in enumerate(task.lessons.items())
    }

    class Run:
        pass

    run = Run()
    run.settings, run.options = settings, Run()
    run.options.cache_gb = 1.0
    told = study.tell(run, task, teachers)
    halves = [
        oracles.log_softmax(np.asarray(lesson.model.apply(teachers[name].params, jnp.asarray(x))))
        for name, lesson in task.lessons.items()
    ]
    expected = np.concatenate(halves)
    np.testing.assert_allclose(told["logits"][0], expected - expected.mean(), rtol=1e-4, atol=1e-5)
    assert set(told["features"]) == {"0/Conv_1", "1/Conv_1"}


def test_figures_of_merit_by_hand():
    rng = np.random.default_rng(0)
    log_probs = oracles.log_softmax(rng.normal(size=(2, 6, 4)))
    labels = np.array([0, 1, 1, 2, 3, 3])
    found = {row.name: row for row in tables._figures("a", log_probs, labels, {"accuracy": 7.0})}
    guesses = log_probs.argmax(-1)
    assert found["accuracy[a]"].value == pytest.approx(100 * np.mean(guesses == labels))
    assert found["accuracy[a]"].paper == 7.0 and found["nll[a]"].paper is None
    best = [
        np.mean([label in np.argsort(-p)[:2] for p, label in zip(one, labels, strict=True)])
        for one in log_probs
    ]
    assert found["top2[a]"].value == pytest.approx(100 * np.mean(best))
    assert found["top2[a]"].stderr == pytest.approx(100 * np.std(best, ddof=1) / 2**0.5)
    scores = []
    for one in guesses:
        each = []
        for label in range(4):
            hits = np.sum((one == label) & (labels == label))
            each.append(2 * hits / (np.sum(one == label) + np.sum(labels == label)))
        scores.append(np.mean(each))
    assert found["f1[a]"].value == pytest.approx(100 * np.mean(scores))


def test_every_protocol_has_an_optimiser_of_its_own():
    settings, task = task_of(
        {"teacher_rate": 0.02, "sgd_rate": 0.5, "rate": "0.03", "protocol": "written,sgd,fair"}
    )
    rates = {}

    class Run:
        pass

    run = Run()
    run.settings = settings

    def train(run, phase, *_, rate, **others):
        rates[phase] = rate

    with mock.patch.object(study, "train", train):
        for protocol in ("written", "sgd", "fair"):
            study.distil(run, task, {}, {}, Condition(protocol, "naive", 1.0))
    assert rates == {
        "students[written,naive,1]": 0.02,
        "students[sgd,naive,1]": 0.5,
        "students[fair,naive,1]": 0.03,
    }
    batch = batch_of(task)
    condition = Condition("sgd", "naive", 1.0)
    params = methods.start_of(condition, task, batch, {}, jax.random.key(0))
    objective = methods.answers(settings, condition, task.student)
    slopes = jax.grad(objective)(params, batch)
    for protocol in ("written", "sgd"):
        update = methods.update_of(
            settings, condition._replace(protocol=protocol), task, rate=0.5, num_steps=2
        )
        moved = update.apply(update.init(params), batch)[0].params
        if protocol == "sgd":
            expected = jax.tree.map(lambda p, slope: p - 0.5 * slope, params, slopes)
        else:  # Adam's first step is of the rate's size, whatever the slope's.
            expected = jax.tree.map(lambda p, slope: p - 0.5 * jnp.sign(slope), params, slopes)
        # Of the last layer: none of its slopes is next to nothing.
        one, other = (x["student"]["params"]["Dense_2"]["bias"] for x in (moved, expected))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_students_of_all_methods_begin_alike_and_see_the_same_batches():
    settings, task = task_of({"batch_size": 5})
    batch = batch_of(task)
    labelled = {name: batch[name] for name in ("labelled_x", "labelled_y")}
    told = {name: batch[name] for name in ("x", "features", "logits")}
    seen = []

    class Run:
        key = staticmethod(lambda name: jax.random.key(sum(map(ord, name))))

        def fit(self, phase, key, stream, update, state, num_steps, **others):
            seen.append((phase, key, state.params["student"]))
            raise InterruptedError

    run = Run()
    run.settings = settings
    for method in ("naive", "prior", "fitnets"):
        condition = Condition("fair", method, 1.0)
        with pytest.raises(InterruptedError):
            study.train(
                *(run, f"students[{method}]", task, told, labelled),
                **{"teachers": {}, "condition": condition, "rate": 0.1, "num_repeats": 2},
            )
    phases, keys, starts = zip(*seen, strict=True)
    assert len(set(phases)) == 3 and all(key == keys[0] for key in keys)
    for start in starts[1:]:
        jax.tree.map(np.testing.assert_array_equal, start, starts[0])


# Runs.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("feature_priors") / "run"
    given = TINY | {"method": "naive,noisy,fitnets,prior", "protocol": "sgd,fair"}
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, given, module=MODULE)


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert figures == {"methods.png", "kernels-sgd.png", "kernels-fair.png"}
    for name in figures:
        pixels = np.asarray(Image.open(finished.path / "figures" / name).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5
    conditions = settings_of(
        TINY | {"method": "naive,noisy,fitnets,prior", "protocol": "sgd,fair"}
    ).conditions()
    names = {path.name for path in (finished.path / "student").iterdir()}
    assert names == {condition.name.replace(",", "-") for condition in conditions}
    shown = finished.stdout[finished.stdout.index("Plain SGD for all") :]
    assert max(map(len, shown[: shown.index("Look at")].splitlines())) <= 80


def test_a_file_has_the_likelihood_of_its_student(finished):
    digits = data.load("digits")
    student = load_student(finished.path / "student" / "fair-prior-0.1")
    log_probs = np.asarray(student(jnp.asarray(digits.test_x)), float)
    own = -np.mean(log_probs[np.arange(len(log_probs)), digits.test_y])
    row = {row["name"]: row for row in finished.summary()["rows"]}["nll[fair,prior,0.1]"]
    # Of two students the row has the mean and half their distance.
    assert row["repeats"] == 2
    assert abs(own - row["value"]) == pytest.approx(row["stderr"], rel=1e-3)


def test_students_that_diverge_are_left_out_and_the_others_go_on(tmp_path):
    """Regression of logits by plain SGD, as in the paper's protocol on its own data."""
    given = DIVERGES | {"method": "naive,logits"}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    assert "sgd,logits,1 is left out, in students[sgd,logits,1]:" in finished.stderr
    values = finished.values()
    assert values["diverged[sgd,logits,1]"] == 1 and values["nll[sgd,naive,1]"] > 0
    assert "nll[sgd,logits,1]" not in values and "diverged[sgd,naive,1]" not in values
    assert {path.name for path in (finished.path / "student").iterdir()} == {"sgd-naive-1"}
    (line,) = (line for line in finished.stdout.splitlines() if line.startswith("│ logits"))
    assert line.replace("│", "").split() == ["logits", *4 * "–"]
    assert "– The loss was no longer finite: a lower rate may do." in finished.stdout
    again = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    assert line in again.stdout


def test_nothing_is_left_of_students_that_all_diverge(tmp_path):
    given = DIVERGES | {"method": "logits"}
    line = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "in students[sgd,logits,1]: " in line


def test_a_rate_at_which_students_diverge_is_not_chosen(tmp_path):
    given = {"method": "logits", "protocol": "fair", "rate": "1e6,0.01", "label_share": "1"}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", TINY | given, module=MODULE)
    assert finished.values()["rate[fair,logits,1]"] == 0.01


@pytest.mark.parametrize("experiment", ["cifar", "experts", "transfer"])
def test_other_experiments(experiment, tmp_path):
    given = TINY | {"experiment": experiment, "label_share": "0.2", "num_repeats": 1}
    if experiment == "cifar":
        given |= {"method": "prior,fitnets"}
    if experiment == "experts":
        given |= {"expert_layer": "Conv_1,hidden_0"}
    with study_runs.unverified_exports():
        run = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    names = {row["name"] for row in run.summary()["rows"]}
    for method in settings_of(given).methods:
        assert f"accuracy[fair,{method},0.2]" in names


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    path = tmp_path / "run"
    given = TINY | {"method": "prior", "label_share": "0.5", "rate": "0.01,0.02"}
    phases = ("teacher-teacher", "rate-fair-prior-0.5-0.02", "students-fair-prior-0.5")
    with study_runs.unverified_exports():
        whole = study_runs.succeed_here(tmp_path / "whole", given, module=MODULE)
        study_runs.kill_again_and_again(path, given, phases, module=MODULE)
        resumed = study_runs.succeed_here(path, given, module=MODULE)
    study_runs.assert_same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"experiment": "mnist"}, "--experiment must be fashion | cifar | experts | transfer"),
        ({"method": "copied"}, "--experiment=fashion has no --method=copied; it has naive, logits"),
        ({"method": "naive,naive"}, "--method names a value twice: naive,naive."),
        ({"protocol": "unfair"}, "--protocol must be written | sgd | fair"),
        ({"label_share": "0"}, "--label_share must be a number and > 0 and <= 1; got '0'."),
        ({"label_share": "0.1,0.10000001"}, "--label_share names a value twice: 0.1,0.10000001."),
        (
            {"label_share": "0.001"},
            "--label_share=0.001 leaves fewer than two examples with a label.",
        ),
        ({"batch_size": 2000}, "--batch_size=2000 is more than the 1200 examples there are."),
        (
            {"batch_size": 2000, "rate": "0.01,0.1"},
            "--batch_size=2000 is more than the 960 examples there are beside those kept apart.",
        ),
        ({"experiment": "experts", "student_hidden": "1,6"}, "first layer of 1 unit, which two"),
        ({"batch_size": 900, "student_epochs": 1}, "make one step, and stages need two."),
        ({"pool_size": "2"}, "--pool_size has 1 values, and --teacher_channels 2: give as many."),
        ({"pool_size": "2,2"}, "images of 8 x 8 are too small for 2 convolutions"),
        ({"experiment": "cifar", "student_hidden": "8"}, "--student_hidden needs 2 layers"),
        ({"source": "digits"}, "--source does nothing without --experiment=transfer."),
        ({"source": "digits", "experiment": "experts"}, "--source does nothing without"),
        (
            {"noise_scale": 1, "method": "naive,prior"},
            "--noise_scale does nothing without --method=noisy.",
        ),
        ({"kept_apart": 0.3}, "--kept_apart does nothing without several values of --rate"),
        ({"sgd_rate": 0.1}, "--sgd_rate does nothing without --protocol=sgd."),
        ({"jitter": 0.1, "method": "naive"}, "--jitter does nothing without --method=prior or"),
        ({"divergence": "hellinger", "method": "soft"}, "--divergence does nothing without"),
        ({"kernel": "rbf", "method": "soft"}, "--kernel does nothing without --method=prior or"),
        (
            {"jitter": 0.1, "divergence": "wasserstein"},
            "and a --divergence other than wasserstein.",
        ),
        (
            {"divergence": "kls"},
            "--divergence must be kl | bhattacharyya | hellinger | wasserstein",
        ),
        (
            {"step_size": 0.1},
            "--step_size does nothing without --experiment=sampled and --method=chain or",
        ),
        (
            {"strength": 3, "method": "prior"},
            "--strength does nothing without --experiment=sampled and --method=map_prior or",
        ),
        (
            {"experiment": "experts", "expert_layer": "Conv_1,Conv_2"},
            "teacher '1' has no layer 'Conv_2'; it has Conv_0, Conv_1, Dense_0, Dense_1, hidden_0",
        ),
        ({"experiment": "experts", "expert_layer": "Conv_1"}, "--expert_layer must name two"),
        ({"expert_layer": "Conv_1,Conv_1"}, "--expert_layer does nothing without --experiment="),
        ({"experiment": "experts", "batch_size": 620}, "examples that teacher '0' has"),
        ({"dataset": "lsun"}, "unknown data set 'lsun'"),
        ({"temperature": 0}, "--temperature must be a number and > 0"),
        ({"cache_gb": 1e-9}, "the teacher's features would take"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    assert expected in study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)
    if "cache_gb" not in changed:  # What is known at once leaves no directory behind.
        assert not (tmp_path / "run").exists()


def test_classes_without_a_label_are_told_of(caplog):
    settings, task = task_of({"label_share": "0.005"})
    inputs.check_sizes(settings, task)
    labelled = inputs.split_of(settings, task.dataset, 0.005, is_trial=False).labelled
    missing = sorted(set(range(10)) - set(task.dataset.train_y[labelled].tolist()))
    told = ", ".join(map(str, missing))
    assert f"none of the 6 labelled examples is of class {told}." in caplog.text


def test_all_examples_may_be_a_batch_where_none_is_kept_apart():
    settings, task = task_of({"batch_size": 1200, "label_share": "1"})
    inputs.check_sizes(settings, task)


def test_a_source_of_one_class_is_refused(tmp_path):
    x = np.random.default_rng(0).random((20, 8, 8, 1))
    y = np.zeros(20, int)
    np.savez(tmp_path / "one.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    given = TINY | {"experiment": "transfer", "source": tmp_path / "one.npz"}
    message = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "one.npz has one class, and nothing to learn." in message


def test_answers_that_are_not_finite_are_one_line(tmp_path):
    """Of a teacher whose own loss was finite to the end, as far as it was looked at."""
    with mock.patch.object(
        tables, "curve", side_effect=NotFiniteError("log_probs must not be NaN.")
    ):
        message = study_runs.refusal(tmp_path / "run", TINY, module=MODULE)
    assert "log_probs must not be NaN. Other settings or another --seed need" in message


def test_students_whose_answers_are_not_finite_are_left_out(tmp_path):
    curve, asked = tables.curve, []

    def once(log_probs, labels):
        asked.append(len(log_probs))
        if asked.count(2) == 1 and asked[-1] == 2:  # Of the first two students.
            raise NotFiniteError("log_probs must not be NaN.")
        return curve(log_probs, labels)

    given = TINY | {"method": "naive,logits", "label_share": "1"}
    with study_runs.unverified_exports(), mock.patch.object(tables, "curve", once):
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    values = finished.values()
    assert values["diverged[fair,naive,1]"] == 1 and values["nll[fair,logits,1]"] > 0


def test_an_expert_without_test_images_is_refused(tmp_path):
    """Four classes, of which the test has the last two."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "four.npz",
        train_x=rng.random((400, 8, 8, 1)),
        train_y=np.arange(400) % 4,
        test_x=rng.random((20, 8, 8, 1)),
        test_y=2 + np.arange(20) % 2,
    )
    given = TINY | {"dataset": tmp_path / "four.npz", "experiment": "experts"}
    message = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "teacher '0' has no test image, so that it cannot be judged." in message
    assert not (tmp_path / "run").exists()
