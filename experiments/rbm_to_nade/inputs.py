"""What the study reads, and what it refuses to begin with."""

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.flags import Options, UserError
from experiments.rbm_to_nade.estimates import MOST_ENUMERATED
from experiments.rbm_to_nade.settings import ADAM_RATE, Settings
from kd import data
from kd.data import BinaryDataset
from kd.types import Array, PyTree

if TYPE_CHECKING:
    from experiments.rbm_to_nade.study import Teacher

_LOG = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What a run reads.

    Attributes:
      images: binary images.
      rbm_params: of the file, or None.
    """

    images: BinaryDataset
    rbm_params: PyTree | None


def check(settings: Settings) -> None:
    """Refuses settings that will not do, whatever the data."""
    if settings.offset != "max":
        offset(settings)
    reference_log_z(settings)
    if settings.optimizer != "adam" and settings.learning_rate != ADAM_RATE:
        raise UserError("--learning_rate is Adam's: it needs --optimizer=adam.")


def offset(settings: Settings) -> float:
    """The number that `--offset` is, where it is not max."""
    return _number("offset", settings.offset, "max or a number")


def reference_log_z(settings: Settings) -> float | None:
    """The published log Z, if one is given."""
    text = settings.reference_log_z
    return _number("reference_log_z", text, "a number") if text else None


def digests(settings: Settings, options: Options) -> dict[str, Any]:
    """A digest of what each input holds, by name."""
    found = {"dataset": data.fingerprint(settings.dataset, data_dir=options.data_dir)}
    if not settings.rbm:
        return found
    if not settings.rbm.endswith(".npz"):
        data.load_rbm(settings.rbm)  # It says what is expected.
    return found | {"rbm": data.fingerprint(settings.rbm)}


def load(settings: Settings, options: Options) -> Loaded:
    """The images and the RBM; what will not do is refused now."""
    if settings.num_chains % settings.batch_size:
        raise UserError(
            f"--batch_size {settings.batch_size} must divide --num_chains {settings.num_chains}."
        )
    if settings.ais_chains > settings.num_samples:
        raise UserError(
            f"--ais_chains {settings.ais_chains} must be at most --num_samples "
            f"{settings.num_samples}: annealing backwards begins at samples."
        )
    params = _load_rbm(settings.rbm) if settings.rbm else None
    size = None if params is None else len(params["params"]["a"])
    images = data.load_binary(
        settings.dataset,
        data_dir=options.data_dir,
        num_visible=size,
        pixel_order=settings.pixel_order,
    )
    reads_images = params is None or "data" in settings.loss
    if reads_images and len(images.train) < settings.batch_size:
        raise UserError(f"--batch_size must be at most the {len(images.train)} images there are.")
    if params is None:
        num_rbm_steps(settings, images)
    num_hidden = settings.rbm_hidden if params is None else len(params["params"]["b"])
    _check_shape(settings, images.train.shape[1], num_hidden)
    return Loaded(images, params)


def num_rbm_steps(settings: Settings, images: BinaryDataset) -> int:
    """Minibatches of the training of an RBM."""
    total = settings.rbm_epochs * (len(images.train) // settings.batch_size)
    if total >= 2**31:
        raise UserError(f"--rbm_epochs {settings.rbm_epochs:g} are {total:.3g} steps; lower it.")
    return max(1, round(total))


def warn_of_another_order(teacher: "Teacher", x: Array) -> None:
    """Says so where the RBM would rather have rows and columns exchanged."""
    side = round(x.shape[1] ** 0.5)
    if side**2 != x.shape[1]:
        return
    exchanged = x.reshape(-1, side, side).swapaxes(1, 2).reshape(x.shape)
    log_potential = jax.jit(teacher.log_potential)
    gain = np.asarray(log_potential(exchanged) - log_potential(x), np.float64)
    if np.mean(gain) > 3 * np.std(gain) / np.sqrt(len(gain)):
        _LOG.warning(
            "with rows and columns exchanged the RBM gives a test image %.1f nats more: are its "
            "pixels in the order of the images (--pixel_order)?",
            np.mean(gain),
        )


def _check_shape(settings: Settings, num_visible: int, num_hidden: int) -> None:
    if num_visible < 2:
        raise UserError(f"{settings.dataset}: a NADE here needs images of two pixels or more.")
    if settings.coverage_repeats and min(num_visible, num_hidden) > MOST_ENUMERATED:
        raise UserError(
            f"--coverage_repeats needs the exact log Z: an RBM with at most "
            f"{MOST_ENUMERATED} hidden or visible units, not {num_visible} x {num_hidden}."
        )


def _load_rbm(path: str) -> PyTree:
    params = data.load_rbm(path)
    with np.errstate(over="ignore"):
        if not all(np.isfinite(x.astype(np.float32)).all() for x in params["params"].values()):
            raise UserError(f"{path}: the RBM's parameters are too large for single precision.")
    return params


def _number(name: str, text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"--{name} must be {expected}; got {text!r}.")
    return value
