"""What losses of features cost: the Gaussian processes' divergence, and a step with each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.timing import Ratio, ratio
from kd import losses, models
from kd.losses import features
from kd.types import Array, Batch, PyTree

SIZE, WIDTH = 256, 512  # Of the divergence.
REPEATS = 5  # Of it, a timed call.
BATCH, NUM_STEPS = 128, 10
STUDENT = models.MLP((512, 128), 10)
TEACHER = models.CNN((32, 64), (128,), 10, kernel_size=3)
NARROW = models.CNN((16, 32), (64,), 10, kernel_size=3)
THIN = models.MLP((64, 64), 10)  # Of layers narrower than the batch, as its teacher's.
THIN_TEACHER = models.CNN((32, 64), (64,), 10, kernel_size=3)
LAYER = "hidden_0"  # Of images a regressor has more weights than the student, and costs as much.
LENGTH, NUM_WORDS = 32, 3000
TRANSFORMER = models.Transformer(NUM_WORDS, 64, num_layers=2, num_heads=4, num_outputs=2)
TINY = models.Transformer(NUM_WORDS, 32, num_layers=1, num_heads=4, num_outputs=2)
RECURRENT = models.LSTM(NUM_WORDS, 32, num_layers=1, num_outputs=2)


def divergence() -> list[Ratio]:
    """Value and gradient of the KL divergence over its Gram matrices and their Cholesky factors.

    In a loop, as every step of `fit` is, each time of other features.
    """
    rng = np.random.default_rng(0)
    student, teacher = (
        jnp.asarray(np.maximum(rng.normal(size=(SIZE, WIDTH)), 0), jnp.float32) for _ in range(2)
    )

    def factors(student: Array, teacher: Array) -> Array:
        scale = WIDTH**-0.5
        noise = features.gaussian_processes.JITTER * jnp.sum((scale * teacher) ** 2) / SIZE
        found = []
        for one in (scale * student, scale * teacher):
            found.append(jnp.linalg.cholesky(one @ one.T + noise * jnp.eye(SIZE)))
        return found[0][-1, -1] + found[1][-1, -1]

    def both(student: Array, teacher: Array) -> Array:
        value, slope = jax.value_and_grad(features.gaussian_process_kl)(student, teacher)
        return value + slope[-1, -1]

    def loop(fn: Callable[[Array, Array], Array]) -> Callable[[], Array]:
        def body(_: int, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            scale = 1 + 1e-9 * fn(*pair)
            return pair[0] * scale, pair[1] * scale

        run = jax.jit(lambda pair: jax.lax.fori_loop(0, REPEATS, body, pair))
        return partial(run, (student, teacher))

    title = f"Gaussian-process KL, {SIZE} x {WIDTH}: value, gradient / factors"
    units = (REPEATS, REPEATS)
    return [ratio(title, loop(both), loop(factors), bar=1.5, units=units, rounds=25)]


def steps() -> list[Ratio]:
    """A step with each loss of a batch's features over a plain one and the teacher's forward pass.

    The student's first hidden layer beside the teacher's, convolution beside convolution where
    positions or all layers are matched.
    """
    rng = np.random.default_rng(0)
    batch = {
        "x": jnp.asarray(rng.uniform(size=(BATCH, 28, 28, 1)), jnp.float32),
        "y": jnp.asarray(rng.integers(10, size=BATCH)),
    }
    pairs = (
        (Pair(TEACHER, STUDENT, batch), _dense_losses(), ""),
        (Pair(THIN_TEACHER, THIN, batch), _thin_losses(), ", 64 units"),
        (Pair(TEACHER, NARROW, batch), _map_losses(), ", convolutions"),
    )
    return [row for pair, named, where in pairs for row in _ratios(pair, named, where)]


def sequences() -> list[Ratio]:
    """The same of sequences: a Transformer's layers into a smaller one's, and into an LSTM's."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(LENGTH // 2, LENGTH + 1, BATCH)
    tokens = rng.integers(1, NUM_WORDS, (BATCH, LENGTH))
    x = jnp.asarray(np.where(np.arange(LENGTH) < lengths[:, None], tokens, 0))
    batch = {"x": x, "y": jnp.asarray(rng.integers(2, size=BATCH))}
    tiny, lstm = Pair(TRANSFORMER, TINY, batch), Pair(TRANSFORMER, RECURRENT, batch)
    return _ratios(tiny, _tiny_losses(), ", Transformers") + _ratios(
        lstm, _recurrent_losses(), ", an LSTM"
    )


class Pair(NamedTuple):
    """A teacher and a student, whose layers have the same names.

    Attributes:
      teacher, student: networks.
      batch: inputs `"x"` and labels `"y"`.
    """

    teacher: nn.Module
    student: nn.Module
    batch: Batch


LossFn = Callable[[PyTree, dict[str, Array], dict[str, Array], Batch], Array]


