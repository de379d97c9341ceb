"""What a chain says of fixed inputs, averaged while it runs: the teacher, without its samples."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import cond_any
from kd.types import Array, Batch, Metrics, PyTree, Update


class MonteCarloState(NamedTuple):
    """Means so far.

    Attributes:
      num_batches: seen, int32.
      num_samples: averaged over, int32.
      means: by name, each `[N, ...]`.
    """

    num_batches: Array
    num_samples: Array
    means: dict[str, Array]


def monte_carlo(
    log_prob_fn: Callable[[PyTree, Array], Array],
    fns: Mapping[str, Callable[[Array], Array]],
    x: Array,
    *,
    every: int = 1,
    num_chains: int | None = None,
    block_size: int = 500,
) -> Update:
    """Means over a chain's samples of functions of a network's answers to fixed inputs.

    For test inputs, at which a teacher is to be judged: a pass over all of them costs many steps of
    the chain, so it is made on schedule.

    Args:
      log_prob_fn: weights and one input to log-probabilities `[C]`, nats; of logits all means are
        NaN.
      fns: log-probabilities to an array, by name, as in `kd.inference.Expectation`.
      x: inputs, `[N, ...]`.
      every: batches a sample; the first is of the batch `every`.
      num_chains: R, of the stream: all their positions are averaged over each time.
      block_size: inputs at once.

    Returns:
      An update by batches of `kd.streams.posterior_expectations`, without metrics. Its `init` takes
      the weights of one chain, for their shapes.

    Raises:
      TypeError: by `init`, for a function whose values are not floating.
      ValueError: if a count is not positive; when traced, if the positions are not of R chains.

    Example:
      >>> from kd.inference import predictive
      >>> update = monte_carlo(
      ...     lambda w, x: jax.nn.log_softmax(w * x), {"probs": predictive}, jnp.zeros((7, 3)))
      >>> state, _ = update.apply(update.init(jnp.ones(())), {"chain": {"position": jnp.ones(())}})
      >>> state.means["probs"].shape, int(state.num_samples)
      ((7, 3), 1)
    """
    checks.check_count("the number of functions", len(fns))
    checks.check_count("every", every)
    checks.check_count("block_size", block_size)
    checks.check_count("the number of inputs", len(x))
    size = 1 if num_chains is None else num_chains
    checks.check_count("num_chains", size)

    def answers(weights: PyTree) -> dict[str, Array]:
        def one(x: Array) -> dict[str, Array]:
            log_probs = checks.log_probs_or_nan(log_prob_fn(weights, x))
            return {name: fn(log_probs) for name, fn in fns.items()}

        return jax.lax.map(one, jnp.asarray(x), batch_size=min(block_size, len(x)))

    def init(weights: PyTree) -> MonteCarloState:
        zero = jnp.zeros((), jnp.int32)
        shapes = jax.eval_shape(answers, weights)
        for name, leaf in shapes.items():
            checks.check_floating(f"the value of {name!r}", leaf)
        means = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        return MonteCarloState(zero, zero, means)

    def average(carried: tuple[PyTree, MonteCarloState]) -> tuple[PyTree, MonteCarloState]:
        positions, state = carried

        def one(state: MonteCarloState, weights: PyTree) -> tuple[MonteCarloState, None]:
            count = state.num_samples + 1
            means = jax.tree.map(
                lambda mean, new: mean + (new - mean) / count, state.means, answers(weights)
            )
            return state._replace(num_samples=count, means=means), None

        if num_chains is None:
            return positions, one(state, positions)[0]
        return positions, jax.lax.scan(one, state, positions)[0]

    def apply(state: MonteCarloState, batch: Batch) -> tuple[MonteCarloState, Metrics]:
        state = state._replace(num_batches=state.num_batches + 1)
        is_due = state.num_batches % every == 0
        positions = batch["chain"]["position"]
        if num_chains is not None and checks.check_same_length("position", positions) != size:
            raise ValueError(f"positions must be those of num_chains = {size} chains.")
        _, state = cond_any(is_due, average, (positions, state))
        return state, {}

    return Update(init, apply)
