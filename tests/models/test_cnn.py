"""CNN against a loop over pixels; heads."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kd.models import CNN, convolution, predictive_and_entropy
from kd.models.convolution import convolve, convolve_and_pool


def forward(params, x, kernel_size, pool_sizes):
    """In NumPy, pixel by pixel."""
    layers = {
        name: jax.tree.map(lambda v: np.asarray(v, float), layer) for name, layer in params.items()
    }
    convolutions = sorted(name for name in layers if name.startswith("Conv"))
    for name, pool_size in zip(convolutions, pool_sizes, strict=True):
        kernel, bias = layers[name]["kernel"], layers[name]["bias"]
        height, width = (size - kernel_size + 1 for size in x.shape[:2])
        out = np.zeros((height, width, kernel.shape[-1]))
        for i in range(height):
            for j in range(width):
                patch = x[i : i + kernel_size, j : j + kernel_size]
                out[i, j] = np.tensordot(patch, kernel, axes=3) + bias
        out = np.maximum(out, 0)
        rows, columns = height // pool_size, width // pool_size
        cut = out[: rows * pool_size, : columns * pool_size]
        x = cut.reshape(rows, pool_size, columns, pool_size, -1).max((1, 3))
    x = x.reshape(-1)
    dense = sorted(name for name in layers if name.startswith("Dense"))
    for name in dense:
        x = x @ layers[name]["kernel"] + layers[name]["bias"]
        x = np.maximum(x, 0) if name != dense[-1] else x
    return x


@pytest.mark.parametrize("pools", [(2, 2), (1, 3)])
def test_forward_is_the_definition(pools):
    model = CNN((3, 4), (5,), 2, kernel_size=3, pool_size=2 if pools == (2, 2) else pools)
    x = np.random.default_rng(0).normal(size=(13, 12, 2))
    params = model.init(jax.random.key(0), jnp.zeros((13, 12, 2)))
    found = model.apply(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, forward(params["params"], x, 3, pools), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("multiplier, size", [(1, 29_880), (2, 110_500)])
def test_the_papers_sizes(multiplier, size):
    """Counted by hand: convolutions 10 and 20, dense 80 and 10, of 28 x 28 images."""
    channels, units = (10 * multiplier, 20 * multiplier), (80 * multiplier,)
    model = CNN(channels, units, 10)
    params = model.init(jax.random.key(0), jnp.zeros((28, 28, 1)))
    by_hand = 17 * channels[0] + (16 * channels[0] + 1) * channels[1]
    by_hand += (16 * channels[1] + 1) * units[0] + (units[0] + 1) * 10
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == by_hand
    assert multiplier > 1 or by_hand == size


@pytest.mark.parametrize("size", [1, 3, 4])
def test_every_way_to_convolve_agrees_with_its_gradients(size):
    """Of a batch and, within `vmap`, of single images, which patches lay out otherwise."""
    keys = jax.random.split(jax.random.key(size), 4)
    images = jax.random.normal(keys[0], (5, 8, 7, 3))
    kernel = jax.random.normal(keys[1], (size, size, 3, 4))
    bias = jax.random.normal(keys[2], (4,))
    rows, columns = (9 - size) // 2, (8 - size) // 2
    cotangents = jax.random.normal(keys[3], (5, rows, columns, 4))

    def value(method, kernel, bias, images, cotangents):
        found = convolve_and_pool(
            images, kernel, bias, pool_size=2, activation_fn=jnp.tanh, method=method
        )
        return jnp.sum(found * cotangents), found

    slopes = {}
    for method in ("patches", "native"):
        fn = partial(value, method)

        def of_batch(*args, fn=fn):
            each, found = jax.vmap(lambda *pair: fn(*args[:2], *pair))(args[2], cotangents)
            return jnp.sum(each), found

        slopes[method, "batch"] = jax.grad(of_batch, (0, 1, 2), has_aux=True)(kernel, bias, images)
        each, found = jax.vmap(jax.grad(fn, (0, 1, 2), has_aux=True), (None, None, 0, 0))(
            kernel, bias, images, cotangents
        )
        slopes[method, "each"] = (*(jnp.sum(g, axis=0) for g in each[:2]), each[2]), found
    expected = slopes.pop(("native", "each"))
    assert expected[1].shape == cotangents.shape
    for found in slopes.values():
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5),
            *(found, expected),
        )
    with pytest.raises(ValueError, match="method must be one of auto, patches, native"):
        value("fft", kernel, bias, images[0], cotangents[0])


@pytest.mark.parametrize("few_outputs", [0, 32])
@pytest.mark.parametrize("num_images", [1, 7, 9, 15])
def test_images_group_by_group_are_all_images_at_once(num_images, few_outputs, monkeypatch, x64):
    """Answers, gradients and Hessian-vector products; nine are three whole groups."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(num_images, 8, 8, 2)))
    kernel, bias = jnp.asarray(rng.normal(size=(3, 3, 2, 4))), jnp.asarray(rng.normal(size=4))

    def pooled(images, kernel):
        layer = partial(convolve_and_pool, pool_size=2, activation_fn=jax.nn.softplus)
        return jax.vmap(lambda x: layer(x, kernel, bias, method="patches"))(images)

    def alone(images, kernel):
        layer = partial(convolve, stride=2, padding=1, method="patches")
        return jax.vmap(lambda x: layer(x, kernel))(images)

    def everything(fn):
        def loss(images, kernel):
            return jnp.sum(jnp.sin(fn(images, kernel)))

        slopes = jax.grad(loss, argnums=(0, 1))
        # Of the program, where the groups are: within `jit`, as everywhere they matter.
        return jax.jit(lambda *given: (fn(*given), slopes(*given), jax.jvp(slopes, given, given)))

    expected = [everything(fn)(images, kernel) for fn in (pooled, alone)]
    # Of the first 36 places have 18 numbers each, of the second 16: groups of three and of six.
    monkeypatch.setattr(convolution, "MOST_PATCHES", 3 * 36 * 18)
    monkeypatch.setattr(convolution, "FEW_OUTPUTS", few_outputs)
    for fn, all_at_once in zip((pooled, alone), expected, strict=True):
        found = everything(fn)(images, kernel)
        chex.assert_trees_all_close(found, all_at_once, rtol=1e-12, atol=1e-12)
    loops = str(jax.make_jaxpr(pooled)(images, kernel)).count("scan[")
    assert loops == (num_images > 6)
    slopes = jax.make_jaxpr(jax.grad(lambda kernel: jnp.sum(pooled(images, kernel))))(kernel)
    assert ("scan[" in str(slopes)) == (num_images == 15 and few_outputs == 32)


