"""The exported student: equal to the live one, whole or refused, and free of the training side."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kd import files
from kd.export import ExportError, export_student, load_student, verification, writing

SHAPE = (4, 4)
NAMES = ["student.json", "student.safetensors", "student.stablehlo"]


def apply_fn(params, x):
    hidden = jnp.tanh(jnp.reshape(x, -1) @ params["hidden"]["w"] + params["hidden"]["b"])
    return jax.nn.log_softmax(hidden @ params["out"])


def make_params(seed=0, width=8):
    rng = np.random.default_rng(seed)
    shapes = {"hidden": {"w": (16, width), "b": (width,)}, "out": (width, 3)}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def examples(size, shape=SHAPE):
    return np.random.default_rng(size).normal(size=(size, *shape)).astype(np.float32)


def numpy_log_probs(params, x):
    """The same network as a plain NumPy loop in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows = []
    for row in x.astype(np.float64).reshape(len(x), -1):
        logits = np.tanh(row @ params["hidden"]["w"] + params["hidden"]["b"]) @ params["out"]
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.stack(rows)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One verified export, to read and not to change."""
    directory = tmp_path_factory.mktemp("export") / "student"
    return export_student(
        directory, apply_fn, make_params(), input_shape=SHAPE, metadata={"name": "ü", "k": [1, 2]}
    )


@pytest.fixture
def unverified(monkeypatch):
    """Skips the fresh process where a test is about something else."""
    monkeypatch.setattr(writing, "verify", lambda *args: None)


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the export whose files a test may damage."""
    directory = tmp_path / "student"
    directory.mkdir()
    for path in exported.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


def test_round_trip_at_any_batch_size(exported):
    student = load_student(exported)
    for size in (1, 7, 64):
        outputs = student(examples(size))
        assert outputs.shape == (size, 3)
        expected = numpy_log_probs(make_params(), examples(size))
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_what_is_written(exported):
    assert sorted(path.name for path in exported.iterdir()) == NAMES
    assert list(exported.parent.iterdir()) == [exported]
    manifest = json.loads((exported / "student.json").read_text())
    assert manifest["input_shape"] == [4, 4]
    assert manifest["output_shape"] == [3]
    assert manifest["dtype"] == "float32"
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["num_parameters"] == 16 * 8 + 8 + 8 * 3
    for name in NAMES[1:]:
        digest = hashlib.sha256((exported / name).read_bytes()).hexdigest()
        assert manifest["sha256"][name] == digest


def test_student_attributes(exported):
    student = load_student(exported, device=jax.devices()[0])
    assert student.input_shape == SHAPE
    assert student.metadata == {"name": "ü", "k": [1, 2]}
    assert sorted(student.params) == ["hidden/b", "hidden/w", "out"]
    np.testing.assert_array_equal(student.params["out"], make_params()["out"])
    assert student.params["out"].devices() == {jax.devices()[0]}


def test_student_traces_under_jit(exported):
    student = load_student(exported)
    x = examples(7)
    np.testing.assert_allclose(jax.jit(student.__call__)(x), student(x), rtol=0, atol=1e-6)


def test_a_loaded_student_has_input_derivatives(exported):
    """It can be a teacher of derivatives in its turn."""
    student, x, params = load_student(exported), examples(3), make_params()
    for c in range(3):
        found = jax.grad(lambda x, c=c: jnp.sum(student(x)[:, c]))(x)
        live = jax.vmap(jax.grad(lambda x, c=c: apply_fn(params, x)[c]))(x)
        # Of the largest entry: a small one is a difference of large ones.
        np.testing.assert_allclose(found, live, rtol=1e-5, atol=1e-6 * np.max(np.abs(live)))


def test_no_path_of_the_machine_that_wrote_it_is_inside(exported):
    content = (exported / "student.stablehlo").read_bytes()
    for path in (Path(__file__), Path(jax.__file__).parent, Path.cwd(), Path("site-packages")):
        assert str(path).encode() not in content
    assert b".py" not in content


