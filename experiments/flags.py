"""Settings as dataclasses, flags made from them, and the entry point every study shares.

Nothing heavy is imported here, so that `--help` and a bad flag are answered at once.
"""

import dataclasses
import hashlib
import importlib
import logging
import math
import os
import signal
import sys
import textwrap
import threading
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app
from absl import flags as absl_flags

PRESETS = ("quick", "paper")


class UserError(Exception):
    """A mistake of the user's or of the machine's: one line, no traceback."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run needs besides its settings; none of it changes a result.

    Attributes:
      workdir: where everything is written.
      data_dir: of prepared data sets, or None.
      cache_gb: most memory for a teacher's answers.
      checkpoint_seconds: least time between checkpoints.
      tensorboard: whether to write TensorBoard events too.
      teacher_from: workdir of a finished teacher to use, or None.
    """

    workdir: Path
    data_dir: str | None = None
    cache_gb: float = 4.0
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    teacher_from: str | None = None


OPTION_HELP = {
    "preset": "the value of every setting not given: ",
    "workdir": "where to write, and from where to go on; by default below runs/, and named by "
    "the settings that are given",
    "data_dir": "prepared TFDS data; TFDS_DATA_DIR by default",
    "cache_gb": "most memory for the teacher's answers to a data set, in GB; 4 by default",
    "checkpoint_seconds": "least time between two checkpoints; 30 by default",
    "tensorboard": "write TensorBoard events as well",
    "teacher_from": "workdir of another run with the same teacher settings: its teacher is used",
}
NUMBERS = {"cache_gb", "checkpoint_seconds"}
# Every study has these; each says which of the others it has.
COMMON_OPTIONS = ("preset", "workdir", "checkpoint_seconds", "tensorboard")


class Need(NamedTuple):
    """What a setting is of.

    Attributes:
      is_met: of all settings, whether it is there.
      words: for a user, what to give.
    """

    is_met: Callable[[Any], bool]
    words: str


def of_any(attribute: str, values: Sequence[str]) -> Need:
    """That a property of the settings, a value or several, has one of these."""

    def is_met(settings: Any) -> bool:
        found = getattr(settings, attribute)
        return bool({found} & set(values) if isinstance(found, str) else {*found} & set(values))

    return Need(is_met, f"--{attribute.removesuffix('s')}={' or '.join(values)}")


def setting(
    quick: Any,
    paper: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    is_set: bool = False,
    never_empty: bool = False,
    needs: Need | None = None,
) -> Any:
    """A field of a settings dataclass: a value for each preset, its meaning, its range.

    Of several values that are choices, or where `is_set`, there is at least one and none twice;
    where `never_empty` there is at least one. Where what it `needs` is not there, it would do
    nothing, and is refused if it was given.
    """
    limits = {"choices": choices, "above": above, "at_least": at_least, "at_most": at_most}
    is_set = is_set or choices is not None
    metadata = {"quick": quick, "paper": paper, "help": help, "is_set": is_set, **limits}
    metadata |= {"never_empty": never_empty or is_set, "needs": needs}
    return dataclasses.field(default=quick, metadata=metadata)


def resolve(settings_class: type, preset: str, given: dict[str, str]) -> Any:
    """Settings of a preset, with the values that were given in place of its own.

    Args:
      settings_class: a dataclass whose fields are `setting`s.
      preset: "quick", "paper" or one of the class's own.
      given: text by field name, as on a command line.

    Raises:
      UserError: naming the flag, the value and what was expected.
    """
    presets = (*PRESETS, *other_presets(settings_class))
    if preset not in presets:
        raise UserError(f"--preset must be one of {', '.join(presets)}; got {preset!r}.")
    values = {}
    for field in dataclasses.fields(settings_class):
        value = _of_preset(settings_class, field, preset)
        if field.name in given:
            value = _parse(field, given[field.name])
        values[field.name] = value
    settings = settings_class(**values)
    for field in dataclasses.fields(settings_class):
        need = field.metadata["needs"]
        if field.name in given and need is not None and not need.is_met(settings):
            raise UserError(f"--{field.name} does nothing without {need.words}.")
    return settings


def other_presets(settings_class: type) -> dict[str, dict[str, Any]]:
    """Presets of a study besides the two: what differs from the paper's, by name."""
    return getattr(settings_class, "OTHER_PRESETS", {})


def _of_preset(settings_class: type, field: dataclasses.Field, preset: str) -> Any:
    if preset in PRESETS:
        return field.metadata[preset]
    return other_presets(settings_class)[preset].get(field.name, field.metadata["paper"])


