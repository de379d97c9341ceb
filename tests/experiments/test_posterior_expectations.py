"""experiments.posterior_expectations: runs, resumed; figures of merit, faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import study_runs
from expectation_settings import TINY, loaded_digits, settings_of
from PIL import Image

from experiments import report
from experiments.flags import Options
from experiments.posterior_expectations import (
    figures,
    inputs,
    judging,
    showing,
    tables,
    teachers,
)
from experiments.posterior_expectations.settings import Chain, Student
from kd import data, metrics, models
from kd.export import load_student

MODULE = "experiments.posterior_expectations"
ONE = TINY | {"student": "both", "estimator": "running"}
# On the digits without masks: what follows a teacher, and one worth following.
LEARNS = TINY | {
    "hidden_sizes": "20",
    "num_steps": 2000,
    "burn_in": 500,
    "student_rate": 0.01,
    "test_thin": 20,
    "mask_rate": 0,
    "outside": "",
}
FOUR = [f"{kind},{one},1x1" for kind in ("both", "dirichlet") for one in ("current", "running")]


def nll_of_file(finished, name, given):
    """Of an exported student at the masked test images, by NumPy alone."""
    settings = settings_of(given)
    dataset, _ = inputs.data_of(settings, loaded_digits(), settings.chains()[0])
    student = load_student(finished.path / "student" / name)
    log_probs = np.asarray(student(jnp.asarray(dataset.test_x)), float)[:, :10]
    return -log_probs[np.arange(len(log_probs)), dataset.test_y].mean()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("posterior_expectations") / "run"
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, TINY | {"num_repeats": 2}, module=MODULE)


def check_figures(finished, names):
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert figures == names
    for name in figures:
        pixels = np.asarray(Image.open(finished.path / "figures" / name).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    names = ("training", "entropies", "uncertainties")
    check_figures(finished, {f"{name}-0.25-0.png" for name in names})
    names = {path.name for path in (finished.path / "student").iterdir()}
    assert names == {f"{name},0.25,0,0".replace(",", "-") for name in FOUR}
    # Two answers of ten classes, an entropy and a count, of each.
    assert f"estimates at 1,200 examples: {1200 * 4 * 22:,} bytes" in finished.stdout
    shown = finished.stdout[finished.stdout.rindex("25 % of each image masked") :]
    assert max(map(len, shown[: shown.index("Look at")].splitlines())) <= 80


def test_rows_of_teacher_and_students(finished):
    values = finished.values()
    for name in ["teacher", "fitted Dirichlets", *FOUR]:
        for figure in ("nll", "accuracy", "ece", "brier", "entropy_mae"):
            is_there = f"{figure}[0.25,0,{name}]" in values
            assert is_there == ((name, figure) != ("teacher", "entropy_mae"))  # 0 by definition.
        for kind in ("total", "knowledge"):
            assert 0 <= values[f"auroc.permuted.{kind}[0.25,0,{name}]"] <= 1
            for figure in ("aupr", "fpr95"):
                assert 0 <= values[f"{figure}.permuted.{kind}[0.25,0,{name}]"] <= 1
            assert 0 <= values[f"ndcg_std.{kind}[0.25,0,{name}]"] < 0.5
            ndcg = values[f"ndcg.{kind}[0.25,0,{name}]"]
            assert 0 < values[f"ndcg_random.{kind}[0.25,0,{name}]"] < 1 and 0 < ndcg <= 1 + 1e-9
        assert 0 < values[f"risk_area[0.25,0,{name}]"] < 1
    assert values["ndcg.total[0.25,0,teacher]"] == pytest.approx(1)
    # 64 inputs, two layers of 8, and 11 outputs.
    assert values["parameters[0.25,0,both,running,1x1]"] == 65 * 8 + 9 * 8 + 9 * 11
    assert values["flops[0.25,0,both,running,1x1]"] >= 2 * (64 * 8 + 8 * 8 + 8 * 11)
    assert values["units[0.25,0,both,running,1x1]"] == 16
    assert values["latency[0.25,0,both,running,1x1]"] > 0
    rows = finished.metrics()["chain[0.25,0,1]"]
    assert int(rows[-1]["step"]) == 12 and float(rows[-1]["teacher.samples"]) == 3


def test_an_exported_student_has_the_likelihood_it_says(finished):
    last = finished.metrics()["chain[0.25,0,0]"][-1]
    nll = nll_of_file(finished, "both-running-1x1-0.25-0-0", TINY)
    assert float(last["both,running,1x1.nll"]) == pytest.approx(nll, rel=1e-4)


# Experiment 3: widths and pruning.

SEARCH = ONE | {
    "experiment": 3,
    "unit_multiplier": "1,2",
    "student_batch": 20,
    "num_steps": 150,
}


@pytest.fixture(scope="module", params=["proximal", "penalty"])
def searched(request, tmp_path_factory):
    """A strength that empties some units; by proximal steps ones for all, and none, of them too."""
    path = tmp_path_factory.mktemp("search") / "run"
    given = SEARCH | {"regularizer": request.param}
    if request.param == "proximal":
        given |= {"regularizer_strength": "180,5000,0.001"}
    else:
        given |= {"regularizer_strength": 20, "threshold": 0.25, "student_rate": 0.01}
    with study_runs.unverified_exports():
        return given, study_runs.succeed_here(path, given, module=MODULE)


def test_a_pruned_student_is_smaller_and_is_what_its_file_says(searched):
    given, finished = searched
    values = finished.values()
    strength = given["regularizer_strength"]
    few = "both,running,1x2," + str(strength).split(",")[0]
    whole = values["parameters[0.25,0,both,running,1x2]"]
    assert whole == 65 * 16 + 17 * 16 + 17 * 11
    assert 100 < values[f"parameters[0.25,0,{few}]"] < whole
    assert values[f"flops[0.25,0,{few}]"] < values["flops[0.25,0,both,running,1x2]"]
    nll = nll_of_file(finished, f"{few},0.25,0,0".replace(",", "-"), given)
    assert values[f"nll[0.25,0,{few}]"] == pytest.approx(nll, rel=1e-4)
    rows = finished.metrics()["fine_tune[0.25,0,0]"]
    assert int(rows[-1]["step"]) == 3 and float(rows[-1][f"{few}.nll"]) == pytest.approx(nll, 1e-4)
    names = ("training", "entropies", "uncertainties", "costs")
    check_figures(finished, {f"{name}-0.25-0.png" for name in names})
    assert "what a student costs" in finished.stdout
    assert values["units[0.25,0,both,running,1x2]"] == 32
    assert 2 <= values[f"units[0.25,0,{few}]"] < 32
    is_told = "Pruning removed nothing of: 1x2 lambda 0.001." in finished.stdout
    assert is_told == (given["regularizer"] == "proximal")


def test_a_student_that_would_lose_a_layer_is_left_out_with_a_warning(searched):
    given, finished = searched
    if given["regularizer"] == "penalty":
        assert finished.stderr == ""
        return
    assert "both,running,1x2,5000 is left out" in finished.stderr
    assert "Dense_0 has no weights left, and no threshold keeps a unit of it." in finished.stderr
    assert "A smaller --regularizer_strength, or --threshold, may leave some." in finished.stderr
    assert "both,running,1x2,0.001 lost no unit" in finished.stderr
    assert not any(",5000]" in name for name in finished.values())


def test_the_frontier_is_of_those_that_none_beats():
    rng = np.random.default_rng(0)
    cost, loss = rng.integers(6, size=(2, 30)).astype(float)
    found = tables.frontier(cost, loss).tolist()
    points = list(zip(cost, loss, strict=True))
    beaten = lambda i: any(
        (c <= cost[i] and n < loss[i]) or (c < cost[i] and n <= loss[i]) for c, n in points
    )
    assert {points[i] for i in found} == {points[i] for i in range(30) if not beaten(i)}
    assert np.all(np.diff(cost[found]) > 0) and np.all(np.diff(loss[found]) < 0)


# Experiment 2: masks and sizes.


def test_masks_and_sizes_in_one_figure(tmp_path):
    given = ONE | {"experiment": 2, "mask_rate": "0,0.5", "train_size": "100"}
    given |= {"student": "predictive,entropy", "estimator": "running"}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    groups = ["0,100", "0.5,100"]
    names = {
        f"{what}-{g.replace(',', '-')}.png"
        for g in groups
        for what in ("training", "entropies", "uncertainties")
    }
    check_figures(finished, names | {"robustness.png"})
    values = finished.values()
    pair = "pair,running,1x1"
    for group in groups:
        assert f"nll[{group},teacher]" in values
        # Of two students together, what neither says; what one says stands in its own row.
        assert f"nll[{group},{pair}]" not in values and f"entropy_mae[{group},{pair}]" not in values
        for kind in ("total", "knowledge"):
            assert f"ndcg.{kind}[{group},predictive,running,1x1]" not in values
            assert 0 < values[f"ndcg.{kind}[{group},{pair}]"] <= 1
        assert 0 < values[f"risk_area[{group},{pair}]"] < 1


def test_two_students_together_are_as_one_of_both():
    """The pair's answers from the two networks' own outputs, place by place."""
    settings = settings_of({"student": "predictive,entropy", "estimator": "running"})
    rng = np.random.default_rng(0)
    places = {"test": rng.normal(size=(5, 4)), "outside x": rng.normal(size=(3, 4))}
    found, outputs = {}, {}
    for student in settings.students():
        model = models.MLP((6,), 1 if student.kind == "entropy" else 3)
        params = model.init(jax.random.key(len(found)), jnp.zeros(4))
        found[student.name] = judging.Learned(student, model, params)
        outputs[student.kind] = {
            name: np.asarray(jax.vmap(lambda x, m=model, p=params: m.apply(p, x))(jnp.asarray(x)))
            for name, x in places.items()
        }
    (name,) = [pair.name for pair in settings.pairs()]
    judged = judging.judge_students(found, places)
    assert list(judged) == [*found, name] and name == "pair,running,1x1"
    for place in places:
        expected = metrics.uncertainties(
            np.exp(jax.nn.log_softmax(outputs["predictive"][place])),
            np.logaddexp(0, outputs["entropy"][place][:, 0]),
        )
        for own, wanted in zip(judged[name].uncertainties[place], expected, strict=True):
            np.testing.assert_allclose(own, wanted, atol=1e-5)
    del found["entropy,running,1x1"]
    assert list(judging.judge_students(found, places)) == ["predictive,running,1x1"]


def test_sizes_alone_are_places_on_the_axis():
    """Of one mask; what is missing leaves a gap, and all examples stand last."""
    given = {"experiment": 2, "mask_rate": "0", "train_size": "100,400", "num_repeats": 1}
    settings = settings_of(ONE | given | {"student": "predictive,entropy", "estimator": ""})
    found = {"0,100": (0.5, 0.75, 0.125), "0,400": (0.25, 0.375, 0.0625)}
    values = {}
    for group, (nll, student, error) in found.items():
        for name, value in (
            (f"nll[{group},teacher]", nll),
            (f"nll[{group},predictive,running,1x1]", student),
            (f"entropy_mae[{group},entropy,current,1x1]", error),
        ):
            values[name] = report.Row(name, value, None, 1, "nats")
    figure = figures.robustness(settings, values)
    nll, gap, errors = (
        [line.get_xydata().tolist() for line in axis.lines if np.isfinite(line.get_ydata()).all()]
        for axis in figure.axes
    )
    assert nll == [[[100, 0.5], [400, 0.25]]]
    assert [[100, 0.25], [400, 0.125]] in gap and errors == [[[100, 0.125], [400, 0.0625]]]
    assert {axis.get_xlabel() for axis in figure.axes} == {"examples"}
    figures.plt.close(figure)


def test_many_masks_and_sizes_are_crossed(capsys, tmp_path):
    """The NLL less the teacher's, and what is missing as a dash; within 80 columns."""
    settings = settings_of({"experiment": 2, "num_repeats": 1}, "paper")
    rows = tables.mask_rows(settings, np.zeros((1, 28, 28, 1)))
    for number, chain in enumerate(settings.chains()):
        group = tables.name_of(chain)
        rows.append(tables.mean_row(f"nll[{group},teacher]", np.array([1.0]), "nats"))
        name = f"nll[{group},predictive,running,1x1]"
        if number:
            rows.append(tables.mean_row(name, np.array([1 + number / 100]), "nats"))
    summary = {"seconds": 1.0, "rows": [row._asdict() for row in rows]}
    showing.show(summary, settings, tmp_path)
    shown = capsys.readouterr().out
    table = shown[shown.index("predictive running: NLL less the teacher's") :].splitlines()
    assert max(map(len, shown.splitlines()[:-2])) <= 80
    assert table[2].split()[1::2][1:] == ["10,000", "20,000", "30,000", "60,000"]
    cells = [[cell.strip() for cell in table[i].split("│")[1:-1]] for i in (4, 9)]
    assert cells[0] == ["0 %", "–", "0.0100", "0.0200", "0.0300"]
    # 26 pixels.
    assert cells[1] == ["86.2 %", "0.2000", "0.2100", "0.2200", "0.2300"]
    assert "entropy running" not in shown


