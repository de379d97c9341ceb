"""The run contract, once for every study: workdir, phases, errors, summary."""

import contextlib
import dataclasses
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import report
from experiments.flags import Options, UserError
from experiments.report import Progress, Row
from experiments.workdir import MetricsLog, Workdir
from kd import training
from kd.checks import NotFiniteError
from kd.data import DataError
from kd.export import ExportError
from kd.streams import CacheTooLargeError
from kd.training.checkpoint import Checkpointer, CheckpointMismatchError
from kd.types import Key, PyTree, Stream, Update

_LOG = logging.getLogger(__name__)


class Run(NamedTuple):
    """What every phase of a run needs.

    Attributes:
      settings: of the study.
      options: of this invocation.
      workdir: where it writes.
      log: its metrics.
      writer: TensorBoard's, or None.
    """

    settings: Any
    options: Options
    workdir: Workdir
    log: MetricsLog
    writer: Any

    def key(self, phase: str) -> Key:
        """The random key of a phase: of `--seed` and the phase's name alone."""
        return jax.random.fold_in(jax.random.key(self.settings.seed), zlib.crc32(phase.encode()))

    def fit(
        self,
        phase: str,
        key: Key,
        stream: Stream,
        update: Update,
        state: PyTree,
        num_steps: int,
        *,
        evaluate_fn: Callable[[PyTree], dict[str, Any]] | None = None,
        num_points: int = 10,
        burn_in: int = 0,
        burn_in_update: Update | None = None,
        after_burn_in: Callable[[PyTree], PyTree] = lambda stream_state: stream_state,
        stream_state: PyTree | None = None,
        num_replicas: int | None = None,
    ) -> training.FitState:
        """`kd.training.fit` as a phase: with progress, metrics, checkpoints.

        Args:
          phase: its name, unique in the run.
          key, stream, update, state, num_steps, stream_state, num_replicas: as for `fit`.
          evaluate_fn: as for `fit`, called at steps evenly spaced on a log axis.
          num_points: how many of them.
          burn_in: batches that the stream is moved before, as a phase of its own: a run that
            stops within goes on within. Only without `stream_state`.
          burn_in_update: what sees those, without a state; nothing by default.
          after_burn_in: from the stream's state then to that from which the phase begins.
        """
        if burn_in:
            burned = self._phase(
                *(f"burn_in-{phase}", key, stream),
                *(burn_in_update or training.discard(), (), burn_in, num_replicas),
            )
            stream_state = after_burn_in(burned.stream)
            key = jax.random.fold_in(key, 1)
        evaluate_at = training.log_spaced(num_steps, num_points, first=10) if evaluate_fn else ()
        return self._phase(
            phase,
            key,
            stream,
            update,
            state,
            num_steps,
            num_replicas,
            stream_state=stream_state,
            evaluate_fn=evaluate_fn,
            evaluate_at=evaluate_at,
        )

    def _phase(
        self,
        phase: str,
        key: Key,
        stream: Stream,
        update: Update,
        state: PyTree,
        num_steps: int,
        num_replicas: int | None,
        **options: Any,
    ) -> training.FitState:
        """`kd.training.fit` with progress, metrics and checkpoints."""
        checkpointer = self.checkpointer(phase)
        step = checkpointer.latest_step()
        if step is not None:
            logged = [int(row["step"]) for row in self.log.rows(phase)]
            expected = training.row_steps(num_steps, evaluate_at=options.get("evaluate_at", ()))
            is_whole = [s for s in logged if s <= step] == [s for s in expected if s <= step]
            if not is_whole or max(logged, default=0) > num_steps:
                _LOG.warning("metrics.csv has not the rows of %s; it begins again.", phase)
                checkpointer.clear()
                self.log.empty(phase)
                step = None
        with Progress(phase, num_steps, self.log, self.writer) as progress:
            if step is not None:
                progress.goes_on(step)

            def on_row(step: int, figures: dict[str, Any]) -> None:
                progress(step, figures)
                self.workdir.tick()

            try:
                return training.fit(
                    key,
                    stream,
                    update,
                    state,
                    num_steps,
                    num_replicas=num_replicas,
                    on_row=on_row,
                    checkpointer=checkpointer,
                    **options,
                )
            except training.NonFiniteLossError as error:
                error.add_note(f"in {phase}")
                raise

    def checkpointer(self, phase: str) -> Checkpointer:
        """The checkpoints of a phase."""
        return Checkpointer(
            checkpoint_dir(self.workdir.path, phase), every_seconds=self.options.checkpoint_seconds
        )


