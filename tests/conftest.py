"""What every test runs under: silent broadcasting and raw keys are errors, nothing is random."""

import os
import signal
import sys
import tempfile
from pathlib import Path

# Tests compile thousands of small programs, and run each once or twice: compiling in haste
# takes a third less time. Before jax is imported; runs in processes of their own inherit it.
HASTE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {HASTE}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# `import oracles` works from every folder of tests, whatever pytest's import mode.
sys.path.insert(0, str(Path(__file__).parent))

# A shell that starts the tests in the background has Ctrl-C ignored, and so would they.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")

# Tests compile the same small programs again and again, in new closures each time: a
# cache that lives as long as the session takes most of that time away. Each process that
# runs tests has its own: JAX does not write its files atomically.
_CACHE = tempfile.TemporaryDirectory(prefix="kd-tests-")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

settings.register_profile("kd", derandomize=True, deadline=None, max_examples=10, database=None)
settings.load_profile("kd")


def pytest_unconfigure():
    """Deletes the cache of this session."""
    _CACHE.cleanup()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
