"""Gives a student's features a prior that a teacher's features make.

Fitzsimons, Schmon and Roberts (2019), "Implicit priors for knowledge sharing in Bayesian neural
networks". A convolutional teacher; students of dense layers, which learn from labels, from the
teacher's answers, or first, without labels, from its features. As the paper has it, and again
with the same care for every method; with all labels and with few (the teacher has them all). And
the posterior of all weights under such a prior, which the paper describes and does not run.

The paper gives epochs, numbers of layers and some of their units; optimisers, rates, batches,
channels, the strength of soft targets and of noise, the kernels' jitter and the share of epochs
that features have are ours.
"""

from experiments import flags
from experiments.feature_priors.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.feature_priors import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main(
        "experiments.feature_priors", __doc__, Settings, run, options=("data_dir", "cache_gb")
    )
