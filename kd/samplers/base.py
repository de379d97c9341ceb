"""`sample`: a Markov chain as one compiled program."""

import inspect
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.batching import METHODS, over_replicas
from kd.hoisting import hoisted_jit
from kd.types import Key, PyTree, Sampler, Stream


class Samples(NamedTuple):
    """What `sample` returns.

    Attributes:
      position: the kept positions, each leaf `[S, ...]`, of several chains `[C, S, ...]`.
      info: of the steps that led to them, with the same leading axes.
      state: the sampler's state after the last step, of several chains `[C, ...]`.
    """

    position: PyTree
    info: PyTree
    state: PyTree


def sample(
    key: Key,
    sampler: Sampler,
    position: PyTree,
    *,
    num_samples: int,
    burn_in: int = 0,
    thin: int = 1,
    num_chains: int | None = None,
    method: str = "auto",
) -> Samples:
    """Runs a Markov chain, or several, and keeps some of its positions.

    A longer run begins with the samples of a shorter one.

    Args:
      key: decides everything.
      sampler: the Markov kernel.
      position: where the chain starts; with `num_chains` a leading axis C on every leaf.
      num_samples: S, positions kept of each chain.
      burn_in: steps made before, and dropped.
      thin: steps a kept position; the infos are those of the last of them.
      num_chains: C independent chains; one chain without an axis if None.
      method: how they run, see `kd.batching.over_replicas`.

    Returns:
      The positions, their infos and the last state. Chains whose infos say `is_diverged` are warned
      of.

    Raises:
      TypeError: if `key` is not one typed key, or `sampler` is something else.
      ValueError: if a count is out of range, the starts are not C, or the log-density at
        one of them is not finite.

    Example:
      >>> from kd.samplers import slice_sampler
      >>> normal = slice_sampler(lambda x: -0.5 * x**2, width=2.0)
      >>> samples = sample(jax.random.key(0), normal, jnp.zeros(4),
      ...     num_samples=1000, burn_in=50, num_chains=4)
      >>> samples.position.shape, bool(jnp.abs(jnp.std(samples.position) - 1) < 0.1)
      ((4, 1000), True)
    """
    checks.check_key("key", key)
    check_sampler(sampler)
    checks.check_count("num_samples", num_samples)
    checks.check_count("burn_in", burn_in, at_least=0)
    checks.check_count("thin", thin)
    checks.check_count("the number of steps", burn_in + num_samples * thin, at_most=2**31 - 1)
    checks.check_choice("method", method, METHODS)
    if num_chains is not None:
        checks.check_count("num_chains", num_chains)
        if checks.check_same_length("position", position) != num_chains:
            raise ValueError(f"position must have a leading axis of num_chains = {num_chains}.")

    def init(key: Key, position: PyTree) -> tuple[Key, PyTree]:
        init_key, step_key = jax.random.split(key)
        return step_key, sampler.init(position, init_key)

    def run(start: tuple[Key, PyTree]) -> Samples:
        step_key, state = start
        burn_in_key, kept_key = jax.random.split(step_key)

        state = jax.lax.fori_loop(
            0,
            burn_in,
            lambda i, state: sampler.step(jax.random.fold_in(burn_in_key, i), state)[0],
            state,
        )
        keys = fold_in_range(kept_key, num_samples)
        state, (positions, infos) = keep_steps(sampler, keys, state, thin)
        return Samples(positions, infos, state)

    if num_chains is None:
        start = init(key, position)
    else:
        start = jax.vmap(init)(jax.random.split(key, num_chains), position)
        run = over_replicas(run, method)
    check_start(start[1])
    samples = hoisted_jit(run, start)(start)
    warn_of_divergence(samples.info)
    return samples


def warn_of_divergence(info: PyTree) -> None:
    """Warns if concrete infos have a field `is_diverged` that is true anywhere."""
    is_diverged = getattr(info, "is_diverged", None)
    if is_diverged is None or isinstance(is_diverged, jax.core.Tracer):
        return
    if np.any(is_diverged):
        share = np.mean(np.any(np.atleast_2d(is_diverged), axis=-1))
        warnings.warn(
            f"{share:.0%} of the chains diverged, or went where the log-density is not finite: the "
            "step size is too large, or the target not smooth. `info.is_diverged` says where.",
            RuntimeWarning,
            stacklevel=3,
        )