def test_initial_scales():
    params = CNN((64,), (300,), 10).init(jax.random.key(0), jnp.zeros((20, 20, 3)))["params"]
    for name, fan_in in (("Conv_0", 16 * 3), ("Dense_0", 64 * 64)):
        kernel = params[name]["kernel"]
        assert float(jnp.std(kernel)) == pytest.approx((fan_in + 1) ** -0.5, rel=0.05)


def test_raises():
    model = CNN((3,), (), 2)
    with pytest.raises(ValueError, match="x"):
        model.init(jax.random.key(0), jnp.zeros((8, 8)))
    with pytest.raises(ValueError, match="a pool_size for each of 1 convolutions, got 2"):
        CNN((3,), (), 2, pool_size=(2, 2)).init(jax.random.key(0), jnp.zeros((8, 8, 1)))
    with pytest.raises(ValueError, match="an image of 4 x 8 is too small for kernels of 4"):
        model.init(jax.random.key(0), jnp.zeros((4, 8, 1)))


def test_heads_are_a_distribution_and_a_positive_number():
    outputs = np.random.default_rng(0).normal(size=5)
    heads = predictive_and_entropy(jnp.asarray(outputs, jnp.float32))
    np.testing.assert_allclose(heads.log_probs, oracles.log_softmax(outputs[:4]), rtol=1e-5)
    assert float(heads.entropy) == pytest.approx(np.log1p(np.exp(outputs[4])), rel=1e-5)
    for bad in (jnp.zeros((2, 3)), jnp.zeros(1)):
        with pytest.raises(ValueError, match="outputs"):
            predictive_and_entropy(bad)


