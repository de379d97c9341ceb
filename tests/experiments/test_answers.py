"""Answers of networks to many inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import answers
from kd import models


def networks(num_inputs: int):
    model = models.MLP((4,), 3)
    x = jax.random.normal(jax.random.key(0), (num_inputs, 2))
    params = jax.vmap(lambda key: model.init(key, x[0]))(jax.random.split(jax.random.key(1), 2))
    return model, params, x


@pytest.mark.parametrize("num_inputs", [1, 7, answers.BLOCK + 3])
def test_answers_are_those_to_one_input_after_another(num_inputs):
    model, params, x = networks(num_inputs)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    expected = np.stack([model.apply(first, one) for one in x])
    np.testing.assert_allclose(answers.outputs_of(model, first, x), expected, rtol=1e-5, atol=1e-6)
    log_probs = jax.nn.log_softmax(expected)
    found = answers.log_probs_of(model, first, x)
    np.testing.assert_allclose(found, log_probs, rtol=1e-5, atol=1e-6)
    each = answers.log_probs_of_each(model, params, x)
    assert each.shape == (2, num_inputs, 3)
    np.testing.assert_allclose(each[0], log_probs, rtol=1e-5, atol=1e-6)


def test_an_architecture_is_compiled_once():
    model, params, x = networks(5)
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(2))
    answers.outputs_of(model, first, x)
    before = answers.outputs_of._cache_size()
    answers.outputs_of(models.MLP((4,), 3), second, x)
    assert answers.outputs_of._cache_size() == before
    wide = models.MLP((8,), 3)
    answers.outputs_of(wide, wide.init(jax.random.key(0), jnp.zeros(2)), x)
    assert answers.outputs_of._cache_size() == before + 1
