"""Independent second computations: NumPy in float64, loops and central differences, no JAX.

Nothing here may import `kd`: an oracle that shares code with what it judges is none.
"""

import math
from collections.abc import Callable

import numpy as np


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Log-softmax over the last axis."""
    z = np.asarray(z, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(z))


def cross_entropy(student_log_probs, teacher_probs) -> float:
    """-sum t log f, with 0 log 0 = 0."""
    total = 0.0
    for log_f, t in zip(student_log_probs, teacher_probs, strict=True):
        if t > 0:
            total -= float(t) * float(log_f)
    return total


def kl_divergence(student_log_probs, teacher_log_probs) -> float:
    """sum t (log t - log f), with 0 log 0 = 0."""
    total = 0.0
    for log_f, log_t in zip(student_log_probs, teacher_log_probs, strict=True):
        if log_t > -math.inf:
            total += math.exp(float(log_t)) * (float(log_t) - float(log_f))
    return total


def square_error(student, teacher) -> float:
    """Half the squared distance, one entry at a time."""
    pairs = zip(np.ravel(student), np.ravel(teacher), strict=True)
    return sum(0.5 * (float(f) - float(t)) ** 2 for f, t in pairs)


def soft_target(student_logits, teacher_logits, temperature: float) -> float:
    student = log_softmax(np.asarray(student_logits, np.float64) / temperature)
    teacher = log_softmax(np.asarray(teacher_logits, np.float64) / temperature)
    return temperature**2 * kl_divergence(student, teacher)


def derivative_square_error(student_jacobian, teacher_jacobian) -> float:
    """Sum over inputs of half the squared difference, mean over classes."""
    num_classes = len(student_jacobian)
    total = 0.0
    for f, t in zip(student_jacobian, teacher_jacobian, strict=True):
        total += square_error(f, t)
    return total / num_classes


def central_jacobian(fn: Callable, x: np.ndarray, *, step: float = 1e-5) -> np.ndarray:
    """Derivatives of `fn(x)` by central differences: shape of `fn(x)`, then shape of `x`."""
    x = np.asarray(x, np.float64)
    columns = []
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        columns.append((np.asarray(fn(x + shift)) - np.asarray(fn(x - shift))) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*np.shape(columns[0]), *x.shape)


def tanh_network(params: dict, x: np.ndarray) -> np.ndarray:
    """Logits of a network with one tanh layer, unit by unit."""
    x = np.ravel(np.asarray(x, np.float64))
    hidden = [
        math.tanh(sum(w * v for w, v in zip(column, x, strict=True)) + b)
        for column, b in zip(
            np.asarray(params["w1"], np.float64).T, np.asarray(params["b1"]), strict=True
        )
    ]
    return np.array(
        [
            sum(w * h for w, h in zip(column, hidden, strict=True)) + b
            for column, b in zip(
                np.asarray(params["w2"], np.float64).T, np.asarray(params["b2"]), strict=True
            )
        ]
    )


def tanh_params(seed: int, sizes: tuple[int, int, int], *, scale: float = 1.0) -> dict:
    """Parameters for `tanh_network`, float64."""
    rng = np.random.default_rng(seed)
    num_inputs, num_hidden, num_outputs = sizes
    return {
        "w1": scale * rng.normal(size=(num_inputs, num_hidden)) / math.sqrt(num_inputs),
        "b1": scale * rng.normal(size=num_hidden),
        "w2": scale * rng.normal(size=(num_hidden, num_outputs)) / math.sqrt(num_hidden),
        "b2": scale * rng.normal(size=num_outputs),
    }


def ensemble_log_probs(member_logits: np.ndarray) -> np.ndarray:
    """Log of the mean of the members' softmaxes; `member_logits` is `[M, C]`."""
    return np.log(np.mean([softmax(z) for z in member_logits], axis=0))


class Adadelta:
    """ADADELTA of Zeiler (2012), algorithm 1; both accumulators start at 0."""

    def __init__(self, shape, *, rho: float = 0.95, eps: float = 1e-6):
        self.rho, self.eps = rho, eps
        self.acc_g, self.acc_dx = np.zeros(shape), np.zeros(shape)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """The update to add to the parameters."""
        g = np.asarray(gradient, np.float64)
        self.acc_g = self.rho * self.acc_g + (1 - self.rho) * g**2
        dx = -np.sqrt(self.acc_dx + self.eps) / np.sqrt(self.acc_g + self.eps) * g
        self.acc_dx = self.rho * self.acc_dx + (1 - self.rho) * dx**2
        return dx


def split_r_hat(draws: np.ndarray) -> float:
    """Gelman and Rubin's of the halves of chains `[C, S]`, an odd last draw left out."""
    half = draws.shape[1] // 2
    halves = np.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    within = np.mean([one.var(ddof=1) for one in halves])
    between = np.var([one.mean() for one in halves], ddof=1)
    return float(np.sqrt((half - 1) / half + between / within))


def effective_samples(draws: np.ndarray) -> float:
    """Of chains `[C, S]`: Geyer's sums of pairs of autocorrelations, while positive, decreasing."""
    num_chains, size = draws.shape
    centred = draws - draws.mean(axis=1, keepdims=True)
    lags = [np.mean([a[: size - k] @ a[k:] / size for a in centred]) for k in range(size)]
    within = np.mean([one.var(ddof=1) for one in draws])
    total = within * (size - 1) / size
    if num_chains > 1:
        total += np.var(draws.mean(axis=1), ddof=1)
    correlations = [1.0] + [1 - (within - lag) / total for lag in lags[1:]]
    least, time = math.inf, -1.0
    for first, second in zip(correlations[::2], correlations[1::2], strict=False):
        least = min(least, first + second)
        if least <= 0:
            break
        time += 2 * least
    return num_chains * size / time
