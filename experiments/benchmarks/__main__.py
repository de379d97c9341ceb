"""Prints every ratio beside its bar; exits with 1 if a bar is missed."""

import sys

import jax

from experiments.benchmarks.training import all_ratios


def main() -> int:
    """Measures and prints, row by row."""
    device = jax.devices()[0]
    print(f"{device.platform}: {device.device_kind}; jax {jax.__version__}; medians [quartiles]")
    missed = 0
    for found in all_ratios():
        sign = ">=" if found.at_least else "<="
        bar = "" if found.bar == float("inf") else f"{sign} {found.bar:g}"
        verdict = "" if not bar else ("ok" if found.is_met else "MISSED")
        missed += verdict == "MISSED"
        print(
            f"{found.name:<56} {found.value:6.2f} [{found.low:.2f}, {found.high:.2f}] "
            f"{bar:<8} {verdict:<7} {found.detail}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
