"""experiments.feature_distillation: what each method minimises, what is found, runs, faults."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from PIL import Image

from experiments import report
from experiments.feature_distillation import inputs, methods, networks, study, tables
from experiments.feature_distillation.settings import BY_AUX, METHODS, Condition, Settings
from experiments.flags import Options, resolve
from experiments.run import Run
from kd import data, models
from kd.export import load_student
from kd.losses import features

MODULE = "experiments.feature_distillation"
TINY = {
    "stage_channels": "4,6",
    "channels": "2,3",
    "hidden_size": 5,
    "aux_channels": "3,4",
    "aux_hidden_size": 6,
    "teacher_epochs": 1,
    "aux_epochs": 1,
    "aux_transfer_epochs": 1,
    "student_epochs": 2,
    "num_queries": 50,
    "num_repeats": 2,
}


def settings_of(given, preset="quick"):
    return resolve(Settings, preset, {name: str(value) for name, value in given.items()})


@pytest.fixture(scope="module")
def lesson():
    """Ten images with what networks say that have learned nothing."""
    settings = settings_of(TINY)
    dataset = inputs.load(settings, Options(data_dir=None, workdir=None)).dataset
    told = {"x": jnp.asarray(dataset.train_x[:10]), "y": jnp.asarray(dataset.train_y[:10])}
    sources = {}
    for name, make in (("teacher", networks.teacher), ("aux", networks.auxiliary)):
        model = make(settings, dataset)
        sources[name] = study.Source(model, model.init(jax.random.key(3), told["x"][0]))
        answer_fn = networks.answer_of(settings, *sources[name], methods.asked(settings, name))
        told[name] = jax.vmap(answer_fn)(told["x"])
    model = networks.student(settings, dataset)
    return SimpleNamespace(
        dataset=dataset,
        model=model,
        start=model.init(jax.random.key(0), told["x"][0]),
        told=told,
        sources=sources,
    )


def start_of(lesson, condition, seed=0):
    example = jax.tree.map(lambda leaf: leaf[0], lesson.told)
    given = settings_of(TINY), condition, lesson.model, lesson.start, example
    return methods.start_of(*given, jax.random.key(seed))


def value_of(lesson, condition, step=0, **given):
    model, told = lesson.model, lesson.told
    settings = settings_of(TINY | given)
    params = start_of(lesson, condition)
    own = jax.vmap(lambda x: models.features_of(model)(params["student"], x))(told["x"])
    objective = methods.objective_of(settings, condition, model, epoch=4)
    return float(objective(params, told | {"step": jnp.array(step)})), params, own


# What is minimised.


def test_images_are_standardised_by_what_the_training_images_say():
    settings = settings_of(TINY)
    loaded = inputs.load(settings, Options(data_dir=None, workdir=None))
    digits = data.load("digits")
    assert abs(loaded.dataset.train_x.mean()) < 1e-4
    assert loaded.dataset.train_x.std() == pytest.approx(1, abs=1e-4)
    back = loaded.dataset.test_x * loaded.spread + loaded.mean
    np.testing.assert_allclose(back, digits.test_x, atol=1e-5)


def test_answers_by_hand(lesson):
    told = lesson.told
    y = np.asarray(told["y"])
    value, _, own = value_of(lesson, Condition("none", "labels"))
    logits = np.asarray(own["output"], float)
    labels = -np.mean(oracles.log_softmax(logits)[np.arange(10), y])
    assert value == pytest.approx(labels, rel=1e-4)
    value, _, own = value_of(lesson, Condition("none", "soft"), temperature=3, label_weight=0.2)
    taught = np.asarray(told["teacher"]["output"], float)
    soft = np.mean(
        [
            oracles.soft_target(s, t, 3.0)
            for s, t in zip(np.asarray(own["output"], float), taught, strict=True)
        ]
    )
    assert value == pytest.approx(0.2 * labels + 0.8 * soft, rel=1e-4)


def test_the_last_layer_by_hand(lesson):
    told = lesson.told
    for method, source, layer in (
        ("mkt", "teacher", "pooled"),
        ("pkt", "teacher", "pooled"),
        ("mkt_aux", "aux", "hidden_0"),
        ("pkt_aux", "aux", "hidden_0"),
    ):
        value, _, own = value_of(lesson, Condition("none", method))
        loss_fn = {
            "m": features.distance_absolute_error,
            "p": features.probabilistic_knowledge_transfer,
        }[method[0]]
        assert value == pytest.approx(float(loss_fn(own["hidden_0"], told[source][layer])))


@pytest.mark.parametrize("method", ["hint", "hint_aux", "vid", "vid_aux"])
def test_regressed_layers_by_hand(method, lesson):
    told = lesson.told
    value, params, own = value_of(lesson, Condition("none", method))
    links = methods.links_of(settings_of(TINY), Condition("none", method))
    source = "aux" if method in BY_AUX else "teacher"
    assert set(links) == ({"hidden_0", "Conv_0", "Conv_1"} if method == "vid_aux" else {"hidden_0"})
    total = 0.0
    for name, layer in links.items():
        h, wanted = np.asarray(own[name], float), np.asarray(told[source][layer], float)
        layers = params["regressors"][name]["params"]
        for index in range(len(layers)):
            h = h @ np.asarray(layers[f"Dense_{index}"]["kernel"], float)
            if method.startswith("hint"):
                h = h + np.asarray(layers[f"Dense_{index}"]["bias"])
            elif index < 2:
                h = np.maximum(h, 0)
        if method.startswith("hint"):
            total += 0.5 * np.mean((h - wanted) ** 2)
        else:
            total += 0.5 * np.mean((h - wanted) ** 2 / 5 + np.log(2 * np.pi * 5))
    assert value == pytest.approx(total, rel=1e-4)


def test_weights_of_layers_fall_with_the_epochs(lesson):
    told = lesson.told
    given = {"flow_weight": 10, "flow_decay": 0.5}
    for step, weight in ((0, 10.0), (3, 10.0), (4, 5.0), (9, 2.5)):
        value, _, own = value_of(lesson, Condition("none", "flow"), step, **given)
        weights = {"hidden_0": 1.0, "Conv_0": weight, "Conv_1": weight}
        wanted = features.information_flow(own, told["aux"], weights)
        assert value == pytest.approx(float(wanted), rel=1e-5)
    value, _, own = value_of(lesson, Condition("none", "layer", "Conv_1"), 4, **given)
    wanted = features.information_flow(own, told["aux"], {"hidden_0": 1.0, "Conv_1": 5.0})
    assert value == pytest.approx(float(wanted), rel=1e-5)
    value, _, own = value_of(lesson, Condition("none", "layer", "last"), **given)
    wanted = features.information_flow(own, told["aux"], {"hidden_0": 1.0})
    assert value == pytest.approx(float(wanted), rel=1e-5)


def test_random_weights_are_shares_that_stay(lesson):
    settings, model, told = settings_of(TINY), lesson.model, lesson.told
    condition = Condition("none", "flow_random")
    value, params, own = value_of(lesson, condition)
    weights = params["weights"]
    assert set(weights) == {"hidden_0", "Conv_0", "Conv_1"}
    assert float(sum(weights.values())) == pytest.approx(1, abs=1e-6)
    assert value == pytest.approx(float(features.information_flow(own, told["aux"], weights)))
    objective = methods.objective_of(settings, condition, model, epoch=4)
    slope = jax.grad(objective)(params, told | {"step": jnp.array(0)})
    assert not any(slope["weights"].values())
    other = start_of(lesson, condition, seed=1)
    assert all(other["weights"][name] != weight for name, weight in weights.items())


def test_the_teachers_own_stages_are_matched_in_order(lesson):
    value, _, own = value_of(lesson, Condition("none", "flow_direct"))
    said = lesson.told["teacher"]
    stages = {"hidden_0": said["pooled"], "Conv_0": said["stage_0"], "Conv_1": said["stage_1"]}
    weights = {"hidden_0": 1.0, "Conv_0": 100.0, "Conv_1": 100.0}
    assert value == pytest.approx(float(features.information_flow(own, stages, weights)), rel=1e-5)
    paper = settings_of({}, preset="paper")
    assert networks.stages(paper) == {f"Conv_{i}": f"stage_{i}" for i in range(3)}


def test_no_two_convolutions_share_a_stage_while_there_are_enough():
    for num_stages in range(1, 8):
        for num_layers in range(1, 8):
            settings = Settings(stage_sizes=(1,) * num_stages, channels=(1,) * num_layers)
            found = list(networks.stages(settings).values())
            assert found == sorted(found) and found[0] == "stage_0"
            assert len(set(found)) == min(num_stages, num_layers)
            assert (f"stage_{num_stages - 1}" in found) == (
                1 < num_stages <= num_layers or num_stages == 1
            )


def test_stages_are_averaged_over_parts_of_their_maps(lesson):
    model, params = lesson.sources["teacher"]
    maps = jax.vmap(lambda x: models.features_of(model)(params, x))(lesson.told["x"])
    said = lesson.told["teacher"]
    assert maps["stage_0"].shape == (10, 8, 8, 4)
    quarters = np.asarray(maps["stage_0"]).reshape(10, 4, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(said["stage_0"], quarters, atol=1e-5)
    assert maps["stage_1"].shape == (10, 4, 4, 6)  # Which is small enough.
    np.testing.assert_allclose(said["stage_1"], maps["stage_1"], atol=1e-5)
    uneven = np.random.default_rng(0).normal(size=(7, 3, 2))
    rows = (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7))
    wanted = np.stack([uneven[part].mean(0) for part in rows])
    np.testing.assert_allclose(networks.averaged(jnp.asarray(uneven), 4), wanted, atol=1e-6)


def test_the_published_teacher_says_maps_of_the_published_sizes():
    settings, x = settings_of({}, preset="paper"), jnp.zeros((32, 32, 3))
    model = models.ResNet(10, settings.stage_sizes, settings.stage_channels)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    names = methods.needed(settings, Condition("none", "flow_direct"))
    said = jax.eval_shape(
        lambda params: networks.answer_of(settings, model, params, names)(x), params
    )
    assert {name: value.shape for name, value in said.items()} == {
        "pooled": (512,),
        "stage_0": (4, 4, 64),
        "stage_1": (4, 4, 128),
        "stage_2": (2, 2, 256),
    }


def test_the_auxiliary_network_learns_by_both_kernels(lesson):
    model, params = lesson.sources["aux"]
    value = methods.transfer(settings_of(TINY), model)({"student": params}, lesson.told)
    total = 0.0
    for kernel in (cosines, student_t):
        p, q = (
            kernel(np.asarray(lesson.told[source][layer], float))
            for source, layer in (("teacher", "pooled"), ("aux", "hidden_0"))
        )
        p, q = (one / one.sum(axis=1, keepdims=True) for one in (p, q))
        total += np.sum((p - q) * np.log(p / q)) / 10
    assert float(value) == pytest.approx(total, rel=1e-3)


def cosines(h):
    units = h / np.linalg.norm(h, axis=1, keepdims=True)
    return np.array([[(a @ b + 1) / 2 for b in units] for a in units])


def student_t(h):
    return np.array([[1 / (1 + np.linalg.norm(a - b)) for b in h] for a in h])


def test_contrastive_supervision_beside_a_method(lesson):
    told = lesson.told
    alone, _, own = value_of(lesson, Condition("none", "pkt"))
    beside, _, _ = value_of(
        lesson, Condition("contrastive", "pkt"), contrastive_weight=0.3, supervision="contrastive"
    )
    units = own["hidden_0"] / jnp.maximum(
        jnp.linalg.norm(own["hidden_0"], axis=1, keepdims=True), 1e-30
    )
    drawn = float(features.contrastive(units, told["y"], margin=1.0))
    assert beside == pytest.approx(alone + 0.3 * drawn, rel=1e-4)
    by_labels, _, _ = value_of(lesson, Condition("contrastive", "labels"))
    assert by_labels == pytest.approx(drawn, rel=1e-4)


def test_dead_features_have_a_finite_slope(lesson):
    settings, model, told = settings_of(TINY), lesson.model, lesson.told
    params = start_of(lesson, Condition("none", "pkt"))
    dead = jax.tree.map(jnp.zeros_like, params)
    for method in METHODS:
        if method in methods.REGRESSED or method == "flow_random":
            continue
        condition = Condition("contrastive", method, "Conv_0" if method == "layer" else "")
        objective = methods.objective_of(settings, condition, model, epoch=4)
        slope = jax.grad(objective)(dead, told | {"step": jnp.array(0)})
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope)), method


def test_a_method_reads_what_it_needs():
    settings = settings_of(TINY)
    needed = lambda method, layer="": methods.needed(settings, Condition("none", method, layer))
    assert needed("labels") == set() and needed("soft") == {"output"}
    assert needed("hint") == {"pooled"} and needed("pkt_aux") == {"hidden_0"}
    assert needed("flow") == {"hidden_0", "Conv_0", "Conv_1"}
    assert needed("layer", "Conv_0") == {"hidden_0", "Conv_0"}
    assert not settings_of(TINY | {"method": "labels,pkt,flow_direct"}).needs_aux()


def test_of_an_answer_is_kept_what_somebody_learns_from():
    asked = lambda method, source: methods.asked(settings_of(TINY | {"method": method}), source)
    assert asked("labels", "teacher") == asked("labels,soft", "aux") == set()
    assert asked("labels,soft", "teacher") == {"output"}
    assert asked("flow_direct", "teacher") == {"pooled", "stage_0", "stage_1"}
    assert asked("hint_aux", "teacher") == {"pooled"}  # Of which the auxiliary network learns.
    assert asked("soft,hint_aux,layer", "aux") == {"hidden_0", "Conv_0", "Conv_1"}


class Watched(Run):
    """A run that trains nothing, and keeps what it was to train."""

    def fit(self, phase, key, stream, update, state, num_steps, **_):
        self.log.append((phase, key, stream, state.params["student"]))
        return SimpleNamespace(student=state)


@pytest.mark.parametrize("padding", [0, 1])
def test_students_of_all_kinds_start_alike_and_see_the_same_images(padding, lesson):
    settings = settings_of(TINY | {"padding": padding, "batch_size": 5})
    run = Watched(settings, None, None, [], None)
    starts = study.start_students(run, lesson.dataset)
    conditions = [Condition("none", one) for one in ("labels", "soft", "vid", "flow_random")]
    for condition in (*conditions, Condition("contrastive", "hint")):
        study.distil(run, lesson.dataset, lesson.told, lesson.sources, starts, condition)
    assert len({phase for phase, *_ in run.log}) == 5
    _, key, stream, start = run.log[0]
    one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], start) for i in (0, 1))
    assert not np.array_equal(*(jax.tree.leaves(each)[0] for each in (one, other)))
    images = drawn(key, stream)
    assert not np.array_equal(images[0], images[1])
    for _, other_key, other_stream, other_start in run.log[1:]:
        jax.tree.map(np.testing.assert_array_equal, other_start, start)
        np.testing.assert_array_equal(drawn(other_key, other_stream), images)


def drawn(key, stream, num_batches=3):
    state, found = stream.init(key), []
    for index in range(num_batches):
        state, batch = stream.next(jax.random.fold_in(key, index), state)
        found.append(batch["x"])
    return np.stack(found)


# What is found.


def test_figures_of_merit_by_hand():
    """Two classes on a line: by distance the query's own, by cosine nobody's."""
    dataset = data.Dataset(
        np.zeros((4, 1)), np.array([0, 0, 1, 1]), np.zeros((2, 1)), np.array([0, 1]), 2
    )
    train, test = np.array([[1.0], [2.0], [4.0], [8.0]]), np.array([[1.5], [6.0]])
    found = tables.find(settings_of(TINY | {"num_queries": 0}), dataset, test, train)
    assert found.nearest_mean == 100
    assert found.by_metric["euclidean"]["map"] == pytest.approx(100)
    assert found.by_metric["euclidean"]["top100"] == pytest.approx(50)  # Of the four there are.
    # All cosines are 1, so that the database's order decides: 0, 0, 1, 1.
    assert found.by_metric["cosine"]["map"] == pytest.approx(75)
    assert set(found.by_metric["cosine"]) == {"map", "map_released", "top100", "top100_released"}


def test_the_papers_figures_stand_beside_their_kind():
    settings = settings_of({}, preset="paper")
    assert tables._paper_of(settings, "aux")["map_released", "cosine"] == 66.78
    assert tables._paper_of(settings, "none,flow")["top100_released", "euclidean"] == 61.54
    assert tables._paper_of(settings, "contrastive,flow")["map_released", "euclidean"] == 49.55
    assert tables._paper_of(settings, "contrastive,soft") == {}
    assert tables._paper_of(settings_of(TINY), "none,flow") == {}


def test_the_papers_figures_are_printed_below_those_of_the_same_reading(capsys, tmp_path):
    settings = settings_of({"supervision": "none", "method": "labels,flow_direct"}, preset="paper")
    dataset = data.Dataset(None, np.zeros(9), np.zeros(9), np.zeros(9), 10)
    found = []
    for less in (10, -10):
        values = {"map": 30, "map_released": 31, "top100": 50, "top100_released": 51}
        values = {name: value - less for name, value in values.items()}
        found.append(tables.Found(40, {"euclidean": values, "cosine": values}))
    names = ("teacher", "none,labels", "none,flow_direct")
    rows = tables.rows(settings, dataset, dict.fromkeys(names, found))
    tables.show(report.summary("it", "paper", 1.0, rows), settings, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    plain = ["30.0 ± 10.0"] * 2 + ["50.0 ± 10.0"] * 2
    released = ["31.0 ± 10.0"] * 2 + ["51.0 ± 10.0"] * 2
    assert cells == [
        ["teacher", *plain],
        ["labels", *plain],
        ["teacher's own stages", *plain],
        ["teacher", *released],
        ["in the paper", "87.18", "90.47", "92.15", "92.26"],
        ["labels", *released],
        ["in the paper", "35.30", "39.00", "55.87", "58.77"],
        ["teacher's own stages", *released],
    ]


# Runs.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("feature_distillation") / "run"
    given = TINY | {"supervision": "none,contrastive", "method": "hint,layer"}
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, given, module=MODULE)


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert figures == {"methods.png", "layers.png"}
    for name in figures:
        pixels = np.asarray(Image.open(finished.path / "figures" / name).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5
    names = {path.name for path in (finished.path / "student").iterdir()}
    assert len(names) == 2 * (1 + 3) and "none-layer-Conv_1" in names
    shown = finished.stdout[finished.stdout.index("Networks that teach") :]
    assert max(map(len, shown[: shown.index("Look at")].splitlines())) <= 80


def test_a_file_finds_what_its_student_found(finished):
    """From images as they are, in [0, 1]; of two students the row has the mean and half the gap."""
    digits = data.load("digits")
    student = load_student(finished.path / "student" / "none-hint")
    embed = [np.asarray(student(jnp.asarray(x))) for x in (digits.test_x, digits.train_x)]
    found = tables.find(settings_of(TINY), digits, *embed).by_metric["cosine"]["map"]
    row = {row["name"]: row for row in finished.summary()["rows"]}["map_cosine[none,hint]"]
    assert row["repeats"] == 2 and row["unit"] == "%"
    assert abs(found - row["value"]) == pytest.approx(row["stderr"], rel=1e-2, abs=1e-2)


def test_altered_images_are_asked_about_anew(tmp_path):
    given = TINY | {"padding": 1, "method": "vid,flow", "num_repeats": 1}
    with study_runs.unverified_exports():
        run = study_runs.succeed_here(tmp_path / "run", given, module=MODULE)
    names = {row["name"] for row in run.summary()["rows"]}
    assert {"map_cosine[none,flow]", "top100_euclidean[aux]"} <= names


def test_what_teachers_say_of_altered_images_is_of_those():
    settings = settings_of(TINY | {"padding": 1})
    dataset = inputs.load(settings, Options(data_dir=None, workdir=None)).dataset
    answer_fn = lambda x: {"sum": jnp.sum(x * jnp.arange(8.0)[:, None, None])}
    stream = inputs.batches(settings, inputs.examples(dataset), {"teacher": answer_fn})
    _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
    wanted = jax.vmap(answer_fn)(batch["x"])["sum"]
    np.testing.assert_allclose(batch["teacher"]["sum"], wanted, rtol=1e-5)
    assert batch["step"] == 0


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    path = tmp_path / "run"
    given = TINY | {"method": "flow"}
    phases = ("aux", "students-none-flow")
    with study_runs.unverified_exports():
        whole = study_runs.succeed_here(tmp_path / "whole", given, module=MODULE)
        study_runs.kill_again_and_again(path, given, phases, module=MODULE)
        resumed = study_runs.succeed_here(path, given, module=MODULE)
    study_runs.assert_same_bits(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"method": "teacher"}, "--method must be labels | soft | hint"),
        ({"method": "pkt,pkt"}, "--method names a value twice: pkt,pkt."),
        ({"supervision": "triplet"}, "--supervision must be none | contrastive"),
        ({"pool_size": "2"}, "--pool_size has 1 values, and --channels 2: give as many."),
        ({"aux_channels": "2,3,4"}, "--aux_channels has 3 values, and --channels 2"),
        ({"stage_sizes": "1"}, "--stage_sizes has 1 values, and --stage_channels 2"),
        (
            {"stage_grid": "4,2,1", "method": "flow_direct"},
            "--stage_grid has 3 values, and --stage_channels 2",
        ),
        ({"stage_channels": "4,12"}, "--stage_channels has 12, which is not divided by the 8"),
        ({"pool_size": "2,2"}, "images of 8 x 8 are too small for 2 convolutions"),
        ({"batch_size": 2000}, "--batch_size=2000 is more than the 1200 training examples"),
        ({"num_queries": 598}, "--num_queries=598 is more than the 597 test examples"),
        ({"dataset": "lsun"}, "unknown data set 'lsun'"),
        ({"stage_sizes": ""}, "--stage_sizes must have at least one value"),
        ({"margin": 0.5}, "--margin does nothing without --supervision=contrastive."),
        ({"margin": 3}, "--margin must be a number and > 0 and <= 2"),
        ({"cache_gb": 1e-9}, "the teacher's features would take"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    assert expected in study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)


def test_data_that_will_not_do(tmp_path):
    flat = tmp_path / "flat.npz"
    rng = np.random.default_rng(0)
    arrays = {
        "train_x": rng.random((200, 20)),
        "train_y": np.arange(200) % 2,
        "test_x": rng.random((20, 20)),
        "test_y": np.arange(20) % 2,
    }
    np.savez(flat, **arrays)
    given = TINY | {"dataset": flat}
    message = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "which are no images [height, width, channels]" in message
    other = tmp_path / "other.npz"
    images = {name: x.reshape(-1, 5, 4, 1) for name, x in arrays.items() if name.endswith("x")}
    images = {name: np.tile(x, (1, 2, 2, 1)) for name, x in images.items()}
    alike = {name: np.zeros_like(y) for name, y in arrays.items() if name.endswith("y")}
    np.savez(tmp_path / "one.npz", **alike | images)
    given = TINY | {"dataset": tmp_path / "one.npz", "num_queries": 10}
    message = study_runs.refusal(tmp_path / "run", given, module=MODULE)
    assert "one.npz has one class: any image is of the one looked for." in message
    np.savez(other, **arrays | images | {"train_y": np.arange(200) % 2 * 2 % 2 + 1})
    message = study_runs.refusal(
        tmp_path / "run", TINY | {"dataset": other, "num_queries": 10}, module=MODULE
    )
    assert "has test images of class 0, and no training image of it" in message


def test_a_grid_is_only_of_what_reads_it():
    """Other numbers of stages need none where no method is taught by stages."""
    given = {"method": "labels", "stage_sizes": "1,1,1", "stage_channels": "8,8,8"}
    inputs.check(settings_of(given))
