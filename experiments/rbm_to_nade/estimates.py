"""Every estimate of log Z, each kept in `estimates.json` as soon as it is made."""

import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import kd.random
from experiments.run import Run
from kd import inference
from kd.inference import Proposal, rbm_path
from kd.models import NADE
from kd.types import Array, Key, PyTree

if TYPE_CHECKING:
    from experiments.rbm_to_nade.study import Teacher

FILE = "estimates.json"
MOST_ENUMERATED = (
    20  # Hidden (or visible) units, whose states are gone through for the exact log Z.
)
SAMPLE_BLOCK = 1000

Found = dict[str, dict[str, float]]


def estimate_all(
    run: Run, teacher: "Teacher", train_x: np.ndarray, students: dict[tuple, tuple[NADE, PyTree]]
) -> Found:
    """Estimates by name, `exact`, `ais`, `upper[kl,60]`...: value, stderr, low, high.

    Chains run in single precision, log-weights are computed in double.
    """
    book = _Book(run)
    exact = exact_log_z(teacher)
    if exact is not None:
        book.keep("exact", lambda: {"value": exact, "stderr": 0.0, "low": exact, "high": exact})
    samples = _Once(lambda: _gibbs(run, teacher, "samples", None))
    book.keep("ais", lambda: _ais(run, teacher, train_x))
    book.keep("ais_reverse", lambda: _ais(run, teacher, train_x, samples()))
    for condition, (nade, params) in students.items():
        name = f"[{condition[0]},{condition[1]}]"
        one = _Once(lambda n=nade, p=params, name=name: _from_proposal(run, teacher, n, p, name))
        over = _Once(lambda n=nade, p=params: _target_weights(teacher, n, p, samples()))
        book.keep(f"upper{name}", lambda over=over: inference.kl_upper_bound(over())._asdict())
        book.keep(f"lower{name}", lambda one=one: inference.kl_lower_bound(one()[0])._asdict())
        book.keep(
            f"importance{name}", lambda one=one: inference.importance_sampling(one()[0])._asdict()
        )
        book.keep(f"bridge{name}", lambda one=one: inference.bridge_sampling(*one())._asdict())
    return book.found


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


class _Book:
    """Estimates by name, on disk: a run that goes on makes only those that are missing."""

    def __init__(self, run: Run):
        self._run = run
        self.found: Found = {}
        try:
            found = json.loads((run.workdir.path / FILE).read_text())
            self.found = {name: dict(estimate) for name, estimate in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self.found = {}  # None was made, or what was is damaged: they are made again.

    def keep(self, name: str, estimate_fn) -> None:
        if name not in self.found:
            estimate = estimate_fn()
            self.found[name] = {key: _plain(value) for key, value in estimate.items()}
            self._run.workdir.write_json(FILE, self.found)
        shown = self.found[name]
        print(
            f"log_z.{name:<26} {shown['value']:9.3f}  ({shown['low']:.3f}, {shown['high']:.3f})",
            flush=True,
        )


class _Once:
    """A thunk whose result is kept."""

    def __init__(self, fn):
        self._fn, self._results = fn, []

    def __call__(self) -> Any:
        if not self._results:
            self._results.append(self._fn())
        return self._results[0]


def _plain(value: Any) -> float | int | bool:
    return value if isinstance(value, (bool, int)) else float(value)


def _double(params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)


def _proposal(nade: NADE, params: PyTree) -> Proposal:
    return Proposal(
        lambda x: nade.log_prob(params, x), lambda key, num: nade.sample(params, key, num)[0]
    )


def _from_proposal(
    run: Run, teacher: "Teacher", nade: NADE, params: PyTree, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights of the NADE's samples, and of the chains that begin at them."""
    settings = run.settings
    key = run.key(f"estimates{name}")
    samples = np.concatenate(
        [
            np.asarray(_sampler(nade, size)(params, jax.random.fold_in(key, index)))
            for index, size in enumerate(_sizes(settings.num_samples))
        ]
    )
    weights = _target_weights(teacher, nade, params, samples)
    chains = _gibbs(run, teacher, f"bridge{name}", jnp.asarray(samples))
    return weights, _target_weights(teacher, nade, params, chains)


def _target_weights(teacher: "Teacher", nade: NADE, params: PyTree, x: Array) -> np.ndarray:
    with jax.enable_x64(True):
        rbm_params, nade_params = _double(teacher.params), _double(params)
        return inference.target_log_weights(
            lambda x: teacher.rbm.log_potential(rbm_params, x),
            _proposal(nade, nade_params),
            np.asarray(x, np.float64),
            block_size=SAMPLE_BLOCK,
        )


def _sizes(num: int) -> list[int]:
    whole, rest = divmod(num, SAMPLE_BLOCK)
    return [SAMPLE_BLOCK] * whole + [rest] * bool(rest)


def _sampler(nade: NADE, size: int):
    return jax.jit(lambda params, key: nade.sample(params, key, size)[0])


def _gibbs(run: Run, teacher: "Teacher", name: str, start: Array | None) -> Array:
    """Chains after the burn-in, from fair coins or from `start`."""
    if start is None:
        return gibbs_samples(run, teacher, name, run.settings.num_samples)
    return _simulate(teacher, run.key(name), start, run.settings.burn_in)


def gibbs_samples(run: Run, teacher: "Teacher", name: str, num: int) -> Array:
    """Samples of the RBM, each of a chain of its own."""
    init_key, step_key = jax.random.split(run.key(name))
    start = jax.random.bernoulli(init_key, 0.5, (num, teacher.rbm.num_visible))
    return _simulate(teacher, step_key, start.astype(jnp.float32), run.settings.burn_in)


def _simulate(teacher: "Teacher", key: Key, start: Array, num_steps: int) -> Array:
    sampler = teacher.gibbs()

    @jax.jit
    def simulate(key: Key, x: Array) -> Array:
        return jax.lax.fori_loop(
            0, num_steps, lambda i, x: sampler.step(jax.random.fold_in(key, i), x)[0], x
        )

    return simulate(key, start)


def _ais(
    run: Run, teacher: "Teacher", train_x: np.ndarray, samples: Array | None = None
) -> dict[str, Any]:
    settings = run.settings
    base = jnp.asarray(inference.data_logits(train_x), jnp.float32)
    path = rbm_path(teacher.params, base_rate_logits=base, uniform_fn=kd.random.uniform)
    is_theirs = settings.ais_steps == 14_500
    betas = (
        inference.salakhutdinov_schedule()
        if is_theirs
        else inference.linear_schedule(settings.ais_steps)
    )
    if samples is None:
        result = inference.annealed_importance_sampling(
            run.key("ais"), path, betas, num_chains=settings.ais_chains
        )
    else:
        result = inference.reverse_annealed_importance_sampling(
            run.key("ais_reverse"), path, betas, samples[: settings.ais_chains]
        )
    return result._asdict()
