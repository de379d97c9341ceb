"""Interleaved timing: only ratios from one run count. Bytes are what they are."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


class Ratio(NamedTuple):
    """One measured ratio against its bar.

    Attributes:
      name: what is compared.
      value: the median over rounds of (first time / second time).
      low, high: the quartiles of the same.
      bar: what it must not exceed (or fall below, with `at_least`).
      at_least: whether more is better.
      detail: the two medians in words.
    """

    name: str
    value: float
    low: float
    high: float
    bar: float
    at_least: bool
    detail: str

    @property
    def is_met(self) -> bool:
        """Whether the median is on the right side of the bar."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    @property
    def verdict(self) -> str:
        """Whether the bar is met, in a word; none without a bar."""
        if math.isinf(self.bar):
            return ""
        return "ok" if self.is_met else "MISSED"

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        bar = "" if math.isinf(self.bar) else f"{sign} {self.bar:g}"
        return (
            f"{self.name:<56} {self.value:6.2f} [{self.low:.2f}, {self.high:.2f}] "
            f"{bar:<8} {self.verdict:<7} {self.detail}"
        )


def ratio(
    name: str,
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    bar: float,
    at_least: bool = False,
    scale: float = 1.0,
    units: tuple[float, float] = (1.0, 1.0),
    rounds: int = 15,
    pause: float = 0.0,
) -> Ratio:
    """Times two thunks in turn, A B B A, and takes the median of the rounds' ratios.

    Args:
      name: what is compared.
      first, second: run the work once; what they return is waited for.
      bar: the ratio to meet.
      at_least: whether the ratio must reach the bar rather than stay below.
      scale: multiplies every ratio, for instance to go from calls to steps.
      units: what each time is divided by in `detail` (units of work a call).
      rounds: after one uncounted.
      pause: seconds before each, in which another library's idle threads go to sleep: until
        then they keep a core busy, waiting for more work.
    """
    times = []
    for index in range(rounds + 1):
        pair = (first, second) if index % 2 else (second, first)
        measured = [_seconds(thunk, pause) for thunk in pair]
        times.append(measured if index % 2 else measured[::-1])
    table = np.array(times[1:])
    ratios = scale * table[:, 0] / table[:, 1]
    each = np.median(table, 0) / np.array(units)
    detail = f"{1e6 * each[0]:,.0f} us against {1e6 * each[1]:,.0f} us"
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return Ratio(name, middle, low, high, bar, at_least, detail)


def exact(name: str, first: float, second: float, *, bar: float = float("inf")) -> Ratio:
    """A ratio of bytes, which need no rounds."""
    value = first / second
    return Ratio(name, value, value, value, bar, False, f"{first:,} bytes against {second:,}")


def _seconds(thunk: Callable[[], object], pause: float) -> float:
    time.sleep(pause)
    start = time.perf_counter()
    jax.block_until_ready(thunk())
    return time.perf_counter() - start
