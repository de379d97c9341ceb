"""Networks that learn more than one expectation: the outputs of one, read as several."""

from typing import NamedTuple

import jax

from kd import checks
from kd.types import Array


class Heads(NamedTuple):
    """What a student says of one input.

    Attributes:
      log_probs: `[C]`, nats.
      entropy: nats, at least 0: its estimate of the expected data uncertainty.
    """

    log_probs: Array
    entropy: Array


def predictive_and_entropy(outputs: Array) -> Heads:
    r"""C + 1 outputs as log-probabilities and an entropy that is at least 0 by construction.

    .. math:: \log f = \mathrm{log\,softmax}(z_{1..C}), \qquad h = \log(1 + e^{z_{C + 1}})

    Any network with one output more is a student of both.

    Args:
      outputs: `[C + 1]` of one input. Gradients flow through.

    Raises:
      ValueError: if they are no vector of two or more.

    Example:
      >>> heads = predictive_and_entropy(jnp.zeros(3))
      >>> float(jnp.exp(heads.log_probs[0])), round(float(heads.entropy), 4)
      (0.5, 0.6931)

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", section 4.2. Their released code has an exponential,
      whose slope above 0 throws a wide network's head far below it in the first steps.
    """
    checks.check_rank("outputs", outputs, 1)
    if outputs.shape[0] < 2:
        raise ValueError(
            f"outputs must be those of at least one class and one more, got {outputs.shape}."
        )
    return Heads(jax.nn.log_softmax(outputs[:-1]), jax.nn.softplus(outputs[-1]))
