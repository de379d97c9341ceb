"""Every estimate of log Z, each kept in `estimates.json` as soon as it is made."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments.book import Book, has_value
from experiments.run import Run
from kd import inference
from kd.inference import BridgeLogZ, LogZ, Proposal, rbm_path
from kd.models import NADE, RBM
from kd.samplers import block_gibbs
from kd.types import Array, Key, PyTree

if TYPE_CHECKING:
    from experiments.rbm_to_nade.study import Teacher

ENDS = ("value", "stderr", "low", "high")
FILE, COVERAGE_FILE = "estimates.json", "coverage.json"
# Hidden (or visible) units, whose states are gone through for the exact log Z.
MOST_ENUMERATED = 20
SAMPLE_BLOCK = 1000
NUM_SALAKHUTDINOV = 14_500

Found = dict[str, dict[str, float]]


def estimate_all(
    run: Run,
    teacher: "Teacher",
    exact: float | None,
    train_x: np.ndarray,
    students: dict[tuple, tuple[NADE, PyTree]],
) -> Found:
    """Estimates by name, `exact`, `ais`, `upper[kl,60]`...: value, stderr, low, high.

    Chains run in single precision, log-weights are computed in double.
    """
    book = Book(run.workdir, FILE, is_sound=_is_sound)
    if exact is not None:
        figures = {"value": exact, "stderr": 0.0, "low": exact, "high": exact}
        book.forget("exact", unless=figures)
        _show("exact", book.keep("exact", lambda: figures))
    for name, estimate_fn in _estimators(run, teacher, train_x, _pairs(teacher, students)):
        _show(name, book.keep(name, estimate_fn))
    return book.found


def cover(
    run: Run,
    teacher: "Teacher",
    exact: float | None,
    train_x: np.ndarray,
    students: dict[tuple, tuple[NADE, PyTree]],
) -> dict[str, float]:
    """Share of fresh estimates whose interval holds the exact log Z, in [0, 1], by name.

    A bound's interval holds it if log Z may be on the bound's side. Empty where no repeats
    are asked for.
    """
    num_repeats = run.settings.coverage_repeats
    if not num_repeats:
        return {}
    pairs = _pairs(teacher, students)
    book = Book(run.workdir, COVERAGE_FILE, is_sound=_is_sound)
    for repeat in range(num_repeats):
        for name, estimate_fn in _estimators(run, teacher, train_x, pairs, f"#{repeat}"):
            book.keep(f"{name}#{repeat}", estimate_fn)
        if (repeat + 1) % 10 == 0 or repeat + 1 == num_repeats:
            print(f"coverage {repeat + 1:>26}/{num_repeats}", flush=True)
    held = {}
    for name, estimate in book.found.items():
        kind = name.partition("[")[0].partition("#")[0]
        low = -np.inf if kind == "upper" else estimate["low"]
        high = np.inf if kind == "lower" else estimate["high"]
        held.setdefault(name.partition("#")[0], []).append(low <= exact <= high)
    return {name: float(np.mean(values)) for name, values in held.items()}


def _estimators(
    run: Run,
    teacher: "Teacher",
    train_x: np.ndarray,
    pairs: "dict[tuple, _Pair]",
    salt: str = "",
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and thunk of every estimate; a salt gives them random numbers of their own."""
    samples = _Once(lambda: gibbs_samples(run, teacher, f"samples{salt}", run.settings.num_samples))
    yield "ais", lambda: _ais(run, teacher, train_x, f"ais{salt}")
    yield "ais_reverse", lambda: _ais(run, teacher, train_x, f"ais_reverse{salt}", samples())
    for condition, pair in pairs.items():
        name = f"[{condition[0]},{condition[1]}]"
        one = _Once(partial(_from_proposal, run, teacher, pair, f"{name}{salt}"))
        over = _Once(lambda pair=pair: pair.log_weights(samples()))
        yield f"upper{name}", lambda over=over: inference.kl_upper_bound(over())._asdict()
        yield f"lower{name}", lambda one=one: inference.kl_lower_bound(one()[0])._asdict()
        yield f"importance{name}", lambda one=one: inference.importance_sampling(one()[0])._asdict()
        yield f"bridge{name}", lambda one=one: inference.bridge_sampling(*one())._asdict()


def exact_log_z(teacher: "Teacher") -> float | None:
    """Log Z by going through the states of the smaller layer, or None where they are too many."""
    w, a, b = (np.asarray(teacher.params["params"][name], np.float64) for name in "wab")
    if min(w.shape) > MOST_ENUMERATED:
        return None
    if len(b) > len(a):
        w, a, b = w.T, b, a
    total = -np.inf
    for states in _all_states(len(b)):
        logs = states @ b + np.sum(np.logaddexp(0.0, states @ w.T + a), axis=1)
        total = np.logaddexp(total, special.logsumexp(logs))
    return float(total)


def _all_states(size: int, *, block_bits: int = 12):
    """Blocks of all vectors of zeros and ones."""
    low = min(size, block_bits)
    block = (np.arange(2**low)[:, None] >> np.arange(low)) & 1
    for high in range(2 ** (size - low)):
        rest = (high >> np.arange(size - low)) & 1
        yield np.concatenate([block, np.tile(rest, (len(block), 1))], axis=1).astype(float)


