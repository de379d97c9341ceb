"""The study itself: an RBM, NADEs that learn from it, and estimates of its log Z."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.book import Book
from experiments.flags import Options
from experiments.rbm_to_nade import estimates, figures, inputs, tables
from experiments.rbm_to_nade.inputs import Loaded
from experiments.rbm_to_nade.settings import NUM_MONITORED, Settings
from experiments.report import Row
from experiments.run import Run, execute
from kd import losses, streams, training
from kd.data import BinaryDataset
from kd.export import export_student
from kd.files import write_atomically
from kd.inference import max_lower_bound
from kd.models import NADE, RBM
from kd.samplers import block_gibbs
from kd.types import Array, Batch, Key, PyTree, Sampler, Stream

EXPERIMENT = "rbm_to_nade"
COLUMNS = ("loss", "log_prob")
# Steps, evenly spaced on a log axis, at which a NADE is monitored on the first test images.
# Deviation: the thesis monitors every 200 iterations, 150 times in its 30,000; its curves have
# more points at the end of training, ours at its start. No figure of a table depends on it.
NUM_POINTS = 40
NUM_RBM_POINTS = 5
EVALUATE_BLOCK = 500
NUM_SEARCHED = 10_000
RBM_FILE = "rbm.npz"


class Teacher(NamedTuple):
    """The RBM.

    Attributes:
      rbm: the model.
      params: its parameters, single precision.
      is_trained_here: whether it was, and not read from a file.
    """

    rbm: RBM
    params: PyTree
    is_trained_here: bool

    def log_potential(self, x: Array) -> Array:
        """`[N, I] -> [N]`."""
        return self.rbm.log_potential(self.params, x)

    def gibbs(self) -> Sampler:
        """Its kernel, on fast random numbers."""
        return block_gibbs(self.rbm, self.params)


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    inputs.check(settings)
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=COLUMNS,
        inputs_fn=partial(inputs.digests, settings, options),
        load_fn=partial(inputs.load, settings, options),
        study_fn=distil,
        products=("figures", "student", RBM_FILE),
    )
    tables.show(summary, options.workdir)


def distil(run: Run, loaded: Loaded) -> list[Row]:
    """RBM, NADEs, estimates; then figures, exports and rows."""
    teacher = make_teacher(run, loaded)
    test_x = jnp.asarray(loaded.images.test, jnp.float32)
    inputs.warn_of_another_order(teacher, test_x)
    offset = find_offset(run, teacher)
    students = {
        (loss, hidden): train_nade(run, teacher, loaded.images, loss, hidden, offset)
        for loss, hidden in run.settings.conditions()
    }
    exact = estimates.exact_log_z(teacher)
    found = estimates.estimate_all(run, teacher, exact, loaded.images.train, students)
    covered = estimates.cover(run, teacher, exact, loaded.images.train, students)
    print("exporting the NADEs, drawing the figures", flush=True)
    export(run, teacher, students)
    log_probs = {
        condition: _log_probs(nade, test_x)(params)
        for condition, (nade, params) in students.items()
    }
    potentials = np.asarray(jax.jit(teacher.log_potential)(test_x), np.float64)
    figures.draw(run, teacher, students, found, log_probs, potentials)
    return tables.rows(
        teacher,
        offset,
        found,
        (covered, run.settings.coverage_repeats),
        log_probs,
        potentials,
        published=inputs.reference_log_z(run.settings),
    )


def make_teacher(run: Run, loaded: Loaded) -> Teacher:
    """The RBM of the file, or one trained by persistent contrastive divergence."""
    settings = run.settings
    if loaded.rbm_params is not None:
        rbm = RBM(*loaded.rbm_params["params"]["w"].shape)
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loaded.rbm_params)
        return Teacher(rbm, params, False)
    train_x = jnp.asarray(loaded.images.train, jnp.float32)
    rbm = RBM(train_x.shape[1], settings.rbm_hidden)
    num_steps = inputs.num_rbm_steps(settings, loaded.images)
    fit_key, init_key, chain_key = jax.random.split(run.key("rbm"), 3)
    update = training.contrastive_divergence(
        rbm.log_potential,
        lambda params: block_gibbs(rbm, params),
        optax.sgd(optax.linear_schedule(settings.rbm_rate, 0.0, num_steps)),
        chain_key,
        num_steps=settings.rbm_steps,
        chains=_coins(init_key, settings.num_chains, rbm.num_visible),
    )
    start = rbm.init(init_key, train_x[0])
    rates = jnp.mean(train_x, 0) * 0.98 + 0.01
    start["params"]["a"] = jnp.log(rates / (1 - rates))
    final = run.fit(
        "rbm",
        fit_key,
        streams.resample({"x": train_x}, settings.batch_size),
        update,
        update.init(start),
        num_steps,
        evaluate_fn=lambda state: {},
        num_points=NUM_RBM_POINTS,
    )
    return Teacher(rbm, final.student.params, True)


def find_offset(run: Run, teacher: Teacher) -> float | None:
    """Offset c of the square error: given, or the largest log-potential that a search finds.

    None where no loss needs it.
    """
    if not {"se", "se_then_kl"} & set(run.settings.loss):
        return None
    if run.settings.offset != "max":
        return inputs.offset(run.settings)
    book = Book(run.workdir, "offset.json")
    return book.keep("offset", lambda: {"value": _largest_found(run, teacher)})["value"]


def _largest_found(run: Run, teacher: Teacher) -> float:
    settings = run.settings
    coin_key, step_key = jax.random.split(run.key("offset"))
    chains = _chains(settings, teacher, settings.num_chains, num_steps=settings.burn_in)
    samples = chains.init(step_key).chains
    coins = _coins(coin_key, NUM_SEARCHED, teacher.rbm.num_visible)
    search = jax.jit(lambda x: max_lower_bound(teacher.log_potential, x)[0])
    return float(max(search(samples), search(coins)))


def train_nade(
    run: Run,
    teacher: Teacher,
    images: BinaryDataset,
    loss: str,
    num_hidden: int,
    offset: float | None,
) -> tuple[NADE, PyTree]:
    """A NADE on a stream of parallel Gibbs chains (section 4.2.3), or on the images themselves.

    Deviation: it is monitored at `NUM_POINTS` steps, and not every 200 iterations.
    """
    settings = run.settings
    nade = NADE(teacher.rbm.num_visible, num_hidden)
    if loss == "data":
        stream = streams.resample({"x": jnp.asarray(images.train)}, settings.batch_size)
    else:
        stream = _chains(settings, teacher, settings.num_chains, num_steps=settings.burn_in)
    monitor = _log_probs(nade, jnp.asarray(images.test[:NUM_MONITORED], jnp.float32))
    init_key = run.key(f"nade[{num_hidden}]")  # One start for every loss.
    params = nade.init(init_key, jnp.zeros(nade.num_visible))
    start = 0
    for phase, kind, num_steps in _phases(settings, loss, num_hidden):
        update = training.gradient(
            _objective(kind, nade, teacher, offset), make_optimizer(settings, start)
        )
        params = run.fit(
            phase,
            run.key(phase),
            stream,
            update,
            update.init(params),
            num_steps,
            evaluate_fn=lambda state: {"log_prob": np.mean(monitor(state.params))},
            num_points=NUM_POINTS,
        ).student.params
        start += num_steps
    return nade, params


def export(
    run: Run, teacher: Teacher, students: dict[tuple[str, int], tuple[NADE, PyTree]]
) -> None:
    """Every NADE as a function from an input to its log-probability; the RBM for `--rbm`."""
    w, a, b = (np.asarray(teacher.params["params"][name]) for name in "wab")
    content = io.BytesIO()
    np.savez(content, W=w, a=a, b=b)
    write_atomically(run.workdir.file(RBM_FILE), content.getvalue())
    for condition, (nade, params) in students.items():
        parts = () if len(students) == 1 else ("-".join(map(str, condition)),)
        export_student(
            run.workdir.file("student", *parts),
            nade.apply,
            params,
            input_shape=(nade.num_visible,),
            metadata={
                "experiment": EXPERIMENT,
                "condition": list(condition),
                "dataset": Path(run.settings.dataset).name,
                "pixel_order": run.settings.pixel_order,
                "model": {"num_visible": nade.num_visible, "num_hidden": nade.num_hidden},
            },
        )


def _phases(settings: Settings, loss: str, num_hidden: int) -> list[tuple[str, str, int]]:
    """Name, loss (`kl` or `se`) and steps of each part of a student's training."""
    name = f"nade[{loss},{num_hidden}]"
    if loss != "se_then_kl":
        # Likelihood and KL divergence differ in where the inputs come from.
        return [(name, "kl" if loss == "data" else loss, settings.num_iterations)]
    first = max(1, round(settings.se_fraction * settings.num_iterations))
    phases = [(f"nade[{loss},{num_hidden},se]", "se", first)]
    rest = settings.num_iterations - first
    return phases + ([(name, "kl", rest)] if rest else [])


