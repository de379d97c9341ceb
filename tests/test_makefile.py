"""The build files: the interpreter finder, the make targets, the pinned versions."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REFUSING = "echo 'pyenv: python3.12: command not found' >&2; exit 127"
OLD = "exit 1"  # What the finder's check does on a Python before 3.12.
GOOD = f'exec {sys.executable} "$@"'


def shim(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def find_python(folder, **environment):
    """Runs the finder where `folder/bin` is all of PATH, and `folder` is home."""
    (folder / "bin").mkdir(exist_ok=True)
    return subprocess.run(
        ["/bin/sh", ROOT / "scripts/find_python.sh"],
        env={"PATH": str(folder / "bin"), "HOME": str(folder), **environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def marked(name):
    """A good interpreter that says which candidate it was: the finder prints its output."""
    return f'{sys.executable} "$@" >/dev/null && echo "{name}"'


def test_a_shim_that_fails_and_an_old_python_are_passed_over(tmp_path):
    shim(tmp_path / "bin/python3.13", REFUSING)
    shim(tmp_path / "bin/python3.12", REFUSING)
    shim(tmp_path / "bin/python3", GOOD)
    result = find_python(tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{sys.executable}\n"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["python3.13", "python3.12", "python3"], "python3.13"),
        (["python3.12", "python3"], "python3.12"),
        (["python3"], "python3"),
    ],
)
def test_order_on_path(tmp_path, names, chosen):
    for name in names:
        shim(tmp_path / "bin" / name, marked(name))
    assert find_python(tmp_path).stdout == f"{chosen}\n"


def test_the_version_is_really_asked(tmp_path):
    # An interpreter that runs, and says 3.11: the finder's code sees only sys.version_info.
    lie = f'{sys.executable} -c "import sys; sys.version_info = (3, 11, 9); exec(sys.argv[1])" "$2"'
    shim(tmp_path / "bin/python3", lie)
    assert find_python(tmp_path).returncode == 1
    shim(tmp_path / "bin/python3", lie.replace("(3, 11, 9)", "(3, 12, 0)"))
    assert find_python(tmp_path).returncode == 0


def test_python_given_comes_first(tmp_path):
    shim(tmp_path / "bin/python3.13", marked("python3.13"))
    shim(tmp_path / "elsewhere/python", marked("mine"))
    assert find_python(tmp_path, PYTHON=str(tmp_path / "elsewhere/python")).stdout == "mine\n"


def test_python_given_that_does_not_run_is_named_and_passed_over(tmp_path):
    shim(tmp_path / "bin/python3", marked("python3"))
    result = find_python(tmp_path, PYTHON="/no/such/python")
    assert result.stdout == "python3\n"
    assert "/no/such/python" in result.stderr


@pytest.mark.parametrize("root", [".pyenv", "other"])
def test_pyenv_versions_after_path(tmp_path, root):
    shim(tmp_path / "bin/python3", OLD)
    shim(tmp_path / root / "versions/3.11.7/bin/python3", marked("3.11"))
    shim(tmp_path / root / "versions/3.12.1/bin/python3", marked("3.12"))
    environment = {} if root == ".pyenv" else {"PYENV_ROOT": str(tmp_path / root)}
    assert find_python(tmp_path, **environment).stdout == "3.12\n"


def test_uv_comes_last_and_installs_inside_the_venv(tmp_path):
    shim(tmp_path / "good", marked("from uv"))
    shim(
        tmp_path / "bin/uv",
        '[ "$UV_PYTHON_INSTALL_BIN" = 0 ] || exit 3\n'
        "export PATH=/usr/bin:/bin\n"
        'mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython-3.12/bin"\n'
        f'cp {tmp_path}/good "$UV_PYTHON_INSTALL_DIR/cpython-3.12/bin/python3.12"',
    )
    assert find_python(tmp_path).stdout == "from uv\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".venv", "bin", "good"]


def test_none_at_all_says_what_to_install(tmp_path):
    shim(tmp_path / "bin/python3.12", REFUSING)
    shim(tmp_path / "bin/python3", OLD)
    result = find_python(tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "No Python >= 3.12" in result.stderr
    assert "make setup PYTHON=" in result.stderr
    assert "command not found" not in result.stderr


# Setup, with a fake interpreter that makes a fake venv and logs what pip is asked.

FAKE = """case "$*" in
*sys.executable*) echo "$0" ;;
"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >>log ;;
*"pip install"*) echo pip >>log; [ ! -e fail ] ;;
"-m pytest"*) echo "data in $TFDS_DATA_DIR" ;;
esac"""


@pytest.fixture
def checkout(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    tmp_path = tmp_path / "checkout"
    for name in ("Makefile", "scripts/find_python.sh", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shim(tmp_path / "fake-python", FAKE)
    return tmp_path


def make(checkout, *arguments, **variables):
    drop = ("MAKE", "TFDS_DATA_DIR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    environment |= {"PYTHON": str(checkout / "fake-python"), **variables}
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def log(checkout):
    return (checkout / "log").read_text().split()


def test_a_second_setup_does_nothing(checkout):
    for _ in range(2):
        assert make(checkout, "setup").returncode == 0
    assert log(checkout) == ["venv", "pip"]


def test_setup_installs_again_when_the_versions_change(checkout):
    make(checkout, "setup")
    stamp = checkout / ".venv/.stamp"
    os.utime(checkout / "constraints.txt", (stamp.stat().st_mtime + 5,) * 2)
    make(checkout, "setup")
    assert log(checkout) == ["venv", "pip", "pip"]


def test_an_unfinished_setup_is_begun_again_from_nothing(checkout):
    (checkout / "fail").touch()
    assert make(checkout, "setup").returncode != 0
    (checkout / ".venv/half-copied").touch()
    (checkout / "fail").unlink()
    assert make(checkout, "setup").returncode == 0
    assert log(checkout) == ["venv", "pip", "venv", "pip"]
    assert not (checkout / ".venv/half-copied").exists()
    assert not (checkout / ".venv/.unfinished").exists()


def test_prepared_data_beside_the_checkout_is_used_unless_told_otherwise(checkout):
    assert "data in \n" in make(checkout, "test").stdout
    beside = checkout.parent / "shared/tfds"
    beside.mkdir(parents=True)
    assert f"data in {beside}\n" in make(checkout, "test").stdout
    assert "data in /mine\n" in make(checkout, "test", TFDS_DATA_DIR="/mine").stdout


def test_help_is_the_default_and_lists_every_target(checkout):
    printed = make(checkout).stdout
    assert printed == make(checkout, "help").stdout
    assert re.findall(r"^make (\w+)", printed, re.MULTILINE) == [
        *("help", "setup", "demo", "test", "lint", "bench", "clean")
    ]


def test_constraints_pin_every_direct_dependency_and_no_url():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["tensorboard"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin) for pin in pins), pins
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", one)[0]).lower() for one in wanted}
    assert names <= pinned
