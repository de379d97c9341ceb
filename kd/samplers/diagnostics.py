"""What a finished run of chains is worth: effective samples, R-hat, and a file of its draws."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from kd import checks
from kd.files import write_atomically
from kd.samplers.base import check_draws
from kd.types import PyTree

BLOCK = 2**17  # Numbers at once: the transforms take several times as many, all in the cache.


RESERVED = {"file", "allow_pickle"}  # By NumPy's writer.


class Diagnosis(NamedTuple):
    """Of one coordinate of a position.

    Attributes:
      mean, std: over all chains and draws.
      mcse: standard error of the mean, by effective samples.
      ess: effective samples of all chains together.
      r_hat: split R-hat: near 1 where the chains, and their halves, agree.
    """

    mean: float
    std: float
    mcse: float
    ess: float
    r_hat: float


def diagnose(position: PyTree, *, num_chains: int | None = None) -> dict[str, Diagnosis]:
    """Figures of every coordinate of the draws of a chain, or of several.

    Args:
      position: of `sample`, or other draws: each leaf `[S, ...]`, S >= 4; with `num_chains`
        `[C, S, ...]`.
      num_chains: C; one chain without an axis if None.

    Returns:
      By name: the leaf's path and, of arrays, the index, as in `w[0,1]`; a single array's
      coordinates are `x[...]`.

    Raises:
      ValueError: if a leaf has not these axes, the leading one is not C, draws are fewer than 4,
        or the leaves differ in them.

    Example:
      >>> draws = np.random.default_rng(0).normal(size=(4, 1000))
      >>> found = diagnose({"a": draws}, num_chains=4)["a"]
      >>> bool(abs(found.mean) < 4 * found.mcse), bool(found.r_hat < 1.01)
      (True, True)

    Reference:
      Gelman and Rubin (1992); Geyer (1992), "Practical Markov chain Monte Carlo": numpyro's.
    """
    found = {}
    for name, draws in _named(position, num_chains).items():
        places = np.ndindex(draws.shape[2:])
        for index, one in zip(places, _diagnose_array(draws), strict=True):
            place = f"[{','.join(map(str, index))}]" if index else ""
            found[name + place] = one
    return found


def _diagnose_array(draws: np.ndarray) -> Iterator[Diagnosis]:
    """Of every coordinate of draws `[C, S, ...]`, in the order of the array."""
    num_chains, num_draws = draws.shape[:2]
    coordinates = draws.reshape(num_chains, num_draws, -1)
    size = max(1, BLOCK // (num_chains * num_draws))
    for start in range(0, coordinates.shape[2], size):
        block = coordinates[..., start : start + size]
        # The draws of a chain side by side in memory, for the Fourier transforms.
        block = np.ascontiguousarray(np.moveaxis(block, -1, 0), np.float64)
        yield from _diagnose_block(np.moveaxis(block, 0, -1))


def _diagnose_block(draws: np.ndarray) -> Iterator[Diagnosis]:
    """Of every coordinate of draws `[C, S, K]`, all at once."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    means, stds = np.mean(draws, axis=(0, 1)), np.std(draws, axis=(0, 1))
    ess, r_hat = np.full_like(means, np.nan), np.full_like(means, np.nan)
    # Of draws that never move there is no correlation to speak of.
    moves = np.any(draws != draws[:1, :1], axis=(0, 1))
    stds[~moves] = 0.0
    if np.any(moves):
        ess[moves] = effective_sample_size(draws[..., moves])
        r_hat[moves] = split_gelman_rubin(draws[..., moves])
    for figures in zip(means, stds, stds / np.sqrt(ess), ess, r_hat, strict=True):
        yield Diagnosis(*map(float, figures))


