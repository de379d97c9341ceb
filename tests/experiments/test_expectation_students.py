"""experiments.posterior_expectations: its settings, data and networks; what students learn."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from expectation_settings import TINY, loaded_digits, settings_of
from scipy import special

from experiments.posterior_expectations import (
    inputs,
    networks,
    students,
    tables,
)
from experiments.posterior_expectations.judging import Judged
from experiments.posterior_expectations.settings import Chain, Student
from kd import metrics, models

# Settings and data.


def test_every_experiment_has_chains_and_students_of_its_own():
    found = {
        experiment: settings_of({"experiment": experiment, "num_repeats": "1"}, "paper")
        for experiment in "1234"
    }
    assert len(found["2"].chains()) == 24 and found["1"].chains() == [Chain(0.0, 0, 0)]
    assert found["4"].chains() == [Chain(0.29, 0, 0)]
    colours = settings_of({"experiment": "2", "dataset": "cifar10", "num_repeats": "1"}, "paper")
    assert colours.chains() == [Chain(0.0, size, 0) for size in (10_000, 20_000, 50_000)]
    # Fewer and narrower on the digits.
    quick = {n: settings_of({"experiment": n, "num_repeats": "1"}) for n in "23"}
    assert [(one.mask_rate, one.train_size) for one in quick["2"].chains()] == [
        (rate, size) for rate in (0.0, 0.25) for size in (200, 1200)
    ]
    assert settings_of({"num_repeats": "1"}).chains() == [Chain(0.25, 0, 0)]
    widths = [one.unit_multiplier for one in quick["3"].students()]
    assert widths == [0.25, 0.5, 1, 2, 2, 2, 2]
    assert {one.kind for one in found["2"].students()} == {"predictive", "entropy"}
    assert {one.kind for one in found["4"].students()} == {"both", "dirichlet"}
    searched = found["3"].students()
    assert [s.unit_multiplier for s in searched if not s.strength] == [0.5, 1, 2, 4]
    assert {s.unit_multiplier for s in searched if s.strength} == {4.0}
    given = {
        "experiment": "3",
        "model": "cnn",
        "channel_multiplier": "1,2",
        "unit_multiplier": "1,4",
        "regularizer_strength": "0.1",
    }
    names = [student.name for student in settings_of(given, "paper").students()]
    assert names == [
        *(f"both,running,{k}" for k in ("1x1", "1x4", "2x1", "2x4")),
        "both,running,2x4,0.1",
    ]
    given = {"student": "both", "estimator": "current", "dropout": "0,0.5"}
    dropped = settings_of(given, "paper")
    assert [one.name for one in dropped.students()] == [
        "both,current,1x1",
        "both,current,1x1,dropout0.5",
    ]
    assert list(tables.labels(dropped).values()) == ["plain", "dropout 0.5"]


def test_masks_are_drawn_once_and_apart():
    settings, loaded = settings_of({"mask_rate": 0.29}), loaded_digits()
    chain = settings.chains()[0]
    found, unlabelled = inputs.data_of(settings, loaded, chain)
    again, _ = inputs.data_of(settings, loaded, chain)
    np.testing.assert_array_equal(found.train_x, again.train_x)
    assert not np.array_equal(found.train_x, unlabelled)
    share = np.mean(inputs.masked(settings, np.ones((50, 28, 28, 1)), chain, "test") == 0)
    # 15 pixels, as in the paper.
    assert share == pytest.approx((15 / 28) ** 2) and share == pytest.approx(0.29, abs=0.01)
    dataset, unlabelled = inputs.data_of(settings, loaded, chain._replace(train_size=100))
    assert len(dataset.train_x) == 100 and len(unlabelled) == 1200
    fresh = dataclasses.replace(settings, fresh_masks=True)
    _, unlabelled = inputs.data_of(fresh, loaded, chain)
    np.testing.assert_array_equal(unlabelled, loaded.unlabelled)


@pytest.mark.parametrize("fresh", [False, True])
def test_noise_on_black_pixels_has_mean_zero(fresh):
    """Clipped to what pixels may be it would brighten them, and the students learn other images."""
    settings = settings_of({"mask_rate": 0.29, "input_noise": 0.1, "fresh_masks": fresh})
    stream = inputs.unlabelled_stream(settings, np.zeros((50, 8, 8, 1)), settings.chains()[0])
    _, batch = stream.next(jax.random.key(0), stream.init(jax.random.key(1)))
    noise = np.asarray(batch["x"])
    assert np.std(noise) == pytest.approx(0.1, rel=0.1)
    assert abs(np.mean(noise)) < 5 * 0.1 / noise.size**0.5


def test_small_grey_images_stand_in_the_middle_of_black_ones():
    images = np.random.default_rng(0).uniform(0.1, 1, size=(2, 3, 4, 1))
    found = inputs.padded(images, (6, 6, 3))
    assert found.shape == (2, 6, 6, 3) and np.sum(found > 0) == 2 * 3 * 4 * 3
    for channel in range(3):
        np.testing.assert_array_equal(found[:, 1:4, 1:5, channel], images[..., 0])
    for shape in ((2, 4, 1), (3, 4, 1)):
        np.testing.assert_array_equal(inputs.padded(images, shape), images)
    in_colour = np.ones((2, 3, 4, 3))
    assert inputs.padded(in_colour, (6, 6, 3)).shape == in_colour.shape


def test_networks_are_the_papers():
    count = lambda model, shape: sum(
        leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0), jnp.zeros(shape)))
    )
    for name, shape, size in (
        ("fcnn", (28, 28, 1), 478_410),
        ("cnn", (28, 28, 1), 29_880),
        ("cnn_cifar", (32, 32, 3), 184_808),
    ):
        settings = settings_of({"model": name}, "paper")
        assert count(networks.build(settings, 10), shape) == size
        channels = 1.0 if name == "fcnn" else 2.0
        both = networks.of_student(settings, Student("both", "running", channels, 0.5), 10)
        first = networks.HIDDEN_SIZES.get(name, (400,))[0]
        assert both.num_outputs == 11 and both.hidden_sizes[0] == first // 2
    own = Student("predictive", "current", 1, 1, hidden="30-20")
    assert networks.of_student(settings_of({}), own, 10).hidden_sizes == (30, 20)


def test_readings_of_outputs():
    outputs = np.random.default_rng(0).normal(size=(5, 4))
    both = Student("both", "current", 1, 1)
    log_probs = students.log_probs_of(both, outputs)
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1)
    found = students.uncertainties_of(both, outputs)
    np.testing.assert_allclose(found.data, np.log1p(np.exp(outputs[:, 3])))
    np.testing.assert_allclose(found.total, -np.sum(np.exp(log_probs) * log_probs, axis=1))
    dirichlet = students.uncertainties_of(both._replace(kind="dirichlet"), outputs)
    np.testing.assert_allclose(dirichlet, metrics.dirichlet_uncertainties(outputs))
    for kind in ("predictive", "entropy"):
        assert students.uncertainties_of(both._replace(kind=kind), outputs) is None
    np.testing.assert_allclose(
        students.entropy_of(both._replace(kind="entropy"), outputs[:, :1]),
        np.log1p(np.exp(outputs[:, 0])),
    )


@pytest.mark.parametrize("kind", sorted(students.ANSWERS))
def test_answers_of_an_export_are_what_is_judged(kind):
    student, model = Student(kind, "current", 1, 1), nn.Dense(4)
    params = model.init(jax.random.key(0), jnp.zeros(3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    found = np.array([students.answer_fn(student, model)(params, one) for one in x], float)
    outputs = np.array([model.apply(params, one) for one in x], float)
    log_probs = students.log_probs_of(student, outputs)
    entropy = students.entropy_of(student, outputs)
    expected = {
        "predictive": lambda: log_probs,
        "entropy": lambda: np.logaddexp(0, outputs),
        "both": lambda: np.c_[log_probs, entropy],
        "dirichlet": lambda: outputs,
    }[kind]()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_temperature_falls_in_the_second_third():
    settings = settings_of({"temperature": 10, "num_steps": 3000, "thin": 10})
    temperature = students.temperature_of(settings)
    found = [float(temperature(jnp.array(step))) for step in (0, 100, 150, 200, 299)]
    np.testing.assert_allclose(found, [10, 10, 5.5, 1, 1])


def test_figures_of_merit_by_hand():
    rng = np.random.default_rng(0)
    probs, entropy = rng.dirichlet(np.ones(3), size=120), rng.uniform(0.1, 0.5, size=120)
    labels = rng.integers(3, size=120)
    teacher = Judged(np.log(probs), entropy, {"test": metrics.uncertainties(probs, entropy)})
    other = teacher._replace(entropy=entropy + 0.25)
    found = tables.figures_of({"teacher": teacher, "other": other}, "other", labels, 0)
    assert found["entropy_mae"] == pytest.approx(0.25 * np.ones(120))
    assert found["nll"] == pytest.approx(-np.log(probs[np.arange(120), labels]))
    assert found["accuracy"] == pytest.approx(100 * (probs.argmax(1) == labels))
    assert found["ndcg.total"] == pytest.approx(1)


def objective(given, student, batch):
    settings = settings_of(TINY | given)
    model = networks.of_student(settings, student, 3)
    params = model.init(jax.random.key(0), jnp.zeros(4))
    found = students.objective_of(settings, student, model)(params, batch)
    outputs = np.array([model.apply(params, x) for x in batch["x"]], float)
    return float(found), outputs, params


def test_objectives_by_hand():
    """Of every kind of student, with its regularisers."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=5)
    batch = {
        "x": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32),
        "step": jnp.array(0),
        "probs.current": jnp.asarray(probs, jnp.float32),
        "entropy.running": jnp.asarray(rng.uniform(size=5), jnp.float32),
    }
    softplus = lambda z: np.logaddexp(0, z)
    log_softmax = lambda z: z - np.log(np.exp(z).sum(-1, keepdims=True))
    predictive = Student("predictive", "current", 1, 1)
    found, z, params = objective({"student_decay": 0.3}, predictive, batch)
    squares = sum(np.sum(np.square(np.asarray(x, float))) for x in jax.tree.leaves(params))
    cross_entropy = -np.mean(np.sum(probs * log_softmax(z), axis=1))
    assert found == pytest.approx(cross_entropy + 0.15 * squares, rel=1e-5)
    entropy = Student("entropy", "running", 1, 1)
    found, z, _ = objective({}, entropy, batch)
    off = np.abs(softplus(z[:, 0]) - np.asarray(batch["entropy.running"]))
    assert found == pytest.approx(off.mean(), rel=1e-5)
    found, _, _ = objective({"entropy_loss": "square"}, entropy, batch)
    assert found == pytest.approx(0.5 * np.mean(off**2), rel=1e-5)
    # A Dirichlet one, of two networks' answers; at first at a temperature of 2.
    members = rng.dirichlet(np.ones(3), size=(5, 2))
    own = batch | {"log_probs.current": jnp.asarray(np.log(members), jnp.float32)}
    given = {"temperature": 2, "smoothing": 0.01}
    found, z, _ = objective(given, Student("dirichlet", "current", 1, 1), own)
    softer = members**0.5 / (members**0.5).sum(-1, keepdims=True)
    log_probs = np.log(0.99 * softer + 0.01 / 3).mean(1)
    alpha = np.exp(z / 2)
    each = special.gammaln(alpha).sum(1) - special.gammaln(alpha.sum(1))
    each -= np.sum((alpha - 1) * log_probs, axis=1)
    assert found == pytest.approx(4 * each.mean(), rel=1e-5)
    both = Student("both", "current", 1, 1, 0.7)
    found, z, params = objective({"regularizer": "penalty"}, both, batch)
    norms = sum(
        np.linalg.norm(np.asarray(params["params"][f"Dense_{i}"]["kernel"], float), axis=0).sum()
        for i in range(2)
    )
    off = np.abs(softplus(z[:, 3]) - np.asarray(batch["entropy.running"])).mean()
    cross_entropy = -np.mean(np.sum(probs * log_softmax(z[:, :3]), axis=1))
    assert found == pytest.approx(cross_entropy + off + 0.7 * norms, rel=1e-5)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 3.0), (0.4, 2.5), (0.5, 2.0), (0.99, 1.0)])
