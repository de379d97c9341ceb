"""What a run learns from and is tested on: data sets, masks; settings that do not go together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.flags import Options, UserError
from experiments.posterior_expectations import networks, students, teachers, toy
from experiments.posterior_expectations.settings import (
    ABSOLUTE,
    ESTIMATORS,
    RUNNING,
    STUDENTS,
    Chain,
    Settings,
)
from kd import data, samplers, streams
from kd.data import Dataset
from kd.types import Stream

SYNTHETIC = ("permuted", "inverted")
LISTS = (
    *("outside", "mask_rate", "train_size", "student", "estimator", "channel_multiplier"),
    *("unit_multiplier", "student_hidden", "regularizer_strength", "dropout"),
)


class Loaded(NamedTuple):
    """The inputs of a run.

    Attributes:
      dataset: whole and without masks.
      unlabelled: the students' inputs, without masks.
      outside: inputs out of distribution, `[M, ...]`, by name.
    """

    dataset: Dataset
    unlabelled: np.ndarray
    outside: dict[str, np.ndarray]


def fingerprints(settings: Settings, options: Options) -> dict[str, str | None]:
    """Digests of the data sets."""
    _check_names(settings)
    names = {settings.dataset, settings.unlabelled, *settings.outside} - {"", toy.NAME, *SYNTHETIC}
    return {name: data.fingerprint(name, data_dir=options.data_dir) for name in sorted(names)}


def _check_names(settings: Settings) -> None:
    """Refuses unknown data sets, by the flag that names them."""
    choices = {
        "dataset": (*data.NAMES, toy.NAME),
        "unlabelled": data.NAMES,
        "outside": (*data.NAMES, *data.TEST_ONLY_NAMES, *SYNTHETIC),
    }
    for flag, known in choices.items():
        given = getattr(settings, flag)
        for name in given if flag == "outside" else (given,):
            is_file = name.endswith(".npz") or (flag == "unlabelled" and not name)
            if name not in known and not is_file:
                raise UserError(
                    f"--{flag} must be {', '.join(known)} or the path of an .npz; got {name!r}."
                )


def load(settings: Settings, options: Options) -> Loaded:
    """Reads the data, and refuses what cannot be done."""
    check(settings)
    loaded = _load(settings, options)
    _check_estimates(settings, options, loaded)
    return loaded


def _check_estimates(settings: Settings, options: Options, loaded: Loaded) -> None:
    """Refuses estimates that are too large now, and not when a teacher has been trained."""
    num_classes = loaded.dataset.num_classes
    streams.posterior_expectations(
        samplers.fixed(),
        jnp.zeros(num_classes),
        lambda weights, x: jax.nn.log_softmax(weights),
        students.expectations(settings),
        streams.resample(
            {"x": jnp.zeros(1), "index": jnp.zeros(1, jnp.int32)}, 1
        ),  # Of their number alone.
        num_examples=len(loaded.unlabelled),
        max_bytes=1e9 * options.cache_gb,
    )


def _load(settings: Settings, options: Options) -> Loaded:
    if settings.dataset == toy.NAME:
        return Loaded(*toy.dataset(settings.seed), {})
    dataset = data.load(settings.dataset, data_dir=options.data_dir)
    shape = dataset.test_x.shape[1:]
    if len(shape) != 3:
        _check_vectors(settings, shape)
    _check_data(settings, dataset)

    def check_shape(flag: str, name: str, x: np.ndarray) -> np.ndarray:
        if x.shape[1:] != shape:
            raise UserError(
                f"--{flag}={name} has inputs {x.shape[1:]}, and {settings.dataset} {shape}."
            )
        return x

    outside = {}
    for name in settings.outside:
        if name in SYNTHETIC:
            outside[name] = altered(dataset.test_x, name, settings.seed)
        else:
            found = padded(data.load_test_inputs(name, data_dir=options.data_dir), shape)
            outside[name] = check_shape("outside", name, found)
    unlabelled = dataset.train_x
    if settings.unlabelled:
        found = data.load(settings.unlabelled, data_dir=options.data_dir).train_x
        unlabelled = check_shape("unlabelled", settings.unlabelled, found)
    return Loaded(dataset, unlabelled, outside)


def unlabelled_stream(settings: Settings, unlabelled: np.ndarray, chain: Chain) -> Stream:
    """What the students are shown, with the numbers of the images; its noise is not clipped."""
    images = streams.resample(
        {"x": jnp.asarray(unlabelled), "index": jnp.arange(len(unlabelled))},
        min(settings.student_batch, len(unlabelled)),
    )
    if settings.fresh_masks:
        images = streams.with_masks(images, side=side_of(chain.mask_rate, unlabelled))
    if settings.input_noise:
        images = streams.with_noise(images, scale=settings.input_noise)
    return images


def altered(images: np.ndarray, how: str, seed: int) -> np.ndarray:
    """The images inverted, or with their pixels in one other order."""
    if how == "inverted":
        return 1 - images
    flat = images.reshape(len(images), -1)
    order = np.random.default_rng(seed).permutation(flat.shape[1])
    return flat[:, order].reshape(images.shape)


def padded(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Smaller grey images in the middle of black ones of this shape, alike in every channel."""
    is_grey = images.ndim == 4 and len(shape) == 3 and images.shape[-1] == 1
    if not is_grey or any(has > may for has, may in zip(images.shape[1:], shape, strict=True)):
        return images
    free = [may - has for has, may in zip(images.shape[1:3], shape, strict=False)]
    sides = [(0, 0), *((size // 2, size - size // 2) for size in free), (0, 0)]
    return np.repeat(np.pad(images, sides), shape[-1], axis=-1)


def check(settings: Settings) -> None:
    """Refuses settings that do not go together."""
    for flag in LISTS:
        values = getattr(settings, flag)
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(f"--{flag} has {twice} twice.")
    for flags, found in (
        (
            "channel_multiplier, --unit_multiplier, --regularizer_strength or --dropout",
            settings.students(),
        ),
        ("mask_rate", settings.chains()),
    ):
        if len({one.name for one in found}) < len(found):
            raise UserError(f"two values of --{flags} are the same, to six digits.")
    _check_students(settings)
    _check_teacher(settings)
    if settings.dataset == toy.NAME:
        if settings.model != "fcnn":
            raise UserError(f"--model={settings.model} is of images, and toy has none.")
        for flag in ("outside", "mask_rate", "train_size", "unlabelled"):
            if any(getattr(settings, flag)):
                raise UserError(f"--{flag} is of images, not of toy: give --{flag}=")
        if any(chain.mask_rate or chain.train_size for chain in settings.chains()):
            raise UserError("toy has no masks: --experiment must be 1 or 3 with --mask_rate=0.")


def _check_vectors(settings: Settings, shape: tuple[int, ...]) -> None:
    """Refuses what is of images alone."""
    is_masked = settings.fresh_masks or any(chain.mask_rate for chain in settings.chains())
    for flag, needed in (("mask_rate=0", is_masked), ("model=fcnn", settings.model != "fcnn")):
        if needed:
            raise UserError(
                f"{settings.dataset} has inputs {shape}, which are no images [height, width, "
                f"channels]: give --{flag}."
            )


def _check_data(settings: Settings, dataset: Dataset) -> None:
    """Refuses masks that are the same, too many examples, images too small for the network."""
    if dataset.num_classes < 2:
        raise UserError(f"{settings.dataset} has one class, of which nothing is to be learned.")
    most = max(chain.train_size for chain in settings.chains())
    if most > len(dataset.train_x):
        raise UserError(
            f"{settings.dataset} has {len(dataset.train_x):,} training examples, not {most:,}: "
            "give a smaller --train_size."
        )
    taken: dict[int, float] = {}
    for rate in dict.fromkeys(chain.mask_rate for chain in settings.chains()):
        side = side_of(rate, dataset.test_x) if rate else 0
        if side in taken:
            raise UserError(
                f"--mask_rate {taken[side]:g} and {rate:g} are the same square, of {side} pixels; "
                "give one of them."
            )
        taken[side] = rate
        if rate and not side:
            raise UserError(f"--mask_rate={rate:g} is less than a pixel: give 0, or more.")
    model = networks.build(settings, dataset.num_classes)
    try:
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(dataset.test_x.shape[1:]))
    except ValueError as error:
        raise UserError(f"--model={settings.model}: {error}") from error


def _check_students(settings: Settings) -> None:
    for flag, choices in (("student", STUDENTS), ("estimator", ESTIMATORS)):
        for value in getattr(settings, flag):
            if value not in choices:
                raise UserError(f"--{flag} must be {' | '.join(choices)}; got {value!r}.")
    is_running = any(s.estimator == RUNNING or s.kind == "both" for s in settings.students())
    if settings.fresh_masks and not any(chain.mask_rate for chain in settings.chains()):
        raise UserError("--fresh_masks is of masks, and there are none: give a --mask_rate.")
    if settings.fresh_masks and is_running:
        raise UserError(
            "--fresh_masks gives every visit another input, and running means are of one: give "
            "--estimator=current, and no student of both, whose entropy is a running mean."
        )
    has_entropy = any(s.kind in ("entropy", "both") for s in settings.students())
    if settings.entropy_loss != ABSOLUTE and not has_entropy:
        raise UserError("--entropy_loss is of students of entropy or both, and there are none.")
    if settings.temperature > 1 and not any(s.kind == "dirichlet" for s in settings.students()):
        raise UserError("--temperature is of dirichlet students, and there are none.")
    for text in settings.student_hidden:
        try:
            networks.hidden_sizes(text)
        except ValueError:
            raise UserError(f"--student_hidden must be like 10 or 10-10; got {text!r}.") from None
    if settings.channel_multiplier and settings.model == "fcnn":
        raise UserError("--channel_multiplier is of convolutions, and fcnn has none.")
    if not settings.student_hidden:
        return
    if settings.model != "fcnn":
        raise UserError(f"--student_hidden is of fcnn, not of {settings.model}.")
    if settings.experiment == "3":
        raise UserError(
            "--experiment=3 searches widths, and --student_hidden names them: not both."
        )
    for flag in ("unit_multiplier", "regularizer_strength"):
        if getattr(settings, flag):
            raise UserError(f"--student_hidden is instead of --{flag}: give one of them.")
    sizes = [networks.hidden_sizes(text) for text in settings.student_hidden]
    if len(set(sizes)) < len(sizes):
        raise UserError("--student_hidden has the same sizes twice.")


def _check_teacher(settings: Settings) -> None:
    steps, members = settings.num_steps, settings.num_members
    if steps < settings.thin:
        raise UserError(f"--num_steps must be at least --thin; got {steps}.")
    if not teachers.is_stored(settings) and settings.test_thin > settings.student_steps:
        raise UserError(
            f"--test_thin must be at most --num_steps / --thin = {settings.student_steps}, so that "
            f"the teacher is asked at the test; got {settings.test_thin}."
        )
    if settings.num_chains > 1 and teachers.is_stored(settings):
        raise UserError(f"--num_chains is of sgld and sghmc, not of {settings.teacher}.")
    if settings.all_members and not teachers.is_stored(settings):
        raise UserError(f"--all_members is of stored teachers, not of {settings.teacher}.")
    if settings.teacher == "bag" and steps < members:
        raise UserError(f"--num_steps must be at least --num_members; got {steps}.")
    if settings.teacher != "cyclical":
        return
    if members % settings.num_cycles:
        raise UserError(
            f"--num_members must be a multiple of --num_cycles = {settings.num_cycles}; got "
            f"{members}."
        )
    if steps % (2 * members):
        raise UserError(
            f"--num_steps must be a multiple of 2 x --num_members = {2 * members}; got {steps}."
        )


def data_of(settings: Settings, loaded: Loaded, chain: Chain) -> tuple[Dataset, np.ndarray]:
    """What the teacher learns from and is tested on, and the students' inputs.

    Those are all training images, whatever the teacher has of them, with masks of their own; or
    of another data set. With fresh masks they have none yet.
    """
    dataset, unlabelled = loaded.dataset, loaded.unlabelled
    seed = settings.seed + chain.repeat
    if not settings.fresh_masks:
        unlabelled = masked(settings, unlabelled, chain, "students")
    if chain.train_size:
        dataset = data.subsample(dataset, chain.train_size, seed=seed)
    return dataset._replace(
        train_x=masked(settings, dataset.train_x, chain, "teacher"),
        test_x=masked(settings, dataset.test_x, chain, "test"),
    ), unlabelled


def masked(settings: Settings, x: np.ndarray, chain: Chain, what: str) -> np.ndarray:
    """Images with a square of the chain's rate, at places that depend on what they are for."""
    if chain.mask_rate == 0:
        return x
    seed = np.random.SeedSequence([settings.seed, chain.repeat, *what.encode()])
    return data.mask_squares(x, side_of(chain.mask_rate, x), seed=int(seed.generate_state(1)[0]))


def side_of(rate: float, images: np.ndarray) -> int:
    """Of the square that covers this share of an image, pixels."""
    height, width = images.shape[1:3]
    return min(round((rate * height * width) ** 0.5), height, width)


def share_of(rate: float, images: np.ndarray) -> float:
    """Of an image that the square covers, which is of whole pixels."""
    return side_of(rate, images) ** 2 / (images.shape[1] * images.shape[2]) if rate else 0.0
