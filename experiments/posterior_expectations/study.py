"""The study itself: chains over weights, the students beside them, and what both are worth."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import chains
from experiments.flags import Options, UserError
from experiments.posterior_expectations import figures, networks, students, tables
from experiments.posterior_expectations.settings import STUDENTS, Chain, Settings
from experiments.report import Row
from experiments.run import Run, execute
from kd import data, inference, metrics, samplers, streams, training
from kd.data import Dataset
from kd.export import export_student
from kd.metrics import Uncertainties
from kd.types import Array, PyTree, Sampler, Stream

EXPERIMENT = "posterior_expectations"
NUM_POINTS = 10  # Of a curve.
TEACHER = "teacher"
SYNTHETIC = ("permuted", "inverted")


class Loaded(NamedTuple):
    """The inputs of a run.

    Attributes:
      dataset: whole and without masks.
      outside: inputs out of distribution, `[M, ...]`, by name.
    """

    dataset: Dataset
    outside: dict[str, np.ndarray]


class Judged(NamedTuple):
    """What a teacher or a student says of test inputs.

    Attributes:
      log_probs: `[N, C]`, nats; None of a student of the entropy alone.
      entropy: `[N]`, nats, the expected one; None of a student of the predictive alone.
      uncertainties: by place, "test" and the data sets out of distribution; empty without both.
    """

    log_probs: np.ndarray | None
    entropy: np.ndarray | None
    uncertainties: dict[str, Uncertainties]


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=columns(settings),
        inputs_fn=partial(fingerprints, settings, options),
        load_fn=partial(load, settings, options),
        study_fn=compare,
        products=("figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def columns(settings: Settings) -> list[str]:
    """Of metrics.csv."""
    names = [student.name for student in settings.students()]
    found = [f"{name}.loss" for name in names] + [f"{name}.nll" for name in names]
    return [*found, f"{TEACHER}.samples", f"{TEACHER}.nll", "log_posterior"]


def fingerprints(settings: Settings, options: Options) -> dict[str, str | None]:
    """Digests of the data sets."""
    names = {settings.dataset, *settings.outside} - set(SYNTHETIC)
    return {name: data.fingerprint(name, data_dir=options.data_dir) for name in sorted(names)}


def load(settings: Settings, options: Options) -> Loaded:
    """Reads the data, and refuses what cannot be done."""
    for kind in settings.student:
        if kind not in STUDENTS:
            raise UserError(f"--student must be {' | '.join(STUDENTS)}; got {kind!r}.")
    if settings.num_steps < settings.thin:
        raise UserError(f"--num_steps must be at least --thin; got {settings.num_steps}.")
    dataset = data.load(settings.dataset, data_dir=options.data_dir)
    shape = dataset.test_x.shape[1:]
    outside = {}
    for name in settings.outside:
        if name == "inverted":
            found = 1 - dataset.test_x
        elif name == "permuted":
            order = np.random.default_rng(settings.seed).permutation(int(np.prod(shape)))
            found = dataset.test_x.reshape(len(dataset.test_x), -1)[:, order]
            found = found.reshape(dataset.test_x.shape)
        else:
            found = data.load_test_inputs(name, data_dir=options.data_dir)
        if found.shape[1:] != shape:
            raise UserError(
                f"--outside={name} has inputs {found.shape[1:]}, and {settings.dataset} {shape}."
            )
        outside[name] = found
    return Loaded(dataset, outside)


def compare(run: Run, loaded: Loaded) -> list[Row]:
    """Every chain with its students; then figures, exports and rows."""
    found = {chain: distil(run, loaded, chain) for chain in run.settings.chains()}
    labels = loaded.dataset.test_y
    figures.draw(run, found, labels)
    return tables.rows(run.settings, found, labels)


def distil(run: Run, loaded: Loaded, chain: Chain) -> dict[str, Judged]:
    """One chain and all its students, and what they say at the test."""
    settings = run.settings
    dataset, unlabelled = data_of(settings, loaded.dataset, chain)
    outside = {
        name: masked(settings, x, chain, f"outside {name}") for name, x in loaded.outside.items()
    }
    places = {"test": dataset.test_x, **outside}
    x = np.concatenate(list(places.values()))
    log_prob_fn = log_prob_fn_of(settings, dataset.num_classes)
    key = run.key(f"chain[{chain.name}]")
    weights = start(settings, dataset, jax.random.fold_in(key, 1))
    update = training.combine(
        **{
            s.name: students.update_of(settings, s, dataset.num_classes)
            for s in settings.students()
        },
        teacher=training.monte_carlo(
            log_prob_fn,
            {"probs": inference.predictive, "entropy": inference.entropy},
            x,
            every=settings.test_thin,
        ),
    )
    starts = {
        s.name: networks.of_student(settings, s, dataset.num_classes).init(
            jax.random.fold_in(key, 2 + index), jnp.zeros(dataset.train_x.shape[1:])
        )
        for index, s in enumerate(settings.students())
    }
    judge = partial(judge_all, settings, dataset, places)
    with chains.divergence(settings.teacher, settings.step_size):
        state = run.fit(
            f"chain[{chain.name}]",
            key,
            stream_of(run, dataset, unlabelled, weights, log_prob_fn),
            training.observe(update, lambda batch: chains.langevin_figures(batch["chain"]["info"])),
            update.init({**starts, TEACHER: weights}),
            settings.student_steps,
            evaluate_fn=lambda state: scores(judge(state), dataset.test_y),
            num_points=NUM_POINTS,
            burn_in=-(-settings.burn_in // settings.thin),
            after_burn_in=begin,
        )
    export(run, chain, dataset, state)
    return judge(state)


def begin(stream_state: PyTree) -> PyTree:
    """Where chain and inputs are after the burn-in, with batch number 0 and no estimates."""
    number, state = stream_state
    return jnp.zeros_like(number), streams.forget(state)


def data_of(settings: Settings, dataset: Dataset, chain: Chain) -> tuple[Dataset, np.ndarray]:
    """What the teacher learns from and is tested on, and the students' inputs.

    Those are all training images, whatever the teacher has of them, with masks of their own.
    """
    seed = settings.seed + chain.repeat
    unlabelled = masked(settings, dataset.train_x, chain, "students")
    if chain.train_size:
        dataset = data.subsample(dataset, chain.train_size, seed=seed)
    return dataset._replace(
        train_x=masked(settings, dataset.train_x, chain, "teacher"),
        test_x=masked(settings, dataset.test_x, chain, "test"),
    ), unlabelled


def masked(settings: Settings, x: np.ndarray, chain: Chain, what: str) -> np.ndarray:
    """Images with a square of the chain's rate, at places that depend on what they are for."""
    if chain.mask_rate == 0:
        return x
    side = round((chain.mask_rate * x.shape[1] * x.shape[2]) ** 0.5)
    seed = np.random.SeedSequence([settings.seed, chain.repeat, *what.encode()])
    return data.mask_squares(x, min(side, *x.shape[1:3]), seed=int(seed.generate_state(1)[0]))


