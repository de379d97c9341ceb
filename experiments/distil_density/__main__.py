"""Distils densities known only up to a constant into a mixture of Gaussians.

Papamakarios (2015), "Distilling Model Knowledge", section 4.1, for continuous
densities, which the thesis left undone. Students learn from samples of the teacher
(kl), from its log-potentials there as well (se), from its scores (score), or from
se first and then kl (se_then_kl); each is judged by its KL divergence from the teacher,
by quadrature. Settings that take several values, separated by commas, are run in
every combination.
"""

from experiments import flags
from experiments.distil_density.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.distil_density import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main("experiments.distil_density", __doc__, Settings, run)
