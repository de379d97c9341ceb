"""Distils expectations over the posterior of a neural network into small networks.

Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation for
deep neural networks", its four experiments. A chain samples the weights of a classifier; while
it runs, students learn the posterior predictive distribution, the expected entropy,
both, or a Dirichlet distribution (ensemble distribution distillation), from the current
sample or from running means, and no sample is stored. Or the teacher is an ensemble, or a bag
of a chain's samples.

1: both expectations; 2: under masks and with fewer data; 3: students of all widths, and large ones
pruned; 4: uncertainties for detection and ranking.
"""

from experiments import flags
from experiments.posterior_expectations.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.posterior_expectations import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    options = ("data_dir", "cache_gb")
    flags.main("experiments.posterior_expectations", __doc__, Settings, run, options=options)