def test_running_means_of_the_nearest_temperature(share, expected):
    """Each a mean of its own over visits; the student and its target at one temperature."""
    given = {"temperature": 3, "smoothing": 0.01, "num_steps": 3000, "thin": 10}
    given |= {"student": "dirichlet", "estimator": "running"}
    settings = settings_of(TINY | given)
    (expectation,) = students.expectations(settings).values()
    members = np.random.default_rng(0).dirichlet(np.ones(3), size=(4, 5))  # Visits of inputs.
    memory = jnp.zeros((5, 5, 3))
    for count, visit in enumerate(members, start=1):
        values = jax.vmap(expectation.fn)(jnp.log(jnp.asarray(visit, jnp.float32)))
        memory, means = expectation.estimator.step(memory, values[None], jnp.float32(count))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
    batch = {"x": x, "step": jnp.array(int(300 * share)), "log_probs.running": means}
    found, z, _ = objective(given, Student("dirichlet", "running", 1, 1), batch)
    softer = members ** (1 / expected)
    softer /= softer.sum(-1, keepdims=True)
    log_probs = np.log(0.99 * softer + 0.01 / 3).mean(0)
    alpha = np.exp(z / expected)
    each = special.gammaln(alpha).sum(1) - special.gammaln(alpha.sum(1))
    each -= np.sum((alpha - 1) * log_probs, axis=1)
    assert found == pytest.approx(expected**2 * each.mean(), rel=1e-5)


