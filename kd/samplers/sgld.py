r"""Stochastic-gradient Langevin dynamics and its relatives, in one convention.

A log-posterior is a sum over the whole data set, in nats, and its estimate from a minibatch is
unbiased: `minibatch_log_posterior` makes one. A step size is Welling and Teh's
:math:`\varepsilon`: the drift is half of it, and the variance of the noise is all of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import kd.random
from kd import checks
from kd.types import Array, Batch, Key, PyTree, Sampler, Stream

LogPosteriorFn = Callable[[PyTree, Batch], Array]
NormalFn = Callable[[Key, tuple[int, ...]], Array]
Schedule = float | Callable[[Array], Array]


class SgldState(NamedTuple):
    """Where a chain of Langevin steps stands.

    Attributes:
      position: the current position.
      auxiliary: like the position: moving averages of squared gradients, or momenta; () of
        plain SGLD.
      stream: the data stream's state.
      log_posterior: its estimate at the position before, in nats; of `init` that of one batch.
      num_steps: steps made, int32.
    """

    position: PyTree
    auxiliary: PyTree
    stream: PyTree
    log_posterior: Array
    num_steps: Array


class SgldInfo(NamedTuple):
    """What a step did.

    Attributes:
      log_posterior: its estimate at the position before, in nats.
      step_size: of this step.
      is_diverged: whether the estimate, or the new position, holds NaN or an infinity: the
        step was too large, or led out of where the posterior is positive. Or whether a schedule
        gave a step size or a temperature that is negative or NaN.
    """

    log_posterior: Array
    step_size: Array
    is_diverged: Array


def sgld(
    log_posterior_fn: LogPosteriorFn,
    data_stream: Stream,
    *,
    step_size: Schedule,
    temperature: Schedule = 1.0,
    normal_fn: NormalFn = kd.random.normal,
) -> Sampler:
    r"""Stochastic-gradient Langevin dynamics.

    .. math::
       \theta \leftarrow \theta + \frac{\varepsilon_t}{2} \nabla_\theta \hat U(\theta)
       + \eta_t, \qquad \eta_t \sim \mathcal{N}(0, \varepsilon_t T)

    with :math:`\hat U` the estimate of the log-posterior. As the step size falls to 0 the chain
    samples the posterior to the power 1 / T; at a fixed one it is biased: of a Gaussian
    posterior with precision :math:`\lambda` the stationary variance is :math:`T / (\lambda (1 -
    \varepsilon \lambda / 4))`, to which the noise of the minibatches adds.

    Args:
      log_posterior_fn: `(position, batch)` to an unbiased estimate of the log-posterior of all
        data, in nats, up to a constant.
      data_stream: minibatches. Each chain has a state of its own.
      step_size: :math:`\varepsilon`, or a schedule from the number of steps made, int32;
        `polynomial_step_size` and `cyclical_step_size` are two.
      temperature: T; 1 is the posterior, less is colder, 0 is gradient ascent. Or a schedule of it,
        such as `cyclical_temperature`.
      normal_fn: `(key, shape)` to standard normal numbers. With `jax.random.normal` drawing
        them costs more on a CPU than the gradient of a network.

    Returns:
      A `Sampler` whose state is an `SgldState`; `step` also returns `SgldInfo`. Its `init`
      takes a key, for the data stream.

    Raises:
      ValueError: if the step size is a number not positive, or the temperature negative; when
        first traced, if the log-posterior is no scalar.
      TypeError: if the data are no stream; by `init`, if there is no key, or the position is not
        floating.

    The log-posterior must be smooth and finite everywhere: steps are made without a look at where
    they lead. `sample` and `kd.streams.chain` refuse a start at which it is not.

    Example:
      >>> from kd import streams
      >>> from kd.samplers import minibatch_log_posterior, sample
      >>> data = streams.resample({"x": jnp.array([1.0, 3.0])}, 1)
      >>> fn = minibatch_log_posterior(
      ...     lambda m: -0.5 * m**2, lambda m, x: -0.5 * (x["x"] - m) ** 2, num_examples=2)
      >>> samples = sample(jax.random.key(0), sgld(fn, data, step_size=0.01),
      ...     jnp.zeros(8), num_samples=4000, burn_in=500, num_chains=8)
      >>> bool(jnp.abs(jnp.mean(samples.position) - 4 / 3) < 0.2)  # It is N(4 / 3, 1 / 3).
      True

    Reference:
      Welling and Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics",
      (4), where T = 1.
    """
    _check_options(step_size, temperature)

    def move(key: Key, position, auxiliary, gradient, size, temperature) -> tuple[PyTree, PyTree]:
        noise = normal_like(key, position, normal_fn)
        scale = jnp.sqrt(size * temperature)
        new = jax.tree.map(
            lambda x, g, n: (x + 0.5 * size * g + scale * n).astype(x.dtype),
            *(position, gradient, noise),
        )
        return new, auxiliary

    return _langevin(
        *(log_posterior_fn, data_stream, step_size, temperature, lambda position: (), move)
    )


def preconditioned_sgld(
    log_posterior_fn: LogPosteriorFn,
    data_stream: Stream,
    *,
    step_size: Schedule,
    num_examples: int,
    decay: float = 0.99,
    damping: float = 1e-5,
    temperature: Schedule = 1.0,
    normal_fn: NormalFn = kd.random.normal,
) -> Sampler:
    r"""SGLD with a diagonal preconditioner from moving averages of squared gradients.

    .. math::
       V &\leftarrow \alpha V + (1 - \alpha) \bar g^2, \qquad
       G = 1 / (\lambda + \sqrt{V}), \\
       \theta &\leftarrow \theta + \frac{\varepsilon_t}{2} G \nabla_\theta \hat U(\theta)
       + \eta_t, \qquad \eta_t \sim \mathcal{N}(0, \varepsilon_t T G)

    with :math:`\bar g = \nabla \hat U / N`. It starts with the V of the first gradient.

    The bias of small steps is small only where the noise of the minibatches is most of V, so that G
    hardly depends on where the chain is. With full batches, and steps so small that V follows the
    chain, it samples a density in proportion to p / G, however small they are: of a standard
    normal one with variance 2. And at a mode full batches have gradient 0, and G its largest,
    :math:`1 / \lambda`.

    Args:
      log_posterior_fn, data_stream, step_size, temperature, normal_fn: as for `sgld`.
      num_examples: N, data behind the log-posterior, which makes :math:`\bar g` a mean.
      decay: :math:`\alpha`, in [0, 1).
      damping: :math:`\lambda`, positive, in units of the mean gradient.

    Returns:
      As `sgld`; the state's `auxiliary` is V.

    Raises:
      ValueError, TypeError: as `sgld`, or if an argument is out of range.

    Example:
      Without noise both coordinates move alike, though one is 10,000 times as steep:

      >>> from kd import streams
      >>> data = streams.resample({"x": jnp.zeros(4)}, 1)
      >>> sampler = preconditioned_sgld(
      ...     lambda w, batch: -jnp.sum(jnp.array([0.5, 5e3]) * w**2), data,
      ...     step_size=0.1, num_examples=1, temperature=0.0)
      >>> state = sampler.init(jnp.ones(2), jax.random.key(0))
      >>> for _ in range(2):
      ...     state, _ = sampler.step(jax.random.key(1), state)
      >>> print(np.asarray(state.position).round(3))
      [0.902 0.902]

    Reference:
      Li, Chen, Carlson and Carin (2016), "Preconditioned stochastic gradient Langevin dynamics
      for deep neural networks", algorithm 1. As in their practice the term
      :math:`\Gamma`, the divergence of G, is left out.
      Deviations: the noise has the variance of their text, where their code divides its scale by
      N; V starts at the first squared gradient, as in their code, and not at 0, which would
      make the first steps huge; the mean gradient is of the prior too.
    """
    _check_options(step_size, temperature)
    checks.check_count("num_examples", num_examples)
    checks.check_positive("damping", damping)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}.")

    def move(key: Key, position, auxiliary, gradient, size, temperature) -> tuple[PyTree, PyTree]:
        noise = normal_like(key, position, normal_fn)
        squares = jax.tree.map(lambda g: jnp.square(g / num_examples), gradient)
        # A negative average is none yet.
        average = jax.tree.map(
            lambda v, s: jnp.where(v < 0, s, decay * v + (1 - decay) * s), auxiliary, squares
        )
        metric = jax.tree.map(lambda v: 1 / (damping + jnp.sqrt(v)), average)
        new = jax.tree.map(
            lambda x, g, n, m: (
                x + 0.5 * size * m * g + jnp.sqrt(size * temperature * m) * n
            ).astype(x.dtype),
            *(position, gradient, noise, metric),
        )
        return new, average

    def start(position: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.full_like(x, -1), position)

    return _langevin(log_posterior_fn, data_stream, step_size, temperature, start, move)


def sghmc(
    log_posterior_fn: LogPosteriorFn,
    data_stream: Stream,
    *,
    step_size: Schedule,
    friction: float = 0.1,
    temperature: Schedule = 1.0,
    normal_fn: NormalFn = kd.random.normal,
) -> Sampler:
    r"""Stochastic-gradient Hamiltonian Monte Carlo, in the form of SGD with momentum.

    .. math::
       v &\leftarrow (1 - \alpha) v + \frac{\varepsilon_t}{2} \nabla_\theta \hat U(\theta)
       + \eta_t, \qquad \eta_t \sim \mathcal{N}(0, \alpha \varepsilon_t T), \\
       \theta &\leftarrow \theta + v

    At friction 1 it is SGLD. Momenta start at 0.

    Args:
      log_posterior_fn, data_stream, step_size, temperature, normal_fn: as for `sgld`.
      friction: :math:`\alpha`, in (0, 1].

    Returns:
      As `sgld`; the state's `auxiliary` is v.

    Raises:
      ValueError, TypeError: as `sgld`, or if the friction is out of range.

    Example:
      >>> from kd import streams
      >>> from kd.samplers import minibatch_log_posterior, sample
      >>> data = streams.resample({"x": jnp.array([1.0, 3.0])}, 1)
      >>> fn = minibatch_log_posterior(
      ...     lambda m: -0.5 * m**2, lambda m, x: -0.5 * (x["x"] - m) ** 2, num_examples=2)
      >>> samples = sample(
      ...     jax.random.key(0), sghmc(fn, data, step_size=0.01, friction=0.2),
      ...     jnp.zeros(8), num_samples=4000, burn_in=500, num_chains=8)
      >>> bool(jnp.abs(jnp.mean(samples.position) - 4 / 3) < 0.2)  # It is N(4 / 3, 1 / 3).
      True

    Reference:
      Chen, Fox and Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo", (15), whose
      :math:`\eta` is :math:`\varepsilon / 2` here, and whose estimate :math:`\hat\beta` of the
      gradient's own noise is 0.
    """
    _check_options(step_size, temperature)
    checks.check_fraction("friction", friction)

    def move(key: Key, position, auxiliary, gradient, size, temperature) -> tuple[PyTree, PyTree]:
        noise = normal_like(key, position, normal_fn)
        scale = jnp.sqrt(friction * size * temperature)
        momentum = jax.tree.map(
            lambda v, g, n: ((1 - friction) * v + 0.5 * size * g + scale * n).astype(v.dtype),
            *(auxiliary, gradient, noise),
        )
        return jax.tree.map(jnp.add, position, momentum), momentum

    def start(position: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, position)

    return _langevin(log_posterior_fn, data_stream, step_size, temperature, start, move)


def normal_like(key: Key, tree: PyTree, normal_fn: NormalFn = kd.random.normal) -> PyTree:
    """Standard normal numbers in the shapes and dtypes of a pytree, independent between leaves.

    Args:
      key: decides them.
      tree: floating leaves; nothing is read but shapes and dtypes, and no gradients flow.
      normal_fn: `(key, shape)` to standard normal numbers.

    Returns:
      A pytree like `tree`; of one without leaves, that tree. One leaf alone is
      `normal_fn(key, shape)`; of several each has a key of its own, split from `key`.

    Raises:
      TypeError: if a leaf is not floating; its path is named.

    Example:
      >>> drawn = normal_like(jax.random.key(0), {"b": jnp.zeros(2), "w": jnp.zeros((100, 100))})
      >>> jax.tree.map(jnp.shape, drawn), round(float(jnp.std(drawn["w"])), 1)
      ({'b': (2,), 'w': (100, 100)}, 1.0)
    """
    paths, structure = jax.tree.flatten_with_path(tree)
    for path, leaf in paths:
        checks.check_floating(f"tree{jax.tree_util.keystr(path)}", leaf)
    keys = [key] if len(paths) == 1 else jax.random.split(key, len(paths))
    drawn = [
        normal_fn(key, jnp.shape(leaf)).astype(jnp.result_type(leaf))
        for key, (_, leaf) in zip(keys, paths, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def _langevin(
    log_posterior_fn: LogPosteriorFn,
    data_stream: Stream,
    step_size: Schedule,
    temperature: Schedule,
    auxiliary_fn: Callable[[PyTree], PyTree],
    move_fn: Callable[..., tuple[PyTree, PyTree]],
) -> Sampler:
    """A sampler that draws a batch, takes its gradient, and moves by `move_fn`."""
    checks.check_type("data_stream", data_stream, Stream)

    def init(position: PyTree, key: Key | None = None) -> SgldState:
        if key is None:
            raise TypeError("init needs a key, for the data stream: init(position, key).")
        position = jax.tree.map(jnp.asarray, position)
        leaves = jax.tree.leaves(position)
        checks.check_count("the number of coordinates", sum(leaf.size for leaf in leaves))
        for leaf in leaves:
            checks.check_floating("position", leaf)
        stream = data_stream.init(key)
        _, batch = data_stream.next(key, stream)
        value = jnp.asarray(log_posterior_fn(position, batch))
        checks.check_rank("log_posterior_fn(position, batch)", value, 0)
        zero = jnp.zeros((), jnp.int32)
        return SgldState(position, auxiliary_fn(position), stream, value, zero)

    def step(key: Key, state: SgldState) -> tuple[SgldState, SgldInfo]:
        stream_key, noise_key = jax.random.split(key)
        stream, batch = data_stream.next(stream_key, state.stream)
        log_posterior, gradient = jax.value_and_grad(log_posterior_fn)(state.position, batch)
        size, heat = (
            jnp.asarray(value(state.num_steps) if callable(value) else value, log_posterior.dtype)
            for value in (step_size, temperature)
        )
        position, auxiliary = move_fn(
            noise_key, state.position, state.auxiliary, gradient, size, heat
        )
        leaves = [log_posterior, *jax.tree.leaves(position)]
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
        is_sound = jnp.all(jnp.array(finite)) & (size >= 0) & (heat >= 0)
        info = SgldInfo(log_posterior, size, ~is_sound)
        return SgldState(position, auxiliary, stream, log_posterior, state.num_steps + 1), info

    return Sampler(init, step)


def _check_options(step_size: Schedule, temperature: Schedule) -> None:
    for name, value in (("step_size", step_size), ("temperature", temperature)):
        if callable(value):
            name, value = f"{name}(0)", jnp.asarray(value(jnp.zeros((), jnp.int32)), float)
            checks.check_rank(name, value, 0)
        elif name == "step_size":
            checks.check_positive(name, value)
        if not isinstance(value, jax.core.Tracer) and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and at least 0, got {value}.")
