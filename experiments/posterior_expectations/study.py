"""The study itself: chains over weights, the students beside them, and what both are worth."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import chains, report
from experiments.flags import Options
from experiments.posterior_expectations import (
    figures,
    inputs,
    networks,
    pruning,
    showing,
    students,
    tables,
    teachers,
)
from experiments.posterior_expectations.judging import (
    TEST,
    Judged,
    Learned,
    judge_fitted,
    judge_student,
    judge_students,
    judge_teacher,
    scores,
)
from experiments.posterior_expectations.settings import (
    FITTED,
    TEACHER,
    Chain,
    Settings,
)
from experiments.report import Row
from experiments.run import Run, execute
from kd import streams, training
from kd.data import Dataset
from kd.export import export_student
from kd.types import PyTree, Sampler, Stream, Update

EXPERIMENT = "posterior_expectations"
NUM_POINTS = 10  # Of a curve.


class Task(NamedTuple):
    """One teacher and its students, before they learn.

    Attributes:
      chain: what it is about.
      dataset: masked and sub-sampled, the teacher's.
      places: test inputs and those out of distribution, by name.
      stream: what the students learn from.
      update: all that learn from it: the students, and the means of a chain that goes on.
      state: the update's.
      blank: the students, untaught.
      exact: the means of a stored teacher; None of a chain that goes on.
    """

    chain: Chain
    dataset: Dataset
    places: dict[str, np.ndarray]
    stream: Stream
    update: Update
    state: training.CombinedState
    blank: dict[str, Learned]
    exact: training.MonteCarloState | None

    def learned(self, state: training.CombinedState) -> dict[str, Learned]:
        """The students as they are by then."""
        return {
            name: one._replace(params=state.states[name].params) for name, one in self.blank.items()
        }

    def judge_teacher(self, state: training.CombinedState) -> Judged:
        """What the teacher says by then."""
        return judge_teacher(self.means(state), self.places)

    def means(self, state: training.CombinedState) -> training.MonteCarloState:
        """The teacher's at the test, by then."""
        return state.states[TEACHER] if self.exact is None else self.exact

    def figures(self, state: training.CombinedState) -> dict[str, float]:
        """For a row of metrics.csv."""
        samples = int(self.means(state).num_samples)
        judged = {TEACHER: self.judge_teacher(state)}
        own = scores(judged, self.dataset.test_y)
        return {f"{TEACHER}.samples": samples, **own, **self.scores(self.learned(state))}

    def scores(self, found: dict[str, Learned]) -> dict[str, float]:
        """Of students at the test inputs alone, without those out of distribution."""
        places = {TEST: self.places[TEST]}
        judged = {name: judge_student(one, places) for name, one in found.items()}
        return scores(judged, self.dataset.test_y)

    def judge_students(self, found: dict[str, Learned]) -> dict[str, Judged]:
        """What students say at the test, and out of distribution."""
        return judge_students(found, self.places)


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=columns(settings),
        inputs_fn=partial(inputs.fingerprints, settings, options),
        load_fn=partial(inputs.load, settings, options),
        study_fn=compare,
        products=("figures", "student"),
    )
    showing.show(summary, settings, options.workdir)


def columns(settings: Settings) -> list[str]:
    """Of metrics.csv."""
    names = [student.name for student in settings.students()]
    found = [f"{name}.loss" for name in names] + [f"{name}.nll" for name in names]
    return [*found, f"{TEACHER}.samples", f"{TEACHER}.nll", "log_posterior", "loss", "stored"]


def compare(run: Run, loaded: inputs.Loaded) -> list[Row]:
    """Every chain with its students; then figures, exports and rows."""
    labels = loaded.dataset.test_y
    found, learned = {}, {}
    for chain in run.settings.chains():
        found[chain], learned[chain] = distil(run, task_of(run, loaded, chain))
    made = tables.data_rows(loaded.dataset)
    made += tables.mask_rows(run.settings, loaded.dataset.test_x)
    made += tables.rows(run.settings, found, labels)
    made += tables.cost_rows(learned, loaded.dataset.test_x)
    figures.draw(run, found, made, labels)
    return made