# Runs that have little to show.


def test_few_test_images_are_ranked_as_many_as_they_are(tmp_path):
    path = study_runs.write_npz(tmp_path / "own.npz")
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: arrays[name][:10] for name in ("test_x", "test_y")})
    given = ONE | {"dataset": path, "outside": "", "train_size": 100, "mask_rate": 0}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    (value,) = (
        v for n, v in finished.values().items() if n.startswith("ndcg.total") and "1x1" in n
    )
    assert 0 < value <= 1 + 1e-9


def test_students_of_the_entropy_alone_have_no_costs_to_compare(tmp_path):
    given = TINY | {"student": "entropy", "estimator": "current", "unit_multiplier": "1,2"}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    check_figures(finished, {"training-0.25-0.png", "entropies-0.25-0.png"})


def test_one_class_is_refused(tmp_path):
    path = study_runs.write_npz(tmp_path / "own.npz")
    with np.load(path) as file:
        arrays = dict(file)
    zeros = {name: 0 * arrays[name] for name in ("train_y", "test_y")}
    np.savez(path, **arrays | zeros)
    given = ONE | {"dataset": path, "outside": "", "mask_rate": 0}
    line = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "has one class, of which nothing is to be learned" in line


# Teachers.


@pytest.mark.parametrize(
    "given",
    [
        {"teacher": "ensemble", "num_members": 3},
        {"teacher": "bag", "num_members": 6, "all_members": "true"},
        {"teacher": "cyclical", "num_members": 6, "num_cycles": 3, "num_steps": 2400},
        {"teacher": "sghmc", "num_chains": 2},
        {
            "student": "predictive",
            "estimator": "current",
            "fresh_masks": "true",
            "mask_rate": 0.25,
        },
        {"input_noise": 0, "student_decay": 1e-3, "clip_norm": 1},
    ],
    ids=lambda given: next(iter(given.values())),
)
def test_a_student_of_any_teacher_comes_near_it(given, tmp_path):
    """400 steps of a small student, of a teacher that has learned something: no more is asked."""
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", ONE | LEARNS | given, module=MODULE)
    assert finished.stderr == ""
    nll = {name: row for name, row in finished.values().items() if name.startswith("nll")}
    (teacher,) = (value for name, value in nll.items() if "teacher" in name)
    (student,) = (value for name, value in nll.items() if "1x1" in name)
    assert teacher < (1.0 if "mask_rate" in given else 0.5) and abs(student - teacher) < 0.25