def test_a_student_is_shown_in_a_line(exported):
    text = repr(load_student(exported))
    assert text == ("Student(160 parameters; float32 inputs [b, 4, 4]; {'name': 'ü', 'k': [1, 2]})")


def test_loads_in_a_fresh_process_without_the_training_side(exported, tmp_path):
    np.save(tmp_path / "x.npy", examples(5))
    program = f"""
import sys
import numpy as np
from kd.export import load_student
student = load_student({str(exported)!r})
np.save({str(tmp_path / "y.npy")!r}, student(np.load({str(tmp_path / "x.npy")!r})))
print(*sorted(sys.modules))
"""
    root = Path(files.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    modules = set(result.stdout.split())
    assert {"jax", "safetensors", "kd.export"} <= modules
    unwanted = "orbax optax flax absl matplotlib tensorflow_datasets sklearn chex"
    assert not modules & set(unwanted.split())
    kd_parts = {name.split(".")[1] for name in modules if name.startswith("kd.")}
    assert kd_parts == {"checks", "export", "files", "types"}
    live = jax.vmap(apply_fn, in_axes=(None, 0))(make_params(), examples(5))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), live, rtol=0, atol=1e-5)


def test_weights_are_in_one_file_only(tmp_path, unverified):
    params = make_params(width=20_000)
    path = export_student(tmp_path / "student", apply_fn, params, input_shape=SHAPE)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    weights, module = ((path / name).stat().st_size for name in NAMES[1:])
    assert num_bytes > 1_500_000
    assert num_bytes < weights < num_bytes + 1000
    assert module < num_bytes / 100


# Parameters of every form.


class Layer(NamedTuple):
    scale: jax.Array
    shifts: tuple[jax.Array, ...]


def layer_fn(params, x):
    layer, extra = params["layer"], params["list"]
    scaled = x * layer.scale + layer.shifts[0] - layer.shifts[1].astype(jnp.float32)
    return jnp.where(params["mask"], scaled, extra[0] * params["two"].astype(jnp.float32))


def layer_params():
    return {
        "list": [jnp.full(3, 0.5)],
        "layer": Layer(jnp.arange(3.0), (jnp.ones(3), jnp.ones(3, jnp.bfloat16))),
        "mask": np.array([True, False, True]),
        "two": jnp.int32(2),
    }


def test_dicts_lists_tuples_namedtuples_and_dtypes_keep_their_places(tmp_path):
    params = {"tree": {7: layer_params()}}
    path = export_student(
        tmp_path / "s", lambda params, x: layer_fn(params["tree"][7], x), params, input_shape=(3,)
    )
    student = load_student(path)
    assert {name: str(value.dtype) for name, value in student.params.items()} == {
        "tree/7/layer/scale": "float32",
        "tree/7/layer/shifts/0": "float32",
        "tree/7/layer/shifts/1": "bfloat16",
        "tree/7/list/0": "float32",
        "tree/7/mask": "bool",
        "tree/7/two": "int32",
    }
    x = examples(4, (3,))
    expected = np.where([True, False, True], x * np.arange(3.0), 0.5 * 2)
    np.testing.assert_allclose(student(x), expected, rtol=0, atol=1e-6)


def test_a_single_array_is_named_params(tmp_path, unverified):
    path = export_student(tmp_path / "s", lambda w, x: x @ w, jnp.ones((3, 2)), input_shape=(3,))
    assert list(load_student(path).params) == ["params"]


def test_no_parameters_scalar_examples_and_infinite_outputs(tmp_path):
    def infinite_fn(params, x):
        return jnp.stack([x, jnp.float32(-jnp.inf), jnp.float32(jnp.nan)])

    path = export_student(tmp_path / "s", infinite_fn, {}, input_shape=())
    outputs = load_student(path)(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(outputs, [[1, -np.inf, np.nan], [2, -np.inf, np.nan]])


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_, jnp.bfloat16])
def test_input_dtypes(tmp_path, dtype):
    def lookup_fn(table, x):
        return table[x.astype(jnp.int32)]

    table = jnp.arange(6.0).reshape(3, 2)
    path = export_student(tmp_path / "s", lookup_fn, table, input_shape=(), dtype=dtype)
    outputs = load_student(path)(np.array([1, 0, 1], dtype))
    np.testing.assert_array_equal(outputs, [[2, 3], [0, 1], [2, 3]])


