"""From a student's features to the shape of a teacher's."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from kd.models.dense import flat_dot_general
from kd.types import Array


class Regressor(nn.Module):
    """A layer between a student's features and a teacher's, of whatever shapes the two are.

    Maps of the same positions, and sequences of one length, have one linear map of channels for all
    positions, a convolution of 1 x 1. A larger map than the teacher's is convolved without padding,
    by kernels that leave its size. Anything else is one row of features, mapped by a dense layer.

    Attributes:
      shape: of the teacher's features, without a batch axis, of one axis or more.
      hidden_sizes: channels of rectified layers before, at the student's own positions: none for
        FitNets' regressor and TinyBERT's projection, three of 1 x 1 with the last one for VID's.
      use_bias: of all layers.
      activation_fn: of the result, elementwise; by default none. FitNets wants that of the
        teacher's layer, `nn.relu` where its features are rectified, so that both have one range.

    Example:
      >>> import jax
      >>> regressor = Regressor((3, 3, 8))
      >>> features = jnp.ones((5, 5, 2))
      >>> params = regressor.init(jax.random.key(0), features)
      >>> regressor.apply(params, features).shape, params["params"]["Conv_0"]["kernel"].shape
      ((3, 3, 8), (3, 3, 2, 8))

    Reference:
      Romero et al. (2015), "FitNets: hints for thin deep nets", section 2.2, whose regressor has
      the non-linearity of the teacher's layer.
    """

    shape: Sequence[int]
    hidden_sizes: Sequence[int] = ()
    use_bias: bool = True
    activation_fn: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, features: Array) -> Array:
        found = self._mapped(features)
        return found if self.activation_fn is None else self.activation_fn(found)

    def _mapped(self, features: Array) -> Array:
        wanted = tuple(self.shape)
        if not wanted or features.ndim < 1:
            raise ValueError(
                f"features must have an axis or more, got {features.shape} to be mapped to "
                f"{wanted}: a single number is [1]."
            )
        for size in self.hidden_sizes:
            features = nn.relu(self._dense(size)(features))
        if features.shape[:-1] == wanted[:-1]:
            return self._dense(wanted[-1])(features)
        if len(wanted) == features.ndim == 3 and min(_more(features, wanted)) >= 0:
            sides = [more + 1 for more in _more(features, wanted)]
            return nn.Conv(wanted[-1], sides, padding="VALID", use_bias=self.use_bias)(features)
        flat = self._dense(math.prod(wanted))(jnp.reshape(features, -1))
        return jnp.reshape(flat, wanted)

    def _dense(self, size: int) -> nn.Module:
        return nn.Dense(size, use_bias=self.use_bias, dot_general=flat_dot_general)


def _more(features: Array, wanted: tuple[int, ...]) -> tuple[int, int]:
    """Pixels that the features have more on either side."""
    return features.shape[0] - wanted[0], features.shape[1] - wanted[1]
