"""A run that is stopped, in whatever way, goes on to the bits of one that never was."""

import json
import shutil
import signal

import numpy as np
import study_runs
from study_runs import (
    RUN,
    TINY,
    TWO,
    assert_same_bits,
    checkpoints,
    interrupt,
    one_line,
    unfinished,
    write_npz,
)

from kd.data import datasets

PHASES = ["teacher", "direct-0.2", "student-ce-dataset-0.2", "student-dse_projected-dataset-0.2"]
PROGRESS = ("teacher  ", "direct[", "student[")
LAST_STEPS = [12, 8, 14, 14]


def stop(workdir, when, number=signal.SIGKILL):
    return interrupt(study_runs.start(workdir, TWO), when, number)


def num_rows(workdir, phase):
    path = workdir / "metrics.csv"
    return path.read_text().count(f"{phase},") if path.exists() else 0


def trained(stdout):
    """The phases that made a step."""
    lines = [line for line in stdout.splitlines() if line.startswith(PROGRESS)]
    return {line.split()[0] for line in lines if not line.endswith(("before", "from here"))}


def test_a_run_stopped_again_and_again(run_two, tmp_path):
    """Interrupted once and killed three times, at the worst moments there are."""
    path = tmp_path / "run"

    # Ctrl-C after the teacher's first checkpoint.
    stopped = stop(path, lambda: checkpoints(path, "teacher"), signal.SIGINT)
    assert stopped.returncode == 130
    assert stopped.stderr == (
        "stopped; the same command goes on from the last checkpoint, if any.\n"
    )
    assert checkpoints(path, "teacher")

    # A kill while a checkpoint is being written. It may come a moment late, when the
    # checkpoint is whole: then once more.
    def torn():
        return [torn for phase in PHASES for torn in unfinished(path, phase)]

    for _ in range(5):
        stopped = stop(path, torn)
        assert stopped.returncode == -signal.SIGKILL
        if torn():
            break
    assert torn() and checkpoints(path, "teacher")

    # A kill in the midst of the second student, after its first block of ten batches.
    stopped = stop(path, lambda: num_rows(path, '"student[dse_projected') >= 11)
    assert stopped.returncode == -signal.SIGKILL
    assert num_rows(path, '"student[ce') == 14
    assert not (path / "summary.json").exists()

    # A kill in the midst of the export of the second student.
    def is_exporting():
        return list((path / "student").glob(".dse_projected*/student.safetensors"))

    stopped = stop(path, is_exporting)
    assert stopped.returncode == -signal.SIGKILL
    # What was done was not done again.
    assert trained(stopped.stdout) == {"student[dse_projected,dataset,0.2]"}
    assert set(study_runs.students(path)) >= {"student/ce-dataset-0.2"}
    assert not (path / "summary.json").exists()

    # And at last it ends, with nothing left to train.
    done = study_runs.succeed(path, TWO)
    assert done.stderr == ""
    assert trained(done.stdout) == set() and len(trained(run_two.stdout)) == len(PHASES)
    assert done.stdout.count("done before") == len(PHASES)
    assert_same_bits(done, run_two)
    names = {file.name for file in path.rglob("*")}
    assert not [name for name in names if name.endswith((".partial", ".old"))]
    for phase, last in zip(PHASES, LAST_STEPS, strict=True):
        assert checkpoints(path, phase)[-1].name == f"step_{last:09d}"
        assert unfinished(path, phase) == []
    figures = {file.name for file in (run_two.path / "figures").iterdir()}
    assert {file.name for file in (path / "figures").iterdir()} == figures


def copy_unfinished(run, path):
    """A copy of a run as if it had been killed before its export."""
    shutil.copytree(run.path, path)
    (path / "summary.json").unlink()
    shutil.rmtree(path / "student")
    shutil.rmtree(path / "figures")


def test_lost_metrics_are_made_again(run_two, tmp_path):
    """Without all its rows a phase has no curve: it is trained again, and the rest is kept."""
    path = tmp_path / "run"
    copy_unfinished(run_two, path)
    rows = (path / "metrics.csv").read_text().splitlines(keepends=True)
    phase = "student[ce,dataset,0.2]"
    left = [row for row in rows if phase not in row]
    left.remove(next(row for row in rows if row.startswith("direct[0.2],5,")))
    # A row of a step that there is not.
    teachers = [row for row in rows if row.startswith("teacher,")]
    left.insert(left.index(teachers[-1]) + 1, teachers[-1].replace(",12,", ",99,", 1))
    (path / "metrics.csv").write_text("".join(left))
    done = study_runs.succeed_here(path, TWO)
    assert done.stderr == "".join(
        f"warning: metrics.csv has not the rows of {one}; it begins again.\n"
        for one in ("teacher", "direct[0.2]", phase)
    )
    assert done.stdout.count("done before") >= 1
    assert sorted((path / "metrics.csv").read_text().splitlines(keepends=True)) == sorted(rows)
    assert study_runs.students(path) == study_runs.students(run_two.path)