def test_float64_needs_x64_to_load(tmp_path):
    with jax.enable_x64(True):
        weights = jnp.full((3, 2), 1 + 1e-12, jnp.float64)
        path = export_student(
            tmp_path / "s", lambda w, x: x @ w, weights, input_shape=(3,), dtype=jnp.float64
        )
        x = np.eye(3)
        np.testing.assert_array_equal(load_student(path)(x), np.full((3, 2), 1 + 1e-12))
    with pytest.raises(ValueError, match=r"student\.safetensors: params is float64.*X64"):
        load_student(path)


# What cannot be exported.


@pytest.mark.parametrize(
    ("params", "kind", "cause"),
    [
        ({"a": {"b": np.ones(2)}, "a/b": np.ones(2)}, ValueError, "'a/b'.*another leaf"),
        ({"__metadata__": np.ones(2)}, ValueError, "reserved by safetensors"),
        ({"\ud800": np.ones(2)}, ValueError, "not UTF-8"),
        ({"a": "text"}, TypeError, r"params\['a'\] must be an array, got str"),
        ({"a": 0.5}, TypeError, r"params\['a'\] must be an array, got float"),
        ({"a": np.array([object()])}, TypeError, "object"),
        ({"a": np.array(["text"])}, TypeError, "a dtype that safetensors holds"),
        ({"a": jnp.ones(2, jnp.float8_e4m3fn)}, TypeError, "float8_e4m3fn"),
    ],
)
def test_params_that_cannot_be_exported(tmp_path, params, kind, cause):
    with pytest.raises(kind, match=cause):
        export_student(tmp_path / "s", lambda params, x: x, params, input_shape=(3,))
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_no_parameter(tmp_path):
    with pytest.raises(TypeError, match="a dtype that safetensors holds, got key"):
        export_student(
            tmp_path / "s", lambda key, x: x, {"key": jax.random.key(0)}, input_shape=(3,)
        )


@pytest.mark.parametrize(
    ("arguments", "kind", "cause"),
    [
        ({"input_shape": (4, 0)}, ValueError, "input_shape must be at least 1, got 0"),
        ({"input_shape": (4.0,)}, TypeError, "input_shape must be an integer"),
        ({"dtype": jnp.float64}, ValueError, "JAX_ENABLE_X64"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": np.nan}, ValueError, "tolerance"),
        ({"platforms": ("cpu", "abacus")}, ValueError, "abacus"),
        ({"platforms": ("tpu",)}, ValueError, "must include cpu"),
        ({"metadata": {"x": np.ones(2)}}, ValueError, "metadata must be JSON"),
        ({"metadata": {"x": np.nan}}, ValueError, "metadata must be JSON"),
        ({"metadata": [1]}, ValueError, "metadata must be a dictionary"),
        ({"apply_fn": lambda params, x: (x, x)}, TypeError, "must return one array"),
        ({"apply_fn": lambda params, x: x + 1j}, TypeError, "output must be .* got complex64"),
    ],
)
def test_arguments_that_are_refused(tmp_path, arguments, kind, cause):
    arguments = {"apply_fn": apply_fn, "params": make_params(), "input_shape": SHAPE} | arguments
    with pytest.raises(kind, match=cause):
        export_student(tmp_path / "s", **arguments)
    assert list(tmp_path.iterdir()) == []


# Verification.


class Drifting:
    """An impure model: every trace of it is a different function."""

    def __init__(self, step):
        self.step = step
        self.calls = 0

    def __call__(self, params, x):
        self.calls += 1
        return x @ params + self.step * self.calls


def test_a_student_that_differs_from_the_live_one_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"differs .* by 0\.[1-9].*tolerance is 1e-05"):
        export_student(tmp_path / "s", Drifting(0.125), jnp.ones((3, 2)), input_shape=(3,))
    assert list(tmp_path.iterdir()) == []