def task_of(run: Run, loaded: inputs.Loaded, chain: Chain) -> Task:
    """The teacher, which is made now if it is to be stored, and students that know nothing."""
    settings = run.settings
    dataset, unlabelled = inputs.data_of(settings, loaded, chain)
    outside = {
        name: inputs.masked(settings, x, chain, f"outside {name}")
        for name, x in loaded.outside.items()
    }
    places = {TEST: dataset.test_x, **outside}
    x = np.concatenate(list(places.values()))
    log_prob_fn = teachers.log_prob_fn_of(settings, dataset.num_classes)
    key = run.key(f"chain[{chain.name}]")
    sampler, position, members = teachers.sampler_of(
        run, dataset, chain, jax.random.fold_in(key, 1)
    )
    blank, updates, starts = {}, {}, {}
    for index, student in enumerate(settings.students()):
        model = networks.of_student(settings, student, dataset.num_classes)
        params = model.init(jax.random.fold_in(key, 2 + index), jnp.zeros(x.shape[1:]))
        blank[student.name] = Learned(student, model, params)
        updates[student.name] = students.update_of(
            *(settings, student, model),
            rate=settings.student_rate,
            num_steps=settings.student_steps,
        )
        starts[student.name] = params
    exact = None
    if members is None:
        updates[TEACHER] = teachers.means_update(settings, log_prob_fn, x)
        starts[TEACHER] = teachers.start(settings, dataset, key)
    else:
        exact = teachers.means_of(settings, log_prob_fn, members, x)
    update = training.combine(**updates)
    state = update.init(starts)
    if members is None:
        update = teachers.watched(update)
    stream = stream_of(run, unlabelled, sampler, position, log_prob_fn, chain)
    return Task(chain, dataset, places, stream, update, state, blank, exact)


def distil(run: Run, task: Task) -> tuple[dict[str, Judged], dict[str, Learned]]:
    """What the teacher and all its students say at the test; and the students."""
    settings, chain = run.settings, task.chain
    is_online = task.exact is None
    with chains.divergence(settings.teacher, settings.step_size):
        final = run.fit(
            f"chain[{chain.name}]",
            run.key(f"chain[{chain.name}]"),
            task.stream,
            task.update,
            task.state,
            settings.student_steps,
            evaluate_fn=task.figures,
            num_points=NUM_POINTS,
            burn_in=-(-settings.burn_in // settings.thin) if is_online else 0,
            burn_in_update=teachers.watched(training.discard()),
            after_burn_in=begin,
        )
        found = pruning.finish(run, task, final)
    export(run, chain, task.dataset, found)
    judged = {TEACHER: task.judge_teacher(final.student)}
    means = task.means(final.student)
    if "log_probs" in means.means:
        judged[FITTED] = judge_fitted(means, task.places)
    return {**judged, **task.judge_students(found)}, found


def begin(stream_state: PyTree) -> PyTree:
    """Where chain and inputs are after the burn-in, with batch number 0 and no estimates."""
    number, state = stream_state
    return jnp.zeros_like(number), streams.forget(state)


def stream_of(
    run: Run, unlabelled: np.ndarray, sampler: Sampler, position: PyTree, log_prob_fn, chain: Chain
) -> Stream:
    """Inputs with estimates of all expectations, and their number."""
    settings = run.settings
    stream = streams.posterior_expectations(
        sampler,
        position,
        log_prob_fn,
        students.expectations(settings),
        inputs.unlabelled_stream(settings, unlabelled, chain),
        num_examples=len(unlabelled),
        thin=1 if teachers.is_stored(settings) else settings.thin,
        num_chains=teachers.width(settings),
        max_bytes=1e9 * run.options.cache_gb,
    )
    title = tables.title_of(chain, inputs.share_of(chain.mask_rate, unlabelled))
    size = streams.estimate_bytes(stream)
    report.say(
        f"chain[{chain.name}]", f"{title}, chain {chain.repeat + 1} of {settings.num_repeats}"
    )
    if not teachers.is_stored(settings):
        report.say("", f"a step is one of the students', and {settings.thin} of the chain")
    report.say("", f"estimates at {len(unlabelled):,} examples: {size:,} bytes")
    if any(settings.dropout):
        stream = streams.with_keys(stream)
    return streams.numbered(stream)


def export(run: Run, chain: Chain, dataset: Dataset, found: dict[str, Learned]) -> None:
    """Every student, with all that it has learned to say."""
    if chain.repeat:
        return
    for student, model, params in found.values():
        name = f"{student.name},{chain.name}".replace(",", "-")
        export_student(
            run.workdir.file("student", name),
            students.answer_fn(student, model),
            params,
            input_shape=dataset.train_x.shape[1:],
            metadata={
                "experiment": EXPERIMENT,
                "outputs": students.ANSWERS[student.kind],
                "student": student._asdict(),
                "chain": chain._asdict(),
            },
        )