def test_a_checkpoint_of_another_seed_is_refused(run_two, tmp_path):
    path = tmp_path / "run"
    copy_unfinished(run_two, path)
    config = json.loads((path / "config.json").read_text())
    config["settings"]["seed"] = 7
    (path / "config.json").write_text(json.dumps(config))
    refused = study_runs.run_here(path, TWO | {"seed": 7})
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "the checkpoint is of a run with another key" in refused.stderr


def truncate(folder):
    file = study_runs.largest_file(folder)
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def flip(folder):
    file = study_runs.largest_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def file_identity(folder):
    """Another for a file that was written again, whatever its content."""
    status = study_runs.largest_file(folder).stat()
    return status.st_ino, status.st_mtime_ns


def test_damaged_checkpoints_are_fallen_back_from(run_two, tmp_path):
    """Each phase damaged in another way; the warnings say which, and the bits are the same."""
    path = tmp_path / "run"
    copy_unfinished(run_two, path)
    teacher, direct, ce, projected = (checkpoints(path, phase) for phase in PHASES)
    # The teacher's newest is cut short: the one before is taken.
    truncate(teacher[-1])
    # The baseline's newest was never finished: it has no manifest, but what orbax writes.
    direct[-1].with_suffix(".json").unlink()
    (direct[-1].parent / "step_000000008.json.partial").write_text('{"_CHECKPOINT')
    # Both of the first student's are damaged, one in a bit, one in its manifest: from the start.
    flip(ce[-1])
    ce[-2].with_suffix(".json").write_text("{")
    # The second student's newest lacks a file; and a temporary folder of orbax's is left.
    study_runs.largest_file(projected[-1]).unlink()
    (projected[-1].parent / "step_000000015.orbax-checkpoint-tmp-1" / "d").mkdir(parents=True)
    kept = teacher[-2], direct[-2], projected[-2]
    before = [file_identity(folder) for folder in kept]
    with open(path / "metrics.csv", "a") as file:
        file.write('"student[dse_projected,dataset,0.2]",14,0.66')  # A torn row.

    done = study_runs.succeed_here(path, TWO)
    assert done.stderr.splitlines() == [
        f"warning: checkpoint {name} is damaged; falling back to {what}."
        for name, what in (
            (teacher[-1].name, "the one before it"),
            (ce[-1].name, "the one before it"),
            (ce[-2].name, "the start"),
            (projected[-1].name, "the one before it"),
        )
    ]
    assert_same_bits(done, run_two)
    for phase in PHASES:
        assert unfinished(path, phase) == []
    # It did go on from those that were whole: they were not written again.
    assert [file_identity(folder) for folder in kept] == before


def test_a_full_disk(run_two, tmp_path):
    """No file may grow as large as the second student's checkpoint: one line, nothing lost."""
    path = tmp_path / "run"
    copy_unfinished(run_two, path)
    shutil.rmtree(path / "checkpoints" / PHASES[3])
    limit = 100_000
    sizes = [
        study_runs.largest_file(checkpoints(run_two.path, phase)[-1]).stat().st_size
        for phase in PHASES
    ]
    assert max(sizes[:3]) < limit < sizes[3]
    # Not in `preexec_fn`: that would fork this process, which JAX made multithreaded.
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" + RUN
    full = study_runs.run(path, TWO, code=code)
    assert full.returncode == 1
    line = one_line(full.stderr)
    assert "could not write the checkpoint step_000000001" in line
    assert "Nothing that was saved is lost: free the cause, run the same command." in line
    assert [bool(checkpoints(path, phase)) for phase in PHASES] == [True, True, True, False]
    # The rows of the step that could not be saved are there; they are written again.
    assert num_rows(path, '"student[dse_projected') == 1

    done = study_runs.succeed_here(path, TWO)
    assert done.stderr == ""
    assert_same_bits(done, run_two)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """One training example in 200 overflows float32; the run ends where it first comes up."""
    path = tmp_path / "run"
    changes = [("train_x", 123, 3e38)]
    settings = TINY | {
        "dataset": write_npz(tmp_path / "own.npz", dtype=np.float32, changes=changes),
        "loss": "ce",
        "num_repeats": 1,
        "num_members": 3,
        "checkpoint_seconds": 0,
    }
    monkeypatch.setattr(datasets, "LARGEST_INPUT", float("inf"))
    line = study_runs.refusal(path, settings)
    (word,) = [w for w in line.replace(".", " ").split() if w.isdigit()]
    step = int(word)
    assert line.startswith("error: in teacher: ")
    assert f": the loss became NaN or infinite at step {step}. " in line
    assert "other settings or another --seed need another workdir" in line
    # Ten steps an epoch, and an example drawn three times in expectation: not at once.
    assert 1 < step <= 10
    with open(path / "metrics.csv") as file:
        steps = [int(row.split(",")[1]) for row in file.read().splitlines()[1:]]
    assert steps == list(range(1, step))
    assert checkpoints(path, "teacher")[-1].name == f"step_{step - 1:09d}"
    assert not (path / "summary.json").exists()

    assert study_runs.refusal(path, settings) == line
    assert checkpoints(path, "teacher")[-1].name == f"step_{step - 1:09d}"