def test_tolerance_is_the_callers(tmp_path):
    path = export_student(
        tmp_path / "s", Drifting(0.125), jnp.ones((3, 2)), input_shape=(3,), tolerance=1.0
    )
    assert load_student(path).input_shape == (3,)


@pytest.mark.parametrize(
    ("scale", "has_cpu", "is_refused"), [(1e4, True, True), (1e4, False, False), (1.0, False, True)]
)
def test_the_tolerance_is_relative_where_the_live_student_is_on_an_accelerator(
    tmp_path, monkeypatch, scale, has_cpu, is_refused
):
    """To outputs above 1: it sums in another order."""
    if not has_cpu:
        monkeypatch.setattr(verification, "_cpu_device", lambda: None)
    expected = pytest.raises(ExportError, match="differs .* tolerance is")
    with expected if is_refused else contextlib.nullcontext():
        export_student(tmp_path / "s", Drifting(0.01), scale * jnp.ones((3, 2)), input_shape=(3,))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_must_agree(tmp_path, value):
    calls = []

    def spoilt_fn(params, x):
        calls.append(1)
        return x if len(calls) == 1 else x * value

    with pytest.raises(ExportError, match="by inf"):
        export_student(tmp_path / "s", spoilt_fn, {}, input_shape=(3,))


def test_a_student_that_does_not_run_is_refused_with_its_cause(tmp_path, monkeypatch):
    write = writing.write_atomically

    def spoil(path, content):
        write(path, content[:-1] if path.name == NAMES[1] else content)

    monkeypatch.setattr(writing, "write_atomically", spoil)
    with pytest.raises(ExportError, match=r"student\.safetensors: damaged, its SHA-256"):
        export_student(tmp_path / "s", apply_fn, make_params(), input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_verification_that_takes_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(ExportError, match=r"more than 0\.01 seconds"):
        export_student(tmp_path / "s", apply_fn, make_params(), input_shape=SHAPE)


# Replacing.


def test_a_new_export_replaces_the_old_one(copy, unverified):
    params = make_params(seed=1)
    export_student(copy, apply_fn, params, input_shape=SHAPE)
    expected = numpy_log_probs(params, examples(3))
    np.testing.assert_allclose(load_student(copy)(examples(3)), expected, rtol=0, atol=1e-5)
    assert list(copy.parent.iterdir()) == [copy]


def test_a_new_export_that_fails_leaves_the_old_one(copy, exported):
    with pytest.raises(ExportError):
        export_student(copy, Drifting(1.0), jnp.ones((3, 2)), input_shape=(3,))
    assert list(copy.parent.iterdir()) == [copy]
    for path in exported.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()


def test_the_old_export_is_there_until_the_new_one_is_whole(copy, monkeypatch):
    def look(partial, *args):
        assert sorted(path.name for path in partial.iterdir()) == NAMES
        np.testing.assert_array_equal(load_student(copy).params["out"], make_params()["out"])
        looked.append(partial)

    looked = []
    monkeypatch.setattr(writing, "verify", look)
    export_student(copy, apply_fn, make_params(seed=1), input_shape=SHAPE)
    assert looked[0].parent == copy.parent


def test_a_rename_that_fails_puts_the_old_export_back(copy, monkeypatch, unverified):
    rename = files.Path.rename

    def refuse(self, target):
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(files.Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        export_student(copy, apply_fn, make_params(seed=1), input_shape=SHAPE)
    assert list(copy.parent.iterdir()) == [copy]
    np.testing.assert_array_equal(load_student(copy).params["out"], make_params()["out"])


def test_what_a_killed_export_left_is_repaired(copy):
    old, partial = copy.with_name(".student.old"), copy.with_name(".student.partial")
    copy.rename(old)
    partial.mkdir()
    with pytest.raises(ExportError):
        export_student(copy, Drifting(1.0), jnp.ones((3, 2)), input_shape=(3,))
    assert list(copy.parent.iterdir()) == [copy]
    assert load_student(copy).input_shape == SHAPE


@pytest.mark.parametrize("is_file", [True, False])
def test_nothing_but_an_export_is_replaced(tmp_path, is_file):
    target = tmp_path / "precious"
    if is_file:
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    with pytest.raises(ExportError, match=r"not a directory|holds 'thesis\.tex'"):
        export_student(target, apply_fn, make_params(), input_shape=SHAPE)
    assert (target if is_file else target / "thesis.tex").read_text() == "mine"


# Damage.


def reseal(directory, name, content):
    """Replaces a file and its checksum, so that only its content can be refused."""
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / "student.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (directory / "student.json").write_text(json.dumps(manifest))


def refusal(directory, kind=ValueError):
    with pytest.raises(kind) as caught:
        load_student(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    assert f"{copy / name}: missing" in refusal(copy, FileNotFoundError)


def test_a_missing_directory_is_named(tmp_path):
    assert "student.json: missing" in refusal(tmp_path / "none", FileNotFoundError)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:50] + b"?" + b[51:]])
