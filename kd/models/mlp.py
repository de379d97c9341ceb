"""Multilayer perceptrons."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from kd import checks
from kd.models.features import sow_features
from kd.types import Array


class MLP(nn.Module):
    r"""A multilayer perceptron from one input of any shape to logits.

    Weights *and biases* start as :math:`\mathcal{N}(0, 1/(\mathrm{fan\_in} + 1))`.

    Attributes:
      hidden_sizes: units of each hidden layer; empty for a linear model.
      num_outputs: C.
      activation_fn: between the layers, elementwise.
      dropout_rate: share of each hidden layer's units that are dropped, in [0, 1], where `apply` is
        given `deterministic=False` and `rngs={"dropout": key}`; by default nothing is.

    Raises:
      ValueError: when applied, if the rate is another number.

    Example:
      >>> import jax
      >>> model = MLP(hidden_sizes=(5,), num_outputs=3)
      >>> params = model.init(jax.random.key(0), jnp.zeros((4, 4)))
      >>> model.apply(params, jnp.ones((4, 4))).shape
      (3,)

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (2.14) and (2.22); the
      initialisation is that of the thesis's released code.
    """

    hidden_sizes: Sequence[int]
    num_outputs: int
    activation_fn: Callable[[Array], Array] = nn.relu
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        checks.check_weight("dropout_rate", self.dropout_rate)
        x = jnp.reshape(x, -1)
        for index, size in enumerate(self.hidden_sizes):
            x = self.activation_fn(dense(size, x))
            x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
            sow_features(self, f"hidden_{index}", lambda x=x: x)
        return dense(self.num_outputs, x)


def dense(size: int, x: Array) -> Array:
    """A dense layer of a module's own, within its `__call__`; weights and biases by its fan-in."""
    init_fn = nn.initializers.normal((x.size + 1) ** -0.5)
    return nn.Dense(size, kernel_init=init_fn, bias_init=init_fn)(x)