def checkpoint_dir(workdir: Path, phase: str) -> Path:
    """Where the checkpoints of a phase lie."""
    return workdir / "checkpoints" / phase.replace("[", "-").replace(",", "-").rstrip("]")


def execute(
    experiment: str,
    preset: str,
    settings: Any,
    options: Options,
    *,
    columns: Sequence[str],
    inputs_fn: Callable[[], dict[str, str | None]],
    load_fn: Callable[[], Any],
    study_fn: Callable[[Run, Any], list[Row]],
    products: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs a study in its workdir, goes on with it, or returns the summary of a finished one.

    Args:
      experiment: the study's name.
      preset: "quick" or "paper".
      settings: a dataclass; any other settings in the workdir are refused.
      options: of this invocation.
      columns: the figures of `metrics.csv`.
      inputs_fn: digests of the study's inputs by name, cheaply; a workdir of others is
        refused.
      load_fn: reads the inputs, and refuses what will not do, before the run begins: then
        no new workdir is left behind.
      study_fn: the study, from a `Run` and what `load_fn` returned to its final rows.
      products: folders that it leaves in the workdir besides; a finished run of which a file
        there is gone or changed makes it again.

    Returns:
      The content of `summary.json`.

    Raises:
      UserError: one line for anything the user can mend.
    """
    with _one_line_errors():
        _check_devices()
        try:
            inputs = inputs_fn()
        except DataError:
            if not (options.workdir / "summary.json").exists():
                raise
            inputs = {}  # A finished run is shown without its inputs.
        workdir = Workdir(
            options.workdir,
            experiment=experiment,
            preset=preset,
            settings=dataclasses.asdict(settings),
            inputs=inputs,
        )
        try:
            summary = workdir.summary()
            lost = [] if summary is None else workdir.lost()
            if summary is not None and not lost:
                return summary
            if lost:
                _LOG.warning("%s lost its %s, made again now.", workdir.path, " and ".join(lost))
            loaded = load_fn()
            workdir.begin()
            log = MetricsLog(workdir.file("metrics.csv"), list(columns))
            with _writer(options, workdir) as writer:
                rows = study_fn(Run(settings, options, workdir, log, writer), loaded)
            summary = report.summary(experiment, preset, workdir.seconds(), rows)
            workdir.write_summary(summary, products)
            return summary
        finally:
            workdir.leave()


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend, as a `UserError`."""
    try:
        yield
    except CacheTooLargeError as error:
        raise UserError(
            f"{error} Raise --cache_gb, or choose settings that need no such cache."
        ) from error
    except training.NonFiniteLossError as error:
        where = " ".join(getattr(error, "__notes__", ()))
        raise UserError(
            f"{where + ': ' if where else ''}{error} The checkpoint before it is kept; other "
            "settings or another --seed need another workdir."
        ) from error
    except NotFiniteError as error:
        raise UserError(
            f"{error} Other settings or another --seed need another workdir."
        ) from error
    except (DataError, ExportError, CheckpointMismatchError) as error:
        raise UserError(str(error)) from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        first = str(error).split("\n")[0]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in first:
            raise UserError(f"this machine has not the memory for it ({first}).") from error
        raise


def _check_devices() -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        raise UserError(f"jax finds no device: {str(error).split(chr(10))[0]}") from error


@contextlib.contextmanager
def _writer(options: Options, workdir: Workdir) -> Iterator[Any]:
    if not options.tensorboard:
        yield None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboardX: pip install tensorboardX.") from error
    with contextlib.closing(SummaryWriter(str(workdir.path / "tensorboard"))) as writer:
        yield writer
