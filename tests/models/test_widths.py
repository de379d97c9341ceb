"""Networks of a teacher's architecture and other widths."""

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


def test_raises():
    with pytest.raises(ValueError, match="channel_multiplier=2 is of layers that MLP lacks"):
        models.widened(models.MLP((5,), 2), channel_multiplier=2)
    with pytest.raises(ValueError, match="unit_multiplier=2 is of layers that ResNet lacks"):
        models.widened(models.ResNet(2), unit_multiplier=2)
    with pytest.raises(ValueError, match="unit_multiplier must be finite and positive, got 0"):
        models.widened(models.MLP((5,), 2), unit_multiplier=0)
    with pytest.raises(ValueError, match="num_outputs must be at least 1"):
        models.widened(models.MLP((5,), 2), num_outputs=0)
    with pytest.raises(TypeError, match="must be a kd.models.MLP, CNN or ResNet, got NADE"):
        models.widened(models.NADE(8, 5))