def diagnosis_table(found: Mapping[str, Diagnosis], *, at_most: int = 20) -> str:
    """The figures as text of at most 79 columns, the coordinates of largest R-hat first.

    Args:
      found: of `diagnose`.
      at_most: rows; how many more there are is said.

    Returns:
      Lines, joined: a heading, the rows, and what was left out. Coordinates whose R-hat is NaN
      come first: their draws never move, or are not finite. Of a long name the end is shown.

    Raises:
      ValueError: if `at_most` < 1.
      TypeError: if it is no integer.

    Example:
      >>> print(diagnosis_table({"w[0]": Diagnosis(0.5, 1.0, 0.01, 10_000.0, 1.0003)}))
      coordinate                   mean        std       mcse        ess    R-hat
      w[0]                          0.5          1       0.01      10000   1.0003
    """
    checks.check_count("at_most", at_most)

    def badness(item: tuple[str, Diagnosis]) -> float:
        return -np.inf if np.isnan(item[1].r_hat) else -item[1].r_hat

    rows = sorted(found.items(), key=badness)
    lines = [f"{'coordinate':<20} {'mean':>12} {'std':>10} {'mcse':>10} {'ess':>10} {'R-hat':>8}"]
    for name, one in rows[:at_most]:
        shown = name if len(name) <= 20 else "..." + name[-17:]
        lines.append(
            f"{shown:<20} {one.mean:>12.4g} {one.std:>10.4g} {one.mcse:>10.2g} "
            f"{one.ess:>10.0f} {one.r_hat:>8.4f}"
        )
    if len(rows) > at_most:
        lines.append(f"and {len(rows) - at_most} more, with a smaller R-hat")
    return "\n".join(lines)


def save_draws(path: str | os.PathLike, position: PyTree, *, num_chains: int | None = None) -> None:
    """Writes draws to an `.npz`, each leaf `[C, S, ...]` by its name, atomically.

    ArviZ reads it: `arviz.from_dict({"posterior": dict(numpy.load(path))})`.

    Args:
      path: of the file, `.npz`.
      position, num_chains: as for `diagnose`; of one chain C is 1 in the file.

    Raises:
      ValueError: as `diagnose`; or if the path ends otherwise.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     draws = {"w": np.zeros((2, 5, 3)), "b": np.ones((2, 5))}
      ...     save_draws(f"{folder}/draws.npz", draws, num_chains=2)
      ...     with np.load(f"{folder}/draws.npz") as file:
      ...         print({name: file[name].shape for name in sorted(file)})
      {'b': (2, 5), 'w': (2, 5, 3)}
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}.")
    draws = _named(position, num_chains)
    for name in sorted(RESERVED & draws.keys()):
        raise ValueError(f"position must have no leaf named {name!r} to be saved.")
    content = io.BytesIO()
    np.savez_compressed(content, **draws)
    write_atomically(path, content.getvalue())


def _named(position: PyTree, num_chains: int | None) -> dict[str, np.ndarray]:
    """Leaves `[C, S, ...]` by the names of their paths; one alone is `x`."""
    check_draws(position)
    if num_chains is None:
        position = jax.tree.map(lambda leaf: np.asarray(leaf)[None], position)
    named, sizes = {}, set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(position):
        draws = np.asarray(leaf)
        if draws.ndim < 2:
            shape = draws.shape[num_chains is None :]
            axes = "an axis of draws" if num_chains is None else "axes of chains and draws"
            raise ValueError(f"position must have {axes}, got {shape}.")
        sizes.add(draws.shape[:2])
        name = ".".join(str(_key(entry)) for entry in path) or "x"
        if name in named:
            raise ValueError(f"position has two leaves named {name!r}.")
        named[name] = draws
    if len(sizes) != 1:
        raise ValueError(f"position must have one number of chains and draws, got {sorted(sizes)}.")
    (size,) = sizes
    if num_chains is not None:
        checks.check_count("num_chains", num_chains)
        if size[0] != num_chains:
            raise ValueError(
                f"position must have a leading axis of num_chains = {num_chains}, got {size[0]}."
            )
    checks.check_count("the number of draws", size[1], at_least=4)
    return named


def _key(entry: object) -> object:
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return getattr(entry, name)
    return entry