def _parse(field: dataclasses.Field, text: str) -> Any:
    kind, is_tuple = _kind(field)
    parts = [part.strip() for part in text.split(",")] if is_tuple else [text.strip()]
    if is_tuple and parts == [""]:
        parts = []
    values = tuple(_parse_one(field, kind, part) for part in parts)
    if is_tuple and not values and field.metadata["never_empty"]:
        raise UserError(f"--{field.name} must have at least one value: {_expected(field)}.")
    # As they are shown, since that is how conditions are told apart.
    if len(set(map(_show, values))) != len(values) and field.metadata["is_set"]:
        raise UserError(f"--{field.name} names a value twice: {text}.")
    return values if is_tuple else values[0]


def _parse_one(field: dataclasses.Field, kind: type, text: str) -> Any:
    try:
        if kind is bool:
            value = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        else:
            value = kind(text)
    except (ValueError, KeyError):
        raise UserError(f"--{field.name} must be {_expected(field)}; got {text!r}.") from None
    limits = field.metadata
    if (
        (limits["choices"] and value not in limits["choices"])
        # Negated, so that NaN is refused.
        or (limits["above"] is not None and not value > limits["above"])
        or (limits["at_least"] is not None and not value >= limits["at_least"])
        or (limits["at_most"] is not None and not value <= limits["at_most"])
        or (kind is float and not math.isfinite(value))
    ):
        raise UserError(f"--{field.name} must be {_expected(field)}; got {text!r}.")
    return value


def _kind(field: dataclasses.Field) -> tuple[type, bool]:
    if typing.get_origin(field.type) is tuple:
        return typing.get_args(field.type)[0], True
    return field.type, False


def _expected(field: dataclasses.Field) -> str:
    kind, _ = _kind(field)
    limits = field.metadata
    if limits["choices"]:
        return " | ".join(limits["choices"])
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    bounds = [
        f"{word} {limits[key]}"
        for key, word in (("above", ">"), ("at_least", ">="), ("at_most", "<="))
        if limits[key] is not None
    ]
    return " and ".join([names[kind], *bounds]) if bounds else names[kind]


def help_text(
    name: str, description: str, settings_class: type, options: Sequence[str] = ()
) -> str:
    """The page `--help` prints: every flag with its value in each preset.

    A settings class may have `SECTIONS`, headings by the name of the first setting below each.
    """
    sections = getattr(settings_class, "SECTIONS", {})
    paragraphs = textwrap.dedent(description).strip().split("\n\n")
    lines = ["\n\n".join(textwrap.fill(paragraph, 78) for paragraph in paragraphs)]
    lines += ["", f"usage: python -m {name} [--flag=value ...]"]
    lines += ["", f"{'setting':<24}{'quick':<20}paper"]
    for field in dataclasses.fields(settings_class):
        if field.name in sections:
            lines += ["", sections[field.name]]
        quick, paper = (_show(field.metadata[preset]) or "(empty)" for preset in PRESETS)
        if len(quick) < 20:
            lines.append(f"  --{field.name:<19} {quick:<19} {paper}")
        else:
            lines += [f"  --{field.name}", f"      quick: {quick}", f"      paper: {paper}"]
        meaning = field.metadata["help"]
        if field.metadata["choices"] or field.type is bool:
            meaning += f" ({_expected(field)})"
        lines += textwrap.wrap(meaning, 78, initial_indent=" " * 6, subsequent_indent=" " * 6)
    for preset, values in other_presets(settings_class).items():
        changed = " ".join(f"--{key}={_show(value)}" for key, value in values.items())
        lines += ["", f"--preset={preset} is paper with"]
        lines += textwrap.wrap(changed, 78, initial_indent="  ", subsequent_indent="  ")
    lines += ["", "option"]
    for option in _all_options(options):
        help = OPTION_HELP[option]
        if option == "preset":
            *names, last = (*PRESETS, *other_presets(settings_class))
            help += f"{', '.join(names)} or {last}"
        lines += textwrap.wrap(
            f"--{option:<20} {help}", 78, initial_indent="  ", subsequent_indent=" " * 25
        )
    return "\n".join(lines)


def _all_options(of_study: Sequence[str]) -> list[str]:
    return [name for name in OPTION_HELP if name in {*COMMON_OPTIONS, *of_study}]


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _exact(value: Any) -> str:
    """As shown, but in full: what differs never looks the same."""
    if isinstance(value, tuple):
        return ",".join(map(_exact, value))
    if isinstance(value, float) and float(_show(value)) != value:
        return repr(value)
    return _show(value)


def main(
    name: str,
    description: str,
    settings_class: type,
    run_fn: Callable[[str, Any, Options], None],
    *,
    options: Sequence[str] = (),
) -> None:
    """Parses the command line and runs a study; a user's mistake ends in one line.

    Args:
      name: the module, for instance "experiments.compress_ensemble".
      description: printed by `--help`.
      settings_class: a dataclass whose fields are `setting`s.
      run_fn: `run_fn(preset, settings, options)`. It does the heavy imports.
      options: those of `Options` that this study has, besides `COMMON_OPTIONS`.
    """
    _settle_streams()
    try:
        _main(name, description, settings_class, run_fn, options)
    except KeyboardInterrupt:
        _stop()


