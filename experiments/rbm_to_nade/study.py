"""The study itself: an RBM, NADEs that learn from it, and estimates of its log Z."""

import io
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kd.random
from experiments.book import Book
from experiments.flags import Options, UserError
from experiments.rbm_to_nade import estimates, figures, tables
from experiments.rbm_to_nade.settings import ADAM_RATE, NUM_MONITORED, Settings
from experiments.report import Row
from experiments.run import Run, execute
from kd import data, losses, streams, training
from kd.data import BinaryDataset
from kd.export import export_student
from kd.files import write_atomically
from kd.inference import max_lower_bound
from kd.models import NADE, RBM
from kd.samplers import block_gibbs
from kd.types import Array, Batch, Key, PyTree, Sampler, Stream

_LOG = logging.getLogger(__name__)
EXPERIMENT = "rbm_to_nade"
COLUMNS = ("loss", "log_prob")
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
        return block_gibbs(self.rbm, self.params, uniform_fn=kd.random.uniform)


class Loaded(NamedTuple):
    """What a run reads.

    Attributes:
      images: binary images.
      rbm_params: of the file, or None.
    """

    images: BinaryDataset
    rbm_params: PyTree | None


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    if settings.offset != "max":
        _number(settings.offset)
    if settings.optimizer != "adam" and settings.learning_rate != ADAM_RATE:
        raise UserError("--learning_rate is Adam's: it needs --optimizer=adam.")
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=COLUMNS,
        inputs_fn=partial(_inputs, settings, options),
        load_fn=partial(load, settings, options),
        study_fn=distil,
        products=("figures", "student", RBM_FILE),
    )
    tables.show(summary, options.workdir)


def load(settings: Settings, options: Options) -> Loaded:
    """The images and the RBM; what will not do is refused now."""
    if settings.num_chains % settings.batch_size:
        raise UserError(
            f"--batch_size {settings.batch_size} must divide --num_chains {settings.num_chains}."
        )
    if settings.ais_chains > settings.num_samples:
        raise UserError(
            f"--ais_chains {settings.ais_chains} must be at most --num_samples "
            f"{settings.num_samples}: annealing backwards begins at samples."
        )
    params = _load_rbm(settings.rbm) if settings.rbm else None
    size = None if params is None else len(params["params"]["a"])
    images = data.load_binary(
        settings.dataset,
        data_dir=options.data_dir,
        num_visible=size,
        pixel_order=settings.pixel_order,
    )
    reads_images = params is None or "data" in settings.loss
    if reads_images and len(images.train) < settings.batch_size:
        raise UserError(f"--batch_size must be at most the {len(images.train)} images there are.")
    if params is None:
        _num_rbm_steps(settings, images)
    num_hidden = settings.rbm_hidden if params is None else len(params["params"]["b"])
    shape = (images.train.shape[1], num_hidden)
    if shape[0] < 2:
        raise UserError(f"{settings.dataset}: a NADE here needs images of two pixels or more.")
    if settings.coverage_repeats and min(shape) > estimates.MOST_ENUMERATED:
        raise UserError(
            f"--coverage_repeats needs the exact log Z: an RBM with at most "
            f"{estimates.MOST_ENUMERATED} hidden or visible units, not {shape[0]} x {shape[1]}."
        )
    return Loaded(images, params)


def distil(run: Run, loaded: Loaded) -> list[Row]:
    """RBM, NADEs, estimates; then figures, exports and rows."""
    teacher = make_teacher(run, loaded)
    test_x = jnp.asarray(loaded.images.test, jnp.float32)
    _warn_of_another_order(teacher, test_x)
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
        teacher, offset, found, (covered, run.settings.coverage_repeats), log_probs, potentials
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
    num_steps = _num_rbm_steps(settings, loaded.images)
    fit_key, init_key, chain_key = jax.random.split(run.key("rbm"), 3)
    update = training.contrastive_divergence(
        rbm.log_potential,
        lambda params: block_gibbs(rbm, params, uniform_fn=kd.random.uniform),
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
    return Teacher(rbm, final.params, True)


def find_offset(run: Run, teacher: Teacher) -> float | None:
    """Offset c of the square error: given, or the largest log-potential that a search finds.

    None where no loss needs it.
    """
    if not {"se", "se_then_kl"} & set(run.settings.loss):
        return None
    if run.settings.offset != "max":
        return _number(run.settings.offset)
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
    """A NADE on a stream of parallel Gibbs chains (section 4.2.3), or on the images themselves."""
    settings = run.settings
    nade = NADE(teacher.rbm.num_visible, num_hidden)
    if loss == "data":
        stream = streams.resample({"x": jnp.asarray(images.train)}, settings.batch_size)
    else:
        stream = _chains(settings, teacher, settings.num_chains, num_steps=settings.burn_in)
    monitor = _log_probs(nade, jnp.asarray(images.test[:NUM_MONITORED], jnp.float32))
    init_key = run.key(f"nade[{num_hidden}]")  # One start for every loss.
    params = nade.init(init_key, jnp.zeros(nade.num_visible))
    for phase, kind, num_steps in _phases(settings, loss, num_hidden):
        update = training.gradient(
            _objective(kind, nade, teacher, offset), make_optimizer(settings, num_steps)
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
        ).params
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


def _warn_of_another_order(teacher: Teacher, x: Array) -> None:
    """Says so where the RBM would rather have rows and columns exchanged."""
    side = round(x.shape[1] ** 0.5)
    if side**2 != x.shape[1]:
        return
    exchanged = x.reshape(-1, side, side).swapaxes(1, 2).reshape(x.shape)
    log_potential = jax.jit(teacher.log_potential)
    gain = np.asarray(log_potential(exchanged) - log_potential(x), np.float64)
    if np.mean(gain) > 3 * np.std(gain) / np.sqrt(len(gain)):
        _LOG.warning(
            "with rows and columns exchanged the RBM gives a test image %.1f nats more: are its "
            "pixels in the order of the images (--pixel_order)?",
            np.mean(gain),
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


def make_optimizer(settings: Settings, num_steps: int) -> optax.GradientTransformation:
    """Of so many steps of a NADE."""
    if settings.optimizer == "adam":
        return optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, num_steps))
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


def _inputs(settings: Settings, options: Options) -> dict[str, Any]:
    digests = {"dataset": data.fingerprint(settings.dataset, data_dir=options.data_dir)}
    if not settings.rbm:
        return digests
    if not settings.rbm.endswith(".npz"):
        data.load_rbm(settings.rbm)  # It says what is expected.
    return digests | {"rbm": data.fingerprint(settings.rbm)}


def _load_rbm(path: str) -> PyTree:
    params = data.load_rbm(path)
    with np.errstate(over="ignore"):
        if not all(np.isfinite(x.astype(np.float32)).all() for x in params["params"].values()):
            raise UserError(f"{path}: the RBM's parameters are too large for single precision.")
    return params


def _num_rbm_steps(settings: Settings, images: BinaryDataset) -> int:
    total = settings.rbm_epochs * (len(images.train) // settings.batch_size)
    if total >= 2**31:
        raise UserError(f"--rbm_epochs {settings.rbm_epochs:g} are {total:.3g} steps; lower it.")
    return max(1, round(total))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"--offset must be max or a number; got {text!r}.")
    return value
