"""Teaches a small network features by which images of the same class are found.

Passalis, Tzelepi and Tefas (2020), "Heterogeneous knowledge distillation using information flow
modeling", and the methods beside it. A residual teacher; students of a few convolutions, which
learn from labels, from the teacher's answers, from its features, or from all layers of an
auxiliary network between the two; with and without contrastive supervision. All students have
the same starts and minibatches, repeat by repeat, and every method the same rate, tuned for none.

The paper's preset is not their released code in all. There student and auxiliary network are
normalised by batch after every convolution, here not at all, and the teacher by groups of channels,
once more before its last map is pooled. There Adam's rate is 1e-3, after 50 epochs of labels
(30 of the teacher's features) 1e-4 for teacher and auxiliary network, and for the proposed
students Adam begins anew each epoch; here it falls along a cosine. There crops have black around
them, here the mean colour. Of the methods it has labels and the proposed one alone. VID is that of
features alone, without the terms of logits and labels that Ahn et al. (2019) add.
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