class Loss(NamedTuple):
    """A loss of features as a benchmark has it.

    Attributes:
      loss_fn: of a batch: of all parameters, the student's features by layer, the teacher's, and
        the batch.
      layers: which it reads.
      is_regressed: whether the student's are first made the teacher's shape.
      is_taught: whether there is a teacher: labels' losses have none.
    """

    loss_fn: LossFn
    layers: tuple[str, ...] = (LAYER,)
    is_regressed: bool = False
    is_taught: bool = True


def _ratios(pair: Pair, losses_by_name: dict[str, Loss], where: str = "") -> list[Ratio]:
    x = pair.batch["x"]
    teacher = pair.teacher.init(jax.random.key(0), x[0])
    start = {"student": pair.student.init(jax.random.key(1), x[0])}

    def plain(params: PyTree, batch: Batch) -> Array:
        found = _features(pair.student, params["student"], batch["x"], layers=["output"])
        return _label_loss(found["output"], batch["y"])

    alone = _loop(plain, start, pair.batch)
    rows = []
    for name, loss in losses_by_name.items():
        told = partial(_features, pair.teacher, teacher, layers=loss.layers)
        asked = _asked(told, x)
        extra = _regressors(pair, start["student"], told) if loss.is_regressed else {}

        def with_loss(params: PyTree, batch: Batch, loss: Loss = loss, told=told) -> Array:
            layers = [*loss.layers, "output"]
            found = _features(pair.student, params["student"], batch["x"], layers=layers)
            own = {layer: found[layer] for layer in loss.layers}
            answers = told(batch["x"]) if loss.is_taught else {}
            if loss.is_regressed:
                own = {
                    layer: _regressed(params["regressors"][layer], own[layer], answers[layer])
                    for layer in own
                }
            return _label_loss(found["output"], batch["y"]) + loss.loss_fn(
                params, own, answers, batch
            )

        def baseline(loss: Loss = loss, asked: Callable = asked) -> list[PyTree]:
            return [alone(), asked()] if loss.is_taught else [alone()]

        loop = _loop(with_loss, start | extra, pair.batch)
        beside = " and the teacher's" if loss.is_taught else ""
        title = f"a step with {name}{where} / a plain one{beside}"
        units = (NUM_STEPS, NUM_STEPS)
        rows.append(ratio(title, loop, baseline, bar=1.25, units=units))
    return rows


def _dense_losses() -> dict[str, Loss]:
    """Of one layer."""

    def labelled(loss_fn: Callable[..., Array]) -> Loss:
        return Loss(
            lambda params, own, told, batch: loss_fn(own[LAYER], batch["y"]), is_taught=False
        )

    rbf = {"kernel_fn": features.rbf_kernel()}
    kl, flow = features.gaussian_process_kl, features.information_flow
    return {
        "the KL": _one(kl),
        "the KL, RBF kernels": _one(kl, **rbf),
        "the Wasserstein distance": _one(features.gaussian_process_wasserstein),
        "the same, RBF kernels": _one(features.gaussian_process_wasserstein, **rbf),
        "the Bhattacharyya distance": _one(features.gaussian_process_bhattacharyya),
        "the Hellinger distance": _one(features.gaussian_process_hellinger),
        "the densities' distance": _one(features.gaussian_process_square_distance),
        "the kernels' distance": _one(features.gram_square_error),
        "knowledge transfer": _one(features.probabilistic_knowledge_transfer),
        "the same, both kernels, Jeffreys'": Loss(
            lambda params, own, told, batch: flow(own, told, {LAYER: 1.0})
        ),
        "the same, from labels": labelled(features.supervised_knowledge_transfer),
        "mutual information": Loss(
            lambda params, own, told, batch: features.mutual_information_square_error(
                own[LAYER], told[LAYER], batch["y"]
            )
        ),
        "distances": _one(features.distance_absolute_error),
        "contrastive supervision": labelled(features.contrastive),
        "a hint": Loss(_hints, is_regressed=True),
        "variational information": Loss(_guesses, is_regressed=True),
    }


def _thin_losses() -> dict[str, Loss]:
    """Of layers narrower than the batch."""
    return {
        "the KL": _one(features.gaussian_process_kl),
        "the Wasserstein distance": _one(features.gaussian_process_wasserstein),
        "the Bhattacharyya distance": _one(features.gaussian_process_bhattacharyya),
    }


def _one(loss_fn: Callable[..., Array], **given: Any) -> Loss:
    """Of the first hidden layers."""
    return Loss(lambda params, own, told, batch: loss_fn(own[LAYER], told[LAYER], **given))


def _map_losses() -> dict[str, Loss]:
    """Of convolutions."""
    maps = ("Conv_0", "Conv_1")
    everything = (*maps, LAYER)

    def attention(params: PyTree, own: dict, told: dict, batch: Batch) -> Array:
        each = jax.vmap(features.attention_transfer)
        return sum(jnp.mean(each(own[layer], told[layer])) for layer in maps)

    def flow(params: PyTree, own: dict, told: dict, batch: Batch) -> Array:
        return features.information_flow(own, told, dict.fromkeys(everything, 1.0))

    return {
        "attention maps": Loss(attention, maps),
        "information flow": Loss(flow, everything),
        "a hint of a convolution": Loss(_hints, maps[-1:], True),
        "variational information of one": Loss(_guesses, maps[-1:], True),
    }