def test_a_dirichlet_student_of_running_means_comes_near_the_nearest(tmp_path):
    """Its likelihood that of the Dirichlets fitted to the chain's own answers, or nearly."""
    given = ONE | LEARNS | {"student": "dirichlet", "num_steps": 4000}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    nll = {name: row for name, row in finished.values().items() if name.startswith("nll")}
    (fitted,) = (value for name, value in nll.items() if "fitted" in name)
    (student,) = (value for name, value in nll.items() if "1x1" in name)
    assert fitted < 1.0 and abs(student - fitted) < 0.3


def test_students_learn_from_other_images_where_there_are_some(tmp_path):
    path = study_runs.write_npz(tmp_path / "own.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in ("train_y", "test_y")}
    for part in ("train", "test"):
        shape = (len(arrays[f"{part}_y"]), 8, 8, 1)
        arrays[f"{part}_x"] = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    np.savez(path, **arrays)
    loaded = inputs.load(settings_of(TINY | {"unlabelled": path}), Options(tmp_path))
    other = arrays["train_x"]
    np.testing.assert_array_equal(loaded.unlabelled, other)
    settings = settings_of(TINY | {"unlabelled": path, "mask_rate": 0, "input_noise": 0})
    dataset, unlabelled = inputs.data_of(settings, loaded, settings.chains()[0])
    np.testing.assert_array_equal(dataset.train_x, data.load("digits").train_x)
    stream = inputs.unlabelled_stream(settings, unlabelled, settings.chains()[0])
    _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(1)))
    np.testing.assert_array_equal(batch["x"], other[np.asarray(batch["index"])])


