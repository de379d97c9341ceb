"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses

from experiments.flags import setting

LOSSES = ("kl", "se", "se_then_kl", "data")
OPTIMIZERS = ("adadelta", "adam")
ADAM_RATE = 0.001
NUM_MONITORED = 500  # Test images whose log-probability is followed in training.
MOST = 1_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    dataset: str = setting(
        "digits",
        "mnist",
        "binary images: digits, mnist, fashion_mnist or kmnist (1 above one half), or an .npz "
        "with train and test, zeros and ones",
    )
    rbm: str = setting(
        "", "", "an .npz with W, a and b; empty to train one on the data, by persistent CD"
    )
    rbm_hidden: int = setting(
        14, 500, "hidden units of the RBM, if trained", at_least=1, at_most=MOST
    )
    rbm_epochs: float = setting(60.0, 60.0, "passes of its training", above=0)
    rbm_steps: int = setting(5, 25, "Gibbs steps a minibatch of it", at_least=1, at_most=MOST)
    rbm_rate: float = setting(0.05, 0.01, "its first learning rate, falling to 0", above=0)
    loss: tuple[str, ...] = setting(
        ("kl", "se"),
        ("kl", "se"),
        "what NADE minimises; data: its likelihood of the images, with no teacher",
        choices=LOSSES,
    )
    nade_hidden: tuple[int, ...] = setting(
        (60,),
        (250, 500, 750, 1000),
        "hidden units of NADE",
        at_least=1,
        at_most=MOST,
        is_set=True,
    )
    batch_size: int = setting(20, 20, "samples a step", at_least=1, at_most=MOST)
    num_iterations: int = setting(6000, 30_000, "steps of NADE", at_least=1, at_most=2**31 - 1)
    se_fraction: float = setting(
        0.1, 0.1, "part of them by square error, for se_then_kl", above=0, at_most=1
    )
    optimizer: str = setting("adadelta", "adadelta", "of NADE", choices=OPTIMIZERS)
    learning_rate: float = setting(
        ADAM_RATE,
        ADAM_RATE,
        "Adam's first, falling linearly to 0; ADADELTA has none",
        above=0,
    )
    offset: str = setting(
        "max", "max", "c of the square error: a number, or max, the largest log-potential found"
    )
    num_chains: int = setting(
        200,
        2000,
        "Gibbs chains, of which batch_size are handed out a step",
        at_least=1,
        at_most=MOST,
    )
    burn_in: int = setting(
        500, 2000, "Gibbs steps from fair coins before any sample", at_least=0, at_most=MOST
    )
    num_samples: int = setting(
        10_000, 10_000, "of each distribution, for the estimates", at_least=2, at_most=MOST
    )
    ais_steps: int = setting(
        1000, 14_500, "temperatures of annealed importance sampling", at_least=2, at_most=MOST
    )
    ais_chains: int = setting(100, 100, "its chains", at_least=2, at_most=MOST)
    coverage_repeats: int = setting(
        0,
        0,
        "times that every estimate is made afresh, to count the intervals that hold the exact "
        "log Z; for small RBMs",
        at_least=0,
        at_most=MOST,
    )
    seed: int = setting(0, 0, "decides everything random", at_least=0, at_most=2**32 - 1)

    def conditions(self) -> list[tuple[str, int]]:
        """All (loss, hidden units) to run, in the order in which they are reported."""
        return [(loss, hidden) for hidden in self.nade_hidden for loss in self.loss]