def log_prob_fn_of(settings: Settings, num_classes: int):
    """The teacher's, of weights and one input."""
    model = networks.build(settings, num_classes)
    return lambda weights, x: jax.nn.log_softmax(model.apply(weights, x))


def start(settings: Settings, dataset: Dataset, key: Array) -> PyTree:
    """Weights at which the chain begins."""
    model = networks.build(settings, dataset.num_classes)
    return model.init(key, jnp.zeros(dataset.train_x.shape[1:]))


def stream_of(
    run: Run, dataset: Dataset, unlabelled: np.ndarray, weights: PyTree, log_prob_fn
) -> Stream:
    """Inputs with estimates of all expectations, and their number."""
    settings = run.settings
    inputs = streams.resample(
        {"x": jnp.asarray(unlabelled), "index": jnp.arange(len(unlabelled))},
        min(settings.student_batch, len(unlabelled)),
    )
    if settings.input_noise:
        inputs = streams.with_noise(inputs, scale=settings.input_noise, limits=(0.0, 1.0))
    return streams.numbered(
        streams.posterior_expectations(
            sampler_of(settings, dataset, log_prob_fn),
            weights,
            log_prob_fn,
            students.expectations(settings),
            inputs,
            num_examples=len(unlabelled),
            thin=settings.thin,
            max_bytes=1e9 * run.options.cache_gb,
        )
    )


