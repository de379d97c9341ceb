"""Distils the predictive density of a Bayesian mixture of Gaussians into a small mixture.

Papamakarios (2015), "Distilling Model Knowledge", section 3.2.3, figures 3.1-3.9. Slice sampling
explores the posterior of three unknown means, given N points; the mean density over 10,000
samples is the Monte Carlo prediction. A mixture of three Gaussians learns it from a
bag of samples (batch), by EM, and from the chain as it runs, without storing it (online), by
stepwise EM; each is judged by its KL divergence from the Monte Carlo prediction, by quadrature.
--batch_sizes asks beyond the thesis whether correlated samples hurt the online method.
"""

from experiments import flags
from experiments.density_estimation.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.density_estimation import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main("experiments.density_estimation", __doc__, Settings, run)
