"""What others have sampled, or can sample, as samplers."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.samplers.base import merge_chains
from kd.types import Array, Key, PyTree, Sampler


def from_blackjax(algorithm: Any) -> Sampler:
    """A sampler of one of blackjax's algorithms, for `sample`, `streams.chain` and `fit`.

    A `SamplingAlgorithm` has a sampler's shape already. What is added: `init` may be given a key,
    which is passed on if the algorithm's takes one, and dropped otherwise; and a `step` that
    asks for more than key and state is refused here, not within a compiled loop.

    Args:
      algorithm: a `SamplingAlgorithm`, ready to step, such as `blackjax.nuts(log_density_fn,
        step_size=..., inverse_mass_matrix=...)`: adapted before, by its own means.

    Returns:
      A `Sampler` with the algorithm's own state and info.

    Raises:
      TypeError: if it has no `init` and `step`, or its `step` asks for more than key and state,
        as those of stochastic gradients do for a minibatch: `kd.samplers.sgld` draws
        its own.

    Example:
      >>> import jax.numpy as jnp
      >>> from kd.types import Sampler
      >>> walk = Sampler(lambda x, rng_key=None: x, lambda rng_key, x: (x + 1, ()))
      >>> sampler = from_blackjax(walk)
      >>> float(sampler.step(None, sampler.init(jnp.zeros(())))[0])
      1.0
    """
    init, step = getattr(algorithm, "init", None), getattr(algorithm, "step", None)
    if not (callable(init) and callable(step)):
        raise TypeError(f"algorithm must have init and step, got {type(algorithm).__name__}.")
    try:
        inspect.signature(step).bind("key", "state")
    except TypeError as error:
        raise TypeError(f"algorithm.step must take a key and a state alone: {error}.") from error

    def start(position: PyTree, key: Key | None = None) -> PyTree:
        return init(position, key) if _takes_two(init) else init(position)

    return Sampler(start, step)


class DrawState(NamedTuple):
    """Which of the stored positions is the current one.

    Attributes:
      position: a copy of it.
      index: its number, int32.
    """

    position: PyTree
    index: Array


def from_draws(position: PyTree, *, num_chains: int | None = None) -> Sampler:
    """A sampler of stored positions, each as likely at every step, whatever was before.

    So that what learns from a chain also learns from a deep ensemble, from a bag of samples, or
    from draws of another library.

    Args:
      position: the members of an ensemble, `kd.samplers.sample(...).position`, numpyro's
        `mcmc.get_samples()`, or any other: each leaf `[S, ...]`; with `num_chains` `[C, S, ...]`.
      num_chains: C, whose draws are put together; None where there is no such axis.

    Returns:
      A sampler whose `init` takes a position for its shapes alone, and starts at the first of
      the stored ones.

    Raises:
      ValueError: if the leaves differ in length, are empty, or have no axis of draws; by `init`, if
        a position is of other shapes.

    Example:
      >>> from kd.samplers import sample
      >>> draws = sample(jax.random.key(0), from_draws(jnp.arange(3.0)),
      ...     jnp.array(0.0), num_samples=3000).position
      >>> sorted(set(draws.tolist())), round(float(draws.mean()), 1)
      ([0.0, 1.0, 2.0], 1.0)
    """
    position = jax.tree.map(jnp.asarray, merge_chains(position, num_chains))
    size = checks.check_same_length("position", position)

    def at(index: Array) -> DrawState:
        return DrawState(jax.tree.map(lambda leaf: leaf[index], position), index)

    def init(start: PyTree, key: Key | None = None) -> DrawState:
        del key
        first = at(jnp.zeros((), jnp.int32))
        if jax.tree.map(jnp.shape, start) != jax.tree.map(jnp.shape, first.position):
            raise ValueError("a start must have the shapes of one of the stored positions.")
        return first

    def step(key: Key, state: DrawState) -> tuple[DrawState, tuple[()]]:
        del state
        return at(jax.random.randint(key, (), 0, size)), ()

    return Sampler(init, step)


def fixed() -> Sampler:
    """A sampler that stays where it starts.

    As many "chains" as an ensemble has members then answer together at every step: expectations
    under the whole of it, exact, where `from_draws` has one member at random.

    Returns:
      A sampler whose state is the position.

    Example:
      >>> from kd import streams
      >>> from kd.inference import Expectation, current_sample, predictive
      >>> members = jnp.array([0.25, 0.5, 0.75])  # Three coins.
      >>> stream = streams.posterior_expectations(
      ...     fixed(), members, lambda w, x: jnp.log(jnp.stack([w, 1 - w])),
      ...     {"probs": Expectation(predictive, current_sample())},
      ...     streams.resample({"x": jnp.ones(5)}, 1), num_chains=3)
      >>> stream.next(jax.random.key(1), stream.init(jax.random.key(0)))[1]["probs"].tolist()
      [[0.5, 0.5]]
    """

    def init(position: PyTree, key: Key | None = None) -> PyTree:
        del key
        return position

    return Sampler(init, lambda key, state: (state, ()))


def _takes_two(init: Any) -> bool:
    try:
        inspect.signature(init).bind("position", "key")
    except TypeError:
        return False
    return True
