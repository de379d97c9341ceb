"""A chain over a network's weights as a stream of posterior expectations to learn from."""

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from kd import checks
from kd.batching import over_replicas, take_rows
from kd.streams.chains import chain
from kd.streams.labelling import CacheTooLargeError
from kd.types import Array, Batch, Key, PyTree, Sampler, Stream

if TYPE_CHECKING:
    from kd.inference.expectations import Expectation


class ExpectationsState(NamedTuple):
    """Where chain, inputs and estimates stand.

    Attributes:
      chain: of the stream of positions.
      inputs: of the stream of inputs.
      counts: `[N]` float32, visits of each example; () where nothing is remembered.
      memories: by expectation, each leaf `[N, ...]`.
    """

    chain: PyTree
    inputs: PyTree
    counts: PyTree
    memories: dict[str, PyTree]


def posterior_expectations(
    sampler: Sampler,
    position: PyTree,
    log_prob_fn: Callable[[PyTree, Array], Array],
    expectations: Mapping[str, "Expectation"],
    inputs: Stream,
    *,
    num_examples: int | None = None,
    burn_in: int = 0,
    thin: int = 1,
    num_chains: int | None = None,
    max_bytes: float | None = None,
    method: str = "auto",
) -> Stream:
    r"""Inputs with estimates of posterior expectations there, from a chain as it runs.

    Each batch is `thin` steps of the chain, the next inputs, and an update of their estimates;
    `fit` over it is the whole of generalised posterior expectation distillation. No sample of
    the weights is stored. Bayesian Dark Knowledge is the expectation
    `Expectation(predictive, current_sample())` with noisy inputs and cross-entropy.

    Args:
      sampler: of one chain over the weights.
      position: weights at the start; with `num_chains` a leading axis on every leaf.
      log_prob_fn: weights and one input to log-probabilities `[C]`, nats; of logits, whose
        exponentials do not sum to 1, all estimates are NaN.
      expectations: what to estimate, by the name of its entry in a batch.
      inputs: batches `{"x": [B, ...]}`; where an estimator remembers, also `"index"`, `[B]`
        integers in [0, N), the examples' numbers: an estimate is of one input, so that a
        number comes with the same x each time, but for small noise. The estimate of a number
        out of range is NaN.
      num_examples: N; needed where an estimator remembers.
      burn_in: steps of the chain before the first batch.
      thin: steps of the chain a batch.
      num_chains: R chains, whose samples count together in each estimate: of means that is the
        mean of each chain's own, of quantiles and mutual information it is of all of them as one
        (`kd.inference.each_chain` keeps them apart).
      max_bytes: the most that estimates and counts may take (`estimate_bytes` says what they do);
        by default the memory of the device, or of this machine.
      method: how several chains run, and answer, see `kd.batching.over_replicas`.

    Returns:
      A stream of the batches of `inputs`, with an estimate `[B, ...]` under each name, and under
      `"chain"` the current `"position"` and `"info"`, with `num_chains` each leaf `[R, ...]`.
      An example that is twice in a batch counts once; where noise makes two inputs of it, as one
      of the two.

    Raises:
      TypeError: for expectations that are none or not by name, a function that returns no floating
        array, inputs that are no stream of batches by name, or numbers that are no integers.
      ValueError: as `chain`; for no expectation, a name that the batch has already, an N
        missing, a value that is empty; log-probabilities that are no vector, or that at an input
        of zeros do not sum to 1.
      CacheTooLargeError: if the estimates would take more than `max_bytes`.

    Example:
      >>> from kd import streams
      >>> from kd.inference import Expectation, predictive, running_mean
      >>> from kd.samplers import slice_sampler
      >>> data = {"x": jnp.arange(5.0), "index": jnp.arange(5)}
      >>> stream = posterior_expectations(
      ...     slice_sampler(lambda w: -0.5 * w**2, width=2.0), jnp.array(0.0),
      ...     lambda w, x: jax.nn.log_softmax(jnp.stack([w * x, 0.0])),
      ...     {"probs": Expectation(predictive, running_mean())},
      ...     streams.resample(data, 2), num_examples=5, burn_in=10, thin=3)
      >>> _, batch = stream.next(jax.random.key(1), stream.init(jax.random.key(0)))
      >>> batch["probs"].shape
      (2, 2)

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", algorithm 1, with B = burn_in and H = thin.
    """
    if not isinstance(expectations, Mapping):
        raise TypeError(f"expectations must be by name, got {type(expectations).__name__}.")
    checks.check_type("inputs", inputs, Stream)
    checks.check_count("the number of expectations", len(expectations))
    for name, one in expectations.items():
        _check_expectation(name, one)
    taken = sorted(set(expectations) & {"x", "index", "chain"})
    if taken:
        raise ValueError(f"an expectation must not be named {', '.join(map(repr, taken))}.")
    remembered = [name for name, one in expectations.items() if one.estimator.remembers]
    if remembered and num_examples is None:
        raise ValueError(f"num_examples must be given: {', '.join(remembered)} remember examples.")
    if num_examples is not None:
        checks.check_count("num_examples", num_examples)
    if num_chains is not None:
        checks.check_count("num_chains", num_chains)
        if checks.check_same_length("position", position) != num_chains:
            raise ValueError(f"position must have a leading axis of num_chains = {num_chains}.")
    weights = position if num_chains is None else jax.tree.map(lambda leaf: leaf[0], position)
    num_samples = num_chains or 1
    try:
        empty = jax.eval_shape(
            lambda: _memories(weights, log_prob_fn, expectations, inputs, num_examples, num_samples)
        )
    except Exception as error:
        if num_chains is None and _may_be_several(position):
            error.add_note("If position holds several chains, num_chains must say how many.")
        raise
    _check_normalized(log_prob_fn, weights, inputs)
    needed = _num_bytes(empty)
    allowed = _memory_bytes() if max_bytes is None else max_bytes
    if not needed <= allowed:  # Negated: NaN allows nothing.
        what = "are all the memory there is" if max_bytes is None else "are allowed"
        raise CacheTooLargeError(
            f"the estimates at {num_examples:,} examples would take {needed / 1e9:.3g} GB and "
            f"{allowed / 1e9:.3g} GB {what}."
        )
    positions = chain(
        sampler,
        position,
        batch_size=num_samples,
        burn_in=burn_in,
        thin=thin,
        num_chains=num_chains,
        name="position",
        method=method,
    )

    def init(key: Key) -> ExpectationsState:
        chain_key, inputs_key = jax.random.split(key)
        counts, memories = _memories(
            weights, log_prob_fn, expectations, inputs, num_examples, num_samples
        )
        return ExpectationsState(
            positions.init(chain_key), inputs.init(inputs_key), counts, memories
        )

    def next_(key: Key, state: ExpectationsState) -> tuple[ExpectationsState, Batch]:
        chain_key, inputs_key = jax.random.split(key)
        chain_state, where = positions.next(chain_key, state.chain)
        inputs_state, given = inputs.next(inputs_key, state.inputs)
        batch = dict(given)
        shared = sorted({"chain", *expectations} & batch.keys())
        if shared:
            raise ValueError(f"inputs already have {', '.join(map(repr, shared))}.")
        log_probs = _log_probs(log_prob_fn, where["position"], batch["x"], method)
        counts, memories = state.counts, dict(state.memories)
        if remembered:
            index = batch["index"]
            visits = take_rows(counts, index) + 1
            # A number of no example makes NaN of its estimate, which ends a run.
            visits = jnp.where((index >= 0) & (index < num_examples), visits, jnp.nan)
            # It is nobody's: a negative one would be counted from the end.
            index = jnp.where(index < 0, num_examples, index)
            counts = counts.at[index].set(visits, mode="drop")
        for name, (fn, estimator, read) in expectations.items():
            values = jax.vmap(jax.vmap(fn))(log_probs)  # [B, R, ...]
            if not estimator.remembers:
                _, estimates = jax.vmap(lambda v, e=estimator: e.step((), v, jnp.ones(())))(values)
            else:
                old = take_rows(memories[name], index)
                new, estimates = jax.vmap(estimator.step)(old, values, visits)
                memories[name] = jax.tree.map(
                    lambda memory, rows: memory.at[index].set(rows, mode="drop"),
                    memories[name],
                    new,
                )
            batch[name] = jax.lax.stop_gradient(jax.vmap(read)(estimates))
        here = {"position": where["position"], "info": where["info"]}
        if num_chains is None:
            here = jax.tree.map(lambda leaf: leaf[0], here)
        return ExpectationsState(chain_state, inputs_state, counts, memories), {
            **batch,
            "chain": here,
        }

    return Stream(init, next_)