def test_an_ensemble_that_diverges_is_told_of_its_rate(tmp_path):
    given = ONE | {"teacher": "ensemble", "num_members": 2, "member_rate": 1e6}
    given["hidden_sizes"] = "8,8,8,8,8,8"  # Deep enough to leave single precision.
    line = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "teacher[0.25,0,0] diverged, by step" in line and "--member_rate=1e+06 is too" in line


def test_the_papers_cifar10_is_a_preset():
    settings = settings_of({}, "cifar10")
    own = ("experiment", "dataset", "model", "burn_in", "num_steps", "thin", "num_halvings")
    assert [getattr(settings, name) for name in own] == [
        *("4", "cifar10", "cnn_cifar", 10_000, 1_000_000, 100, 16)
    ]
    assert [chain.mask_rate for chain in settings.chains()] == [0.0] * settings.num_repeats
    sizes = settings_of({"experiment": 2, "num_repeats": 1}, "cifar10").chains()
    assert [chain.train_size for chain in sizes] == [10_000, 20_000, 50_000]


def test_bayesian_dark_knowledge_is_a_preset(tmp_path):
    """Balan et al.'s chain, and one student of its predictions under noisy inputs; then a run."""
    settings = settings_of({}, "dark_knowledge")
    assert settings.chains()[0] == Chain(0.0, 0, 0) and settings.hidden_sizes == (400, 400)
    chain = (settings.step_size, settings.prior_precision, settings.batch_size, settings.num_steps)
    assert chain == (4e-6, 1.0, 100, 10**6)
    (student,) = settings.students()
    assert student == Student("predictive", "current", 1.0, 1.0)
    assert settings.student_steps == 10**5 and settings.input_noise == 0.1
    # A prior of the student's weights, over the examples.
    assert settings.student_decay * 60_000 == pytest.approx(0.1)
    given = LEARNS | {"dataset": "digits", "step_size": 1e-4, "thin": 5}
    with study_runs.unverified_exports():
        finished = study_runs.succeed_here(
            tmp_path / "run", given, module=MODULE, preset="dark_knowledge"
        )
    values = finished.values()
    teacher, student = (values[f"nll[0,0,{n}]"] for n in ("teacher", "predictive,current,1x1"))
    assert teacher < 0.5 and abs(student - teacher) < 0.25
    assert "entropy" not in " ".join(name for name in values if "," in name)


