"""Residual networks: against the reference's arithmetic by flax's own layers, and bad input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import models


def test_resnet_18_has_its_number_of_parameters():
    """Kernels of ResNet-18 for small images, 11,164,352; scales and offsets; the last layer."""
    model = models.ResNet(10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((32, 32, 3)))
    sizes = [64, 128, 256, 512]
    kernels = 9 * 3 * 64 + 9 * sum(
        first * size + 3 * size**2 for first, size in zip([64, *sizes], sizes, strict=False)
    )
    shortcuts = sum(first * size for first, size in zip(sizes, sizes[1:], strict=False))
    norms = 2 * (sum(4 * size for size in sizes) + 512 - sum(sizes[1:]) + sum(sizes[:3]))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == kernels + shortcuts + norms + 512 * 10 + 10


def test_one_block_by_hand(x64):
    model = models.ResNet(3, stage_sizes=(1, 1), stage_channels=(4, 8), num_groups=2)
    x = jax.random.normal(jax.random.key(1), (6, 6, 2), jnp.float64)
    params = model.init(jax.random.key(0), x)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    layers = jax.tree.map(np.asarray, params["params"])

    def convolve(name, h, stride=1, inside=layers):
        kernel = inside[name]["kernel"]
        pad = [(kernel.shape[0] // 2,) * 2] * 2
        return jax.lax.conv_general_dilated(
            h[None], kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    def norm(name, h, inside):
        h = np.array(h)
        for group in np.split(np.arange(h.shape[-1]), 2):
            part = h[..., group]
            h[..., group] = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
        return np.maximum(h * inside[name]["scale"] + inside[name]["bias"], 0)

    def block(name, h, stride):
        inside = layers[name]
        active = norm("GroupNorm_0", h, inside)
        count = 0
        if stride > 1:
            h, count = convolve("_Convolution_0", active, stride, inside), 1
        found = convolve(f"_Convolution_{count}", active, stride, inside)
        active = norm("GroupNorm_1", found, inside)
        return h + convolve(f"_Convolution_{count + 1}", active, 1, inside)

    h = block("_Block_1", block("_Block_0", convolve("_Convolution_0", x), 1), 2)
    pooled = norm("GroupNorm_0", h, layers).mean(axis=(0, 1))
    wanted = pooled @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    found = models.features_of(model)(params, x)
    np.testing.assert_allclose(found["output"], wanted, rtol=1e-8)
    np.testing.assert_allclose(found["pooled"], pooled, rtol=1e-8)
    np.testing.assert_allclose(found["stage_1"], h, rtol=1e-8)
    assert found["stage_0"].shape == (6, 6, 4) and h.shape == (3, 3, 8)


def test_it_learns_and_knows_one_image_alone():
    """Groups are of one image: what else is in a batch changes nothing."""
    model = models.ResNet(2, stage_sizes=(1,), stage_channels=(4,), num_groups=2)
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    params = model.init(jax.random.key(1), x[0])
    apply = lambda x: model.apply(params, x)
    np.testing.assert_allclose(jax.vmap(apply)(x)[2], apply(x[2]), rtol=1e-4, atol=1e-5)
    slope = jax.grad(lambda p: jnp.sum(nn.softplus(model.apply(p, x[0]))))(params)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize(
    "given, shape, message",
    [
        ({}, (4, 4), "x must have rank 3"),
        ({"stage_sizes": (1,)}, (4, 4, 1), "as many, one or more, got 1 and 4"),
        ({"stage_sizes": (), "stage_channels": ()}, (4, 4, 1), "as many, one or more"),
        ({"stage_sizes": (1, 1, 0, 1)}, (4, 4, 1), "stage_sizes and stage_channels must be at"),
        ({"num_groups": 3}, (4, 4, 1), "divi"),
    ],
)
def test_refusals(given, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(models.ResNet(2, **given).init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("name", ["stage_sizes", "stage_channels"])
def test_refuses_one_number_for_all_stages(name):
    with pytest.raises(TypeError, match=f"{name} must be of type Sequence, got int"):
        jax.eval_shape(models.ResNet(2, **{name: 2}).init, jax.random.key(0), jnp.zeros((4, 4, 1)))
