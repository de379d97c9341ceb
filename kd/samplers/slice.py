"""Slice sampling, one coordinate after another (Neal, 2003)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import kd.random
from kd import checks
from kd.samplers.base import check_start
from kd.types import Array, Key, PyTree, Sampler

ORDERS = ("sequential", "random")
FEW = 32
MOST_AHEAD = 16  # The proposals of a block are unrolled: more would take long to compile.


class SliceState(NamedTuple):
    """Where a slice sampler stands.

    Attributes:
      position: the current position.
      log_density: there, in nats.
      width: of a new bracket, the same for all coordinates.
      num_steps: sweeps made, int32.
      num_exhausted: coordinates, of all sweeps, that found no new value and kept theirs, int32.
    """

    position: PyTree
    log_density: Array
    width: Array
    num_steps: Array
    num_exhausted: Array


class SliceInfo(NamedTuple):
    """What a sweep over all coordinates did.

    Attributes:
      low, high: like the position, each coordinate's bracket after stepping out, before
        shrinking.
      num_limited: coordinates whose stepping out ended at `max_expansions`, int32. Their
        updates are valid, and slow: where most are limited, the width is too small. A few
        always are, whose limit left one end no moves.
      num_exhausted: coordinates that kept their value after `max_shrinks` rejections, int32:
        0 unless the log-density is broken, for instance random, or, now and then, so large
        that it is rounded more coarsely than the slice is deep.
      num_evaluations: of the log-density, int32.
    """

    low: PyTree
    high: PyTree
    num_limited: Array
    num_exhausted: Array
    num_evaluations: Array


def slice_sampler(
    log_density_fn: Callable[[PyTree], Array],
    *,
    width: float = 1.0,
    adapt_steps: int = 0,
    order: str = "sequential",
    max_expansions: int = 128,
    max_shrinks: int = 64,
    lookahead: int = 1,
    uniform_fn: Callable[[Key, tuple[int, ...]], Array] = kd.random.uniform,
) -> Sampler:
    r"""Univariate slice sampling with linear stepping out and shrinkage.

    A step is a sweep: each coordinate x in turn is drawn from its conditional, cut at a level
    below the present density,

    .. math::
       y \sim \mathcal{U}(0, \bar p(x)), \qquad x' \sim \mathcal{U}\{x : \bar p(x) > y\}

    within a bracket that is stepped out by `width` until it reaches beyond the slice, and shrunk
    at each rejected proposal. No loop is without an end, and no loop's condition asks for
    the log-density. A position where the log-density is NaN is outside every slice.

    Args:
      log_density_fn: one position to its log-density in nats, up to a constant; minus infinity
        outside the support.
      width: of a new bracket, in the units of the coordinates; about the typical width of a
        slice.
      adapt_steps: sweeps, from the first, in which the width becomes the running mean of the
        shrunk brackets; after them it is fixed. Drop them as burn-in: while the width
        depends on the past, the chain is not Markov.
      order: of the coordinates within a sweep, "sequential" or "random" anew in each.
      max_expansions: most widths that a bracket may hold. Neal's random split of them between
        the two ends keeps the chain exact at any limit.
      max_shrinks: most proposals of one coordinate; then it keeps its value.
      lookahead: points, at most 16, whose log-densities are asked for at once, at each end
        and among the proposals to come. The samples do not depend on it, but for rounding.
        On an accelerator a cheap log-density costs the same for eight points as for one.
      uniform_fn: `(key, shape)` to numbers in [0, 1), for instance `jax.random.uniform`.

    Returns:
      A `Sampler` whose state is a `SliceState`; `step` also returns `SliceInfo`.

    Raises:
      ValueError: if the width is not positive, a count is out of range or the order another
        word; by `init`, if the log-density there is not finite or not a scalar, or the position
        holds nothing.
      TypeError: by `init`, if the position is not floating.

    Example:
      >>> sampler = slice_sampler(lambda x: -jnp.sum(x**2), width=2.0)
      >>> state = sampler.init(jnp.zeros(2))
      >>> state, info = sampler.step(jax.random.key(0), state)
      >>> bool(jnp.all((info.low < 0) & (info.high > 0))), int(state.num_steps)
      (True, 1)

    Reference:
      Neal (2003), "Slice sampling", sections 4.1 and 4.3, figures 3 and 5; Papamakarios (2015),
      "Distilling Model Knowledge", section 3.2.3, whose released code adapts one width for
      all coordinates in the burn-in, as here.
    """
    checks.check_positive("width", width)
    checks.check_count("adapt_steps", adapt_steps, at_least=0)
    checks.check_choice("order", order, ORDERS)
    checks.check_count("max_expansions", max_expansions)
    checks.check_count("max_shrinks", max_shrinks)
    checks.check_count("lookahead", lookahead, at_most=MOST_AHEAD)

    def init(position: PyTree, key: Key | None = None) -> SliceState:
        del key  # Nothing in the start is random.
        position = jax.tree.map(jnp.asarray, position)
        for leaf in jax.tree.leaves(position):
            checks.check_floating("position", leaf)
        flat, _ = ravel_pytree(position)
        checks.check_count("the number of coordinates", flat.size)
        if flat.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(f"position must be in single or double precision, got {flat.dtype}.")
        log_density = jnp.asarray(log_density_fn(position))
        checks.check_rank("log_density_fn(position)", log_density, 0)
        zero = jnp.zeros((), jnp.int32)
        state = SliceState(position, log_density, jnp.asarray(width, flat.dtype), zero, zero)
        check_start(state)
        return state

    def step(key: Key, state: SliceState) -> tuple[SliceState, SliceInfo]:
        flat, unravel = ravel_pytree(state.position)
        size = flat.size
        # All at once: on a CPU a call of threefry costs more than a cheap log-density.
        numbers = uniform_fn(key, (size, 4 + max_shrinks))
        indices = ranks = jnp.arange(size)
        if order == "random":
            indices, ranks = _sorted(numbers[:, 3])

        def update(carry: tuple[Array, Array], inputs: tuple[Array, Array]):
            flat, log_density = carry
            index, numbers = inputs

            def log_densities(values: Array) -> Array:
                moved = jnp.where(jnp.arange(size)[None] == index, values[:, None], flat[None])
                return jax.vmap(lambda flat: log_density_fn(unravel(flat)))(moved)

            x = flat[index]
            level = log_density + jnp.log1p(-numbers[0])
            out = _step_out(
                log_densities, x, level, state.width, numbers[1:3], max_expansions, lookahead
            )
            new = _shrink(log_densities, x, level, out, numbers[4:], lookahead)
            value = jnp.where(new.is_found, new.value, x)
            log_density = jnp.where(new.is_found, new.log_density, log_density)
            flat = jnp.where(jnp.arange(size) == index, value, flat)
            return (flat, log_density), (out, new)

        (flat, log_density), (out, new) = jax.lax.scan(
            update, (flat, state.log_density), (indices, numbers)
        )
        num_exhausted = jnp.sum(~new.is_found, dtype=jnp.int32)
        mean_width = jnp.mean(new.width)
        adapted = state.width + (mean_width - state.width) / (state.num_steps + 1)
        state = SliceState(
            unravel(flat),
            log_density,
            jnp.where(state.num_steps < adapt_steps, adapted, state.width),
            state.num_steps + 1,
            state.num_exhausted + num_exhausted,
        )
        info = SliceInfo(
            unravel(out.low[ranks]),
            unravel(out.high[ranks]),
            jnp.sum(out.is_limited, dtype=jnp.int32),
            num_exhausted,
            jnp.sum(out.num_evaluations + new.num_evaluations, dtype=jnp.int32),
        )
        return state, info

    return Sampler(init, step)


def _sorted(numbers: Array) -> tuple[Array, Array]:
    """The order of numbers, and the place of each in it."""
    places = jnp.arange(numbers.size)
    if numbers.size > FEW:
        indices = jnp.argsort(numbers)
        return indices, jnp.zeros_like(indices).at[indices].set(places)
    # For a few a sort costs more than all comparisons.
    is_before = numbers[None] < numbers[:, None]
    is_before |= (numbers[None] == numbers[:, None]) & (places[None] < places[:, None])
    ranks = jnp.sum(is_before, axis=1)
    return jnp.sum(jnp.where(ranks[None] == places[:, None], places[None], 0), axis=1), ranks


class _Bracket(NamedTuple):
    """An interval about x, and what it took to find it."""

    low: Array
    high: Array
    is_limited: Array
    num_evaluations: Array


class _Proposal(NamedTuple):
    """What shrinking found; `width` is that of the bracket it was drawn from."""

    value: Array
    log_density: Array
    width: Array
    is_found: Array
    num_evaluations: Array


def _step_out(
    log_densities_fn: Callable[[Array], Array],
    x: Array,
    level: Array,
    width: Array,
    numbers: Array,
    max_expansions: int,
    lookahead: int,
) -> _Bracket:
    """Neal's figure 3: both ends move out by whole widths, until they leave the slice."""
    start = x - width * numbers[0]
    # Of the limit's max_expansions - 1 moves, as many may go to the left end.
    left_limit = jnp.floor(max_expansions * numbers[1]).astype(jnp.int32)
    limits = jnp.stack([left_limit, max_expansions - 1 - left_limit])
    ends, signs = jnp.stack([start, start + width]), jnp.array([-1, 1], x.dtype)

    def block(carry):
        moves, is_inside, is_limited, num_evaluations = carry
        ahead = moves[:, None] + jnp.arange(lookahead)[None]
        values = ends[:, None] + signs[:, None] * width * ahead.astype(x.dtype)
        inside = log_densities_fn(values.ravel()).reshape(2, lookahead) > level
        run = jnp.sum(jnp.cumprod(inside.astype(jnp.int32), axis=1), axis=1, dtype=jnp.int32)
        is_limited = is_limited | (is_inside & (moves + run > limits))
        moves = jnp.where(is_inside, jnp.minimum(moves + run, limits), moves)
        is_inside = is_inside & (run == lookahead) & ~is_limited
        return moves, is_inside, is_limited, num_evaluations + 2 * lookahead

    carry = jnp.zeros(2, jnp.int32), jnp.ones(2, bool), jnp.zeros(2, bool), jnp.zeros((), jnp.int32)
    moves, _, is_limited, num_evaluations = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1]), block, block(carry)
    )
    low, high = ends + signs * width * moves.astype(x.dtype)
    return _Bracket(low, high, jnp.any(is_limited), num_evaluations)


