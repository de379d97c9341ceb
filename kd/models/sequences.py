"""Networks that read one sequence of token ids: a Transformer and an LSTM.

Both take `[L]` integers, 0 where there is no token, and give logits. What stands at a padded place
decides nothing: not an answer, not a feature at a token, not a gradient. They sow features of the
same names and shapes, so that the one may teach the other (`kd.losses.features`).
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.models.dense import flat_dot_general
from kd.models.features import sow_features
from kd.types import Array

PADDING = 0
LONGEST_WAVE = 10_000.0  # Of the positions' sinusoids, over 2 pi, tokens.


def token_mask(x: Array) -> Array:
    """Where there are tokens, `[..., L]` booleans: everywhere but at 0.

    Example:
      >>> token_mask(jnp.array([5, 1, 0])).tolist()
      [True, True, False]
    """
    return jnp.asarray(x) != PADDING


def sinusoids(length: int, size: int) -> np.ndarray:
    r"""Fixed embeddings of positions, `[L, D]` float32.

    .. math:: p_{l, i} = \sin(l / 10^{4 i / h}), \quad
       p_{l, h + i} = \cos(l / 10^{4 i / h}), \quad h = \lceil D / 2 \rceil

    Args:
      length: L.
      size: D; of an odd one the last cosine is left out.

    Example:
      >>> sinusoids(2, 2).round(2).tolist()
      [[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]

    Reference:
      Vaswani et al. (2017), "Attention is all you need", section 3.5. Deviation: all sines come
      first.
    """
    checks.check_count("length", length)
    checks.check_count("size", size)
    half = -(-size // 2)
    angles = np.arange(length)[:, None] / LONGEST_WAVE ** (np.arange(half) / half)[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :size].astype(np.float32)


class Transformer(nn.Module):
    r"""An encoder of blocks with attention: tokens `[L]` to logits, by the mean over tokens.

    Blocks normalise first: :math:`h \leftarrow h + \mathrm{attention}(\mathrm{norm}(h))`, then
    :math:`h \leftarrow h + \mathrm{dense}(\mathrm{gelu}(\mathrm{dense}(\mathrm{norm}(h))))`. Every
    token attends to all tokens, and to no padding. Positions are sinusoids, so that any length
    will do.

    Sown, for `features_of`: `"embedding"`, `[L, D]`, of the tokens without their positions, which
    another architecture need not have; of each block `"hidden_0"` and so on, `[L, D]`, and
    `"attention_0"`, `[H, L, L]`, scaled scores before mask and softmax.

    Attributes:
      num_tokens: of the vocabulary, 0 for padding among them.
      size: D, of the embeddings and of every block.
      num_layers: blocks.
      num_heads: H, a divisor of D.
      num_outputs: C.
      expansion: units of each block's dense layer, times D.
      dropout_rate: share of the entries that are dropped of the embeddings and of what each half
        of a block adds, in [0, 1], where `apply` is given `deterministic=False` and
        `rngs={"dropout": key}`; by default nothing is.

    Raises:
      ValueError: when applied, if D is no multiple of H, another number is out of range, or the
        input is not `[L]`.
      TypeError: when applied, if the input does not hold integers.

    Example:
      >>> import jax
      >>> model = Transformer(num_tokens=9, size=8, num_layers=1, num_heads=2, num_outputs=3)
      >>> params = model.init(jax.random.key(0), jnp.array([4, 2, 0]))
      >>> longer = model.apply(params, jnp.array([4, 2, 0, 0, 0]))
      >>> bool(jnp.allclose(model.apply(params, jnp.array([4, 2])), longer, atol=1e-5))
      True

    Reference:
      Vaswani et al. (2017), with the order of Xiong et al. (2020), "On layer normalization in the
      Transformer architecture"; the scores as in Jiao et al. (2020), "TinyBERT".
    """

    num_tokens: int
    size: int
    num_layers: int
    num_heads: int
    num_outputs: int
    expansion: int = 4
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        for name in ("num_heads", "expansion"):
            checks.check_count(name, getattr(self, name))
        if self.size % self.num_heads:
            raise ValueError(
                f"size must be a multiple of num_heads = {self.num_heads}, got {self.size}."
            )
        mask, h = _embedded(self, x)
        h = h * self.size**0.5 + sinusoids(len(x), self.size)
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        h = drop(h)
        for index in range(self.num_layers):
            h = h + drop(self._attention(nn.LayerNorm()(h), mask, index))
            wide = nn.gelu(_dense(self.expansion * self.size)(nn.LayerNorm()(h)))
            h = h + drop(_dense(self.size)(wide))
            sow_features(self, f"hidden_{index}", lambda h=h: h)
        return nn.Dense(self.num_outputs)(_mean(nn.LayerNorm()(h), mask))

    def _attention(self, h: Array, mask: Array, index: int) -> Array:
        """What a block's attention adds; its scores are sown."""

        # Wrapped: flax passes on those arguments alone that the signature names.
        @functools.wraps(nn.dot_product_attention)
        def attention_fn(query: Array, key: Array, value: Array, **given: Any) -> Array:
            sow_features(self, f"attention_{index}", lambda: _scores(query, key))
            return nn.dot_product_attention(query, key, value, **given)

        layer = nn.MultiHeadDotProductAttention(
            self.num_heads,
            attention_fn=attention_fn,
            qkv_dot_general=flat_dot_general,
            out_dot_general=flat_dot_general,
            name=f"Attention_{index}",
        )
        pairs = jnp.broadcast_to(mask[None, None, :], (1, len(mask), len(mask)))
        return layer(h, mask=pairs)


class LSTM(nn.Module):
    r"""Layers of long short-term memory: tokens `[L]` to logits, by the mean over tokens.

    Sown, for `features_of`: `"embedding"`, `[L, D]`, of the tokens; of each layer `"hidden_0"` and
    so on, `[L, D]`, or `[L, 2 D]` where it is bidirectional, forwards first.

    Attributes:
      num_tokens: of the vocabulary, 0 for padding among them.
      size: D, of the embeddings and of each layer in each direction.
      num_layers: layers.
      num_outputs: C.
      is_bidirectional: whether each layer reads backwards too, from the last token.
      dropout_rate: share of the entries that are dropped of the embeddings and after each layer,
        in [0, 1], where `apply` is given `deterministic=False` and `rngs={"dropout": key}`; by
        default nothing is.

    Raises:
      ValueError: when applied, if a number is out of range, or the input is not `[L]`.
      TypeError: when applied, if the input does not hold integers.

    Example:
      >>> import jax
      >>> model = LSTM(num_tokens=9, size=8, num_layers=1, num_outputs=3, is_bidirectional=True)
      >>> params = model.init(jax.random.key(0), jnp.array([4, 2, 0]))
      >>> longer = model.apply(params, jnp.array([4, 2, 0, 0, 0]))
      >>> bool(jnp.allclose(model.apply(params, jnp.array([4, 2])), longer, atol=1e-5))
      True

    Reference:
      Hochreiter and Schmidhuber (1997), "Long short-term memory", as flax has it.
    """

    num_tokens: int
    size: int
    num_layers: int
    num_outputs: int
    is_bidirectional: bool = False
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        mask, h = _embedded(self, x)
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        h = drop(h * self.size**0.5)
        # Up to the last token: padding before it is read, as a token that says nothing.
        length = jnp.max(jnp.where(mask, jnp.arange(1, len(mask) + 1), 0))
        for index in range(self.num_layers):
            directions = [nn.RNN(nn.OptimizedLSTMCell(self.size), name=f"Forward_{index}")(h)]
            if self.is_bidirectional:
                back = nn.RNN(
                    nn.OptimizedLSTMCell(self.size),
                    reverse=True,
                    keep_order=True,
                    name=f"Backward_{index}",
                )
                directions.append(back(h, seq_lengths=length))
            h = drop(jnp.concatenate(directions, axis=-1))
            sow_features(self, f"hidden_{index}", lambda h=h: h)
        return nn.Dense(self.num_outputs)(_mean(h, mask))


_dense = functools.partial(nn.Dense, dot_general=flat_dot_general)


def _embedded(module: Transformer | LSTM, x: Array) -> tuple[Array, Array]:
    """Where there are tokens, and their embeddings, zeros elsewhere; within a `__call__`."""
    checks.check_rank("x", x, 1)
    if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        raise TypeError(f"x must hold integers, got {jnp.result_type(x)}.")
    checks.check_count("the length of x", jnp.shape(x)[0])
    for name in ("num_tokens", "size", "num_layers", "num_outputs"):
        checks.check_count(name, getattr(module, name))
    checks.check_weight("dropout_rate", module.dropout_rate)
    mask = token_mask(x)
    checks.check_indices("tokens", x, module.num_tokens)
    # Under jit, where nothing can be raised, a word that is not there is NaN, as flax has it for
    # those beyond the vocabulary.
    known = jnp.where(x < 0, module.num_tokens, x)
    h = jnp.where(mask[:, None], nn.Embed(module.num_tokens, module.size)(known), 0.0)
    sow_features(module, "embedding", lambda: h)
    return mask, h


def _mean(h: Array, mask: Array) -> Array:
    """Over the tokens; zeros where there is none."""
    total = jnp.sum(jnp.where(mask[:, None], h, 0.0), axis=0)
    return total / jnp.maximum(jnp.sum(mask), 1).astype(total.dtype)


def _scores(query: Array, key: Array) -> Array:
    """`[H, L, L]` of projections `[L, H, D / H]`."""
    return jnp.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