def test_a_changed_byte_is_found(copy, name, damage):
    (copy / name).write_bytes(damage((copy / name).read_bytes()))
    assert f"{copy / name}: damaged, its SHA-256" in refusal(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_json(copy, content):
    (copy / "student.json").write_bytes(content)
    assert f"{copy / 'student.json'}: not JSON" in refusal(copy)


@pytest.mark.parametrize("content", [b"[]", b"3", b"{}", b'{"version": 2}'])
def test_a_manifest_of_another_version(copy, content):
    (copy / "student.json").write_bytes(content)
    assert "student.json: version must be 1" in refusal(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jax_version", None),
        ("input_shape", "4"),
        ("input_shape", [4, -1]),
        ("input_shape", [4, 4.0]),
        ("dtype", "float31"),
        ("dtype", ["float32"]),
        ("sha256", {}),
        ("metadata", []),
    ],
)
def test_a_malformed_field_is_named(copy, field, value):
    path = copy / "student.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert f"student.json: {field} is missing or malformed" in refusal(copy)


@pytest.mark.parametrize("field", [{"input_shape": [4, 5]}, {"dtype": "int32"}])
def test_a_manifest_that_disagrees_with_the_module(copy, field):
    path = copy / "student.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | field))
    assert "student.json: student.stablehlo takes float32[b,4,4]" in refusal(copy)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, bytes(400)])
def test_files_of_another_format(copy, content):
    reseal(copy, "student.safetensors", content)
    assert "student.safetensors: not a safetensors file" in refusal(copy)


def test_truncated_safetensors(copy):
    reseal(copy, "student.safetensors", (copy / "student.safetensors").read_bytes()[:-8])
    assert "student.safetensors: not a safetensors file" in refusal(copy)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:100], lambda b: bytes(len(b))])
def test_a_module_of_another_format(copy, damage):
    reseal(copy, "student.stablehlo", damage((copy / "student.stablehlo").read_bytes()))
    assert "student.stablehlo: jax" in refusal(copy)


def test_weights_that_the_module_does_not_take(copy):
    weights = safetensors.numpy.load((copy / "student.safetensors").read_bytes())
    reseal(copy, "student.safetensors", safetensors.numpy.save(weights | {"more": np.ones(2)}))
    assert "student.safetensors: its names are not" in refusal(copy)
    smaller = weights | {"out": weights["out"][:-1].copy()}
    reseal(copy, "student.safetensors", safetensors.numpy.save(smaller))
    assert "student.safetensors: out must be float32[8,3], got float32(7, 3)" in refusal(copy)


@pytest.mark.parametrize("shape", [(), (4, 4), (2, 4), (2, 4, 5), (2, 4, 4, 1), (0, 4, 4)])
def test_an_input_of_another_shape(exported, shape):
    with pytest.raises(ValueError, match=r"x must have shape \(b >= 1, 4, 4\), got"):
        load_student(exported)(np.ones(shape, np.float32))


def test_an_input_of_another_dtype(exported):
    with pytest.raises(TypeError, match="x must be float32, got int32"):
        load_student(exported)(np.ones((2, 4, 4), np.int32))
