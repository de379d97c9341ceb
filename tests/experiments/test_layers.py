"""experiments.layers: teachers that have nothing to teach."""

import jax.numpy as jnp
import pytest

from experiments.flags import UserError
from experiments.layers import check_told


def test_a_layer_that_says_the_same_of_all_inputs_is_refused():
    told = {"Conv_0": jnp.eye(3), "teacher/Conv_1": jnp.ones((3, 2, 2))}
    with pytest.raises(UserError, match="layer 'teacher/Conv_1' are the same at all 3 inputs"):
        check_told(told)
    check_told({"Conv_0": jnp.eye(3)})
