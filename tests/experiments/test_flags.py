"""Settings and flags: presets, limits, the page of help, the name of a workdir."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import types
import typing
from pathlib import Path

import pytest

from experiments import flags
from experiments.compress_ensemble.settings import ENSEMBLE_SETTINGS, Settings
from experiments.flags import UserError, default_workdir, help_text, of_any, resolve, setting
from experiments.posterior_expectations.settings import Settings as ExpectationsSettings

ROOT = Path(__file__).parents[2]
FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


@dataclasses.dataclass(frozen=True)
class Toy:
    """One setting of every kind."""

    name: str = setting("a", "b", "text")
    count: int = setting(1, 2, "a count", at_least=1, at_most=5)
    rate: float = setting(0.5, 0.25, "a rate", above=0, at_most=1)
    free: float = setting(0.0, 1.0, "no limits")
    is_on: bool = setting(False, True, "a switch")
    mode: str = setting("x", "y", "a choice", choices=("x", "y"))
    modes: tuple[str, ...] = setting(("x",), ("x", "y"), "choices", choices=("x", "y", "z"))
    sizes: tuple[int, ...] = setting((3, 3), (4,), "sizes", at_least=1)
    shares: tuple[float, ...] = setting((0.1,), (1.0, 0.1), "shares", above=0, is_set=True)


def refusal(given, preset="quick", settings_class=Toy):
    with pytest.raises(UserError) as caught:
        resolve(settings_class, preset, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_presets():
    assert resolve(Toy, "quick", {}) == Toy()
    assert resolve(Toy, "paper", {}) == Toy(
        "b", 2, 0.25, 1.0, True, "y", ("x", "y"), (4,), (1.0, 0.1)
    )


@dataclasses.dataclass(frozen=True)
class Dependent:
    """Settings that need another."""

    mode: str = setting("x", "y", "a choice", choices=("x", "y"))
    modes: tuple[str, ...] = setting(("x",), ("x", "y"), "choices", choices=("x", "y", "z"))
    rate: float = setting(0.5, 0.25, "a rate", needs=of_any("mode", ("y",)))
    size: int = setting(1, 1, "a size", needs=of_any("modes", ("y", "z")))
    parts: tuple[int, ...] = setting((1,), (1,), "parts", never_empty=True)


def test_what_would_do_nothing_is_refused():
    message = "--rate does nothing without --mode=y."
    assert refusal({"rate": "1"}, settings_class=Dependent) == message
    assert resolve(Dependent, "quick", {"rate": "1", "mode": "y"}).rate == 1
    assert resolve(Dependent, "paper", {"rate": "1"}).rate == 1
    message = "--size does nothing without --mode=y or z."
    assert refusal({"size": "2"}, settings_class=Dependent) == message
    assert resolve(Dependent, "quick", {"size": "2", "modes": "x,z"}).size == 2
    assert resolve(Dependent, "quick", {}) == Dependent()
    message = "--parts must have at least one value: an integer."
    assert refusal({"parts": ""}, settings_class=Dependent) == message


def test_the_study_has_the_papers_settings():
    """Papamakarios (2015), section 2.2: what the text and the tables give."""
    paper = resolve(Settings, "paper", {})
    assert (paper.dataset, paper.num_members, paper.batch_size) == ("mnist", 30, 20)
    assert paper.teacher_hidden == (500, 300) and paper.student_hidden == (50, 30)
    assert set(paper.conditions()) == {
        (loss, generator, fraction)
        for loss in ("ce", "dse")
        for generator in ("dataset", "nade", "noise")
        for fraction in (1.0, 0.1)
    }
    assert (paper.nade_hidden, paper.nade_epochs) == (500, 10.0)
    assert resolve(Settings, "quick", {}).dataset == "digits"


@pytest.mark.parametrize("preset", flags.PRESETS)
def test_every_presets_value_is_one_that_could_be_given(preset):
    """What a preset holds is within its own limits, and of its own type."""
    values = resolve(Settings, preset, {})
    given = {name: flags._show(getattr(values, name)) for name in FIELDS}
    assert resolve(Settings, preset, given) == values


def test_conditions_of_the_grid():
    settings = resolve(Settings, "quick", {"grid": "true"})
    losses, generators = FIELDS["loss"].metadata["choices"], FIELDS["generator"].metadata["choices"]
    conditions = settings.conditions()
    assert len(conditions) == len(set(conditions)) == len(losses) * len(generators) * 2
    assert set(conditions) == {(t, g, f) for t in losses for g in generators for f in (1.0, 0.1)}
    # The three settings do not count, as the help says.
    others = {"grid": "true", "loss": "ce", "generator": "noise", "train_fraction": "0.5"}
    assert resolve(Settings, "quick", others).conditions() == conditions


def test_conditions_are_all_combinations():
    given = {"loss": "dse,ce", "generator": "noise,dataset", "train_fraction": "0.5,1"}
    conditions = resolve(Settings, "quick", given).conditions()
    assert len(conditions) == len(set(conditions)) == 8
    assert {("dse", "noise", 0.5), ("ce", "dataset", 1.0)} <= set(conditions)
    # Those of one generator and fraction stand together, in the order given.
    assert [loss for loss, *_ in conditions] == ["dse", "ce"] * 4


def test_what_decides_the_ensemble_are_settings():
    assert set(ENSEMBLE_SETTINGS) <= FIELDS.keys()


@pytest.mark.parametrize("preset", flags.PRESETS)
def test_given_values_win(preset):
    given = {
        "name": "c",
        "count": "5",
        "rate": "1",
        "free": "-2.5e3",
        "is_on": "TRUE",
        "mode": " y ",
        "modes": "z, x",
        "sizes": "7,7,8",
        "shares": "1, .5",
    }
    assert resolve(Toy, preset, given) == Toy(
        "c", 5, 1.0, -2500.0, True, "y", ("z", "x"), (7, 7, 8), (1.0, 0.5)
    )
    # One given value leaves the others to the preset.
    one = resolve(Toy, preset, {"count": "4"})
    assert one == dataclasses.replace(resolve(Toy, preset, {}), count=4)


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("False", False), ("0", False)]
)
def test_switches(text, expected):
    assert resolve(Toy, "quick", {"is_on": text}).is_on is expected


def test_a_tuple_of_sizes_may_be_empty():
    assert resolve(Toy, "quick", {"sizes": ""}).sizes == ()
    assert resolve(Toy, "quick", {"sizes": "3,3"}).sizes == (3, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": "0"}, "--count must be an integer and >= 1 and <= 5; got '0'."),
        ({"count": "6"}, "--count must be an integer and >= 1 and <= 5; got '6'."),
        ({"count": "1.5"}, "--count must be an integer and >= 1 and <= 5; got '1.5'."),
        ({"count": "two"}, "--count must be an integer and >= 1 and <= 5; got 'two'."),
        ({"count": ""}, "--count must be an integer and >= 1 and <= 5; got ''."),
        ({"rate": "0"}, "--rate must be a number and > 0 and <= 1; got '0'."),
        ({"rate": "1.01"}, "--rate must be a number and > 0 and <= 1; got '1.01'."),
        ({"rate": "nan"}, "--rate must be a number and > 0 and <= 1; got 'nan'."),
        ({"rate": "inf"}, "--rate must be a number and > 0 and <= 1; got 'inf'."),
        ({"rate": "-inf"}, "--rate must be a number and > 0 and <= 1; got '-inf'."),
        ({"rate": "half"}, "--rate must be a number and > 0 and <= 1; got 'half'."),
        ({"free": "inf"}, "--free must be a number; got 'inf'."),
        ({"free": "1e999"}, "--free must be a number; got '1e999'."),
        ({"free": "nan"}, "--free must be a number; got 'nan'."),
        ({"is_on": "maybe"}, "--is_on must be true or false; got 'maybe'."),
        ({"mode": "z"}, "--mode must be x | y; got 'z'."),
        ({"mode": "x,y"}, "--mode must be x | y; got 'x,y'."),
        ({"modes": "x,w"}, "--modes must be x | y | z; got 'w'."),
        ({"modes": "x,,y"}, "--modes must be x | y | z; got ''."),
        ({"modes": ""}, "--modes must have at least one value: x | y | z."),
        ({"modes": "x,y,x"}, "--modes names a value twice: x,y,x."),
        ({"sizes": "3,0"}, "--sizes must be an integer and >= 1; got '0'."),
        ({"sizes": "3,"}, "--sizes must be an integer and >= 1; got ''."),
        ({"shares": "0.1,nan"}, "--shares must be a number and > 0; got 'nan'."),
        ({"shares": ""}, "--shares must have at least one value: a number and > 0."),
        ({"shares": "0.1,1e-1"}, "--shares names a value twice: 0.1,1e-1."),
        # Two that no condition's name could tell apart.
        ({"shares": "0.1,0.10000001"}, "--shares names a value twice: 0.1,0.10000001."),
    ],
)
def test_refusals_name_the_flag_and_what_was_expected(given, expected):
    assert refusal(given) == expected


def test_an_unknown_preset_is_refused():
    assert refusal({}, preset="slow") == "--preset must be one of quick, paper; got 'slow'."


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"train_fraction": "0"}, "> 0 and <= 1; got '0'"),
        ({"train_fraction": "1.5"}, "> 0 and <= 1; got '1.5'"),
        ({"train_fraction": "0.1,0.1"}, "twice"),
        ({"train_fraction": ""}, "at least one value"),
        ({"loss": "mse"}, "ce | dse | dse_projected | ce+dse | logits | soft_target; got 'mse'"),
        ({"generator": "gan"}, "dataset | nade | noise | munge; got 'gan'"),
        ({"num_members": "0"}, ">= 1"),
        ({"teacher_hidden": "10,0"}, ">= 1"),
        ({"student_hidden": "-1"}, ">= 1"),
        ({"batch_size": "0"}, ">= 1"),
        ({"teacher_epochs": "0"}, "> 0"),
        ({"direct_epochs": "-1"}, "> 0"),
        ({"student_epochs": "nan"}, "> 0"),
        ({"num_repeats": "0"}, ">= 1"),
        ({"derivative_weight": "-0.1"}, ">= 0"),
        ({"num_projections": "0"}, ">= 1"),
        ({"temperature": "0"}, ">= 0.001"),
        ({"label_weight": "1.1"}, ">= 0 and <= 1"),
        ({"label_weight": "-0.1"}, ">= 0 and <= 1"),
        ({"noise_scale": "inf"}, "> 0"),
        ({"seed": "-1"}, ">= 0 and <= 4294967295"),
        ({"seed": "4294967296"}, ">= 0 and <= 4294967295"),
    ],
)
def test_the_studys_own_limits(given, word):
    message = refusal(given, settings_class=Settings)
    (name,) = given
    assert message.startswith(f"--{name} ") and word in message


# The page of help.


def test_help_lists_every_flag_with_both_presets_values():
    own = ("data_dir", "cache_gb", "teacher_from")
    page = help_text("experiments.toy", "One line.\n\nAnother " + "word " * 40, Toy, own)
    lines = page.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  --")}
    for field in dataclasses.fields(Toy):
        quick, paper = (flags._show(field.metadata[preset]) for preset in flags.PRESETS)
        assert rows[f"--{field.name}"] == [quick, paper]
        assert field.metadata["help"] in page
    for option in flags.OPTION_HELP:
        assert f"--{option}" in rows
    # Every option is a flag, and has its default.
    assert set(flags.OPTION_HELP) == {"preset"} | {
        field.name for field in dataclasses.fields(flags.Options)
    }
    assert "One line.\n\nAnother word" in page
    assert set(flags.OPTION_HELP) == {*flags.COMMON_OPTIONS, *own}
    fewer = help_text("experiments.toy", "One line.", Toy)
    assert not any(f"--{option}" in fewer for option in own)
    assert all(f"--{option}" in fewer for option in flags.COMMON_OPTIONS)


def run_study(*arguments, code=None):
    start = ["-c", code] if code else ["-m", "experiments.compress_ensemble"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_help_of_the_study_imports_nothing_heavy():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['study', '--help']\n"
        "runpy.run_module('experiments.compress_ensemble', run_name='__main__')\n"
        "heavy = {'jax', 'numpy', 'flax', 'orbax', 'matplotlib', 'sklearn', 'kd'}\n"
        "print('IMPORTED', sorted(heavy & sys.modules.keys()))\n"
    )
    result = run_study(code=code)
    assert result.returncode == 0 and result.stderr == ""
    page, _, imported = result.stdout.rpartition("IMPORTED")
    assert imported.strip() == "[]"
    assert max(map(len, page.splitlines())) <= 80
    for name, field in FIELDS.items():
        assert f"  --{name} " in page
        assert field.metadata["help"] in " ".join(page.split())  # It is wrapped.
    assert "Papamakarios (2015)" in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--los=ce"], "Unknown command line flag 'los'. Did you mean: loss ?"),
        (["--num_member=3"], "Did you mean: num_members ?"),
        (["--frobnicate"], "Unknown command line flag 'frobnicate' (python -m"),
        (["ce"], "unexpected argument 'ce': flags are --name=value."),
        (["--loss=ce", "dse"], "unexpected argument 'dse': flags are --name=value."),
        (["--grid=maybe"], "--grid=maybe"),
        (["--cache_gb=-1"], "--cache_gb=-1"),
        (["--cache_gb=much"], "--cache_gb=much"),
        (["--cache_gb=nan"], "--cache_gb must be finite; got nan."),
        (["--checkpoint_seconds=inf"], "--checkpoint_seconds must be finite; got inf."),
        (["--preset=slow"], "--preset must be one of quick, paper; got 'slow'."),
        (["--preset="], "--preset must be one of quick, paper; got ''."),
        (["--loss=mse"], "--loss must be ce | dse | dse_projected"),
        (["--train_fraction=1.5"], "--train_fraction must be a number and > 0 and <= 1"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_bad_flags_end_in_one_line_before_anything_is_made(tmp_path, arguments, expected):
    result = run_study(f"--workdir={tmp_path / 'run'}", *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "redirection"),
    [
        ({"PYTHONIOENCODING": "ascii"}, ""),
        ({"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, ""),
        ({}, "2>&-"),
        ({}, "0<&-"),
    ],
    ids=["ASCII", "C locale", "closed stderr", "closed stdin"],
)
def test_help_on_streams_of_all_kinds(environ, redirection):
    command = f'"$0" -m experiments.compress_ensemble --help {redirection}'
    result = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0 and result.stderr == b""
    assert b"--num_members" in result.stdout


# What no caller can catch.


def test_a_ctrl_c_that_was_lost_is_sent_again():
    """One that comes while a callback runs is only reported to the hook."""
    with pytest.raises(KeyboardInterrupt):
        flags._on_unraisable(types.SimpleNamespace(exc_type=KeyboardInterrupt))
        time.sleep(60)


def test_other_errors_that_cannot_be_raised_are_no_noise(capsys):
    flags._on_unraisable(types.SimpleNamespace(exc_type=OSError))
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_an_error_in_a_librarys_thread_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", flags._on_thread_error)

    def fail():
        raise OSError(28, "No space left\non device")

    for target in (fail, sys.exit):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert capsys.readouterr().err == "warning: OSError: [Errno 28] No space left on device\n"


# The name of a workdir.


def workdir(preset="quick", **given):
    settings = resolve(Settings, preset, given)
    return default_workdir("experiments.compress_ensemble", preset, settings)


def test_default_workdir_says_what_differs_from_the_preset():
    assert workdir() == "runs/compress_ensemble/quick"
    assert workdir("paper") == "runs/compress_ensemble/paper"
    assert workdir(seed="3") == "runs/compress_ensemble/quick+seed=3"
    assert workdir(loss="ce", train_fraction="0.5,1") == (
        "runs/compress_ensemble/quick+loss=ce+train_fraction=0.5,1"
    )
    # Naming the preset's own value is no difference.
    assert workdir(seed="0") == workdir()


def test_default_workdir_tells_settings_apart():
    cases = [
        {},
        {"seed": "1"},
        {"num_members": "3"},
        {"loss": "ce"},
        {"loss": "dse"},
        {"loss": "dse,ce"},
        {"temperature": "2"},
        {"temperature": "2.0000001"},
        {"train_fraction": "0.3"},
        {"train_fraction": "0.30000001"},
        {"generator": "noise"},
        {"grid": "true"},
        {"dataset": "a/b.npz"},
        {"dataset": "a_b.npz"},
        {"dataset": "a/b_.npz"},
        {"dataset": "/a/b.npz"},
        {"dataset": "../a/b.npz"},
        {"dataset": "ä.npz"},
        {"dataset": "ö.npz"},
        {"dataset": "x" * 300 + "1.npz"},
        {"dataset": "x" * 300 + "2.npz"},
        {"dataset": "é" * 300 + "1.npz"},
        {"teacher_hidden": ",".join(["7"] * 200)},
        {"teacher_hidden": ",".join(["7"] * 201)},
    ]
    names = [workdir(**given) for given in cases] + [workdir("paper", **given) for given in cases]
    assert len(set(names)) == len(names)
    assert names == [workdir(**g) for g in cases] + [workdir("paper", **g) for g in cases]
    for name in names:
        # One folder below the study's, that any file system takes.
        assert Path(name).parent == Path("runs/compress_ensemble")
        assert len(Path(name).name.encode()) < 255 and ".." not in Path(name).parts
        assert name.isprintable()


# Presets of a study's own.


class Other(Toy):
    """The same settings, one preset more, and headings."""

    SECTIONS: typing.ClassVar = {"name": "first", "mode": "then"}
    OTHER_PRESETS: typing.ClassVar = {"small": {"count": 1, "shares": (0.5,)}}


def test_a_preset_of_its_own_is_papers_with_changes():
    small = resolve(Other, "small", {"rate": "1"})
    paper = resolve(Other, "paper", {})
    assert (small.count, small.shares, small.rate) == (1, (0.5,), 1.0)
    assert small.name == paper.name and small.modes == paper.modes
    message = refusal({}, preset="large", settings_class=Other)
    assert message == "--preset must be one of quick, paper, small; got 'large'."
    assert "small" not in refusal({}, preset="large")
    page = help_text("experiments.toy", "One line.", Other)
    assert "--preset=small is paper with" in page and "  --count=1 --shares=0.5" in page
    assert default_workdir("experiments.toy", "small", small).endswith("/small+rate=1")
    headings = [line for line in page.splitlines() if line in ("first", "then")]
    assert headings == ["first", "then"]
    assert page.index("\nfirst\n  --name") < page.index("\nthen\n  --mode ")


def test_every_preset_of_the_studies_resolves_to_values_that_flags_could_give():
    for preset, values in ExpectationsSettings.OTHER_PRESETS.items():
        given = {name: flags._show(value) for name, value in values.items()}
        settings = resolve(ExpectationsSettings, "paper", given)
        again = resolve(ExpectationsSettings, preset, {})
        for field in dataclasses.fields(settings):
            one, other = getattr(settings, field.name), getattr(again, field.name)
            assert one == (pytest.approx(other, rel=1e-5) if isinstance(other, float) else other)


def test_a_stop_waits_for_what_is_half_loaded(monkeypatch):
    """A Ctrl-C while jax is imported comes when it is; one that is ignored is ignored still."""
    loaded = []

    def load(name):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)  # Time for it to come.
        loaded.append(name)

    monkeypatch.setattr(flags.importlib, "import_module", load)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            flags._load_jax()
        assert loaded == ["jax"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        flags._load_jax()
        assert loaded == ["jax"] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