def keep_steps(
    sampler: Sampler, keys: Key, state: PyTree, thin: int
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """The state after `thin` steps a key, and all positions and infos at their ends."""

    def keep(state: PyTree, key: Key) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        if thin == 1:
            state, info = sampler.step(key, state)
            return state, (position_of(state), info)
        # The step is once in the program, and is compiled once.
        _, shapes = jax.eval_shape(sampler.step, key, state)
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (state, info), _ = jax.lax.scan(
            lambda carried, key: (sampler.step(key, carried[0]), None),
            (state, none),
            fold_in_range(key, thin),
        )
        return state, (position_of(state), info)

    return jax.lax.scan(keep, state, keys)


def fold_in_range(key: Key, num_keys: int) -> Key:
    """`fold_in(key, i)` for i from 0, `[num_keys]`, made together.

    A call of threefry within a loop would cost as much as a cheap step.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_keys))


def merge_chains(position: PyTree, num_chains: int | None) -> PyTree:
    """Samples of C chains, each leaf `[C, S, ...]`, as `[C S, ...]`; as they are if C is None.

    Raises:
      TypeError: for the whole that `sample` returns.
      ValueError: if they are not finite, the leading axis is not C, or there is no second.
    """
    check_draws(position)
    for leaf in jax.tree.leaves(position):
        checks.check_finite("position", leaf)
    if num_chains is None:
        return position
    checks.check_count("num_chains", num_chains)
    if checks.check_same_length("position", position) != num_chains:
        raise ValueError(f"position must have a leading axis of num_chains = {num_chains}.")
    for leaf in jax.tree.leaves(position):
        if jnp.ndim(leaf) < 2:
            raise ValueError(f"position must have an axis of samples, got {jnp.shape(leaf)}.")
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), position)


def check_draws(position: PyTree) -> None:
    """Raises TypeError for what `sample` returns in place of its positions."""
    if isinstance(position, Samples):
        raise TypeError("position must be draws, as samples.position; got Samples.")


def position_of(state: PyTree) -> PyTree:
    """The position in a sampler's state: its field `position`, or the whole.

    Args:
      state: of a `Sampler`, this library's or blackjax's. Gradients flow through.

    Returns:
      The position, of the structure that `init` was given.

    Example:
      >>> from kd.samplers import slice_sampler
      >>> state = slice_sampler(lambda x: -0.5 * x**2, width=2.0).init(jnp.array(3.0))
      >>> float(position_of(state)), float(position_of(jnp.array(2.0)))
      (3.0, 2.0)
    """
    return getattr(state, "position", state)


def check_sampler(sampler: Sampler) -> None:
    """Raises TypeError unless `sampler` has the two functions of one, its `init` with a key."""
    if not (callable(getattr(sampler, "init", None)) and callable(getattr(sampler, "step", None))):
        hint = (
            ": of stored samples samplers.from_draws makes one"
            if isinstance(sampler, Stream)
            else ""
        )
        raise TypeError(f"sampler must have init and step, got {type(sampler).__name__}{hint}.")
    try:
        inspect.signature(sampler.init).bind("position", "key")
    except TypeError as error:
        raise TypeError(
            "sampler.init must take a position and a key, which most have no use for "
            f"(samplers.from_blackjax sees to it): {error}."
        ) from error
    except ValueError:  # No signature is known: a function of another language.
        return


def check_start(state: PyTree) -> None:
    """Raises ValueError if a log-density in the state is not finite; traced values pass."""
    names = ("log_density", "logdensity", "log_posterior")
    value = next((getattr(state, name) for name in names if hasattr(state, name)), None)
    if value is None or isinstance(value, jax.core.Tracer):
        return
    value = np.asarray(value)
    if np.all(np.isfinite(value)):
        return
    where = ""
    if value.ndim:
        chain = int(np.argmin(np.isfinite(value)))
        where, value = f" of chain {chain}", value.ravel()[chain]
    raise ValueError(f"the log-density at the start{where} must be finite, got {value}.")
