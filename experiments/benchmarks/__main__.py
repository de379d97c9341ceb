"""Prints every ratio beside its bar; exits with 1 if a bar is missed."""

import argparse
import sys

import jax

from experiments.benchmarks import bags, densities, expectations, features, training

BENCHMARKS = {
    **training.BENCHMARKS,
    **densities.BENCHMARKS,
    **bags.BENCHMARKS,
    **expectations.BENCHMARKS,
    **features.BENCHMARKS,
}


def main() -> int:
    """Measures and prints, row by row."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; all if none"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"{name!r} is none of {', '.join(BENCHMARKS)}")
    device = jax.devices()[0]
    print(f"{device.platform}: {device.device_kind}; jax {jax.__version__}; medians [quartiles]")
    missed = 0
    for found in (row for name in names for row in BENCHMARKS[name]()):
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
