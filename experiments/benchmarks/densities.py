"""What NADE, Gibbs chains, annealing and RBM training cost, at the thesis's sizes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.neural_network import BernoulliRBM

import kd.random
from experiments.benchmarks.timing import Ratio, ratio
from kd import inference, training
from kd.models import NADE, RBM
from kd.samplers import block_gibbs
from kd.types import Array, PyTree

NUM_VISIBLE, NUM_HIDDEN = 784, 500
NUM_CHAINS, NUM_ANNEALED = 2000, 100
GIBBS_STEPS, ANNEALING_STEPS, RBM_STEPS = 4, 100, 100
RBM_BATCH = 100


def _inputs(num: int) -> Array:
    return jax.random.bernoulli(jax.random.key(1), 0.13, (num, NUM_VISIBLE)).astype(jnp.float32)


def _rbm() -> tuple[RBM, PyTree]:
    rbm = RBM(NUM_VISIBLE, NUM_HIDDEN)
    return rbm, rbm.init(jax.random.key(0), jnp.zeros(NUM_VISIBLE))


def nade_gradient() -> list[Ratio]:
    """Value and gradient over the value alone, and over autodiff's of the textbook's scan."""
    nade = NADE(NUM_VISIBLE, NUM_HIDDEN)
    params = nade.init(jax.random.key(0), jnp.zeros(NUM_VISIBLE))
    found = []
    for batch_size in (20, 100):
        x = _inputs(batch_size)
        value = jax.jit(lambda params, x: jnp.mean(nade.log_prob(params, x)))
        slope = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(nade.log_prob(params, x))))
        plain = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(_textbook(params, x))))

        def thunk(fn: Callable, x: Array = x) -> Callable[[], object]:
            return lambda: fn(params, x)

        name = f"NADE, batch {batch_size}, value and gradient"
        found.append(ratio(f"{name} / value", thunk(slope), thunk(value), bar=3.0))
        found.append(
            ratio(
                f"NADE, batch {batch_size}, autodiff of the plain scan / ours",
                thunk(plain),
                thunk(slope),
                bar=3.0,
                at_least=True,
            )
        )
    return found


def nade_memory() -> list[Ratio]:
    """Temporaries of value and gradient: over those of the textbook's scan, and an example more.

    As compiled, so that nothing is run. Autodiff of the scan keeps two I x J arrays an example;
    one of them would be a ratio of one half.
    """
    nade = NADE(NUM_VISIBLE, NUM_HIDDEN)
    params = nade.init(jax.random.key(0), jnp.zeros(NUM_VISIBLE))

    def temporaries(log_prob_fn: Callable[[PyTree, Array], Array], batch_size: int) -> int:
        slope = jax.value_and_grad(lambda params, x: jnp.mean(log_prob_fn(params, x)))
        compiled = jax.jit(slope).lower(params, _inputs(batch_size)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours, doubled = temporaries(nade.log_prob, 100), temporaries(nade.log_prob, 200)
    plain = temporaries(_textbook, 100)
    # Less what does not depend on the batch, in single precision.
    numbers = (doubled - ours) / 100 / 4
    share = numbers / (NUM_VISIBLE + NUM_HIDDEN)
    return [
        Ratio(
            *("NADE, batch 100, gradient's memory / the plain scan's", *[ours / plain] * 3),
            bar=0.05,
            at_least=False,
            detail=f"{ours / 1e6:.1f} MB against {plain / 1e6:.1f} MB",
        ),
        Ratio(
            *("NADE, gradient's numbers an example / I + J", *[share] * 3),
            bar=10.0,
            at_least=False,
            detail=f"{numbers:,.0f} numbers against {NUM_VISIBLE + NUM_HIDDEN:,}",
        ),
    ]


def _textbook(params: PyTree, x: Array) -> Array:
    """(4.37)-(4.42) as they stand, for `jax.grad` to differentiate."""
    w, c, u, b = (params["params"][name] for name in "wcub")

    def step(a: Array, inputs: tuple) -> tuple[Array, Array]:
        w, x, u, b = inputs
        logit = jax.nn.sigmoid(a) @ u + b
        return a + x[:, None] * w[None], x * logit - jax.nn.softplus(logit)

    w = jnp.concatenate([w, jnp.zeros_like(w[:1])])
    start = jnp.broadcast_to(c, (len(x), c.size))
    return jnp.sum(jax.lax.scan(step, start, (w, x.T, u, b))[1], 0)


def gibbs_sweep() -> list[Ratio]:
    """A step of two thousand chains over its two matrix products."""
    rbm, params = _rbm()
    w = params["params"]["w"]
    x = _inputs(NUM_CHAINS)

    def products(key: jax.Array, x: Array) -> Array:
        return 1e-3 * ((x @ w) @ w.T)

    alone = _repeated(products, GIBBS_STEPS)
    found = []
    for name, uniform_fn, bar in (
        ("hashed counters", kd.random.uniform, 1.3),
        ("jax.random", jax.random.uniform, float("inf")),
    ):
        sampler = block_gibbs(rbm, params, uniform_fn=uniform_fn)
        sweep = _repeated(lambda key, x, s=sampler: s.step(key, x)[0], GIBBS_STEPS)
        title = f"Gibbs, 2,000 chains ({name}) / its products"
        found.append(
            ratio(
                title,
                lambda sweep=sweep: sweep(x),
                lambda: alone(x),
                bar=bar,
                units=(GIBBS_STEPS, GIBBS_STEPS),
            )
        )
    return found


def annealing() -> list[Ratio]:
    """A temperature of annealed importance sampling over its two matrix products."""
    _, params = _rbm()
    w = params["params"]["w"]
    path = inference.rbm_path(params, base_rate_logits=jnp.zeros(NUM_VISIBLE))
    x = _inputs(NUM_ANNEALED)

    def products(key: jax.Array, x: Array) -> Array:
        return 1e-3 * ((x @ w) @ w.T)

    def temperature(key: jax.Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, total = carry
        x, increment = path.step(key, x, jnp.float32(0.5), jnp.float32(0.5001))
        return x, total + increment

    alone = _repeated(products, ANNEALING_STEPS)
    anneal = _repeated(temperature, ANNEALING_STEPS)
    total = jnp.zeros(NUM_ANNEALED)
    return [
        ratio(
            "AIS, 100 chains, a temperature / its products",
            lambda: anneal((x, total)),
            lambda: alone(x),
            bar=2.0,
            units=(ANNEALING_STEPS, ANNEALING_STEPS),
        )
    ]


def rbm_training() -> list[Ratio]:
    """Scikit-learn's epochs of PCD-1 over ours, the same updates."""
    rbm, params = _rbm()
    data = _inputs(RBM_BATCH * RBM_STEPS)
    batches = data.reshape(RBM_STEPS, RBM_BATCH, NUM_VISIBLE)
    images = np.array(data)
    theirs = BernoulliRBM(
        NUM_HIDDEN, learning_rate=0.1, batch_size=RBM_BATCH, n_iter=1, random_state=0
    )
    hidden = jnp.zeros((RBM_BATCH, NUM_HIDDEN))
    updates = {
        "persistent_contrastive_divergence": training.persistent_contrastive_divergence(
            rbm, optax.sgd(0.1), jax.random.key(2), hidden=hidden
        ),
        "contrastive_divergence": training.contrastive_divergence(
            rbm.log_potential,
            lambda params: block_gibbs(rbm, params),
            optax.sgd(0.1),
            jax.random.key(2),
            chains=jnp.zeros((RBM_BATCH, NUM_VISIBLE)),
        ),
    }
    found = []
    for (name, update), bar in zip(updates.items(), (2.5, float("inf")), strict=True):
        state = update.init(params)
        ours = jax.jit(
            lambda state, update=update: (
                jax.lax.scan(lambda s, x: (update.apply(s, {"x": x})[0], None), state, batches)[
                    0
                ].params
            )
        )
        found.append(
            ratio(
                f"scikit-learn's BernoulliRBM / {name}",
                lambda: theirs.fit(images).components_,
                lambda ours=ours, state=state: ours(state),
                bar=bar,
                at_least=True,
                units=(RBM_STEPS, RBM_STEPS),
                pause=0.1,
            )
        )
    return found


def _repeated(step: Callable[[jax.Array, PyTree], PyTree], num_steps: int) -> Callable:
    key = jax.random.key(3)
    return jax.jit(
        lambda x: jax.lax.fori_loop(
            0, num_steps, lambda i, x: step(jax.random.fold_in(key, i), x), x
        )
    )


BENCHMARKS = {
    "nade": nade_gradient,
    "nade_memory": nade_memory,
    "gibbs": gibbs_sweep,
    "ais": annealing,
    "rbm": rbm_training,
}
