"""Every example in the docstrings of kd runs and prints what it says."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd

MODULES = ["kd", *(info.name for info in pkgutil.walk_packages(kd.__path__, "kd."))]
GLOBALS = {"jax": jax, "jnp": jnp, "np": np}


def examples_of(name):
    """The doctests of one module that have examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = finder.find(importlib.import_module(name), extraglobs=GLOBALS)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report = []
    for test in examples_of(name):
        runner.run(test, out=report.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_there_are_examples():
    """A finder that finds nothing would pass everything."""
    assert sum(len(test.examples) for name in MODULES for test in examples_of(name)) >= 45
    for name in ("kd.losses.values", "kd.losses.derivatives", "kd.derivatives", "kd.training.fit"):
        assert examples_of(name), name