def test_dropout_is_of_the_objective_and_not_of_the_answers():
    """Each input's own key; what is exported and judged is the whole network."""
    student = Student("predictive", "current", 1, 1, dropout=0.5)
    settings = settings_of(TINY | {"hidden_sizes": 500})
    model = networks.of_student(settings, student, 3)
    params = model.init(jax.random.key(0), jnp.zeros(4))
    x = jnp.ones((2, 4))
    probs = jnp.full((2, 3), 1 / 3)
    keys = jax.random.split(jax.random.key(1), 2)
    batch = {"x": x, "step": jnp.array(0), "probs.current": probs, "key": keys}
    found = students.objective_of(settings, student, model)(params, batch)
    by_hand = []
    for one, key in zip(x, keys, strict=True):
        outputs = model.apply(params, one, deterministic=False, rngs={"dropout": key})
        by_hand.append(-jnp.mean(jax.nn.log_softmax(outputs)))
    assert by_hand[0] != by_hand[1]
    assert float(found) == pytest.approx(float(jnp.mean(jnp.array(by_hand))), rel=1e-6)
    whole = jax.nn.log_softmax(models.MLP((500,), 3).apply(params, x[0]))
    np.testing.assert_allclose(students.answer_fn(student, model)(params, x[0]), whole, rtol=1e-6)