def _main(
    name: str, description: str, settings_class: type, run_fn: Callable, options: Sequence[str]
) -> None:
    if {"--help", "-help", "-h", "--h"} & set(sys.argv[1:]):
        print(help_text(name, description, settings_class, options))
        return
    for field in dataclasses.fields(settings_class):
        define = absl_flags.DEFINE_bool if field.type is bool else absl_flags.DEFINE_string
        define(field.name, None, field.metadata["help"])
    for option in _all_options(options):
        default, help = getattr(Options, option, None), OPTION_HELP[option]
        if option in NUMBERS:
            absl_flags.DEFINE_float(option, default, help, lower_bound=0.0)
        else:
            is_switch = isinstance(default, bool)
            define = absl_flags.DEFINE_bool if is_switch else absl_flags.DEFINE_string
            define(option, default, help)
    app.run(
        lambda argv: _run(name, settings_class, run_fn),
        flags_parser=lambda argv: _parse_command_line(argv, name),
    )


def _parse_command_line(argv: list[str], name: str) -> list[str]:
    try:
        rest = absl_flags.FLAGS(argv)
    except (absl_flags.Error, ValueError) as error:  # absl's own flags raise the second.
        _fail(f"{error} (python -m {name} --help lists the flags)")
    if rest[1:]:
        _fail(f"unexpected argument {rest[1]!r}: flags are --name=value.")
    return rest


def _run(name: str, settings_class: type, run_fn) -> None:
    values = absl_flags.FLAGS
    names = [field.name for field in dataclasses.fields(settings_class)]
    given = {field: str(values[field].value) for field in names if values[field].value is not None}
    preset = "quick" if values.preset is None else values.preset
    _quiet_logs()
    try:
        found = {
            field.name: values[field.name].value
            for field in dataclasses.fields(Options)
            if field.name in values
        }
        for option in NUMBERS & found.keys():
            if not math.isfinite(found[option]):
                raise UserError(f"--{option} must be finite; got {found[option]}.")
        settings = resolve(settings_class, preset, given)
        workdir = Path(found.pop("workdir") or default_workdir(name, preset, settings))
        options = Options(workdir, **found)
        _load_jax()
        run_fn(preset, settings, options)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error}. Nothing that was saved is lost: free the cause, run the same command.")
    except KeyboardInterrupt:
        _stop()


def _stop() -> typing.NoReturn:
    """After a Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A second one would only tear the exit.
    message = "stopped; the same command goes on from the last checkpoint, if any."
    _fail(message, status=130, word="")


def _load_jax() -> None:
    """Imports jax; a Ctrl-C waits for that: half-loaded extensions make other errors of it."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        importlib.import_module("jax")
    finally:
        signal.signal(signal.SIGINT, before)
    if came.is_set():
        raise KeyboardInterrupt


def _settle_streams() -> None:
    """Standard streams that take any text, even where one is closed or knows only ASCII."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (held until the end)
        getattr(sys, name).reconfigure(errors="replace")


def _on_unraisable(unraisable: Any) -> None:
    """What no caller can catch: orbax's threads after a failed write, and a lost Ctrl-C.

    The first is noise beside the error that is raised as well. The second came while a
    callback ran, and is sent once more.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        main_thread = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, [main_thread, signal.SIGINT]).start()


def _on_thread_error(error: threading.ExceptHookArgs) -> None:
    """A library's own thread failed (TensorBoard's writer, on a full disk): a line will do."""
    if error.exc_type is not SystemExit:
        name = error.exc_type.__name__
        print(f"warning: {name}: {' '.join(str(error.exc_value).split())}", file=sys.stderr)


def _quiet_logs() -> None:
    """Libraries report only errors; kd's own warnings are plain lines."""
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_error
    logging.getLogger().setLevel(logging.ERROR)
    # orbax logs a traceback of the errors that it raises as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    for name in ("kd", "experiments"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False


def default_workdir(name: str, preset: str, settings: Any) -> str:
    """`runs/<study>/<preset>`, with the settings that differ from the preset's in the name.

    A name that does not hold them in full (a path, a long list) ends in a digest of them.
    """
    changed = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != _of_preset(type(settings), field, preset)
    }
    whole = "+".join([preset, *(f"{name}={_exact(value)}" for name, value in changed.items())])
    leaf = "".join(c if c.isascii() and c.isprintable() and c != "/" else "_" for c in whole)[:180]
    if leaf != whole:
        leaf += "..." + hashlib.sha256(repr(changed).encode()).hexdigest()[:12]
    return str(Path("runs") / name.rsplit(".", 1)[-1] / leaf)


def _fail(message: str, *, status: int = 1, word: str = "error: ") -> typing.NoReturn:
    print(f"{word}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