def sampler_of(settings: Settings, dataset: Dataset, log_prob_fn) -> Sampler:
    """The chain over the teacher's weights."""
    log_posterior_fn = samplers.minibatch_log_posterior(
        lambda weights: (
            -0.5
            * settings.prior_precision
            * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(weights))
        ),
        lambda weights, one: log_prob_fn(weights, one["x"])[one["y"]],
        num_examples=len(dataset.train_x),
    )
    examples = streams.resample(
        {"x": jnp.asarray(dataset.train_x), "y": jnp.asarray(dataset.train_y)},
        min(settings.batch_size, len(dataset.train_x)),
    )
    if settings.teacher == "sghmc":
        return samplers.sghmc(
            log_posterior_fn,
            examples,
            step_size=settings.step_size,
            friction=settings.friction,
        )
    size = settings.step_size
    if settings.teacher == "cyclical":
        steps = settings.burn_in + settings.student_steps * settings.thin
        size = samplers.cyclical_step_size(size, num_cycles=settings.num_cycles, num_steps=steps)
    return samplers.sgld(log_posterior_fn, examples, step_size=size)


def judge_all(
    settings: Settings, dataset: Dataset, places: dict[str, np.ndarray], state
) -> dict[str, Judged]:
    """The teacher's averages and the students' answers, by name."""
    teacher = state.states[TEACHER]
    parts = split(np.asarray(teacher.means["probs"], np.float64), places)
    entropies = split(np.asarray(teacher.means["entropy"], np.float64), places)
    found = {
        TEACHER: Judged(
            np.log(np.maximum(parts["test"], 1e-30)),
            entropies["test"],
            {name: metrics.uncertainties(parts[name], entropies[name]) for name in places},
        )
    }
    x = np.concatenate(list(places.values()))
    for student in settings.students():
        model = networks.of_student(settings, student, dataset.num_classes)
        outputs = split(students.outputs_of(model, state.states[student.name].params, x), places)
        own = {name: students.uncertainties_of(student, part) for name, part in outputs.items()}
        found[student.name] = Judged(
            students.log_probs_of(student, outputs["test"]),
            students.entropy_of(student, outputs["test"]),
            {name: one for name, one in own.items() if one is not None},
        )
    return found


def split(values: np.ndarray, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of several places, one after another, by place."""
    ends = np.cumsum([len(x) for x in places.values()])[:-1]
    return dict(zip(places, np.split(values, ends), strict=True))


def scores(judged: dict[str, Judged], labels: np.ndarray) -> dict[str, float]:
    """Negative log-likelihoods, for metrics.csv."""
    return {
        f"{name}.nll": float(-np.mean(metrics.label_log_prob(one.log_probs, labels)))
        for name, one in judged.items()
        if one.log_probs is not None
    }


def export(run: Run, chain: Chain, dataset: Dataset, state) -> None:
    """Every student that classifies, as a function to log-probabilities."""
    if chain.repeat:
        return
    for student in run.settings.students():
        if student.kind == "entropy":
            continue
        model = networks.of_student(run.settings, student, dataset.num_classes)
        name = f"{student.name},{chain.name}".replace(",", "-")
        export_student(
            run.workdir.file("student", name),
            students.log_probs_fn(student, model),
            state.states[student.name].params,
            input_shape=dataset.train_x.shape[1:],
            metadata={"experiment": EXPERIMENT, "student": list(student), "chain": list(chain)},
        )
