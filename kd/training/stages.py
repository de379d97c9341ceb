"""Training in stages: another objective and optimiser after so many steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd import checks
from kd.types import Array, Batch, Metrics, PyTree, Update

MOST_STEPS = 2**31 - 1


class Stage(NamedTuple):
    """One stage of training.

    Attributes:
      objective: `(params, batch) -> loss`, a scalar to be minimised.
      optimizer: an optax transformation that wants slopes and parameters alone, begun anew with
        the stage: its state is of the parameters as they are then.
      num_steps: of the stage; of the last it may be None, to the end of all.
    """

    objective: Callable[[PyTree, Batch], Array]
    optimizer: optax.GradientTransformation
    num_steps: int | None = None


class StagedState(NamedTuple):
    """A student trained in stages.

    Attributes:
      params: the student's parameters.
      optimizers: the optimisers' states, of all stages; those of stages to come are begun with
        the first parameters, and again with the stage.
      step: steps made, int32.
    """

    params: PyTree
    optimizers: tuple[optax.OptState, ...]
    step: Array


def staged(*stages: Stage) -> Update:
    """Stages one after another: features to a prior without labels first, then the rest, say.

    Each stage goes on from where the one before left the parameters; what a stage should leave as
    it is, its optimiser must not move (`train_only`). One batch has all that any of them needs.

    Args:
      *stages: in order.

    Returns:
      An update whose state is a `StagedState`; its metrics are the stage's own loss, before the
      step, and `"stage"`, from 0. Beyond the last stage's steps it goes on with that.

    Raises:
      TypeError: for what is no `Stage`, or one before the last without a number of steps; the last
        alone may leave it out.
      ValueError: if there is no stage, or one has less than one step; of more steps than 2^31 - 1
        together.

    Example:
      >>> towards = lambda target: lambda p, batch: jnp.sum((p - target) ** 2)
      >>> optimizer = optax.sgd(0.5)
      >>> update = staged(Stage(towards(1.0), optimizer, 3), Stage(towards(5.0), optimizer))
      >>> state = update.init(jnp.array(0.0))
      >>> for _ in range(3):
      ...     state, metrics = update.apply(state, {})
      >>> float(state.params)
      1.0
      >>> state, metrics = update.apply(state, {})
      >>> float(state.params), float(metrics["stage"])
      (5.0, 1.0)

    Reference:
      Fitzsimons, Schmon and Roberts (2019), section 4; Romero et al. (2015), "FitNets: hints for
      thin deep nets", section 2.3.
    """
    checks.check_count("the number of stages", len(stages))
    ends = []
    for index, stage in enumerate(stages):
        checks.check_type(f"stage {index}", stage, Stage)
        if index < len(stages) - 1 or stage.num_steps is not None:
            checks.check_count(f"num_steps of stage {index}", stage.num_steps)
            ends.append(stage.num_steps + (ends[-1] if ends else 0))
            checks.check_count("the steps of all stages", ends[-1], at_most=MOST_STEPS)
    starts = [0, *ends][: len(stages)]
    later = jnp.array(starts[1:], jnp.int32)

    def init(params: PyTree) -> StagedState:
        optimizers = tuple(stage.optimizer.init(params) for stage in stages)
        return StagedState(params, optimizers, jnp.zeros((), jnp.int32))

    def branch(index: int) -> Callable[[StagedState, Batch], tuple[PyTree, tuple, Array]]:
        stage = stages[index]

        def apply(state: StagedState, batch: Batch) -> tuple[PyTree, tuple, Array]:
            loss, slope = jax.value_and_grad(stage.objective)(state.params, batch)
            own = state.optimizers[index]
            if index:
                own = jax.lax.cond(
                    state.step == starts[index],
                    lambda: stage.optimizer.init(state.params),
                    lambda: state.optimizers[index],
                )
            moved, own = stage.optimizer.update(slope, own, state.params)
            optimizers = list(state.optimizers)
            optimizers[index] = own
            return optax.apply_updates(state.params, moved), tuple(optimizers), loss

        return apply

    branches = [branch(index) for index in range(len(stages))]

    def apply(state: StagedState, batch: Batch) -> tuple[StagedState, Metrics]:
        index = jnp.sum(state.step >= later)
        params, optimizers, loss = jax.lax.switch(index, branches, state, batch)
        metrics = {"loss": loss, "stage": index.astype(jnp.float32)}
        return StagedState(params, optimizers, state.step + 1), metrics

    return Update(init, apply)


def train_only(
    optimizer: optax.GradientTransformation, layers: Sequence[str]
) -> optax.GradientTransformation:
    """The optimiser for some layers alone; all others stay as they are.

    What is left out costs nothing: its gradients are not computed in a compiled step.

    Args:
      optimizer: any.
      layers: names; a parameter belongs to a layer if a part of its path has that name, or, of a
        name with slashes, several in a row: `"Dense_1"` of every network that has one,
        `"student/params/Dense_1"` of the one that is called so.

    Raises:
      TypeError: for one string instead of a list.
      ValueError: for no layer; by `init`, for a name of none, listing those that there are.

    Example:
      >>> params = {"params": {"Dense_0": jnp.ones(2), "Dense_1": jnp.ones(2)}}
      >>> optimizer = train_only(optax.sgd(0.5), ["Dense_1"])
      >>> moved, _ = optimizer.update(params, optimizer.init(params), params)
      >>> {name: value.tolist() for name, value in moved["params"].items()}
      {'Dense_0': [0.0, 0.0], 'Dense_1': [-0.5, -0.5]}
    """
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the string {layers!r}.")
    wanted = set(layers)
    checks.check_count("the number of layers", len(wanted))

    def kinds(params: PyTree) -> PyTree:
        paths = [
            [jax.tree_util.keystr((key,), simple=True) for key in path]
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        found = [{name for name in wanted if _is_part(name, path)} for path in paths]
        missing = wanted.difference(*found)
        if missing:
            names = {name for path in paths for name in path}
            raise ValueError(
                f"there is no layer {', '.join(map(repr, sorted(missing)))}; there are "
                f"{', '.join(sorted(names))}."
            )
        marks = ["move" if own else "stay" for own in found]
        return jax.tree.unflatten(jax.tree.structure(params), marks)

    return optax.partition({"move": optimizer, "stay": optax.set_to_zero()}, kinds)


def _is_part(name: str, path: Sequence[str]) -> bool:
    """Whether a name, or several with slashes between them, is part of a path."""
    return f"/{name}/" in f"/{'/'.join(path)}/"