def _shrink(
    log_densities_fn: Callable[[Array], Array],
    x: Array,
    level: Array,
    bracket: _Bracket,
    numbers: Array,
    lookahead: int,
) -> _Proposal:
    """Neal's figure 5: proposals uniform in the bracket, each rejected one its new end.

    Which proposals follow if the first are rejected does not depend on the log-density, so
    that several are made and judged at once.
    """
    num_blocks = -(-numbers.size // lookahead)
    numbers = jnp.pad(numbers, (0, num_blocks * lookahead - numbers.size), constant_values=0.5)
    numbers = numbers.reshape(num_blocks, lookahead)

    def block(carry):
        turn, low, high, _ = carry
        values, widths = [], []
        for number in jax.lax.dynamic_index_in_dim(numbers, turn, keepdims=False):
            value = low + number * (high - low)
            values.append(value)
            widths.append(high - low)
            low = jnp.where(value < x, value, low)
            high = jnp.where(value < x, high, value)
        values, widths = jnp.stack(values), jnp.stack(widths)
        log_densities = log_densities_fn(values)
        inside = log_densities > level
        first = jnp.argmax(inside)
        found = _Proposal(
            values[first],
            log_densities[first],
            widths[first],
            inside[first],
            (turn + 1) * lookahead,
        )
        return turn + 1, low, high, found

    zero = jnp.zeros((), jnp.int32)
    nothing = _Proposal(x, level, bracket.high - bracket.low, jnp.zeros((), bool), zero)
    carry = block((zero, bracket.low, bracket.high, nothing))
    return jax.lax.while_loop(
        lambda carry: ~carry[3].is_found & (carry[0] < num_blocks), block, carry
    )[3]
