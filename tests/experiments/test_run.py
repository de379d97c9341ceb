"""The run contract's errors: what the machine or the user can mend is one line."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.flags import UserError
from experiments.run import _one_line_errors

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 TiB\nmore"),
    ],
    ids=["NumPy", "XLA"],
)
def test_out_of_memory_is_one_line(error):
    with pytest.raises(UserError, match="this machine has not the memory for it .*8 TiB") as caught:
        with _one_line_errors():
            raise error
    assert "\n" not in str(caught.value)


def test_other_errors_of_xla_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), _one_line_errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def run_with(environ, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    result = run_with(
        {"JAX_PLATFORMS": "nonsense"},
        *("-m", "experiments.compress_ensemble", f"--workdir={tmp_path / 'run'}"),
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: jax finds no device: ") and "nonsense" in line
    assert list(tmp_path.iterdir()) == []


def test_the_environments_drawing_backend_does_not_matter():
    result = run_with(
        {"MPLBACKEND": "nonsense"},
        *("-c", "from experiments.compress_ensemble import figures; figures.plt.figure()"),
    )
    assert result.returncode == 0, result.stderr