def test_dropout_is_of_whole_channels_and_of_units():
    """Ones convolved with ones: each channel is one number everywhere, or nowhere."""
    model = CNN((200,), (300,), 200 * 4, kernel_size=1, dropout_rate=0.25)
    x = jnp.ones((4, 4, 1))
    layers = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x))["params"]
    layers["Conv_0"]["kernel"] += 1
    key = {"dropout": jax.random.key(1)}
    apply = lambda model, params: model.apply({"params": params}, x, deterministic=False, rngs=key)
    # Without dense layers the channels themselves are seen, place by place.
    bare = {"Conv_0": layers["Conv_0"], "Dense_0": {"kernel": jnp.eye(800), "bias": jnp.zeros(800)}}
    found = np.asarray(apply(model.clone(hidden_sizes=()), bare)).reshape(4, 200)
    assert (found == found[0]).all()
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
    assert abs((found[0] == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 200)
    # The dense layer's: its biases are 1, and the outputs read them.
    layers["Dense_0"]["bias"] += 1
    layers["Dense_1"]["kernel"] = jnp.eye(300, 800)
    units = np.asarray(apply(model, layers))[:300]
    assert abs((units == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 300)
    assert (units[units > 0] == np.float32(1 / 0.75)).all()


@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 1), (3, 2)])
def test_a_convolution_alone_agrees_with_the_librarys(stride, padding, x64):
    """Alone, under `vmap` of images and of kernels, with gradients."""
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(4, 7, 6, 2)), rng.normal(size=(3, 3, 2, 5))
    around = [(padding, padding)] * 2
    wanted_fn = lambda images, kernel: jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), around, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for method in ("patches", "native"):
        one = partial(convolve, stride=stride, padding=padding, method=method)
        found_fn = jax.vmap(one, in_axes=(0, None))
        np.testing.assert_allclose(found_fn(images, kernel), wanted_fn(images, kernel), atol=1e-12)
        np.testing.assert_allclose(one(images[1], kernel), wanted_fn(images, kernel)[1], atol=1e-12)
        slopes = [
            jax.grad(lambda *given, fn=fn: jnp.sum(jnp.sin(fn(*given))), argnums=(0, 1))(
                images, kernel
            )
            for fn in (found_fn, wanted_fn)
        ]
        for own, other in zip(*slopes, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-12)


def test_a_convolution_refuses_counts_that_are_none():
    image, kernel = jnp.zeros((4, 4, 1)), jnp.zeros((3, 3, 1, 1))
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        convolve(image, kernel, stride=0)
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        convolve(image, kernel, padding=-1)
    with pytest.raises(ValueError, match="method"):
        convolve(image, kernel, method="fast")


def test_a_network_of_convolutions_is_exported_for_any_number_of_images(monkeypatch):
    monkeypatch.setattr(convolution, "MOST_PATCHES", 100)
    model = CNN((2,), (3,), 2, kernel_size=3)
    image = jnp.ones((8, 8, 1))
    params = model.init(jax.random.key(0), image)
    scope = jax.export.SymbolicScope()
    shape = jax.export.symbolic_shape("b, 8, 8, 1", scope=scope)
    exported = jax.export.export(jax.jit(jax.vmap(lambda x: model.apply(params, x))))(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    for count in (1, 5):
        images = jax.random.normal(jax.random.key(count), (count, 8, 8, 1))
        expected = jnp.stack([model.apply(params, one) for one in images])
        np.testing.assert_allclose(exported.call(images), expected, rtol=1e-5, atol=1e-6)
