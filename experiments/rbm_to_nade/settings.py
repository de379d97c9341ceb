"""Settings of the study, with the quick and the paper's value of each."""

import dataclasses
from typing import ClassVar

from experiments.flags import setting

# As `kd.data.load_binary` has them; nothing heavy is imported here.
PIXEL_ORDERS = ("rows", "columns")

LOSSES = ("kl", "se", "se_then_kl", "data")
OPTIMIZERS = ("adadelta", "adam")
ADAM_RATE = 0.001
NUM_MONITORED = 500  # Test images whose log-probability is followed in training.
MOST = 1_000_000  # Of anything that is counted: beyond it lies a slip of the keyboard.


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a result."""

    SECTIONS: ClassVar[dict[str, str]] = {
        "dataset": "data",
        "rbm": "teacher",
        "loss": "students",
        "offset": "evaluation",
        "seed": "repeats",
    }

    dataset: str = setting(
        "digits",
        "mnist",
        "binary images: digits, mnist, fashion_mnist or kmnist (1 above one half), or an .npz "
        "with train and test, zeros and ones",
    )
    pixel_order: str = setting(
        "rows",
        "columns",
        "in which images are vectors, here and in the files of --dataset and --rbm; the thesis's "
        "go through their columns",
        choices=PIXEL_ORDERS,
    )
    rbm: str = setting(
        "",
        "",
        "an .npz with W (pixels by hidden units), a and b, the biases of pixels and of hidden "
        "units; if empty, an RBM is trained on the images by persistent contrastive divergence",
    )
    rbm_hidden: int = setting(
        14, 500, "hidden units of an RBM trained here", at_least=1, at_most=MOST
    )
    rbm_epochs: float = setting(60.0, 60.0, "passes of its training over the images", above=0)
    rbm_steps: int = setting(
        5, 25, "Gibbs steps of its chains a minibatch", at_least=1, at_most=MOST
    )
    rbm_rate: float = setting(
        0.05, 0.01, "learning rate of its first step, falling linearly to 0", above=0
    )
    loss: tuple[str, ...] = setting(
        ("kl", "se"),
        ("kl", "se"),
        "what NADE learns by: KL divergence, at samples of the RBM; square error of "
        "log-densities, there too; that first and then KL; data: likelihood of the images, "
        "without the RBM",
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
        0.1,
        0.1,
        "part of the steps that se_then_kl spends on square error",
        above=0,
        at_most=0.99,
    )
    optimizer: str = setting("adadelta", "adadelta", "what moves NADE", choices=OPTIMIZERS)
    learning_rate: float = setting(
        ADAM_RATE,
        ADAM_RATE,
        "of Adam's first step, falling linearly to 0 over all steps; ADADELTA has none",
        above=0,
    )
    offset: str = setting(
        "max",
        "max",
        "c of the square error, a guess of log Z from below: a number of nats, or max, the "
        "largest log-potential that a search finds",
    )
    reference_log_z: str = setting(
        "",
        "",
        "a published log Z of the RBM, in nats: its mean test log-probability by that is reported "
        "as well",
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
        1000,
        14_500,
        "temperatures of annealed importance sampling, evenly spaced; 14,500 are Salakhutdinov "
        "and Murray's",
        at_least=2,
        at_most=MOST,
    )
    ais_chains: int = setting(
        100, 100, "chains of annealed importance sampling", at_least=2, at_most=MOST
    )
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