def test_a_stored_teachers_answers_are_means_over_its_members():
    settings = settings_of(TINY)
    digits = data.load("digits")
    members = teachers.starts(settings, digits, jax.random.key(0), 4)
    log_prob_fn = teachers.log_prob_fn_of(settings, 10)
    x = digits.test_x[:6]
    found = teachers.means_of(settings, log_prob_fn, members, x)
    assert int(found.num_samples) == 4
    log_probs = np.array(
        [
            [log_prob_fn(jax.tree.map(lambda leaf, i=i: leaf[i], members), one) for one in x]
            for i in range(4)
        ],
        float,
    )
    np.testing.assert_allclose(found.means["probs"], np.exp(log_probs).mean(0), rtol=1e-5)
    smoothed = np.log(0.999 * np.exp(log_probs) + 0.001 / 10)
    np.testing.assert_allclose(found.means["log_probs"], smoothed.mean(0), rtol=1e-4)
    entropies = -(np.exp(log_probs) * log_probs).sum(-1)
    np.testing.assert_allclose(found.means["entropy"], entropies.mean(0), rtol=1e-5)


def test_a_cyclical_bag_is_of_the_ends_of_cycles():
    """Of 12 positions in 3 cycles those where the step size is below a half of the first."""
    assert teachers.ends_of_cycles(12, 3).tolist() == [2, 3, 6, 7, 10, 11]