def _tiny_losses() -> dict[str, Loss]:
    """TinyBERT's."""
    states = ("embedding", "hidden_0")
    return {
        "attention scores": Loss(_masked(features.attention_square_error), ("attention_0",)),
        "projected states": Loss(_masked(features.hidden_square_error), states, True),
    }


def _recurrent_losses() -> dict[str, Loss]:
    """Of two architectures."""
    states = ("embedding", "hidden_0")

    def flow(params: PyTree, own: dict, told: dict, batch: Batch) -> Array:
        pairs = [tuple(one[layer] for layer in states) for one in (own, told)]
        masks = jax.vmap(models.token_mask)(batch["x"])
        return jnp.mean(jax.vmap(features.flow_square_error)(*pairs, masks))

    return {
        "projected states": Loss(_masked(features.hidden_square_error), states, True),
        "Gram matrices of positions": Loss(_masked(features.position_gram_square_error), states),
        "flow between layers": Loss(flow, states, True),
    }


def _masked(loss_fn: Callable[[Array, Array, Array], Array]) -> LossFn:
    def batched(params: PyTree, own: dict, told: dict, batch: Batch) -> Array:
        masks = jax.vmap(models.token_mask)(batch["x"])
        return sum(jnp.mean(jax.vmap(loss_fn)(own[layer], told[layer], masks)) for layer in own)

    return batched


def _hints(params: PyTree, own: dict, told: dict, batch: Batch) -> Array:
    return sum(jnp.mean(jax.vmap(features.hint)(own[layer], told[layer])) for layer in own)


def _guesses(params: PyTree, own: dict, told: dict, batch: Batch) -> Array:
    guess = jax.vmap(features.variational_information, in_axes=(0, 0, None))
    return sum(
        jnp.mean(guess(own[layer], told[layer], params["variances"][layer])) for layer in own
    )


def _regressors(pair: Pair, student: PyTree, told: Callable[[Array], dict[str, Array]]) -> PyTree:
    """Of every layer told, and variances."""
    x = pair.batch["x"]
    answers = told(x)
    own = _features(pair.student, student, x, layers=list(answers))
    keys = jax.random.split(jax.random.key(2), len(answers))
    return {
        "regressors": {
            layer: models.Regressor(value.shape[1:]).init(key, own[layer][0])
            for key, (layer, value) in zip(keys, answers.items(), strict=True)
        },
        "variances": {
            layer: features.init_variance(value.shape[-1]) for layer, value in answers.items()
        },
    }


def _regressed(params: PyTree, own: Array, told: Array) -> Array:
    regressor = models.Regressor(told.shape[1:])
    return jax.vmap(lambda one: regressor.apply(params, one))(own)


def _features(
    model: nn.Module, params: PyTree, x: Array, *, layers: Sequence[str]
) -> dict[str, Array]:
    features_fn = models.features_of(model, list(layers))
    return jax.vmap(lambda one: features_fn(params, one))(x)


def _label_loss(logits: Array, y: Array) -> Array:
    one_hot = jax.nn.one_hot(y, logits.shape[-1])
    return jnp.mean(jax.vmap(losses.cross_entropy)(jax.nn.log_softmax(logits), one_hot))


def _loop(
    objective: Callable[[PyTree, Batch], Array], start: PyTree, batch: Batch
) -> Callable[[], PyTree]:
    """`NUM_STEPS` of Adam, compiled."""
    optimizer = optax.adam(1e-4)

    def step(_: int, carry: tuple[PyTree, optax.OptState]) -> tuple[PyTree, optax.OptState]:
        params, state = carry
        # Of inputs that depend on the step, so that nothing is taken out of the loop.
        moved = {**batch, "x": _moved(batch["x"], jax.tree.leaves(params)[0].ravel()[0])}
        moves, state = optimizer.update(jax.grad(objective)(params, moved), state, params)
        return optax.apply_updates(params, moves), state

    carry = (start, optimizer.init(start))
    run = jax.jit(lambda carry: jax.lax.fori_loop(0, NUM_STEPS, step, carry))
    return partial(run, carry)


def _asked(told: Callable[[Array], dict[str, Array]], x: Array) -> Callable[[], Array]:
    """`NUM_STEPS` of the teacher's forward pass."""

    def body(_: int, x: Array) -> Array:
        return _moved(x, sum(map(jnp.sum, told(x).values())))

    run = jax.jit(lambda x: jax.lax.fori_loop(0, NUM_STEPS, body, x))
    return partial(run, x)


def _moved(x: Array, by: Array) -> Array:
    """Inputs that depend on a number, and are what they were: tokens are integers."""
    return x + (1e-9 * by).astype(x.dtype)


BENCHMARKS = {"divergence": divergence, "features": steps, "sequences": sequences}
