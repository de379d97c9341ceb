"""Networks of a teacher's architecture and other widths."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kd import models


def test_channels_and_units_are_multiplied_apart():
    teacher = models.CNN((10, 20), (80,), 10, kernel_size=3)
    student = models.widened(teacher, channel_multiplier=2, unit_multiplier=0.31, num_outputs=11)
    assert (student.channels, student.hidden_sizes, student.num_outputs) == ((20, 40), (25,), 11)
    assert student.kernel_size == 3
    params = student.init(jax.random.key(0), jnp.zeros((12, 12, 1)))
    assert student.apply(params, jnp.zeros((12, 12, 1))).shape == (11,)
    assert models.widened(teacher).clone() == teacher.clone()


def test_networks_without_one_kind_of_layer():
    dense = models.widened(models.MLP((5, 3), 2), unit_multiplier=0.1)
    assert dense.hidden_sizes == (1, 1) and dense.num_outputs == 2
    residual = models.ResNet(10, stage_sizes=(1, 1), stage_channels=(16, 32))
    wide = models.widened(residual, channel_multiplier=1.3)
    assert wide.stage_channels == (24, 40)  # Of eight groups each.
    params = wide.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
    assert wide.apply(params, jnp.zeros((8, 8, 1))).shape == (10,)
    narrow = models.ResNet(10, stage_sizes=(1,), stage_channels=(4,))
    assert models.widened(narrow, channel_multiplier=1.5).stage_channels == (6,)


def test_networks_that_read_sequences():
    fields = {"num_tokens": 9, "size": 8, "num_layers": 1, "num_outputs": 3}
    transformer = models.widened(models.Transformer(num_heads=2, **fields), unit_multiplier=1.6)
    assert (transformer.size, transformer.num_heads) == (12, 2)  # Of two heads.
    recurrent = models.widened(models.LSTM(**fields), unit_multiplier=1.6, num_outputs=4)
    assert recurrent.size == 13
    x = jnp.array([1, 2, 0])
    for model, num_outputs in ((transformer, 3), (recurrent, 4)):
        assert model.apply(model.init(jax.random.key(0), x), x).shape == (num_outputs,)


class Own(nn.Module):
    """Of somebody else, with names of its own."""

    filters: tuple[int, ...]
    width: int
    name_of_it: str = "own"

    @nn.compact
    def __call__(self, x):
        for filters in self.filters:
            x = nn.Conv(filters, (3, 3))(x)
        return nn.Dense(self.width)(x.reshape(-1))


def test_any_module_whose_fields_are_named():
    names = {"channel_field": "filters", "unit_field": "width"}
    found = models.widened(Own((2, 4), 5), channel_multiplier=2, unit_multiplier=3, **names)
    assert (found.filters, found.width, found.name_of_it) == ((4, 8), 15, "own")
    x = jnp.zeros((4, 4, 1))
    assert found.apply(found.init(jax.random.key(0), x), x).shape == (15,)
    with pytest.raises(ValueError, match="Own lacks, or whose field channel_field must name"):
        models.widened(Own((2,), 5), channel_multiplier=2)
    for name in ("missing", "name_of_it", "__call__"):
        with pytest.raises(TypeError, match=f"Own.{name} must be a size or several"):
            models.widened(Own((2,), 5), unit_field=name)
    with pytest.raises(TypeError, match="Own.num_outputs must be a size"):
        models.widened(Own((2,), 5), num_outputs=3)


def test_raises():
    with pytest.raises(ValueError, match="channel_multiplier=2 is of layers that MLP lacks"):
        models.widened(models.MLP((5,), 2), channel_multiplier=2)
    with pytest.raises(ValueError, match="unit_multiplier=2 is of layers that ResNet lacks"):
        models.widened(models.ResNet(2), unit_multiplier=2)
    with pytest.raises(ValueError, match="unit_multiplier must be finite and positive, got 0"):
        models.widened(models.MLP((5,), 2), unit_multiplier=0)
    with pytest.raises(ValueError, match="num_outputs must be at least 1"):
        models.widened(models.MLP((5,), 2), num_outputs=0)
    with pytest.raises(TypeError, match="model"):
        models.widened(lambda x: x, unit_multiplier=2)