def _is_sound(name: str, estimate: Any) -> bool:
    """Whether it has all of its figures, the value inside the interval, samples behind it."""
    kind = name.partition("[")[0].partition("#")[0]
    fields = {"exact": ENDS, "bridge": BridgeLogZ._fields}.get(kind, LogZ._fields)
    if not has_value(name, estimate):
        return False
    if not all(isinstance(estimate.get(field), (int, float)) for field in fields):
        return False
    samples = {"num_samples", "num_proposal", "num_target"} & set(fields)
    return (
        estimate["low"] <= estimate["value"] <= estimate["high"]
        and estimate["stderr"] >= 0
        and all(estimate[field] >= 2 for field in samples)
    )


def _show(name: str, estimate: dict[str, float]) -> None:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    print(f"log_z.{name:<26} {value:9.3f}  ({low:.3f}, {high:.3f})", flush=True)


class _Once:
    """A thunk whose result is kept."""

    def __init__(self, fn):
        self._fn, self._results = fn, []

    def __call__(self) -> Any:
        if not self._results:
            self._results.append(self._fn())
        return self._results[0]


class _Pair:
    """The RBM, and a NADE that proposes, both in double precision."""

    def __init__(self, teacher: "Teacher", nade: NADE, params: PyTree):
        self._nade, self._params = nade, params
        with jax.enable_x64(True):
            ours, theirs = _double(params), _double(teacher.params)
        self._log_potential = lambda x: teacher.rbm.log_potential(theirs, x)
        self._proposal = Proposal(
            lambda x: nade.log_prob(ours, x), lambda key, num: nade.sample(ours, key, num)[0]
        )

    def samples(self, key: Key, num: int) -> np.ndarray:
        """Of the NADE, in single precision."""
        blocks = [
            np.asarray(_sample(self._nade, size, self._params, jax.random.fold_in(key, index)))
            for index, size in enumerate(_sizes(num))
        ]
        return np.concatenate(blocks)

    def log_weights(self, x: Array) -> np.ndarray:
        """`[N]`."""
        with jax.enable_x64(True):
            return inference.target_log_weights(
                self._log_potential,
                self._proposal,
                np.asarray(x, np.float64),
                block_size=SAMPLE_BLOCK,
            )


def _pairs(teacher: "Teacher", students: dict[tuple, tuple[NADE, PyTree]]) -> dict[tuple, _Pair]:
    return {condition: _Pair(teacher, *student) for condition, student in students.items()}


def _double(params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)


def _from_proposal(
    run: Run, teacher: "Teacher", pair: _Pair, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights of the NADE's samples, and of the chains that begin at them."""
    samples = pair.samples(run.key(f"estimates{name}"), run.settings.num_samples)
    # As in the thesis: chains that begin at fair coins are slow to find every mode.
    chains = _simulate(
        teacher.rbm,
        run.settings.burn_in,
        teacher.params,
        run.key(f"bridge{name}"),
        jnp.asarray(samples),
    )
    return pair.log_weights(samples), pair.log_weights(chains)


def _sizes(num: int) -> list[int]:
    whole, rest = divmod(num, SAMPLE_BLOCK)
    return [SAMPLE_BLOCK] * whole + [rest] * bool(rest)


@partial(jax.jit, static_argnums=(0, 1))
def _sample(nade: NADE, size: int, params: PyTree, key: Key) -> Array:
    return nade.sample(params, key, size)[0]


def gibbs_samples(run: Run, teacher: "Teacher", name: str, num: int) -> Array:
    """Samples of the RBM, each of a chain of its own."""
    init_key, step_key = jax.random.split(run.key(name))
    start = jax.random.bernoulli(init_key, 0.5, (num, teacher.rbm.num_visible))
    return _simulate(teacher.rbm, run.settings.burn_in, teacher.params, step_key, start)


@partial(jax.jit, static_argnums=(0, 1))
def _simulate(rbm: RBM, num_steps: int, params: PyTree, key: Key, start: Array) -> Array:
    """Chains from `start`, all stepped so many times."""
    sampler = block_gibbs(rbm, params)
    start = start.astype(params["params"]["w"].dtype)
    return jax.lax.fori_loop(
        0, num_steps, lambda i, x: sampler.step(jax.random.fold_in(key, i), x)[0], start
    )


def _ais(
    run: Run, teacher: "Teacher", train_x: np.ndarray, name: str, samples: Array | None = None
) -> dict[str, Any]:
    settings = run.settings
    base = jnp.asarray(inference.data_logits(train_x), jnp.float32)
    path = rbm_path(teacher.params, base_rate_logits=base)
    betas = schedule(settings.ais_steps)
    if samples is None:
        result = inference.annealed_importance_sampling(
            run.key(name), path, betas, num_chains=settings.ais_chains
        )
    else:
        result = inference.reverse_annealed_importance_sampling(
            run.key(name), path, betas, samples[: settings.ais_chains]
        )
    return result._asdict()


def schedule(num: int) -> np.ndarray:
    """So many inverse temperatures from 0 to 1, `[num]`; 14,500 are Salakhutdinov and Murray's."""
    if num == NUM_SALAKHUTDINOV:
        return inference.salakhutdinov_schedule()
    return inference.linear_schedule(num)
