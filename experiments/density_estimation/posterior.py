"""The model of the study: a mixture with known scales, and the posterior of its means."""

import jax
import jax.numpy as jnp
import numpy as np

from kd import samplers, streams
from kd.types import Array, Batch, Key, PyTree, Sampler, Stream

# Papamakarios (2015), (3.12): means, and variances (not standard deviations), of three
# components of weight 1/3; and the variance of the prior (3.13).
MEANS, VARIANCES = np.array([-3.0, 0.0, 2.0]), np.array([2.0, 5.0, 1.0])
PRIOR_VARIANCE = 100.0
NUM_MEANS = len(MEANS)


def draw(key: Key, num_points: int) -> Array:
    """Points of the true density (3.11), `[N]`."""
    return draw_given(key, jnp.broadcast_to(jnp.asarray(MEANS, float), (num_points, NUM_MEANS)))


def points_of(key: Key, num_points: int) -> Array:
    """The points that `chain` draws when it is begun with this key, `[N]`."""
    return draw(jax.random.split(key)[0], num_points)


def draw_given(key: Key, means: Array) -> Array:
    """A point of p(x | w) for each of the means w `[B, 3]`, `[B]`."""
    choice_key, noise_key = jax.random.split(key)
    num = len(means)
    chosen = jax.random.randint(choice_key, (num,), 0, NUM_MEANS)
    scales = jnp.sqrt(jnp.asarray(VARIANCES, means.dtype))[chosen]
    return means[jnp.arange(num), chosen] + scales * jax.random.normal(noise_key, (num,))


def log_density(x: Array, means: Array) -> Array:
    """Log p(x | w) in nats, of points `[N]` given means `[3]`: `[N]`."""
    variances = jnp.asarray(VARIANCES, x.dtype)[None]
    squares = jnp.square(x[:, None] - means[None]) / variances
    return jax.nn.logsumexp(-0.5 * (squares + jnp.log(2 * jnp.pi * variances)), axis=1) - jnp.log(
        float(NUM_MEANS)
    )


def log_posterior(means: Array, x: Array) -> Array:
    """Of the means `[3]` given points `[N]`, in nats, up to a constant: (3.2) with (3.13)."""
    return jnp.sum(log_density(x, means)) - 0.5 * jnp.sum(jnp.square(means)) / PRIOR_VARIANCE


def sampler(x: Array, adapt_steps: int, *, exchange: bool = True) -> Sampler:
    """Slice sampling of the posterior, its width adapted in the burn-in as in the thesis's code.

    After each sweep two of the means are exchanged, if Metropolis's rule has it. With many
    points the posterior has a peak wherever each mean fits some cluster; coordinate by
    coordinate, as without `exchange`, a chain never leaves the peak that it met first, and
    chains do not agree.
    """
    sweep = samplers.slice_sampler(
        lambda means: log_posterior(means, x),
        width=1.0,
        adapt_steps=adapt_steps,
        order="random",
    )

    if not exchange:
        return sweep

    def step(key: Key, state: samplers.SliceState) -> tuple[samplers.SliceState, PyTree]:
        sweep_key, pair_key, accept_key = jax.random.split(key, 3)
        state, info = sweep.step(sweep_key, state)
        # All but one of three means, in the other order.
        kept = jax.random.randint(pair_key, (), 0, NUM_MEANS)
        exchanged = state.position[(2 * kept - jnp.arange(NUM_MEANS)) % NUM_MEANS]
        log_density = log_posterior(exchanged, x)
        log_number = jnp.log1p(-jax.random.uniform(accept_key))
        is_accepted = log_number < log_density - state.log_density
        moved = state._replace(position=exchanged, log_density=log_density)
        return jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), moved, state), info

    return Sampler(sweep.init, step)


def chain(
    num_points: int,
    *,
    batch_size: int,
    adapt_steps: int,
    thin: int = 1,
    num_chains: int | None = None,
    exchange: bool = True,
    salt: int = 0,
) -> Stream:
    """Means from chains that start at 0, under `"w"`, and a draw of each, `[B, 1]`, under `"x"`.

    Their infos are under `"info"`. What comes before the burn-in is over is handed out too.
    The points of the posterior are drawn by `init` and kept in the state: streams with the
    same key have the same points, and with another salt other chains.
    """
    shape = (NUM_MEANS,) if num_chains is None else (num_chains, NUM_MEANS)

    def given(x: Array) -> Stream:
        return streams.chain(
            sampler(x, adapt_steps, exchange=exchange),
            jnp.zeros(shape),
            batch_size=batch_size,
            thin=thin,
            num_chains=num_chains,
            name="w",
        )

    def init(key: Key) -> tuple[Array, PyTree]:
        _, chain_key = jax.random.split(key)
        x = points_of(key, num_points)
        return x, given(x).init(jax.random.fold_in(chain_key, salt))

    def next_(key: Key, state: tuple[Array, PyTree]) -> tuple[tuple[Array, PyTree], Batch]:
        x, where = state
        chain_key, draw_key = jax.random.split(jax.random.fold_in(key, salt))
        where, batch = given(x).next(chain_key, where)
        return (x, where), {**batch, "x": draw_given(draw_key, batch["w"])[:, None]}

    return Stream(init, next_)
