"""What losses of features cost: the Gaussian processes' divergence, and a step with each."""

from collections.abc import Callable
from functools import partial

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
LAYER = "hidden_0"  # Of images a regressor has more weights than the student, and costs as much.


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
    """A step with each loss of features over a plain one and the teacher's forward pass."""
    rng = np.random.default_rng(0)
    batch = {
        "x": jnp.asarray(rng.uniform(size=(BATCH, 28, 28, 1)), jnp.float32),
        "y": jnp.asarray(rng.integers(10, size=BATCH)),
    }
    teacher = TEACHER.init(jax.random.key(0), batch["x"][0])
    teacher_fn = models.features_of(TEACHER, [LAYER])
    told = lambda x: jax.vmap(lambda one: teacher_fn(teacher, one)[LAYER])(x)  # noqa: E731
    start = {"student": STUDENT.init(jax.random.key(1), batch["x"][0])}
    features_fn = models.features_of(STUDENT, ["hidden_0", "output"])

    def label_loss(found: dict[str, Array], y: Array) -> Array:
        log_probs = jax.nn.log_softmax(found["output"])
        return jnp.mean(jax.vmap(losses.cross_entropy)(log_probs, jax.nn.one_hot(y, 10)))

    def plain(params: PyTree, batch: Batch) -> Array:
        return label_loss(_features(features_fn, params, batch), batch["y"])

    def with_loss(loss_fn: Callable[[PyTree, Array, Array], Array], params: PyTree, batch: Batch):
        found = _features(features_fn, params, batch)
        return label_loss(found, batch["y"]) + loss_fn(params, found["hidden_0"], told(batch["x"]))

    alone = _loop(plain, start, batch)
    asked = _asked(told, batch["x"])

    def baseline() -> list[PyTree]:
        return [alone(), asked()]

    found = []
    for name, (loss_fn, extra) in _losses(start, batch, features_fn, told).items():
        loop = _loop(partial(with_loss, loss_fn), start | extra, batch)
        title = f"a step with {name} / a plain one and the teacher's forward"
        units = (NUM_STEPS, NUM_STEPS)
        found.append(ratio(title, loop, baseline, bar=1.25, units=units))
    return found


def _losses(
    start: PyTree, batch: Batch, features_fn: models.FeaturesFn, told: Callable[[Array], Array]
) -> dict[str, tuple[Callable[[PyTree, Array, Array], Array], PyTree]]:
    """Losses of a batch of `(params, student's features, teacher's)`, and their own parameters."""
    own = _features(features_fn, start, batch)["hidden_0"]
    shape = told(batch["x"]).shape[1:]
    regressor = models.Regressor(shape)
    regressed = {"regressor": regressor.init(jax.random.key(2), own[0])}
    regress = lambda params, s: jax.vmap(  # noqa: E731
        lambda one: regressor.apply(params["regressor"], one)
    )(s)
    guessed = regressed | {"variance": features.init_variance(shape[-1])}
    return {
        "the KL": (lambda params, s, t: features.gaussian_process_kl(s, t) / BATCH, {}),
        "knowledge transfer": (
            lambda params, s, t: features.probabilistic_knowledge_transfer(s, t),
            {},
        ),
        "a hint": (
            lambda params, s, t: jnp.mean(jax.vmap(features.hint)(regress(params, s), t)),
            regressed,
        ),
        "variational information": (
            lambda params, s, t: jnp.mean(
                jax.vmap(features.variational_information, in_axes=(0, 0, None))(
                    regress(params, s), t, params["variance"]
                )
            ),
            guessed,
        ),
    }


def _features(features_fn: models.FeaturesFn, params: PyTree, batch: Batch) -> dict[str, Array]:
    return jax.vmap(lambda x: features_fn(params["student"], x))(batch["x"])


def _loop(
    objective: Callable[[PyTree, Batch], Array], start: PyTree, batch: Batch
) -> Callable[[], PyTree]:
    """`NUM_STEPS` of Adam, compiled."""
    optimizer = optax.adam(1e-4)

    def step(_: int, carry: tuple[PyTree, optax.OptState]) -> tuple[PyTree, optax.OptState]:
        params, state = carry
        # Of inputs that depend on the step, so that nothing is taken out of the loop.
        moved = {**batch, "x": batch["x"] + 1e-9 * jax.tree.leaves(params)[0].ravel()[0]}
        moves, state = optimizer.update(jax.grad(objective)(params, moved), state, params)
        return optax.apply_updates(params, moves), state

    carry = (start, optimizer.init(start))
    run = jax.jit(lambda carry: jax.lax.fori_loop(0, NUM_STEPS, step, carry))
    return partial(run, carry)


def _asked(told: Callable[[Array], Array], x: Array) -> Callable[[], Array]:
    """`NUM_STEPS` of the teacher's forward pass."""
    body = lambda _, x: x + 1e-9 * jnp.sum(told(x))  # noqa: E731
    run = jax.jit(lambda x: jax.lax.fori_loop(0, NUM_STEPS, body, x))
    return partial(run, x)


BENCHMARKS = {"divergence": divergence, "features": steps}
