"""Bags of linear classifiers: a few weight vectors whose predictions are averaged."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd import checks
from kd.models.features import sow_features
from kd.types import Array


class SigmoidBag(nn.Module):
    r"""The mean of logistic regressions, as the log-odds of label 1.

    .. math::
       f(x) = \frac{1}{S} \sum_s \sigma(w_s^\top x), \qquad
       \mathrm{logit} = \log f - \log(1 - f)

    A compact form of a Monte Carlo prediction: a bag of samples with few members, whose places
    are learned. With the samples of a posterior as its parameters, `{"params": {"w": samples}}`, it
    is the Monte Carlo prediction itself.

    Gradients flow through the weights and the input, and stay finite where every member is
    certain.

    Attributes:
      num_members: S >= 1.

    Raises:
      ValueError: if S < 1; when applied, if the input is no vector.
      TypeError: if S is no integer.

    Example:
      >>> bag = SigmoidBag(num_members=2)
      >>> params = {"params": {"w": jnp.array([[1.0, 0.0], [-1.0, 0.0]])}}
      >>> float(bag.apply(params, jnp.array([3.0, 5.0])))
      0.0

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (3.44). Weights start from
      :math:`\mathcal{N}(0, 1 / (D + 1))`, as in the thesis's released code.
    """

    num_members: int

    def __post_init__(self):
        checks.check_count("num_members", self.num_members)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Log-odds of label 1 at one input `[D]`, a scalar, in nats."""
        checks.check_rank("x", x, 1)
        scale = (x.size + 1) ** -0.5
        w = self.param("w", nn.initializers.normal(scale), (self.num_members, x.size))
        logits = jnp.einsum("sd,d->s", w, jnp.asarray(x, w.dtype))
        sow_features(self, "members", lambda: jax.nn.sigmoid(logits))
        # The two means' common factor cancels.
        return jax.nn.logsumexp(-jax.nn.softplus(-logits)) - jax.nn.logsumexp(
            -jax.nn.softplus(logits)
        )


class SoftmaxBag(nn.Module):
    r"""The mean of softmax regressions, as log-probabilities.

    .. math:: f_c(x) = \frac{1}{S} \sum_s \mathrm{softmax}_c(W_s x)

    Gradients flow through the weights and the input, and stay finite where every member is
    certain.

    Attributes:
      num_members: S >= 1.
      num_classes: C >= 2.

    Raises:
      ValueError: if S < 1 or C < 2; when applied, if the input is no vector.
      TypeError: if a count is no integer.

    Example:
      >>> bag = SoftmaxBag(num_members=1, num_classes=3)
      >>> log_probs = bag.apply({"params": {"w": jnp.zeros((1, 3, 2))}}, jnp.ones(2))
      >>> print(jnp.exp(log_probs).round(3))
      [0.333 0.333 0.333]

    Reference:
      Papamakarios (2015), (3.44), for more classes than two.
    """

    num_members: int
    num_classes: int

    def __post_init__(self):
        checks.check_count("num_members", self.num_members)
        checks.check_count("num_classes", self.num_classes, at_least=2)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Log-probabilities of one input `[D]`, `[C]`, in nats."""
        checks.check_rank("x", x, 1)
        scale = (x.size + 1) ** -0.5
        shape = (self.num_members, self.num_classes, x.size)
        w = self.param("w", nn.initializers.normal(scale), shape)
        log_probs = jax.nn.log_softmax(jnp.einsum("scd,d->sc", w, jnp.asarray(x, w.dtype)))
        sow_features(self, "members", lambda: jnp.exp(log_probs))
        return jax.nn.logsumexp(log_probs, axis=0) - math.log(self.num_members)
