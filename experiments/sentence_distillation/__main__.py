"""Distils a Transformer into an LSTM that reads the same sentences.

Losses of layers over sequences as in Jiao et al. (2020), "TinyBERT: distilling BERT for natural
language understanding", and Yang et al. (2020), "TextBrewer: an open-source knowledge
distillation toolkit for natural language processing", for two architectures that share nothing
but the positions of the words. Students learn from labels, from the teacher's answers, or first
from its embeddings, hidden states, their products between positions, or the flow between two
layers; and beside them a small Transformer, which has attention to match as well.

Networks and training are of a size for two cores: the papers' teacher is BERT.

Sentences come from a folder with one file of either class, *.neg and *.pos, one sentence a line;
or, with --dataset=negations, from a law in which "not" turns the next word round.
"""

from experiments import flags
from experiments.sentence_distillation.settings import Settings


def run(preset: str, settings: Settings, options: flags.Options) -> None:
    """Runs the study; jax and the rest are imported only now."""
    from experiments.sentence_distillation import study

    study.run(preset, settings, options)


if __name__ == "__main__":
    flags.main("experiments.sentence_distillation", __doc__, Settings, run, options=("cache_gb",))
