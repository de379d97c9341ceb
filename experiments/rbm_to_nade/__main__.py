"""Distils a restricted Boltzmann machine into a NADE, and estimates its partition function.

Papamakarios (2015), "Distilling Model Knowledge", chapter 4: the RBM is known up to its
partition function Z; NADEs learn from its Gibbs samples (kl), or from its unnormalised
log-probabilities at them (se), and then serve as proposals for estimates of log Z, which
stand beside annealed importance sampling and, where it can be had, the exact value.
The RBM is trained here, or read from --rbm; a run leaves its own as rbm.npz. Settings
that take several values, separated by commas, are run in every combination.
"""

from experiments import flags
from experiments.rbm_to_nade.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.rbm_to_nade import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main("experiments.rbm_to_nade", __doc__, Settings, run, options=("data_dir",))