def forget(state: ExpectationsState) -> ExpectationsState:
    """The state with estimates begun anew, chain and inputs as they are: after a burn-in.

    Example:
      >>> state = ExpectationsState((), (), jnp.ones(2), {"probs": jnp.ones((2, 3))})
      >>> float(jnp.sum(forget(state).counts))
      0.0
    """
    zeros = jax.tree.map(jnp.zeros_like, (state.counts, state.memories))
    return state._replace(counts=zeros[0], memories=zeros[1])


def estimate_bytes(stream: Stream) -> int:
    """Memory that the estimates and counts of `posterior_expectations` take, before they do.

    Args:
      stream: of `posterior_expectations` itself, not one made of it.

    Raises:
      TypeError: for another stream.

    Example:
      >>> from kd import samplers, streams
      >>> from kd.inference import Expectation, predictive, running_mean
      >>> data = {"x": jnp.zeros((1000, 5)), "index": jnp.arange(1000)}
      >>> stream = posterior_expectations(
      ...     samplers.from_draws(jnp.zeros((20, 5, 10))), jnp.zeros((5, 10)),
      ...     lambda w, x: jax.nn.log_softmax(x @ w),
      ...     {"probs": Expectation(predictive, running_mean())},
      ...     streams.resample(data, 100), num_examples=1000)
      >>> estimate_bytes(stream)  # Ten probabilities and a count, for each of a thousand.
      44000
    """
    state = jax.eval_shape(stream.init, jax.random.key(0))
    if not isinstance(state, ExpectationsState):
        raise TypeError("stream must be one of posterior_expectations, not one made of it.")
    return _num_bytes((state.counts, state.memories))


