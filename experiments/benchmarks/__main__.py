"""Prints every ratio and every difference beside its bar; exits with 1 if a bar is missed."""

import argparse
import sys

import jax

from experiments.benchmarks import agreement, bags, densities, expectations, features, training

BENCHMARKS = {
    **training.BENCHMARKS,
    **densities.BENCHMARKS,
    **bags.BENCHMARKS,
    **expectations.BENCHMARKS,
    **features.BENCHMARKS,
    **agreement.BENCHMARKS,
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
        missed += found.verdict == "MISSED"
        print(found, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
