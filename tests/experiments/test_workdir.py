"""A run's directory: one process, one experiment, one set of settings; and its metrics."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.flags import UserError
from experiments.workdir import MetricsLog, Workdir
from kd import files

ROOT = Path(__file__).parents[2]
SETTINGS = {"seed": 0, "loss": ("ce", "dse"), "rate": 0.1, "is_on": False}

ROW = {"name": "a.b", "value": 1.0, "stderr": None, "repeats": 1, "unit": "", "paper": None}
SUMMARY = {"experiment": "toy", "seconds": 1.0, "rows": [ROW]}


@contextlib.contextmanager
def opened(path, *, experiment="toy", preset="quick", settings=SETTINGS, inputs=None):
    workdir = Workdir(path, experiment=experiment, preset=preset, settings=settings, inputs=inputs)
    try:
        workdir.begin()
        yield workdir
    finally:
        workdir._lock.close()  # As the end of the process does.


def refusal(path, **options):
    with pytest.raises(UserError) as caught, opened(path, **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Who may write.


def test_config_records_the_run(tmp_path):
    with opened(tmp_path / "a" / "b", preset="paper") as workdir:
        assert workdir.path == tmp_path / "a" / "b"
        config = json.loads((workdir.path / "config.json").read_text())
    assert config["experiment"] == "toy" and config["preset"] == "paper"
    assert config["settings"] == {"seed": 0, "loss": ["ce", "dse"], "rate": 0.1, "is_on": False}
    assert config["versions"]["jax"] == jax.__version__
    assert config["versions"]["python"] == sys.version.split()[0]
    assert len(config["devices"]) == jax.device_count()
    assert config["cpu_count"] == os.cpu_count()
    assert "git_revision" in config


def test_the_same_settings_are_let_in_again(tmp_path, caplog):
    with opened(tmp_path / "run"):
        before = (tmp_path / "run/config.json").read_bytes()
    with opened(tmp_path / "run") as workdir:
        # What began the run stays on record.
        assert (tmp_path / "run/config.json").read_bytes() == before
        assert workdir.summary() is None
        workdir.write_summary(SUMMARY, ["student"])
    with opened(tmp_path / "run") as workdir:
        assert workdir.summary() == SUMMARY
    assert caplog.text == ""


def test_other_settings_are_refused_naming_those_that_differ(tmp_path):
    with opened(tmp_path / "run"):
        pass
    others = SETTINGS | {"seed": 7, "loss": ("ce",), "new": 3}
    del others["is_on"]
    message = refusal(tmp_path / "run", settings=others)
    assert message == (
        f"--workdir {tmp_path / 'run'} holds a run with other settings: "
        "is_on (False there, absent here), loss (['ce', 'dse'] there, ['ce'] here), "
        "new (absent there, 3 here), seed (0 there, 7 here); "
        "give the same, or choose another workdir."
    )
    with opened(tmp_path / "run"):
        pass  # The refusal changed nothing, and let go of the lock.


def test_other_inputs_are_refused(tmp_path):
    """A file that was written again has the same name; what it holds is known by a digest."""
    with opened(tmp_path / "run", inputs={"data": "aa", "shipped": None}):
        config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["inputs"] == {"data": "aa", "shipped": None}
    assert refusal(tmp_path / "run", inputs={"data": "bb", "shipped": None}) == (
        f"--workdir {tmp_path / 'run'} holds a run on another data: its content has changed "
        "since; bring the old one back, or choose another workdir."
    )
    for same in ({"data": "aa", "shipped": None}, {"data": None}, {}):
        with opened(tmp_path / "run", inputs=same):
            pass


def test_a_directory_in_which_nothing_began_is_left_as_it_was_found(tmp_path):
    def left(path):
        Workdir(path, experiment="toy", preset="quick", settings=SETTINGS).leave()

    left(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    left(tmp_path / "mine")
    assert (tmp_path / "mine/file").read_text() == "mine"
    with opened(tmp_path / "run"):
        pass
    left(tmp_path / "run")
    assert (tmp_path / "run/config.json").exists()
    # It has let go of each.
    for name in ("new", "mine", "run"):
        with opened(tmp_path / name):
            pass


def test_another_experiment_is_refused(tmp_path):
    with opened(tmp_path / "run"):
        pass
    message = refusal(tmp_path / "run", experiment="other")
    assert message == f"--workdir {tmp_path / 'run'} holds a run of 'toy'; choose another."


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is damaged (Expecting value"),
        (b'{"experiment": "toy", ', "is damaged ("),
        (b"[1, 2]", "is damaged (no JSON object)"),
        (b"\xff\xfe\x00", "is damaged ("),
        (b"{}", "holds a run of None"),
        (b'{"experiment": "toy", "settings": 3}', "with other settings: is_on (absent there"),
    ],
)
def test_a_corrupt_config_is_refused(tmp_path, content, word):
    with opened(tmp_path / "run"):
        pass
    (tmp_path / "run/config.json").write_bytes(content)
    message = refusal(tmp_path / "run")
    assert word in message and str(tmp_path / "run") in message
    assert (tmp_path / "run/config.json").read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        *('{"rows": [', "{}", '{"rows": []}', '{"rows": 3}', '{"rows": [{"name": "a"}]}'),
        "[" * 100_000,
        json.dumps({"seconds": 1.0, "rows": [ROW | {"value": "1"}]}),
        json.dumps({"seconds": 1.0, "rows": [ROW | {"stderr": "1"}]}),
        json.dumps({"seconds": 1.0, "rows": [ROW | {"name": 1}]}),
        json.dumps({"rows": [ROW]}),
    ],
    ids=[
        *("torn", "empty", "no rows", "number", "no value", "deep"),
        *("value is text", "error is text", "name is a number", "no seconds"),
    ],
)
def test_a_corrupt_summary_is_refused(tmp_path, content):
    with opened(tmp_path / "run") as workdir:
        (workdir.path / "summary.json").write_text(content)
        with pytest.raises(UserError, match=r"summary\.json is damaged .*remove it, and the same"):
            workdir.summary()


def test_a_summary_is_of_its_run_and_whole(tmp_path):
    """One of another run, and one without a row that it had, are refused."""
    whole = {"seconds": 1.0, "rows": [ROW, ROW | {"name": "b"}]}
    with opened(tmp_path / "other", settings=SETTINGS | {"seed": 7}) as other:
        other.write_summary(whole, [])
    with opened(tmp_path / "run") as workdir:
        workdir.write_summary(whole, [])
        assert workdir.summary() == whole
        for content in (whole | {"rows": [ROW]}, whole | {"seconds": 2.0}):
            (workdir.path / "summary.json").write_text(json.dumps(content))
            with pytest.raises(UserError, match="no seal of this run"):
                workdir.summary()
        for name in ("summary.json", ".seal.json"):
            shutil.copy(other.path / name, workdir.path / name)
        with pytest.raises(UserError, match="no seal of this run"):
            workdir.summary()
        (workdir.path / ".seal.json").unlink()
        with pytest.raises(UserError, match="no seal of this run"):
            workdir.summary()


def test_lost_and_damaged_products_are_named(tmp_path):
    with opened(tmp_path / "run") as workdir:
        for name in ("a/one", "a/two/three", "b/four"):
            workdir.file(name).write_text(name)
        workdir.write_summary(SUMMARY, ["a", "b", "none"])
        assert workdir.lost() == []
        workdir.file("a/two/three").write_text("x")
        workdir.file("b/four").unlink()
        assert workdir.lost() == ["a/two/three", "b"]


@pytest.mark.parametrize("name", ["checkpoints", "summary.json", "metrics.csv", "student"])
def test_what_is_left_of_a_run_without_its_config_is_refused(tmp_path, name):
    """Whose it is cannot be told: it would be gone on with under other settings."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    assert refusal(tmp_path / "run") == (
        f"--workdir {tmp_path / 'run'} holds {name} but no config.json, so whose it is cannot "
        "be told; choose another."
    )
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_other_numerics_are_refused(tmp_path):
    with opened(tmp_path / "run"):
        pass
    with jax.enable_x64(True):
        assert "holds a run with other numerics: " in refusal(tmp_path / "run")


