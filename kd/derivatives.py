r"""Derivatives with respect to the input: compositions of `jax.grad`, `jax.jvp` and `jax.vjp`.

Every function takes `fn`, a function of ONE input without a batch axis, and adds
neither `vmap` nor `jit`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import ApplyFn, Array, PyTree


def value_and_input_jacobian(fn: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    r"""Value and Jacobian of a vector function of the input, one forward pass for both.

    .. math:: J_{id} = \partial f_i(x) / \partial x_d

    Args:
      fn: function of one input to a vector `[C]`.
      x: the input, any shape `[...]`, floating. Gradients flow through.

    Returns:
      `fn(x)`, `[C]`, and the Jacobian, `[C, ...]`: C vector-Jacobian products, so
      its cost grows with the outputs and not with the inputs.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `fn(x)` is not a vector.

    Example:
      >>> value, jacobian = value_and_input_jacobian(lambda x: x**2, jnp.array([1.0, 3.0]))
      >>> jacobian.tolist()
      [[2.0, 0.0], [0.0, 6.0]]
    """
    checks.check_floating("x", x)
    value, pullback = jax.vjp(fn, x)
    checks.check_rank("fn(x)", value, 1)
    (jacobian,) = jax.vmap(pullback)(jnp.eye(value.size, dtype=value.dtype))
    return value, jacobian


def input_jacobian(fn: Callable[[Array], Array], x: Array) -> Array:
    """Jacobian `[C, ...]` of a vector function of the input `[...]`.

    As `value_and_input_jacobian`, without the value.
    """
    return value_and_input_jacobian(fn, x)[1]


def input_vjp(fn: Callable[[Array], Array], x: Array, v: Array) -> Array:
    r"""Vector-Jacobian product :math:`v^\top \partial f / \partial x`.

    Args:
      fn: function of one input to an array.
      x: the input, any shape `[...]`, floating. Gradients flow through.
      v: cotangent, the shape of `fn(x)`, cast to its dtype. Gradients flow through.

    Returns:
      An array of the shape of `x`, for the cost of about one gradient.

    Raises:
      ValueError: if `v` has not the shape of `fn(x)`.

    Example:
      >>> input_vjp(lambda x: x**2, jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])).tolist()
      [2.0, 6.0]
    """
    value, pullback = jax.vjp(fn, x)
    checks.check_same_shape("v", v, "fn(x)", value)
    return pullback(v.astype(value.dtype))[0]


def hvp(fn: Callable[[PyTree], Array], x: PyTree, v: PyTree) -> PyTree:
    r"""Hessian-vector product :math:`H v` of a scalar function, by the R technique.

    :math:`\mathcal{R}\{\partial f/\partial x\} = H v` is the forward derivative of
    the gradient in the direction `v`: linear time and memory, no Hessian.

    Args:
      fn: function of one pytree to a scalar.
      x: where the Hessian is taken. Gradients flow through.
      v: direction, a pytree like `x`. Gradients flow through.

    Returns:
      A pytree like `x`.

    Example:
      >>> hvp(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
      [6.0, 12.0]

    Reference:
      Pearlmutter (1994), "Fast exact multiplication by the Hessian";
      Papamakarios (2015), "Distilling Model Knowledge", appendix A, (A.1).
    """
    return jax.jvp(jax.grad(fn), (x,), (v,))[1]


def loss_gradient_by_r_technique(
    student_fn: ApplyFn,
    jacobian_loss_fn: Callable[[Array], Array],
    params: PyTree,
    x: Array,
) -> PyTree:
    r"""Gradient with respect to the parameters of a loss of the input Jacobian.

    .. math::
       \frac{\partial E}{\partial\theta}
         = \sum_i \frac{\partial^2 f_i}{\partial\theta\,\partial x}
           \frac{\partial E}{\partial d_i}
         = \sum_i \mathcal{R}\Big\{\frac{\partial f_i}{\partial\theta}\Big\},
       \qquad d_i = \frac{\partial f_i}{\partial x}

    It equals `jax.grad` of the composed loss; it is the thesis's own algorithm, and
    shows that nothing larger than a Hessian-vector product is ever needed.

    Args:
      student_fn: `(params, x) -> [C]`.
      jacobian_loss_fn: function of the Jacobian `[C, ...]` to a scalar.
      params: the student's parameters.
      x: one input, any shape.

    Returns:
      A pytree like `params`.

    Reference:
      Papamakarios (2015), (2.9)-(2.11).
    """
    jacobian = input_jacobian(lambda x: student_fn(params, x), x)
    directions = jax.grad(jacobian_loss_fn)(jacobian)

    def gradient_of_output(i: Array, direction: Array) -> PyTree:
        def gradient_at(x: Array) -> PyTree:
            return jax.grad(lambda params: student_fn(params, x)[i])(params)

        return jax.jvp(gradient_at, (x,), (direction,))[1]

    products = jax.vmap(gradient_of_output)(jnp.arange(len(jacobian)), directions)
    return jax.tree.map(lambda product: product.sum(0), products)
