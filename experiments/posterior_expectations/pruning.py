"""Students without the units that the group lasso emptied, and their fine-tuning."""

import logging
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from experiments.posterior_expectations import students, teachers
from experiments.posterior_expectations.judging import Learned
from experiments.posterior_expectations.settings import Settings
from experiments.run import Run
from kd import models, training
from kd.types import PyTree

if TYPE_CHECKING:
    from experiments.posterior_expectations.study import Task

_LOG = logging.getLogger(__name__)
RATE = 0.1  # Of the students' rate, in fine-tuning.


def finish(run: Run, task: "Task", final: training.FitState) -> dict[str, Learned]:
    """The students; those with a group lasso pruned and fine-tuned."""
    found = task.learned(final.student)
    pruned = {name: prune(run.settings, one) for name, one in found.items() if one.student.strength}
    left = {name: one for name, one in pruned.items() if one is not None}
    if left:
        left = fine_tune(run, task, final.stream, left)
    return {name: one for name, one in found.items() if not one.student.strength} | left


def prune(settings: Settings, learned: Learned) -> Learned | None:
    """A smaller student; with a warning, none if it would lose a whole layer."""
    try:
        pruned = models.prune(learned.model, learned.params, settings.threshold)
    except ValueError as error:
        _LOG.warning(
            "%s is left out: %s A smaller --regularizer_strength, or --threshold, may leave some.",
            learned.student.name,
            error,
        )
        return None
    if jax.tree.map(jnp.shape, pruned.params) == jax.tree.map(jnp.shape, learned.params):
        _LOG.warning(
            "%s lost no unit: a larger --regularizer_strength would empty some.",
            learned.student.name,
        )
    return learned._replace(model=pruned.model, params=pruned.params)


def fine_tune(
    run: Run, task: "Task", stream_state: PyTree, pruned: dict[str, Learned]
) -> dict[str, Learned]:
    """The pruned students, learning on beside the chain where it stands, with a new Adam."""
    settings = run.settings
    update = training.combine(
        **{
            name: students.update_of(
                *(settings, one.student._replace(strength=0.0), one.model),
                rate=RATE * settings.student_rate,
                num_steps=settings.fine_tune_steps,
            )
            for name, one in pruned.items()
        }
    )

    def tuned(state: training.CombinedState) -> dict[str, Learned]:
        return {
            name: one._replace(params=state.states[name].params) for name, one in pruned.items()
        }

    state = update.init({name: one.params for name, one in pruned.items()})
    if task.exact is None:
        update = teachers.watched(update)
    phase = f"fine_tune[{task.chain.name}]"
    final = run.fit(
        phase,
        run.key(phase),
        task.stream,
        update,
        state,
        settings.fine_tune_steps,
        stream_state=stream_state,
        evaluate_fn=lambda state: task.scores(tuned(state)),
        num_points=3,
    )
    return tuned(final.student)
