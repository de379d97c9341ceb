"""Tensors on which losses are compared with another library's, and the files they go through."""

from collections import defaultdict
from pathlib import Path

import numpy as np

Tensors = dict[str, np.ndarray]


def draw(*, with_large: bool = True) -> dict[str, Tensors]:
    """Tensors by `kind/case`, of a fixed seed.

    Args:
      with_large: whether those are among them that are too large to store.
    """
    rng = np.random.default_rng(0)
    found = {
        "logits/8 x 10, T = 4": _logits(rng, 8, 10, 1.0, 4.0),
        "logits/5 x 3, of 1e4": _logits(rng, 5, 3, 1e4, 1.0),
        "features/6 x 4, 7": _features(rng, 6, 4, 7),
        "features/near-duplicates of 1e3": _duplicates(rng, 8, 5, 6),
        "opposites/6 x 4, 3": _opposites(rng, 6, 4, 3),
        "regressed/4 x 3 x 2 x 5": _regressed(rng, (4, 3, 2, 5), 1.0),
        "regressed/2 x 2 x 2 x 3, of 1e3": _regressed(rng, (2, 2, 2, 3), 1e3),
        "maps/4 x 3 x 5 x 2, 6": _maps(rng, (4, 3, 5), 2, 6, 1.0),
        "maps/2 x 2 x 2 x 3, 1, of 1e3": _maps(rng, (2, 2, 2), 3, 1, 1e3),
        "flows/3 x 3 x 2 x 4, 5": _flows(rng, (3, 3, 2), 4, 5),
    }
    if not with_large:
        return found
    return found | {
        "logits/128 x 100, T = 20": _logits(rng, 128, 100, 5.0, 20.0),
        "features/128 x 64, 256": _features(rng, 128, 64, 256),
        "regressed/32 x 8 x 8 x 16": _regressed(rng, (32, 8, 8, 16), 1.0),
        "maps/32 x 8 x 8 x 16, 32": _maps(rng, (32, 8, 8), 16, 32, 1.0),
        "flows/8 x 6 x 6 x 16, 12": _flows(rng, (8, 6, 6), 16, 12),
    }


def _logits(
    rng: np.random.Generator, size: int, classes: int, scale: float, temperature: float
) -> Tensors:
    return {
        "student": scale * rng.normal(size=(size, classes)),
        "teacher": scale * rng.normal(size=(size, classes)),
        "label": rng.integers(classes, size=size),
        "temperature": np.array(temperature),
        "label_weight": np.array(0.3),
    }


def _features(rng: np.random.Generator, size: int, own: int, wanted: int) -> Tensors:
    return {"student": rng.normal(size=(size, own)), "teacher": rng.normal(size=(size, wanted))}


def _duplicates(rng: np.random.Generator, size: int, own: int, wanted: int) -> Tensors:
    """Large, and every second input nearly the one before it."""
    drawn = _features(rng, size, own, wanted)
    return {name: 1e3 * (np.repeat(x[::2], 2, axis=0) + 1e-6 * x) for name, x in drawn.items()}


def _opposites(rng: np.random.Generator, size: int, own: int, wanted: int) -> Tensors:
    """Every second input is to the student the negative of the one before it."""
    drawn = _features(rng, size, own, wanted)
    signs = np.where(np.arange(size) % 2, -1.0, 1.0)[:, None]
    return drawn | {"student": signs * np.repeat(drawn["student"][::2], 2, axis=0)}


def _regressed(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Tensors:
    return {
        "student": scale * rng.normal(size=shape),
        "teacher": scale * rng.normal(size=shape),
        "student_raw_variance": 3 * rng.normal(size=shape[-1]),
    }


def _maps(
    rng: np.random.Generator, shape: tuple[int, ...], own: int, wanted: int, scale: float
) -> Tensors:
    return {
        "student": scale * rng.normal(size=(*shape, own)),
        "teacher": scale * rng.normal(size=(*shape, wanted)),
    }


def _flows(rng: np.random.Generator, shape: tuple[int, ...], first: int, second: int) -> Tensors:
    return {
        f"{who}_{which}": rng.normal(size=(*shape, width))
        for who in ("student", "teacher")
        for which, width in (("first", first), ("second", second))
    }


def named(cases: dict[str, Tensors]) -> Tensors:
    """By `kind/case/tensor`, as files have them."""
    return {f"{case}/{name}": x for case, tensors in cases.items() for name, x in tensors.items()}


def load(path: Path) -> dict[str, Tensors]:
    """By `kind/case`: tensors, and answers as `loss/value` and `loss/slope/tensor`."""
    found = defaultdict(dict)
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            if name.count("/") > 1:
                kind, case, what = name.split("/", 2)
                found[f"{kind}/{case}"][what] = file[name]
    return dict(found)
