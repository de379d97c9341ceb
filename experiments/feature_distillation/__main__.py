"""Teaches a small network features by which images of the same class are found.

Passalis, Tzelepi and Tefas (2020), "Heterogeneous knowledge distillation using information flow
modeling", and the methods beside it. A residual teacher; students of a few convolutions, which
learn from labels, from the teacher's answers, from its features, or from all layers of an
auxiliary network between the two; with and without contrastive supervision.
"""

from experiments import flags
from experiments.feature_distillation.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.feature_distillation import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main(
        "experiments.feature_distillation", __doc__, Settings, run, options=("data_dir", "cache_gb")
    )