def test_gradients_are_clipped_before_adam():
    settings = settings_of(TINY | {"clip_norm": 0.5})
    student = Student("entropy", "running", 1, 1)
    model = networks.of_student(settings, student, 3)
    update = students.update_of(settings, student, model, rate=0.1, num_steps=4)
    state = update.init(model.init(jax.random.key(0), jnp.zeros(4)))
    batch = {"x": 1e3 * jnp.ones((1, 4)), "step": jnp.array(0), "entropy.running": jnp.ones(1)}
    state, _ = update.apply(state, batch)
    (adam,) = (
        part
        for part in jax.tree.leaves(state.optimizer, is_leaf=lambda part: hasattr(part, "mu"))
        if hasattr(part, "mu")
    )
    assert float(optax.tree.norm(adam.mu)) == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_the_rate_is_halved_and_the_proximal_step_follows_it():
    settings = settings_of(TINY | {"num_halvings": 1, "student_rate": 0.1})
    student = Student("entropy", "running", 1, 1, 2.0)
    model = networks.of_student(settings, student, 3)
    update = students.update_of(settings, student, model, rate=0.1, num_steps=4)
    params = jax.tree.map(lambda leaf: 100 * leaf, model.init(jax.random.key(0), jnp.zeros(4)))
    # Nothing to learn: the lasso alone moves the weights, and those of hidden layers alone.
    x = jnp.zeros((1, 4))
    target = jax.nn.softplus(model.apply(params, x[0])[0])[None]
    state = update.init(params)
    norms = lambda p: np.linalg.norm(np.asarray(p["params"]["Dense_0"]["kernel"]), axis=0)
    before, falls = norms(params), []
    for step in range(4):
        batch = {"x": x, "step": jnp.array(step), "entropy.running": target}
        state, _ = update.apply(state, batch)
        falls.append(before - norms(state.params))
        before = norms(state.params)
    np.testing.assert_allclose(
        np.array(falls), np.repeat([[0.2, 0.2, 0.1, 0.1]], 8, 0).T, rtol=0.02
    )


def test_the_papers_gradient_and_threshold_empty_units_and_nothing_is_lost():
    """Of a function of one input of four: the lasso's gradient, and 1e-3 at the end."""
    settings = settings_of(TINY | {"regularizer": "penalty", "student_rate": 0.01})
    student = Student("entropy", "running", 1, 1, 0.03)
    model = networks.of_student(settings, student, 3)
    update = students.update_of(settings, student, model, rate=0.01, num_steps=2000)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)), jnp.float32)
    batch = {"x": x, "entropy.running": jax.nn.softplus(2 * jnp.abs(x[:, 0]) - 1)}

    @jax.jit
    def learn(state):
        step = lambda state, i: (update.apply(state, batch | {"step": i})[0], None)
        return jax.lax.scan(step, state, jnp.arange(2000))[0]

    params = learn(update.init(model.init(jax.random.key(0), x[0]))).params
    assert settings.threshold == 1e-3
    pruned = models.prune(model, params, settings.threshold)
    assert all(1 <= size < 8 for size in pruned.model.hidden_sizes)
    answers = [jax.vmap(m.apply, (None, 0))(p, x) for m, p in ((model, params), pruned[:2])]
    np.testing.assert_allclose(answers[0], answers[1], atol=0.01)