def _check_expectation(name: str, one: "Expectation") -> None:
    parts = [getattr(one, part, None) for part in ("fn", "estimator", "read")]
    if not (callable(parts[0]) and hasattr(parts[1], "remembers") and callable(parts[2])):
        raise TypeError(
            f"{name!r} must be an Expectation of a function and an estimator, such as "
            f"Expectation(predictive, running_mean()); got {one!r}."
        )


def _check_estimator(
    name: str, estimator: PyTree, memory: PyTree, value: PyTree, num_samples: int
) -> None:
    """Raises TypeError unless a step gives a memory as it was, and one array."""
    values = jax.ShapeDtypeStruct((num_samples, *value.shape), value.dtype)
    count = jax.ShapeDtypeStruct((), jnp.float32)
    given = jax.eval_shape(estimator.step, memory, values, count)
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"the estimator of {name!r} must return a memory and an estimate.")
    shapes = [
        jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), one)
        for one in (memory, given[0])
    ]
    if shapes[0] != shapes[1]:
        raise TypeError(
            f"the estimator of {name!r} must return a memory like the one that it began with, "
            f"{shapes[0]}, got {shapes[1]}."
        )


def _check_normalized(
    log_prob_fn: Callable[[PyTree, Array], Array], weights: PyTree, inputs: Stream
) -> None:
    """Raises ValueError if the answer to an input of zeros is none of log-probabilities.

    Traced weights pass, and so does NaN: what it says, the batches' estimates say too.
    """
    _, one = _shapes_of(inputs)
    zeros = jnp.zeros(one.shape, one.dtype)
    total = jnp.sum(jnp.exp(log_prob_fn(weights, zeros)))
    if isinstance(total, jax.core.Tracer) or not abs(total - 1) >= checks.SUM_TOLERANCE:
        return
    raise ValueError(
        "log_prob_fn must return log-probabilities; at an input of zeros their exponentials sum "
        f"to {float(total):.3g}, not 1 (jax.nn.log_softmax makes them of logits)."
    )


