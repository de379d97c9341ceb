"""kd.training.checkpoint: round trips, and every way a directory can be found broken."""

import json
import logging
import os
import re
import signal
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd.training import checkpoint
from kd.training.checkpoint import Checkpointer, CheckpointMismatchError


class State(NamedTuple):
    step: jax.Array
    key: jax.Array
    student: dict


def make_state(step):
    """All kinds of leaves that a run holds, each a function of `step`."""
    params = {"w": jnp.linspace(0.0, 1.0, 6).reshape(2, 3) * step, "empty": ()}
    return State(
        step=jnp.array(step, jnp.int32),
        key=jax.random.key(step),
        student={
            "params": params,
            "optimizer": optax.adam(0.1).init(params),
            "keys": jax.random.split(jax.random.key(step), 3),
            "order": jnp.arange(5) + step,
            "flag": jnp.array(step % 2 == 0),
            "half": jnp.array([step, 0.1], jnp.bfloat16),
        },
    )


def check_is(restored, step):
    expected = make_state(step)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)

    def same(a, b):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, restored, expected)
    # A typed key comes back as one that draws.
    np.testing.assert_array_equal(jax.random.normal(restored.key), jax.random.normal(expected.key))


def saved(directory, *steps, keep=2):
    for step in steps:
        Checkpointer(directory, every_seconds=0, keep=keep).save(step, make_state(step))


