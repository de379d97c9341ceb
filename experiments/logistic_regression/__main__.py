"""Distils the predictions of Bayesian logistic regression into a bag of ten sigmoids.

Papamakarios (2015), "Distilling Model Knowledge", section 3.3.4, figures 3.10-3.16. Slice sampling
explores the posterior of the weights; the mean of 10,000 sigmoids is the Monte Carlo
prediction. A mean of ten sigmoids learns it from that bag (batch), and from the chain as it runs
(online), by cross-entropy (ce) and by derivative square error (dse), at inputs from a
Gaussian. Expectation propagation, Laplace's approximation and Hamiltonian Monte Carlo are compared
with them: over those inputs, and over the plotted square. --dataset=breast_cancer or wine
takes real data, standardised, scored on what is held out.
"""

from experiments import flags
from experiments.logistic_regression.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.logistic_regression import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main("experiments.logistic_regression", __doc__, Settings, run)