def _may_be_several(position: PyTree) -> bool:
    """Whether all leaves have a leading axis of one length."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(position)]
    return all(shapes) and len({shape[0] for shape in shapes}) == 1


def _memory_bytes() -> float:
    """What the first device has, or the machine; infinite where neither says."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Of other systems than Unix.
        return math.inf


def _num_bytes(shapes: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _log_probs(
    log_prob_fn: Callable[[PyTree, Array], Array], position: PyTree, x: Array, method: str
) -> Array:
    """Of R samples at B inputs: `[B, R, C]`; each with all inputs."""
    each = over_replicas(lambda weights: jax.vmap(lambda one: log_prob_fn(weights, one))(x), method)
    log_probs = each(position)
    checks.check_rank("log_prob_fn's answers to a batch, of all chains,", log_probs, 3)
    return jnp.swapaxes(checks.log_probs_or_nan(log_probs), 0, 1)


def _shapes_of(inputs: Stream) -> tuple[Batch, jax.ShapeDtypeStruct]:
    """Of a batch, and of one example."""
    key = jax.random.key(0)
    _, batch = jax.eval_shape(lambda: inputs.next(key, inputs.init(key)))
    if not isinstance(batch, Mapping):
        raise TypeError(f"inputs must be batches by name, got {type(batch).__name__}.")
    if "x" not in batch:
        raise ValueError(f"inputs must have examples under 'x', got {sorted(batch)}.")
    return batch, jax.ShapeDtypeStruct(batch["x"].shape[1:], batch["x"].dtype)


def _memories(
    weights: PyTree,
    log_prob_fn: Callable[[PyTree, Array], Array],
    expectations: Mapping[str, "Expectation"],
    inputs: Stream,
    num_examples: int | None,
    num_samples: int,
) -> tuple[PyTree, dict[str, PyTree]]:
    """Counts and memories before the first visit."""
    batch, one = _shapes_of(inputs)
    log_probs = jax.eval_shape(log_prob_fn, weights, one)
    checks.check_rank("log_prob_fn's answer", log_probs, 1)
    memories = {}
    for name, (fn, estimator, _) in expectations.items():
        value = jax.eval_shape(fn, log_probs)
        if not isinstance(value, jax.ShapeDtypeStruct):
            kind = type(value).__name__
            raise TypeError(f"the function of {name!r} must return one array, got {kind}.")
        checks.check_floating(f"the value of {name!r}", value)
        if 0 in value.shape:
            raise ValueError(f"the value of {name!r} must not be empty, got shape {value.shape}.")
        memory = estimator.init(value)
        _check_estimator(name, estimator, memory, value, num_samples)
        if estimator.remembers:
            memories[name] = jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (num_examples, *leaf.shape)), memory
            )
    if memories:
        if "index" not in batch:
            raise ValueError("inputs must have the examples' numbers under 'index'.")
        if not jnp.issubdtype(batch["index"].dtype, jnp.integer):
            raise TypeError(f"inputs' 'index' must be integers, got {batch['index'].dtype}.")
        checks.check_rank("inputs' 'index'", batch["index"], 1)
    return (jnp.zeros(num_examples, jnp.float32) if memories else ()), memories
