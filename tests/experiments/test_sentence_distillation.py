"""experiments.sentence_distillation: links, what each method minimises, runs, faults."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from PIL import Image

from experiments.flags import resolve
from experiments.sentence_distillation import inputs, methods, study, tables, tasks
from experiments.sentence_distillation.settings import METHODS, Settings
from kd import models
from kd.export import load_student
from kd.losses import features

MODULE = "experiments.sentence_distillation"
TINY = {
    "num_sentences": 100,
    "length": 6,
    "teacher_width": 4,
    "student_width": 3,
    "tiny_width": 4,
    "teacher_epochs": 2,
    "student_epochs": 2,
    "batch_size": 20,
    "label_share": "0.5",
    "num_repeats": 2,
}


def settings_of(given, preset="quick"):
    return resolve(Settings, preset, {name: str(value) for name, value in given.items()})


def task_of(given):
    settings = settings_of(TINY | given)
    return settings, tasks.task_of(settings, inputs.load(settings))


def batch_of(task, seed=5):
    """Ten sentences, four of them with labels, and what a teacher says that has learned nothing."""
    x = jnp.asarray(task.dataset.train_x[:10])
    params = task.teacher.init(jax.random.key(seed), x[0])
    found = jax.vmap(lambda one: models.features_of(task.teacher)(params, one))(x)
    return {
        "x": x,
        "key": jax.random.split(jax.random.key(1), 10),
        "features": {name: found[name] for name in task.told(METHODS)},
        "logits": found["output"],
        "labelled_x": x[6:],
        "labelled_y": jnp.asarray(task.dataset.train_y[6:10]),
    }


# Who matches what.


def test_layers_are_matched_uniformly():
    _, task = task_of({"teacher_layers": 6, "student_layers": 2, "tiny_layers": 3})
    own = task.links_of("hidden")
    assert own["hidden"] == (("hidden_0", "hidden_2"), ("hidden_1", "hidden_5"))
    assert own["embedding"] == (("embedding", "embedding"),)
    tiny = task.links_of("tiny")
    assert [link.teacher for link in tiny["attention"]] == ["attention_1", "attention_3"] + [
        "attention_5"
    ]
    assert task.told(("labels", "soft")) == []
    assert task.told(("gram",)) == ["hidden_2", "hidden_5"]
    assert task.told(("flow",)) == ["embedding", "hidden_2", "hidden_5"]
    assert task.told(("tiny",)) == [
        *("attention_1", "attention_3", "attention_5"),
        *("embedding", "hidden_1", "hidden_3", "hidden_5"),
    ]
    assert isinstance(task.student_of("all"), models.LSTM)
    assert task.student_of("tiny") is task.student_of("tiny_labels") is task.tiny


def test_every_method_starts_from_the_same_student():
    _, task = task_of({})
    batch = batch_of(task)
    starts = {m: methods.start_of(m, task, batch, jax.random.key(0)) for m in METHODS}
    for group in (METHODS[:7], METHODS[7:]):
        for method in group:
            one, other = (starts[name]["student"] for name in (group[0], method))
            jax.tree.map(np.testing.assert_array_equal, one, other)
    assert {m: sorted(start) for m, start in starts.items()} == {
        **{m: ["student"] for m in ("labels", "soft", "tiny_labels")},
        **{m: ["projections", "student"] for m in ("embedding", "hidden", "flow", "tiny")},
        "gram": ["scales", "student"],
        "all": ["projections", "scales", "student"],
    }
    assert sorted(starts["hidden"]["projections"]) == ["hidden_0"]
    assert sorted(starts["flow"]["projections"]) == ["embedding", "hidden_0"]


# What is minimised.


def test_answers_by_hand():
    settings, task = task_of({"temperature": 3, "label_weight": 0.3})
    batch = batch_of(task)
    taught = np.asarray(batch["logits"], np.float64)
    for method in METHODS:
        params = methods.start_of(method, task, batch, jax.random.key(0))
        model = task.student_of(method)
        logits = np.asarray([model.apply(params["student"], x) for x in batch["x"]], np.float64)
        log_probs = oracles.log_softmax(logits[6:])
        expected = -np.mean(log_probs[np.arange(4), np.asarray(batch["labelled_y"])])
        if method in ("soft", "all", "tiny"):
            pairs = zip(logits, taught, strict=True)
            heat, weight = (1.0, 0.0) if method == "tiny" else (3.0, 0.3)
            soft = np.mean([oracles.soft_target(s, t, heat) for s, t in pairs])
            expected = weight * expected + (1 - weight) * soft
        found = methods.answers(settings, method, task)(params, batch)
        assert float(found) == pytest.approx(expected, rel=1e-4), method


def own_features(task, method, params, x):
    return models.features_of(task.student_of(method))(params["student"], x)


def by_hand(task, method, params, batch):
    """Each term of a method, sentence by sentence over its words alone, in NumPy."""

    def projected(name, states):
        layer = jax.tree.map(np.asarray, params["projections"][name]["params"]["Dense_0"])
        return states @ layer["kernel"] + layer["bias"]

    totals = {"embedding": [], "hidden": [], "gram": [], "flow": [], "attention": []}
    for index, x in enumerate(batch["x"]):
        here = np.flatnonzero(np.asarray(x))
        own = jax.tree.map(np.asarray, own_features(task, method, params, x))
        told = {name: np.asarray(value[index]) for name, value in batch["features"].items()}
        e, h = own["embedding"][here], own["hidden_0"][here]
        te, th = told["embedding"][here], told["hidden_1"][here]
        if method != "gram":
            e = projected("embedding", e) if "embedding" in params["projections"] else e
        if method in ("hidden", "flow", "all", "tiny"):
            projected_h = projected("hidden_0", h)
            totals["hidden"].append(np.mean((projected_h - th) ** 2))
        if method in ("embedding", "flow", "all", "tiny"):
            totals["embedding"].append(np.mean((e - te) ** 2))
        if method in ("flow", "all"):
            flows = e.T @ projected_h / len(here), te.T @ th / len(here)
            totals["flow"].append(np.mean((flows[0] - flows[1]) ** 2))
        if method in ("gram", "all"):
            scaled = float(params["scales"]["hidden_0"]) * h
            grams = scaled @ scaled.T / h.shape[1], th @ th.T / th.shape[1]
            totals["gram"].append(np.mean((grams[0] - grams[1]) ** 2))
        if method == "tiny":
            pairs = own["attention_0"], told["attention_1"]
            own_scores, scores = (one[:, here][:, :, here] for one in pairs)
            totals["attention"].append(np.mean((own_scores - scores) ** 2))
    terms = {
        **{name: (name,) for name in ("embedding", "hidden", "gram", "flow")},
        "all": ("embedding", "hidden", "gram", "flow"),
        "tiny": ("embedding", "hidden", "attention"),
    }
    return sum(np.mean(totals[term]) for term in terms[method])


@pytest.mark.parametrize("method", ["embedding", "hidden", "gram", "flow", "all", "tiny"])
def test_layers_by_hand(method):
    _, task = task_of({})
    batch = batch_of(task)
    params = methods.start_of(method, task, batch, jax.random.key(0))
    if "scales" in params:
        params["scales"] = {"hidden_0": jnp.array(1.7)}
    found = methods.layers(method, task)(params, batch)
    assert float(found) == pytest.approx(by_hand(task, method, params, batch), rel=1e-4)


def test_several_layers_have_the_mean_of_their_losses():
    """And the flow goes from each to the next."""
    _, task = task_of({"student_layers": 2})
    batch = batch_of(task)
    params = methods.start_of("all", task, batch, jax.random.key(0))
    links = task.links_of("all")
    x, told = batch["x"][0], {name: value[0] for name, value in batch["features"].items()}
    own, mask = own_features(task, "all", params, x), models.token_mask(x)
    given = (params, links, own, told, mask)
    chain = ("embedding", "hidden_0", "hidden_1")
    mine = {
        name: models.Regressor((6, 4)).apply(params["projections"][name], own[name])
        for name in chain
    }
    hidden = [features.hidden_square_error(mine[n], told[n], mask) for n in chain[1:]]
    assert float(methods.TERMS["hidden"](*given)) == pytest.approx(float(np.mean(hidden)), rel=1e-5)
    gram = [features.position_gram_square_error(own[n], told[n], mask) for n in chain[1:]]
    assert float(methods.TERMS["gram"](*given)) == pytest.approx(float(np.mean(gram)), rel=1e-5)
    flow = [
        features.flow_square_error((mine[a], mine[b]), (told[a], told[b]), mask)
        for a, b in zip(chain, chain[1:], strict=False)
    ]
    assert float(methods.TERMS["flow"](*given)) == pytest.approx(float(np.mean(flow)), rel=1e-5)


def test_dropout_is_on_while_a_student_learns():
    settings, task = task_of({"student_dropout": 0.5})
    batch = batch_of(task)
    for method in ("soft", "hidden"):
        params = methods.start_of(method, task, batch, jax.random.key(0))
        objectives = [methods.answers(settings, method, task)]
        if method == "hidden":
            objectives.append(methods.layers(method, task))
        for objective in objectives:
            other = batch | {"key": jax.random.split(jax.random.key(2), 10)}
            first, again, second = (float(objective(params, b)) for b in (batch, batch, other))
            assert first == again != second


@pytest.mark.parametrize(("method", "stages"), [("hidden", [0, 0, 0, 1]), ("soft", [0] * 4)])
def test_stages(method, stages):
    settings, task = task_of({"feature_share": 0.75})
    batch = batch_of(task)
    update = methods.update_of(settings, method, task, num_steps=4)
    state, found = update.init(methods.start_of(method, task, batch, jax.random.key(0))), []
    for _ in range(4):
        answer = state.params["student"]["params"]["Dense_0"]["kernel"]
        state, metrics = update.apply(state, batch)
        found.append(int(metrics["stage"]))
        is_moved = np.any(state.params["student"]["params"]["Dense_0"]["kernel"] != answer)
        # Layers say nothing of the last dense one.
        assert is_moved == (method == "soft" or found[-1] == 1)
    assert found == stages


def test_states_are_told_in_units_of_their_mean_square():
    settings, task = task_of({})

    class Run:
        pass

    run = Run()
    run.settings, run.options = settings, Run()
    run.options.cache_gb = 1.0
    x = jnp.asarray(task.dataset.train_x)
    params = task.teacher.init(jax.random.key(3), x[0])
    told = study.tell(run, task, study.Teacher(params, np.zeros(0)))
    raw = jax.vmap(lambda one: models.features_of(task.teacher)(params, one))(x)
    here = np.asarray(x) > 0
    for name in ("embedding", "hidden_1"):
        states = np.asarray(raw[name])
        scale = np.sqrt(np.mean(states[here] ** 2))
        np.testing.assert_allclose(told["features"][name], states / scale, rtol=1e-4, atol=1e-5)
    scores = told["features"]["attention_1"]
    np.testing.assert_allclose(scores, raw["attention_1"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["logits"], raw["output"], rtol=1e-5, atol=1e-6)
    assert set(told["features"]) == {"attention_1", "embedding", "hidden_1"}
    assert float(study.token_scale(x, jnp.zeros((*x.shape, 2)))) == 1


def test_figures_of_merit_by_hand():
    rng = np.random.default_rng(0)
    log_probs = oracles.log_softmax(rng.normal(size=(2, 6, 2)))
    labels = np.array([0, 1, 1, 0, 1, 0])
    found = {row.name: row for row in tables._figures("a", log_probs, labels)}
    right = 100 * np.mean(log_probs.argmax(-1) == labels, axis=1)
    assert found["accuracy[a]"].value == pytest.approx(np.mean(right))
    assert found["accuracy[a]"].stderr == pytest.approx(np.std(right, ddof=1) / 2**0.5)
    nll = -np.mean(log_probs[:, np.arange(6), labels], axis=1)
    assert found["nll[a]"].value == pytest.approx(np.mean(nll))
    assert tables.curve(log_probs, labels) == pytest.approx(
        {"accuracy": np.mean(right), "nll": np.mean(nll)}
    )


# Runs.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentence_distillation") / "run"
    given = TINY | {"method": "labels,all,tiny", "label_share": "1,0.2", "bidirectional": "true"}
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, given, module=MODULE)


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert figures == {"methods.png", "positions.png"}
    for name in figures:
        pixels = np.asarray(Image.open(finished.path / "figures" / name).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5
    names = {path.name for path in (finished.path / "student").iterdir()}
    assert names == {f"{m}-{s}" for m in ("labels", "all", "tiny") for s in ("1", "0.2")}
    shown = finished.stdout[finished.stdout.index("80 sentences") :]
    assert max(map(len, shown[: shown.index("Look at")].splitlines())) <= 80
    assert "what it costs" in shown and "small Transformer, TinyBERT" in shown


def test_a_file_has_the_likelihood_of_its_student(finished):
    settings = settings_of(finished.settings)
    dataset = inputs.load(settings)
    student = load_student(finished.path / "student" / "all-0.2")
    assert student.metadata["vocabulary"] == list(dataset.vocabulary)
    log_probs = np.asarray(student(jnp.asarray(dataset.test_x)), float)
    own = -np.mean(log_probs[np.arange(len(log_probs)), dataset.test_y])
    row = {row["name"]: row for row in finished.summary()["rows"]}["nll[all,0.2]"]
    # Of two students the row has the mean and half their distance.
    assert row["repeats"] == 2
    assert abs(own - row["value"]) == pytest.approx(row["stderr"], rel=1e-3, abs=1e-6)
    count = finished.values()["parameters[student]"]
    assert count == sum(leaf.size for leaf in jax.tree.leaves(student.params))


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    path = tmp_path / "run"
    given = TINY | {"method": "all,tiny", "student_dropout": 0.1}
    phases = ("teacher", "students-all-0.5", "students-tiny-0.5")
    with study_runs.unverified_exports():
        whole = study_runs.succeed_here(tmp_path / "whole", given, module=MODULE)
        study_runs.kill_again_and_again(path, given, phases, module=MODULE)
        resumed = study_runs.succeed_here(path, given, module=MODULE)
    study_runs.assert_same_bits(resumed, whole)


def folder_of(path, count=40):
    path.mkdir()
    (path / "a.neg").write_text("a dull film\n" * count, "latin-1")
    (path / "a.pos").write_text("a fine film\n" * count, "latin-1")
    return path


def test_sentences_of_ones_own_and_others_in_the_same_workdir(tmp_path):
    folder = folder_of(tmp_path / "own")
    given = TINY | {"dataset": folder, "method": "labels", "num_repeats": 1, "test_share": 0.25}
    del given["num_sentences"]
    with study_runs.unverified_exports():
        run = study_runs.succeed_here(tmp_path / "run", given, module=MODULE, preset="paper")
    values = run.values()
    assert values["data.train_sentences"] == 60 and values["data.test_sentences"] == 20
    assert values["data.words"] == 4
    (tmp_path / "run" / "summary.json").unlink()
    (folder / "a.pos").write_text("a bright film\n" * 40, "latin-1")
    line = study_runs.refusal(tmp_path / "run", given, module=MODULE, preset="paper")
    assert "its content has changed since" in line


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"method": "prior"}, "--method must be labels | soft | embedding | hidden | gram"),
        ({"method": "gram,gram"}, "--method names a value twice: gram,gram."),
        ({"method": ""}, "--method must have at least one value"),
        ({"label_share": "0"}, "--label_share must be a number and > 0 and <= 1; got '0'."),
        ({"label_share": "0.001"}, "--label_share=0.001 leaves no sentence with a label."),
        ({"batch_size": 81}, "--batch_size=81 is more than the 80 training sentences there are."),
        ({"num_heads": 3}, "--num_heads=3 does not divide --teacher_width=4."),
        ({"tiny_width": 5}, "--num_heads=2 does not divide --tiny_width=5."),
        ({"teacher_width": 1}, "--teacher_width must be an integer and >= 2"),
        ({"student_layers": 3}, "--student_layers=3 does not divide --teacher_layers=2"),
        ({"tiny_layers": 4}, "--tiny_layers=4 does not divide --teacher_layers=2"),
        ({"batch_size": 80, "student_epochs": 1}, "--student_epochs=1 is one step, and --method"),
        ({"num_sentences": 3}, "too few for a test share of 0.2 and a rest."),
        ({"length": 1}, "--length must be an integer and >= 2"),
        ({"num_words": 10}, "--num_words does nothing without sentences of a --dataset of files."),
        ({"temperature": 3, "method": "tiny_labels"}, "--temperature does nothing without"),
        ({"num_repeats": 0}, "--num_repeats must be an integer and >= 1"),
        ({"temperature": 0}, "--temperature must be a number and > 0"),
        (
            {"dataset": "no/such/folder"},
            "--num_sentences does nothing without --dataset=negations.",
        ),
        ({"cache_gb": 1e-9}, "the teacher's features would take"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    line = study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)
    assert expected in line
    if "cache_gb" not in changed:  # What is known at once leaves no directory behind.
        assert not (tmp_path / "run").exists()


def test_networks_that_nobody_trains_need_not_fit():
    for given in (
        {"method": "labels,gram", "tiny_width": 5, "tiny_layers": 4},
        {"method": "tiny_labels,tiny", "student_layers": 3},
    ):
        inputs.check(settings_of(TINY | given))


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("no/such/folder", "no/such/folder: no such folder; expected one with two"),
        ("", "--dataset must name a folder with two files of sentences, one a line"),
    ],
)
def test_folders_that_will_not_do(folder, expected, tmp_path):
    assert expected in study_runs.refusal(tmp_path / "run", {"dataset": folder}, module=MODULE)


def test_the_papers_preset_needs_a_folder(tmp_path):
    settings = settings_of({}, "paper")
    assert settings.dataset == "" and len(settings.conditions()) == 2 * len(METHODS)
    line = study_runs.refusal(tmp_path / "run", {}, module=MODULE, preset="paper")
    assert "--dataset must name a folder with two files of sentences" in line
    assert dataclasses.asdict(settings)["num_repeats"] == 3