def restore(directory):
    return Checkpointer(directory).restore(make_state(0))


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def files_of(directory, step):
    root = Path(directory) / f"step_{step:09d}"
    return sorted(
        (path for path in root.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def test_round_trip(tmp_path):
    assert restore(tmp_path / "missing") is None
    assert restore(tmp_path) is None
    saved(tmp_path / "a" / "b", 7)
    check_is(restore(tmp_path / "a" / "b"), 7)


def test_the_newest_is_restored_by_number_and_the_last_ones_are_kept(tmp_path):
    for keep, kept in [(1, [10]), (2, [9, 10]), (3, [2, 9, 10])]:
        directory = tmp_path / str(keep)
        saved(directory, 1, 2, 9, 10, keep=keep)
        assert names(directory) == sorted(
            name for step in kept for name in (f"step_{step:09d}", f"step_{step:09d}.json")
        )
        check_is(restore(directory), 10)


def test_saving_a_step_again_replaces_it(tmp_path):
    Checkpointer(tmp_path).save(3, make_state(1))
    Checkpointer(tmp_path).save(3, make_state(2))
    check_is(restore(tmp_path), 2)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("which", [0, -1], ids=["smallest", "largest"])
def test_a_damaged_file_falls_back_and_warns(tmp_path, caplog, damage, which):
    saved(tmp_path, 1, 2)
    candidates = [path for path in files_of(tmp_path, 2) if path.stat().st_size]
    damage(candidates[which])
    with caplog.at_level(logging.WARNING):
        check_is(restore(tmp_path), 1)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("kd")] == [
        "checkpoint step_000000002 is damaged; falling back to the one before it."
    ]
    # The damaged one is gone, and the run may save that step again.
    assert names(tmp_path) == ["step_000000001", "step_000000001.json"]
    saved(tmp_path, 2)
    check_is(restore(tmp_path), 2)


def test_a_damaged_manifest_falls_back_and_warns(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    truncate(tmp_path / "step_000000002.json")
    check_is(restore(tmp_path), 1)
    assert "step_000000002 is damaged" in caplog.text


def test_all_damaged_gives_none(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        truncate(files_of(tmp_path, step)[-1])
    assert restore(tmp_path) is None
    assert "step_000000001 is damaged" in caplog.text
    assert "step_000000002 is damaged" in caplog.text
    assert names(tmp_path) == []


def test_what_a_killed_save_leaves_is_passed_over_and_cleaned(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    (tmp_path / "step_000000002.json").unlink()  # Killed before the manifest,
    (tmp_path / "step_000000003.orbax-checkpoint-tmp-0").mkdir()  # within orbax,
    (tmp_path / "step_000000004.json.partial").write_text("{")  # and within the manifest.
    check_is(restore(tmp_path), 1)
    assert "damaged" not in caplog.text
    assert names(tmp_path) == ["step_000000001", "step_000000001.json"]


def test_a_stray_beside_a_whole_checkpoint_does_not_take_its_manifest(tmp_path, caplog):
    saved(tmp_path, 1)
    (tmp_path / "step_000000001.orbax-checkpoint-tmp-0").mkdir()
    check_is(restore(tmp_path), 1)
    assert "damaged" not in caplog.text
    assert names(tmp_path) == ["step_000000001", "step_000000001.json"]


def test_a_look_without_tidying_removes_nothing(tmp_path, caplog):
    saved(tmp_path, 1, 2, 3, keep=3)
    truncate(files_of(tmp_path, 3)[-1])
    (tmp_path / "step_000000004").mkdir()  # Another process is saving.
    before = names(tmp_path)
    check_is(Checkpointer(tmp_path).restore(make_state(0), tidy=False), 2)
    assert "step_000000003 is damaged" in caplog.text
    assert names(tmp_path) == before
    check_is(Checkpointer(tmp_path).restore(make_state(0), tidy=True), 2)
    assert len(names(tmp_path)) == 4


def test_the_files_of_others_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    saved(tmp_path, 1, 2, 3)
    check_is(restore(tmp_path), 3)
    assert {"notes.txt", "notes.json", "folder"} <= set(names(tmp_path))


def full_disk(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "module, name", [(checkpoint.ocp, "save"), (checkpoint, "write_atomically")]
)
def test_a_save_that_fails_raises_and_the_older_survive(tmp_path, monkeypatch, module, name):
    saved(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, full_disk)
        with pytest.raises(OSError, match="No space left on device"):
            saved(tmp_path, 3)
    assert {"step_000000001.json", "step_000000002.json"} <= set(names(tmp_path))
    check_is(restore(tmp_path), 2)
    assert len(names(tmp_path)) == 4
    saved(tmp_path, 3)
    check_is(restore(tmp_path), 3)


def test_errors_of_orbax_are_os_errors_that_name_the_checkpoint(tmp_path, monkeypatch):
    def fail(path, state):
        path.mkdir()
        raise RuntimeError("torn")

    monkeypatch.setattr(checkpoint.ocp, "save", fail)
    with pytest.raises(OSError, match="could not write the checkpoint step_000000003: torn"):
        saved(tmp_path, 3)
    assert names(tmp_path) == []  # A full disk gets back what the attempt had taken.


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="checkpoints"):
        saved(tmp_path / "checkpoints", 1)


def test_another_template_is_refused(tmp_path):
    Checkpointer(tmp_path).save(1, {"a": jnp.zeros(3)})
    for template in ({"b": jnp.zeros(3)}, {"a": jnp.zeros(4)}, {"a": jax.random.key(0)}):
        with pytest.raises(CheckpointMismatchError, match="step_000000001 is of another kind of"):
            Checkpointer(tmp_path).restore(template)
    assert names(tmp_path) == ["step_000000001", "step_000000001.json"]


def test_a_checkpoint_holds_no_code(tmp_path):
    saved(tmp_path, 1)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert not re.search(r"pickle|\.pkl|\.pt$", path.name)
        content = path.read_bytes()
        assert not re.match(rb"\x80[\x02-\x05]", content) and b"pickle" not in content
    source = Path(checkpoint.__file__).read_text()
    assert "pickle" not in source


def test_the_manifest_lists_every_file(tmp_path):
    saved(tmp_path, 1)
    listed = json.loads((tmp_path / "step_000000001.json").read_text())
    root = tmp_path / "step_000000001"
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in files_of(tmp_path, 1)}
    assert {name: size for name, (size, _) in listed.items()} == sizes


def test_is_due_counts_from_the_last_save(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    checkpointer = Checkpointer(tmp_path, every_seconds=30.0)
    assert not checkpointer.is_due()
    now[0] = 129.9
    assert not checkpointer.is_due()
    now[0] = 130.0
    assert checkpointer.is_due()
    monkeypatch.setattr(checkpoint.ocp, "save", lambda path, state: Path(path).mkdir())
    checkpointer.save(1, {})
    assert not checkpointer.is_due()
    now[0] = 160.0
    assert checkpointer.is_due()
    assert Checkpointer(tmp_path, every_seconds=0).is_due()


def test_raises(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpointer(tmp_path, keep=0)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"every_seconds must be at least 0, got {seconds}"):
            Checkpointer(tmp_path, every_seconds=seconds)


@pytest.mark.parametrize("phase", ["save", "load"])
def test_ctrl_c_waits_until_the_checkpoint_is_whole(tmp_path, monkeypatch, phase):
    """It comes in the midst of orbax's work; it is not lost, and nothing else is."""
    saved(tmp_path, 1)
    real, after = getattr(checkpoint.ocp, phase), []

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        result = real(*args)
        after.append(True)
        return result

    monkeypatch.setattr(checkpoint.ocp, phase, interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 2) if phase == "save" else restore(tmp_path)
    assert after == [True]
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    check_is(restore(tmp_path), 2 if phase == "save" else 1)


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    """Python sets handlers in the main thread only."""
    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=saved, args=(tmp_path, 1))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    check_is(restore(tmp_path), 1)


def test_files_of_others_stay(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "step_backup").mkdir()
    for name in ("step_backup/notes", "step_notes.txt", "step_notes.json", "step_000000001 (copy)"):
        (tmp_path / name).write_text("{}")
    check_is(restore(tmp_path), 1)
    saved(tmp_path, 2, 3)
    check_is(restore(tmp_path), 3)
    for name in ("step_backup/notes", "step_notes.txt", "step_notes.json", "step_000000001 (copy)"):
        assert (tmp_path / name).read_text() == "{}"


def test_an_empty_manifest_vouches_for_nothing(tmp_path, caplog):
    saved(tmp_path, 1)
    (tmp_path / "step_000000002.json").write_text("{}")
    (tmp_path / "step_000000003").mkdir()
    (tmp_path / "step_000000003.json").write_text("{}")
    (tmp_path / "step_000000004.json").write_text("[" * 100_000)
    check_is(restore(tmp_path), 1)
    assert len(caplog.records) == 3


def test_one_that_cannot_be_read_is_not_damaged(tmp_path, monkeypatch):
    """A disk that is away for a moment must not cost the run its checkpoints."""
    saved(tmp_path, 1, 2)
    before = names(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "_sha256", refuse)
    with pytest.raises(PermissionError):
        restore(tmp_path)
    monkeypatch.undo()
    assert names(tmp_path) == before
    check_is(restore(tmp_path), 2)


def test_latest_step_is_by_number_and_clear_leaves_others(tmp_path):
    checkpointer = Checkpointer(tmp_path / "a", every_seconds=0, keep=9)
    assert checkpointer.latest_step() is None
    checkpointer.clear()
    for step in (7, 999_999_999, 1_000_000_000):
        checkpointer.save(step, {"a": jnp.zeros(1)})
    assert checkpointer.latest_step() == 1_000_000_000
    (tmp_path / "a/mine").write_text("")
    checkpointer.clear()
    assert checkpointer.latest_step() is None and names(tmp_path / "a") == ["mine"]
