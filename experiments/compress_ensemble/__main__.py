"""Compresses an ensemble of neural networks into one small network.

Papamakarios (2015), "Distilling Model Knowledge", chapter 2: an ensemble is
trained on bootstrap resamples, and students a tenth of its width learn its values
(ce, logits, soft_target) or its input derivatives (dse), on the data or on noise.
Settings that take several values, separated by commas, are run in every
combination.
"""

from experiments import flags
from experiments.compress_ensemble.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.compress_ensemble import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    options = ("data_dir", "cache_gb", "teacher_from")
    flags.main("experiments.compress_ensemble", __doc__, Settings, run, options=options)
