"""What importing a part of kd brings along, and which way imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "kd").rglob("*.py"))
# Imports run only downward in this list (DESIGN.md, Layout): a part may use those before it.
LAYERS = [
    "types", "checks", "files", "random", "derivatives", "positive_definite", "polar",
    "batching", "hoisting", "losses", "models",
    "samplers", "inference", "streams", "training", "data", "metrics", "export",
]  # fmt: skip
HEAVY = (
    "absl",
    "matplotlib",
    "orbax",
    "tensorflow_datasets",
    "tensorflow",
    "sklearn",
    "tqdm",
    "rich",
)


def imported_by(path):
    """Full names of all that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(path):
    return path.relative_to(ROOT / "kd").with_suffix("").parts[0]


@pytest.mark.parametrize("module", ["kd.losses", "kd.derivatives", "kd.samplers", "kd.streams"])
def test_a_part_brings_no_data_flag_plot_or_checkpoint_library(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert "jax" in loaded and "kd" in loaded
    assert not set(HEAVY) & set(loaded)


def test_kd_itself_imports_nothing():
    assert list(imported_by(ROOT / "kd" / "__init__.py")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward_and_never_to_experiments(path):
    layer = layer_of(path)
    for name in imported_by(path):
        package, *rest = name.split(".")
        assert package not in ("experiments", "tests"), name
        if package == "kd" and rest[0] in LAYERS and layer in LAYERS:
            assert LAYERS.index(rest[0]) <= LAYERS.index(layer), f"{path} imports {name}"


def test_every_part_has_its_place():
    assert {layer_of(path) for path in SOURCES} - {"__init__"} <= set(LAYERS)


def test_only_training_imports_orbax():
    users = {
        layer_of(path)
        for path in SOURCES
        if any(name.split(".")[0] == "orbax" for name in imported_by(path))
    }
    assert users == {"training"}
