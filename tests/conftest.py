"""What every test runs under: silent broadcasting and raw keys are errors, nothing is random."""

import sys
from pathlib import Path

import jax
import pytest
from hypothesis import settings

# `import oracles` works from every folder of tests, whatever pytest's import mode.
sys.path.insert(0, str(Path(__file__).parent))

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")

settings.register_profile(
    "kd", derandomize=True, deadline=None, max_examples=10, database=None
)
settings.load_profile("kd")


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
