"""The study's objectives: means over a batch of losses of one example, and the labels they read."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from experiments.compress_ensemble.objectives import distillation_objective, label_objective
from experiments.compress_ensemble.settings import LOSSES, Settings
from kd import derivatives, losses

NUM_EXAMPLES, NUM_INPUTS, NUM_CLASSES, NUM_PROJECTIONS = 5, 6, 4, 3
SETTINGS = Settings(temperature=2.5, derivative_weight=0.7, num_projections=NUM_PROJECTIONS)


def logits_fn(params, x):
    x = jnp.reshape(x, -1)
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def log_prob_fn(params):
    return lambda x: jax.nn.log_softmax(logits_fn(params, x))


def network(seed):
    params = oracles.tanh_params(seed, (NUM_INPUTS, 5, NUM_CLASSES))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


STUDENT, TEACHER = network(0), network(1)


def everything():
    """A batch with all labels that any objective may read."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(NUM_EXAMPLES, 2, NUM_INPUTS // 2)), jnp.float32)
    teacher_fn = log_prob_fn(TEACHER)
    signs = rng.choice([-1.0, 1.0], size=(NUM_EXAMPLES, NUM_PROJECTIONS, NUM_CLASSES))
    jacobians = jax.vmap(lambda x: derivatives.input_jacobian(teacher_fn, x))(x)
    return {
        "x": x,
        "y": jnp.asarray(rng.integers(NUM_CLASSES, size=NUM_EXAMPLES), jnp.int32),
        "teacher_log_probs": jax.vmap(teacher_fn)(x),
        "teacher_jacobian": jacobians,
        "signs": jnp.asarray(signs, jnp.float32),
        "teacher_vjps": jnp.einsum("npc,ncij->npij", jnp.asarray(signs, jnp.float32), jacobians),
    }


BATCH = everything()


def examples():
    return [{name: leaf[i] for name, leaf in BATCH.items()} for i in range(NUM_EXAMPLES)]


def student_jacobian(x):
    return derivatives.input_jacobian(log_prob_fn(STUDENT), x)


def of_library(loss, example, settings=SETTINGS):
    """The loss of one example, from `kd.losses`."""
    x, asked = example["x"], example["teacher_log_probs"]
    logits = logits_fn(STUDENT, x)
    ce = losses.cross_entropy(jax.nn.log_softmax(logits), jnp.exp(asked))
    dse = losses.derivative_square_error(student_jacobian(x), example["teacher_jacobian"])
    vjps = jnp.stack(
        [derivatives.input_vjp(log_prob_fn(STUDENT), x, signs) for signs in example["signs"]]
    )
    return {
        "ce": ce,
        "dse": dse,
        "dse_projected": losses.projected_square_error(
            vjps, example["teacher_vjps"], num_classes=NUM_CLASSES
        ),
        "ce+dse": ce + settings.derivative_weight * dse,
        "logits": losses.logit_square_error(logits, asked - jnp.mean(asked)),
        "soft_target": losses.soft_target(logits, asked, temperature=settings.temperature),
    }[loss]


def of_numpy(loss, example):
    """The same in float64, from formulas and central differences."""
    params = [{k: np.asarray(v, np.float64) for k, v in p.items()} for p in (STUDENT, TEACHER)]
    x, shape = np.asarray(example["x"], np.float64), example["x"].shape
    student, teacher = (oracles.tanh_network(p, x) for p in params)
    log_f, log_t = oracles.log_softmax(student), oracles.log_softmax(teacher)
    jacobians = [
        oracles.central_jacobian(
            lambda x, p=p: oracles.log_softmax(oracles.tanh_network(p, x)), x
        ).reshape(NUM_CLASSES, *shape)
        for p in params
    ]
    ce = oracles.cross_entropy(log_f, np.exp(log_t))
    dse = oracles.derivative_square_error(*jacobians)
    difference = jacobians[0] - jacobians[1]
    projections = np.tensordot(np.asarray(example["signs"], np.float64), difference, axes=1)
    return {
        "ce": ce,
        "dse": dse,
        "dse_projected": np.sum(projections**2) / (2 * NUM_CLASSES * NUM_PROJECTIONS),
        "ce+dse": ce + 0.7 * dse,
        "logits": oracles.square_error(student, log_t - log_t.mean()),
        "soft_target": oracles.soft_target(student, teacher, 2.5),
    }[loss]


@pytest.mark.parametrize("loss", LOSSES)
def test_an_objective_is_the_mean_of_its_loss(loss):
    objective = distillation_objective(loss, logits_fn, SETTINGS)
    actual = float(objective.fn(STUDENT, BATCH))
    of_each = [float(of_library(loss, example)) for example in examples()]
    assert actual == pytest.approx(np.mean(of_each), rel=1e-5)
    assert actual == pytest.approx(np.mean([of_numpy(loss, e) for e in examples()]), rel=1e-4)
    assert np.ptp(of_each) > 0.05 * actual  # A mean, not any one of them.


