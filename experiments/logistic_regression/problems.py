"""Data, the model, and its posterior: points in the plane and scikit-learn's real data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from experiments.flags import UserError
from experiments.logistic_regression.settings import Settings
from kd import models
from kd.types import Array, PyTree

# The thesis's 24 points are lost; these are of the generator that its code has in a comment:
# twelve from N((-4, 0), I), then twelve from N((4, 0), I), and labels drawn with probability
# sigma(x_1), by NumPy's default_rng(0). No label went against the sign of x_1: a line separates
# them, as it must have the thesis's, whose posterior is as wide.
POINTS = np.array(
    [
        *([-3.874, -0.132], [-3.360, 0.105], [-4.536, 0.362], [-2.696, 0.947]),
        *([-4.704, -1.265], [-4.623, 0.041], [-6.325, -0.219], [-5.246, -0.732]),
        *([-4.544, -0.316], [-3.588, 1.043], [-4.129, 1.366], [-4.665, 0.352]),
        *([4.903, 0.094], [3.257, -0.922], [3.542, 0.220], [2.990, -0.209]),
        *([3.841, 0.541], [4.215, 0.355], [3.346, -0.130], [4.784, 1.493]),
        *([2.741, 1.514], [5.346, 0.781], [4.264, -0.314], [5.458, 1.960]),
    ]
)
LABELS = np.repeat([0, 1], 12)


class Problem(NamedTuple):
    """Data of C classes in D dimensions, and the model of them.

    Attributes:
      train_x, train_y: `[N, D]` float32 and `[N]` integers.
      test_x, test_y: what is held out, or None of the points.
      num_classes: C.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray | None
    test_y: np.ndarray | None
    num_classes: int

    @property
    def is_binary(self) -> bool:
        """Whether the model is one sigmoid, and not a softmax."""
        return self.num_classes == 2

    def weight_shape(self) -> tuple[int, ...]:
        """Of one sample of the posterior: `[D]`, or `[C, D]`."""
        size = self.train_x.shape[1]
        return (size,) if self.is_binary else (self.num_classes, size)

    def log_probs(self, w: Array, x: Array) -> Array:
        """Of the classes at one input, given one sample of the weights: `[C]`, nats (3.41)."""
        return _log_probs(self.is_binary, jnp.tensordot(w, x, axes=1))

    def bag(self, num_members: int) -> models.SigmoidBag | models.SoftmaxBag:
        """The student's module, and the Monte Carlo prediction's."""
        if self.is_binary:
            return models.SigmoidBag(num_members)
        return models.SoftmaxBag(num_members, self.num_classes)

    def bag_log_probs(self, params: PyTree, x: Array) -> Array:
        """Of a bag, whatever its size: `[C]`, nats (3.43), (3.44)."""
        found = self.bag(len(params["params"]["w"])).apply(params, x)
        return _log_probs(True, found) if self.is_binary else found

    def log_posterior(self, w: Array, prior_variance: float) -> Array:
        """Of the weights, nats, up to a constant: (3.16) with (3.42)."""
        x, y = jnp.asarray(self.train_x, w.dtype), jnp.asarray(self.train_y)
        log_likelihoods = jax.vmap(self.log_likelihood, in_axes=(None, 0, 0))(w, x, y)
        return jnp.sum(log_likelihoods) + self.log_prior(w, prior_variance)

    def log_prior(self, w: Array, prior_variance: float) -> Array:
        """Of the weights, nats, up to a constant (3.42)."""
        return -0.5 * jnp.sum(jnp.square(w)) / prior_variance

    def log_likelihood(self, w: Array, x: Array, y: Array) -> Array:
        """Of one example, nats."""
        return self.log_probs(w, x)[y]

    def chart(self, prior_variance: float) -> "Chart":
        """Coordinates in which the posterior is about round; of the points their own.

        Coordinate by coordinate, a chain over 31 correlated weights would hardly move: real
        data have the coordinates of Laplace's approximation.
        """
        shape = self.weight_shape()
        size = int(np.prod(shape))
        if self.test_x is None:
            return Chart(np.zeros(shape), np.eye(size))
        with jax.enable_x64(True):
            energy = jax.jit(
                lambda w: -self.log_posterior(w.reshape(shape), prior_variance)  # [D]
            )
            hessian = jax.jit(jax.hessian(energy))
            found = scipy.optimize.minimize(
                energy, np.zeros(size), jac=jax.grad(energy), hess=hessian, method="trust-exact"
            )
            precision = np.asarray(hessian(found.x))
        return Chart(found.x.reshape(shape), np.linalg.cholesky(np.linalg.inv(precision)))


class Chart(NamedTuple):
    """Other coordinates of the weights.

    Attributes:
      origin: weights at coordinates of 0, as one sample.
      factor: `[D, D]`, from coordinates to the weights' entries, counted in order.
    """

    origin: np.ndarray
    factor: np.ndarray

    def weights(self, z: Array) -> Array:
        """One sample of the weights, of coordinates `[D]`."""
        origin, factor = jnp.asarray(self.origin, z.dtype), jnp.asarray(self.factor, z.dtype)
        return origin + (factor @ z).reshape(origin.shape)


def load(settings: Settings) -> Problem:
    """The data of a run; real data standardised by its training part, with a column of ones."""
    if settings.dataset == "points":
        return Problem(POINTS.astype(np.float32), LABELS, None, None, 2)
    from sklearn import datasets

    found = getattr(datasets, f"load_{settings.dataset}")()
    order = np.random.default_rng(settings.seed).permutation(len(found.target))
    count = int(settings.train_fraction * len(order))
    x, y = found.data[order], found.target[order]
    num_classes = len(found.target_names)
    if count == len(order) or len(np.unique(y[:count])) < num_classes:
        raise UserError(
            f"--train_fraction={settings.train_fraction:g} leaves {count} of {len(order)} examples "
            f"to learn from: not one of each of the {num_classes} classes."
        )
    mean, scale = x[:count].mean(0), x[:count].std(0)
    scale = np.where(scale > 0, scale, 1.0)  # Of few examples a column may be constant.
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))]).astype(np.float32)
    return Problem(x[:count], y[:count], x[count:], y[count:], num_classes)


def _log_probs(is_binary: bool, logits: Array) -> Array:
    if not is_binary:
        return jax.nn.log_softmax(logits)
    return -jax.nn.softplus(jnp.stack([logits, -logits]))
