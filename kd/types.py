"""The words every other module is written in: three protocols and a few aliases.

A *model* is any pure function of `(params, x)` and a *loss* any pure function
of one example, so neither needs a type here. The three nouns that carry state
do: `Stream`, `Update` and `Sampler` are pairs of pure functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Key = jax.Array
PyTree = Any
Batch = dict[str, PyTree]
Metrics = dict[str, Array]


class ApplyFn(Protocol):
    """A model: `(params, x) -> output`, for one example `x` without a batch axis."""

    def __call__(self, params: PyTree, x: Array) -> Array: ...


class LogProbFn(Protocol):
    """A classifier: one example `x` to log-probabilities `[C]`, in nats."""

    def __call__(self, x: Array) -> Array: ...


class Stream(NamedTuple):
    """Where training input comes from, without end.

    Attributes:
      init: `init(key) -> state`. The state is a pytree of arrays; everything that
        decides the future of the stream, apart from the keys given to `next`, is
        in it.
      next: `next(key, state) -> (state, batch)`. Pure and traceable; `batch` is a
        dictionary of arrays with a leading batch axis.
    """

    init: Callable[[Key], PyTree]
    next: Callable[[Key, PyTree], tuple[PyTree, Batch]]


class Update(NamedTuple):
    """How a student moves, given one batch.

    Attributes:
      init: `init(params) -> state`. By convention the state has a field `params`.
      apply: `apply(state, batch) -> (state, metrics)`. Pure, traceable and
        deterministic: randomness that an objective needs arrives in the batch.
        `metrics` is a dictionary of floating arrays, the loss under `"loss"`.
    """

    init: Callable[[PyTree], PyTree]
    apply: Callable[[PyTree, Batch], tuple[PyTree, Metrics]]


class Sampler(NamedTuple):
    """A Markov kernel, in the shape of blackjax's `SamplingAlgorithm`.

    Attributes:
      init: `init(position, key=None) -> state`. The key is for what is random in a start,
        such as the order of a data stream; most kernels have nothing, and do without.
      step: `step(key, state) -> (state, info)`.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[Key, PyTree], tuple[PyTree, PyTree]]