def test_a_link_in_place_of_the_lock_is_not_written_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run/.lock").symlink_to(tmp_path / "precious")
    with opened(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_going_on_with_other_versions_is_warned_of(tmp_path, caplog):
    with opened(tmp_path / "run"):
        pass
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    config["versions"]["jax"] = "0.0.1"
    config["git_revision"] = "another"  # Of the code, which changes all the time: no warning.
    path.write_text(json.dumps(config))
    with opened(tmp_path / "run"):
        pass
    (record,) = caplog.records
    assert "began with other versions: what is done" in record.getMessage()


HOLDER = """
import sys, time
from pathlib import Path
from experiments.workdir import Workdir
workdir = Workdir(Path(sys.argv[1]), experiment="toy", preset="quick", settings={"seed": 0})
print("held", flush=True)
time.sleep(600)
"""


def test_one_process_at_a_time(tmp_path):
    """A second one is refused while the first lives, and let in once that is killed."""
    path = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            message = refusal(path, settings={"seed": 0})
            assert message == (
                f"another process is running in --workdir {path}; wait for it, or choose another "
                "workdir."
            )
        finally:
            holder.kill()
    assert holder.returncode == -signal.SIGKILL
    with opened(path, settings={"seed": 0}):
        # Nor does one in the same process get in twice.
        assert "another process is running" in refusal(path, settings={"seed": 0})


@pytest.mark.parametrize("below", ["file", "file/run"], ids=["a file", "below a file"])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    message = refusal(tmp_path / below)
    assert message.startswith(f"--workdir {tmp_path / below} cannot be written (")
    assert message.endswith("; choose another.")
    assert (tmp_path / "file").read_text() == "mine"


def test_file_makes_its_folder(tmp_path):
    with opened(tmp_path / "run") as workdir:
        path = workdir.file("figures", "deep", "a.png")
        assert path == tmp_path / "run/figures/deep/a.png"
        assert path.parent.is_dir() and not path.exists()


def test_seconds_go_on_after_a_kill(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("experiments.workdir.time.monotonic", lambda: clock[0])
    with opened(tmp_path / "run") as workdir:
        clock[0] += 1.0
        workdir.tick()
        assert not (tmp_path / "run/.seconds").exists()  # Not at every call.
        clock[0] += 40.0
        workdir.tick()
        clock[0] += 1.0
        assert workdir.seconds() == 42.0
    clock[0] = 5.0  # Another process, another clock; 41 seconds were on record.
    with opened(tmp_path / "run") as workdir:
        clock[0] += 9.0
        assert workdir.seconds() == 50.0
    (tmp_path / "run/.seconds").write_text("torn")
    with opened(tmp_path / "run") as workdir:
        assert workdir.seconds() == 0.0


# Metrics.

HEADER = "phase,step,loss,accuracy\n"


def log_at(path):
    return MetricsLog(path, ["loss", "accuracy"])


def test_rows_round_trip(tmp_path):
    path = tmp_path / "metrics.csv"
    log = log_at(path)
    assert path.read_text() == HEADER
    third = 1 / 3
    log.write("teacher", 5, {"loss": third})
    log.write("teacher", 10, {"loss": 2.0, "accuracy": 55.5})
    log.write("student[ce,noise,0.1]", 10, {"loss": 1e-30, "accuracy": float("inf")})
    assert path.read_text() == (
        HEADER + "teacher,5,0.3333333333333333,\n"
        "teacher,10,2.0,55.5\n"
        '"student[ce,noise,0.1]",10,1e-30,inf\n'
    )
    for reader in (log, log_at(path)):
        assert reader.rows("teacher") == [
            {"step": 5.0, "loss": third},
            {"step": 10.0, "loss": 2.0, "accuracy": 55.5},
        ]
        assert reader.rows("student[ce,noise,0.1]")[0]["loss"] == 1e-30
        assert reader.rows("nobody") == []


def test_rows_are_on_disk_as_they_come(tmp_path):
    log = log_at(tmp_path / "metrics.csv")
    for step in range(3):
        log.write("teacher", step, {"loss": 0.0})
        assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2 + step


def test_an_unknown_column_is_refused(tmp_path):
    log = log_at(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match=r"no column for \['f1'\]"):
        log.write("teacher", 1, {"loss": 1.0, "f1": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == HEADER


def written(path, phases, until):
    """Rows of whole phases one after another, the last one up to step `until`."""
    log = log_at(path)
    for phase in phases:
        for step in range(2, (until if phase == phases[-1] else 10) + 1, 2):
            log.write(phase, step, {"loss": step / 7})


PHASES = ["teacher", "direct[0.1]", "student[ce,dataset,0.1]"]


@pytest.mark.parametrize(
    ("killed_at", "resumed_from"), [(2, 0), (2, 2), (6, 0), (6, 4), (6, 6), (10, 4), (10, 8)]
)
def test_a_phase_gone_on_with_leaves_no_trace(tmp_path, killed_at, resumed_from):
    """From a checkpoint no younger than the last row, the rows after it are written anew."""
    written(tmp_path / "whole.csv", PHASES, 10)
    path = tmp_path / "metrics.csv"
    written(path, PHASES, killed_at)
    log = log_at(path)
    for step in range(resumed_from + 2, 11, 2):
        log.write(PHASES[-1], step, {"loss": step / 7})
        kept = log_at(path)
        assert [row["step"] for row in kept.rows(PHASES[-1])] == list(range(2, step + 1, 2))
        assert len(kept.rows("teacher")) == len(kept.rows("direct[0.1]")) == 5
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("resumed_from", [0, 6])
def test_an_earlier_phase_done_again_keeps_its_place(tmp_path, resumed_from):
    """Its newest checkpoint was damaged, say, after later phases had begun."""
    path = tmp_path / "metrics.csv"
    written(path, PHASES, 6)
    log = log_at(path)
    for step in range(resumed_from + 2, 11, 2):
        log.write("teacher", step, {"loss": step / 7})
    for step in (8, 10):
        log.write(PHASES[-1], step, {"loss": step / 7})
    written(tmp_path / "whole.csv", PHASES, 10)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_within_a_process_later_steps_of_a_phase_are_appended(tmp_path):
    """Only the first row after a start drops others."""
    log = log_at(tmp_path / "metrics.csv")
    for phase, step in [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]:
        log.write(phase, step, {"loss": float(step)})
    for reader in (log, log_at(tmp_path / "metrics.csv")):
        assert [row["step"] for row in reader.rows("a")] == [1, 2, 3]
        assert [row["step"] for row in reader.rows("b")] == [1, 2]


GOOD = "teacher,1,0.5,\nteacher,2,0.25,90.0\n"


@pytest.mark.parametrize(
    "rest",
    [
        "teacher,3,0.1",
        "teacher,3,0.125,",
        "teac",
        "teacher,three,0.1,\n",
        "teacher,3,a third,\n",
        "teacher,3\n",
        "teacher,3,0.1,90,1,2\n",
        "\x00\x00\x00\x00\n",
        "\n\n",
    ],
    ids=repr,
)
def test_what_is_torn_or_garbage_is_dropped(tmp_path, rest):
    """A row that may be cut is no row: 0.125 could be the beginning of 0.1257."""
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + GOOD + rest)
    log = log_at(path)
    assert path.read_text() == HEADER + GOOD
    log.write("teacher", 3, {"loss": 0.75})
    assert path.read_text() == HEADER + GOOD + "teacher,3,0.75,\n"


def test_garbage_in_the_middle_costs_only_itself(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(HEADER.encode() + b"teacher,1,0.5,\n\xff\xfe,x\xff,1\nteacher,2,0.25,90.0\n")
    assert [row["step"] for row in log_at(path).rows("teacher")] == [1, 2]


def test_other_columns_are_begun_anew(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("phase,step,f1\nteacher,1,0.5\n")
    assert log_at(path).rows("teacher") == []
    assert path.read_text() == HEADER


def test_a_full_disk_names_the_file_and_leaves_no_part_of_it(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "config.json"
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*config.json"):
        files.write_atomically(path, b"{}")
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_says_is_shown_in_short_and_without_control(tmp_path):
    with opened(tmp_path):
        pass
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for value in ("\x1b[31m" + 3000 * "x", [[[3000 * "y"]]]):
        path.write_text(json.dumps(config | {"settings": SETTINGS | {"rate": value}}))
        message = refusal(tmp_path)
        assert "\x1b" not in message and len(message) < 700
        assert "… there, 0.1 here)" in message