def test_the_log_posterior_is_that_of_the_weights():
    settings = settings_of(TINY | {"prior_precision": 3})
    digits = data.take_first(data.load("digits"), 0.05)
    weights = teachers.start(settings, digits, jax.random.key(0))
    log_prob_fn = teachers.log_prob_fn_of(settings, 10)
    batch = {"x": jnp.asarray(digits.train_x[:20]), "y": jnp.asarray(digits.train_y[:20])}
    found = teachers.log_posterior_fn_of(settings, digits)(weights, batch)
    likelihood = np.mean(
        [float(log_prob_fn(weights, x)[y]) for x, y in zip(batch["x"], batch["y"], strict=True)]
    )
    squares = sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(weights))
    expected = len(digits.train_x) * likelihood - 1.5 * squares
    assert float(found) == pytest.approx(expected, rel=1e-5)


# Interruptions and mistakes.


@pytest.mark.parametrize(
    ("given", "phases"),
    [
        (
            SEARCH | {"num_chains": 2, "regularizer_strength": 180, "fine_tune_steps": 20},
            ("burn_in-chain-0.25-0-0", "chain-0.25-0-0", "fine_tune-0.25-0-0"),
        ),
        (
            ONE | {"teacher": "ensemble", "num_members": 2, "num_steps": 200},
            ("teacher-0.25-0-0", "chain-0.25-0-0"),
        ),
    ],
)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path, given, phases):
    """In the burn-in, beside the chains, and in fine-tuning; while an ensemble learns."""
    path = tmp_path / "run"
    study_runs.kill_again_and_again(path, given, phases, module=MODULE)
    with study_runs.unverified_exports():
        resumed = study_runs.succeed_here(path, given, module=MODULE)
        whole = study_runs.succeed_here(tmp_path / "whole", given, module=MODULE)
    study_runs.assert_same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"experiment": 5}, "--experiment must be 1 | 2 | 3 | 4; got '5'."),
        ({"student": "teacher"}, "--student must be predictive | entropy | both | dirichlet"),
        ({"estimator": "mean"}, "--estimator must be current | running; got 'mean'."),
        (
            {"outside": "lsun"},
            "--outside must be digits, mnist, fashion_mnist, kmnist, cifar10, not",
        ),
        ({"outside": "lsun"}, "notmnist, permuted, inverted or the path of an .npz; got 'lsun'."),
        ({"unlabelled": "lsun"}, "--unlabelled must be digits, mnist"),
        ({"dataset": "lsun"}, "cifar10, toy or the path of an .npz; got 'lsun'."),
        ({"mask_rate": 1e-9}, "--mask_rate=1e-09 is less than a pixel: give 0, or more."),
        (
            {"cache_gb": 1e-9, "teacher": "ensemble", "num_members": 2, "num_steps": 10**7},
            "the estimates at 1,200 examples would take",
        ),
        ({"channel_multiplier": "2"}, "--channel_multiplier is of convolutions, and fcnn has none"),
        (
            {"student_hidden": "10", "unit_multiplier": "2"},
            "--student_hidden is instead of --unit_multiplier: give one of them.",
        ),
        (
            {"student_hidden": "10", "regularizer_strength": "2"},
            "--student_hidden is instead of --regularizer_strength",
        ),
        ({"student_hidden": "10", "experiment": 3}, "--experiment=3 searches widths"),
        ({"student_hidden": "10,010"}, "--student_hidden has the same sizes twice."),
        (
            {"temperature": 2, "student": "predictive", "estimator": "current"},
            "--temperature is of dirichlet students, and there are none.",
        ),
        (
            {"num_steps": 10, "thin": 20, "test_thin": 1},
            "--num_steps must be at least --thin; got 10.",
        ),
        ({"train_size": "100,5000"}, "digits has 1,200 training examples, not 5,000: give a"),
        ({"mask_rate": "0.3,0.3"}, "--mask_rate has 0.3 twice."),
        ({"mask_rate": "0.68,0.86"}, "--mask_rate 0.68 and 0.86 are the same square, of 7"),
        ({"mask_rate": "0.3,0.30000001"}, "two values of --mask_rate are the same, to six"),
        ({"unit_multiplier": "1,1.00000001"}, "two values of --channel_multiplier, --unit"),
        ({"student": "both,both"}, "--student has both twice."),
        ({"dropout": "0.5,0.5"}, "--dropout has 0.5 twice."),
        ({"dropout": "1"}, "--dropout"),
        ({"model": "cnn"}, "--model=cnn: an image of 2 x 2 is too small for kernels of 4"),
        ({"cache_gb": 1e-9}, "the estimates at 1,200 examples would take"),
        ({"mask_rate": 1.5}, "--mask_rate"),
        ({"student_hidden": "10x10"}, "--student_hidden must be like 10 or 10-10; got '10x10'."),
        ({"student_hidden": "0"}, "--student_hidden must be like 10 or 10-10; got '0'."),
        ({"student_hidden": "10", "model": "cnn"}, "--student_hidden is of fcnn, not of cnn."),
        ({"teacher": "bag", "num_chains": 2}, "--num_chains is of sgld and sghmc, not of bag."),
        (
            {"teacher": "cyclical", "num_members": 10},
            "--num_members must be a multiple of --num_cycles = 4; got 10.",
        ),
        (
            {"teacher": "cyclical", "num_members": 8, "num_steps": 40},
            "--num_steps must be a multiple of 2 x --num_members = 16; got 40.",
        ),
        (
            {"teacher": "bag", "num_members": 80},
            "--num_steps must be at least --num_members; got 60.",
        ),
        ({"all_members": "true"}, "--all_members is of stored teachers, not of sgld."),
        (
            {"fresh_masks": "true", "mask_rate": 0, "student": "predictive"},
            "--fresh_masks is of masks, and there are none: give a --mask_rate.",
        ),
        ({"dataset": "toy", "outside": "", "model": "cnn"}, "--model=cnn is of images, and toy"),
        ({"fresh_masks": "true"}, "--fresh_masks gives every visit another input"),
        (
            {"student": "predictive", "entropy_loss": "square"},
            "--entropy_loss is of students of entropy or both, and there are none.",
        ),
        ({"test_thin": 13}, "--test_thin must be at most --num_steps / --thin = 12"),
        ({"dataset": "toy"}, "--outside is of images, not of toy"),
        ({"dataset": "toy", "outside": ""}, "toy has no masks"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    assert expected in study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)


@pytest.mark.parametrize(
    ("changed", "needed"),
    [({}, "mask_rate=0"), ({"mask_rate": 0, "model": "cnn"}, "model=fcnn")],
)
def test_vectors_are_no_images(changed, needed, tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        f"{split}_{what}": made
        for split in ("train", "test")
        for what, made in (("x", rng.uniform(size=(50, 6))), ("y", rng.integers(3, size=50)))
    }
    np.savez(tmp_path / "vectors.npz", **splits)
    given = TINY | {"dataset": tmp_path / "vectors.npz", "outside": ""} | changed
    line = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "has inputs (6,), which are no images" in line and f"give --{needed}." in line


@pytest.mark.parametrize("teacher", ["sgld", "bag"])
def test_a_teacher_that_diverges_names_the_step_size(teacher, tmp_path):
    given = TINY | {"step_size": 10, "teacher": teacher}
    line = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "the chain diverged" in line and f"--step_size=10 is too large for {teacher}" in line
