"""What a run learns from: sentences, their labelled part, batches; settings that do not fit."""

import jax.numpy as jnp
import numpy as np

from experiments.flags import UserError
from experiments.sentence_distillation.settings import MATCHED, NEGATIONS, TINY, Settings
from kd import data, streams
from kd.data import SentenceDataset
from kd.types import Batch, Stream


def fingerprints(settings: Settings) -> dict[str, str | None]:
    """Digests of the data."""
    if settings.dataset == NEGATIONS:
        return {NEGATIONS: None}
    return {"dataset": data.sentences_fingerprint(_folder(settings))}


def load(settings: Settings) -> SentenceDataset:
    """Reads or draws the sentences, and refuses what cannot be done."""
    check(settings)
    if settings.dataset == NEGATIONS:
        dataset = data.negated_sentences(
            settings.num_sentences,
            length=settings.length,
            test_share=settings.test_share,
            seed=settings.seed,
        )
    else:
        dataset = data.load_sentences(
            _folder(settings),
            length=settings.length,
            num_words=settings.num_words,
            test_share=settings.test_share,
            seed=settings.seed,
        )
    check_sizes(settings, dataset)
    return dataset


def _folder(settings: Settings) -> str:
    if not settings.dataset:
        raise UserError(
            "--dataset must name a folder with two files of sentences, one a line, *.neg and "
            f"*.pos; or be {NEGATIONS}."
        )
    return settings.dataset


def check(settings: Settings) -> None:
    """Refuses settings that do not go together."""
    has_tiny = any(method in TINY for method in settings.method)
    has_recurrent = any(method not in TINY for method in settings.method)
    for name in ("teacher_width", *has_tiny * ("tiny_width",)):
        width = getattr(settings, name)
        if width % settings.num_heads:
            raise UserError(f"--num_heads={settings.num_heads} does not divide --{name}={width}.")
    for name in (*has_recurrent * ("student_layers",), *has_tiny * ("tiny_layers",)):
        layers = getattr(settings, name)
        if settings.teacher_layers % layers:
            raise UserError(
                f"--{name}={layers} does not divide --teacher_layers={settings.teacher_layers}, "
                "so that layers would not match."
            )


def check_sizes(settings: Settings, dataset: SentenceDataset) -> None:
    """Refuses batches larger than what there is, shares of nothing, too few steps."""
    count = len(dataset.train_y)
    if settings.batch_size > count:
        raise UserError(
            f"--batch_size={settings.batch_size} is more than the {count} training sentences "
            "there are."
        )
    if len(dataset.test_y) < 2:
        raise UserError(f"--test_share={settings.test_share:g} leaves less than two sentences.")
    for share in settings.label_share:
        if round(share * count) < 1:
            raise UserError(f"--label_share={share:g} leaves no sentence with a label.")
    staged = [method for method in settings.method if method in MATCHED]
    if staged and num_steps(settings, dataset, settings.student_epochs) < 2:
        raise UserError(
            f"--student_epochs={settings.student_epochs} is one step, and --method={staged[0]} "
            "has two stages."
        )


def num_steps(settings: Settings, dataset: SentenceDataset, num_epochs: int) -> int:
    """Minibatches in so many passes."""
    return num_epochs * (len(dataset.train_y) // settings.batch_size)


def examples(settings: Settings, dataset: SentenceDataset) -> Stream:
    """Labelled minibatches, for the teacher."""
    whole = {"x": jnp.asarray(dataset.train_x), "y": jnp.asarray(dataset.train_y)}
    return streams.with_keys(streams.resample(whole, settings.batch_size))


def labelled_part(settings: Settings, dataset: SentenceDataset, share: float) -> Batch:
    """The sentences with labels, the same for every method."""
    count = max(1, round(share * len(dataset.train_y)))
    chosen = np.random.default_rng(settings.seed).permutation(len(dataset.train_y))[:count]
    return {
        "labelled_x": jnp.asarray(dataset.train_x[chosen]),
        "labelled_y": jnp.asarray(dataset.train_y[chosen]),
    }


def batches(settings: Settings, told: Batch, labelled: Batch) -> Stream:
    """Sentences that the teacher speaks of, and labelled ones: each as many as a step takes."""
    size = min(settings.batch_size, len(labelled["labelled_y"]))
    unlabelled = streams.with_keys(streams.resample(told, settings.batch_size))
    return streams.merge(unlabelled, streams.resample(labelled, size))