@pytest.mark.parametrize("loss", LOSSES)
def test_jit_is_eager(loss):
    objective = distillation_objective(loss, logits_fn, SETTINGS)
    compiled = jax.jit(objective.fn)(STUDENT, BATCH)
    assert float(compiled) == pytest.approx(float(objective.fn(STUDENT, BATCH)), rel=1e-5)


LABELS = {
    "ce": (None, ("teacher_log_probs",)),
    "dse": ("jacobian", ("teacher_jacobian",)),
    "dse_projected": ("projected", ("signs", "teacher_vjps")),
    "ce+dse": ("jacobian", ("teacher_log_probs", "teacher_jacobian")),
    "logits": (None, ("teacher_log_probs",)),
    "soft_target": (None, ("teacher_log_probs",)),
}


def check_reads_exactly(objective, labels):
    """The batch of the declared labels suffices, and each of them matters."""
    assert set(objective.labels) == set(labels)
    declared = {name: BATCH[name] for name in ("x", *objective.labels)}
    whole = float(objective.fn(STUDENT, declared))
    assert whole == float(objective.fn(STUDENT, BATCH))
    for name in objective.labels:
        without = {key: leaf for key, leaf in declared.items() if key != name}
        with pytest.raises(KeyError, match=name):
            objective.fn(STUDENT, without)
        rolled = declared | {name: jnp.roll(declared[name], 1, axis=0)}
        assert float(objective.fn(STUDENT, rolled)) != whole


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_declared_are_those_it_reads(loss):
    objective = distillation_objective(loss, logits_fn, SETTINGS)
    derivative, labels = LABELS[loss]
    assert objective.derivatives == derivative
    check_reads_exactly(objective, labels)


def test_a_label_weight_adds_the_label():
    settings = Settings(temperature=2.5, label_weight=0.3)
    objective = distillation_objective("soft_target", logits_fn, settings)
    assert objective.derivatives is None
    check_reads_exactly(objective, ("teacher_log_probs", "y"))
    hard = [
        -oracles.log_softmax(oracles.tanh_network(STUDENT, example["x"]))[int(example["y"])]
        for example in examples()
    ]
    soft = [of_numpy("soft_target", example) for example in examples()]
    expected = 0.7 * np.mean(soft) + 0.3 * np.mean(hard)
    assert float(objective.fn(STUDENT, BATCH)) == pytest.approx(expected, rel=1e-4)


def test_the_label_objective_is_cross_entropy_with_the_labels():
    objective = label_objective(logits_fn, NUM_CLASSES)
    assert objective.derivatives is None
    check_reads_exactly(objective, ("y",))
    expected = np.mean(
        [
            -oracles.log_softmax(oracles.tanh_network(STUDENT, example["x"]))[int(example["y"])]
            for example in examples()
        ]
    )
    assert float(objective.fn(STUDENT, BATCH)) == pytest.approx(expected, rel=1e-5)


def test_no_weight_on_derivatives_leaves_cross_entropy():
    settings = Settings(derivative_weight=0.0)
    both = distillation_objective("ce+dse", logits_fn, settings)
    ce = distillation_objective("ce", logits_fn, settings)
    value, gradient = jax.value_and_grad(both.fn)(STUDENT, BATCH)
    expected_value, expected_gradient = jax.value_and_grad(ce.fn)(STUDENT, BATCH)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, expected_gradient
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_that_is_the_teacher_is_at_the_minimum(loss):
    """Loss 0 where the loss has no constant, and in every case no gradient."""
    params = TEACHER
    if loss == "logits":  # Logits are matched to centred ones: only a centred teacher is that.
        shift = jnp.mean(TEACHER["w2"], axis=1, keepdims=True)
        params = TEACHER | {
            "w2": TEACHER["w2"] - shift,
            "b2": TEACHER["b2"] - jnp.mean(TEACHER["b2"]),
        }
    objective = distillation_objective(loss, logits_fn, SETTINGS)
    value, gradient = jax.value_and_grad(objective.fn)(params, BATCH)
    if "ce" not in loss:
        assert float(value) == pytest.approx(0, abs=1e-6)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5


def test_settings_move_the_losses_that_have_them():
    def value(loss, **changes):
        objective = distillation_objective(loss, logits_fn, Settings(**changes))
        return float(objective.fn(STUDENT, BATCH))

    assert value("soft_target", temperature=1.0) != value("soft_target", temperature=8.0)
    assert value("ce+dse", derivative_weight=2.0) - value("ce") == pytest.approx(
        2 * value("dse"), rel=1e-4
    )


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match=r"loss must be one of ce, dse, .*; got 'mse'"):
        distillation_objective("mse", logits_fn, SETTINGS)