def _objective(
    loss: str, nade: NADE, teacher: Teacher, offset: float | None
) -> Callable[[PyTree, Batch], Array]:
    def kl(params: PyTree, batch: Batch) -> Array:
        log_probs = nade.log_prob(params, batch["x"].astype(jnp.float32))
        return jnp.mean(jax.vmap(losses.negative_log_likelihood)(log_probs))

    def se(params: PyTree, batch: Batch) -> Array:
        loss_fn = partial(losses.log_density_square_error, offset=offset)
        log_probs = nade.log_prob(params, batch["x"])
        return jnp.mean(jax.vmap(loss_fn)(log_probs, teacher.log_potential(batch["x"])))

    return {"kl": kl, "se": se}[loss]


def make_optimizer(settings: Settings, start: int) -> optax.GradientTransformation:
    """Of the part of a NADE's training that begins after `start` steps.

    Adam's rate goes on from part to part; its moments, of another loss's gradient, do not.
    """
    if settings.optimizer == "adam":
        rate = optax.linear_schedule(settings.learning_rate, 0.0, settings.num_iterations)
        return optax.adam(lambda count: rate(count + start))
    return optax.adadelta(1.0, rho=0.95, eps=1e-6)  # With Zeiler's constants, no other rate.


def _chains(settings: Settings, teacher: Teacher, num_chains: int, *, num_steps: int) -> Stream:
    return streams.parallel_chains(
        teacher.gibbs(),
        lambda key: _coins(key, num_chains, teacher.rbm.num_visible),
        num_chains=num_chains,
        batch_size=settings.batch_size,
        burn_in=num_steps,
    )


def _coins(key: Key, num: int, size: int) -> Array:
    return jax.random.bernoulli(key, 0.5, (num, size)).astype(jnp.float32)


def _log_probs(nade: NADE, x: Array) -> Callable[[PyTree], np.ndarray]:
    """From parameters to the log-probabilities of all of `x`, `[N]`, float64."""

    @jax.jit
    def log_probs(params: PyTree) -> Array:
        size = min(EVALUATE_BLOCK, len(x))
        whole = len(x) // size * size
        blocks = jax.lax.map(
            lambda x: nade.log_prob(params, x), x[:whole].reshape(-1, size, x.shape[1])
        )
        return jnp.concatenate([blocks.ravel(), nade.log_prob(params, x[whole:])])

    return lambda params: np.asarray(log_probs(params), np.float64)
