"""kd.random: tested as a generator, along its counter and across its keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kd import random

SIZE = 1 << 20
LEVEL = 1e-4  # Of every test: fixed keys, so a failure is a change and not bad luck.


def bits_of(words):
    """`[N, 32]`, the lowest bit first."""
    return (np.array(words)[:, None] >> np.arange(32, dtype=np.uint32)) & 1


def keys_of_all_kinds():
    key = jax.random.key(0)
    return [
        key,
        jax.random.key(1),
        jax.random.key(2**31),
        jax.random.fold_in(key, 7),
        *jax.random.split(key, 2),
    ]


@pytest.mark.parametrize("key", keys_of_all_kinds(), ids=range(6))
def test_every_bit_is_fair(key):
    counts = bits_of(random.bits(key, (SIZE,))).sum(0)
    z = (counts - SIZE / 2) / np.sqrt(SIZE / 4)
    assert stats.chi2.sf(np.sum(z**2), 32) > LEVEL


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_bytes_are_equidistributed(shift):
    for seed in range(4):
        words = np.array(random.bits(jax.random.key(seed), (SIZE,)))
        counts = np.bincount((words >> shift) & 255, minlength=256)
        assert stats.chisquare(counts).pvalue > LEVEL


@pytest.mark.parametrize("lag", [1, 2, 3, 7, 16, 500, 784, 1024, 4096, 1 << 16])
def test_bits_at_a_lag_are_uncorrelated(lag):
    """All 32 x 32 pairs of bits, at lags such as a chain's or a row's length."""
    bits = 2 * bits_of(random.bits(jax.random.key(5), (1 << 18,))).astype(np.float32) - 1
    products = bits[:-lag].T @ bits[lag:]
    z = products / np.sqrt(len(bits) - lag)
    assert stats.chi2.sf(np.sum(z**2), 32 * 32) > LEVEL
    assert np.abs(z).max() < stats.norm.isf(LEVEL / (2 * 32 * 32))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_blocks_are_equidistributed(size):
    """Neighbours together: the top bits of `size` numbers in a row."""
    num_bits = 16 // size
    top = np.array(random.bits(jax.random.key(6), (SIZE,))) >> (32 - num_bits)
    blocks = top.reshape(-1, size) @ (2 ** (num_bits * np.arange(size)))
    counts = np.bincount(blocks.astype(int), minlength=2**16)
    assert stats.chisquare(counts).pvalue > LEVEL


@pytest.mark.parametrize(
    "keys",
    [
        [jax.random.key(0), jax.random.key(1)],
        list(jax.random.split(jax.random.key(0))),
        [jax.random.fold_in(jax.random.key(3), i) for i in (10, 11)],
    ],
    ids=["seeds", "split", "fold_in"],
)
def test_streams_of_two_keys_are_uncorrelated(keys):
    """At every offset, and bit against bit at the same place."""
    first, second = (np.array(random.bits(key, (1 << 16,))) for key in keys)
    bits = [2 * bits_of(words).astype(np.float32) - 1 for words in (first, second)]
    z = bits[0].T @ bits[1] / np.sqrt(len(first))
    assert stats.chi2.sf(np.sum(z**2), 32 * 32) > LEVEL
    centred = [words / 2**32 - 0.5 for words in (first, second)]
    spectrum = np.fft.rfft(centred[0]) * np.conj(np.fft.rfft(centred[1]))
    correlations = 12 * np.fft.irfft(spectrum) / np.sqrt(len(first))
    assert np.abs(correlations).max() < stats.norm.isf(LEVEL / (2 * len(first)))
    # A sequence met again at another offset would be all the same numbers.
    assert len(np.intersect1d(first, second)) < 20


def test_thousands_of_keys_give_independent_first_numbers():
    """What the chains of a sampler see: one place, over the keys of its steps."""
    keys = jax.random.split(jax.random.key(8), 20_000)
    words = np.array(jax.vmap(lambda key: random.bits(key, (4,)))(keys))
    for column in words.T:
        assert stats.kstest(column / 2**32, "uniform").pvalue > LEVEL
        bits = bits_of(column)
        z = (bits.sum(0) - len(keys) / 2) / np.sqrt(len(keys) / 4)
        assert stats.chi2.sf(np.sum(z**2), 32) > LEVEL
        series = column / 2**32 - 0.5
        assert abs(12 * np.mean(series[1:] * series[:-1])) * np.sqrt(len(keys)) < 4
    assert len(np.unique(words)) > words.size - 5


def test_neighbouring_counters_avalanche():
    """From one number to the next about half of the bits change, each as often as any."""
    words = np.array(random.bits(jax.random.key(9), (1 << 16,)))
    changes = bits_of(words[1:] ^ words[:-1])
    assert changes.mean() == pytest.approx(0.5, abs=0.002)
    assert np.abs(changes.mean(0) - 0.5).max() < 0.01


def test_uniform_numbers():
    u = np.array(random.uniform(jax.random.key(0), (SIZE,)))
    assert u.dtype == np.float32 and u.min() >= 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > LEVEL
    assert (u * 2**24 == np.round(u * 2**24)).all()
    # An event of probability 0 never happens, and one of probability 1 always.
    assert not (u < 0.0).any() and (u < 1.0).all()


def test_normal_numbers():
    z = np.array(random.normal(jax.random.key(0), (SIZE,)))
    assert z.dtype == np.float32 and np.isfinite(z).all()
    assert stats.kstest(z, "norm").pvalue > LEVEL
    assert abs(z.mean()) < 5 / np.sqrt(SIZE)
    assert abs(np.mean(z**4) - 3) < 5 * np.sqrt(96 / SIZE)
    assert 4.5 < np.abs(z).max() < 5.6


def test_normal_numbers_are_the_quantiles_of_their_bits():
    """To 3e-6, in the body and in the tails."""
    key = jax.random.key(1)
    u = (np.asarray(random.bits(key, (SIZE,)) >> 8).astype(np.float64) + 0.5) * 2.0**-24
    np.testing.assert_allclose(random.normal(key, (SIZE,)), stats.norm.ppf(u), atol=3e-6, rtol=0)


@pytest.mark.parametrize("word", [0, 255, 256, 2**31 - 1, 2**31, 2**32 - 257, 2**32 - 1])
def test_normal_numbers_of_extreme_bits(word, monkeypatch):
    monkeypatch.setattr(random, "bits", lambda key, shape: jnp.full(shape, word, jnp.uint32))
    expected = stats.norm.ppf(((word >> 8) + 0.5) * 2.0**-24)
    found = random.normal(jax.random.key(0), (3,))
    np.testing.assert_allclose(found, expected, atol=3e-6, rtol=0)
    assert np.sign(found[0]) == np.sign(expected)


def test_moments_and_leaves_of_normal_numbers():
    """What a sampler's noise must have: moments to the fourth, no correlation in time or space."""
    keys = jax.random.split(jax.random.key(2), 4)
    z = np.stack([np.asarray(random.normal(key, (1 << 18,)), np.float64) for key in keys])
    count = z.shape[1]
    for order, variance in ((1, 1), (2, 2), (3, 15), (4, 96)):
        expected = {2: 1, 4: 3}.get(order, 0)
        errors = (np.mean(z**order, axis=1) - expected) / np.sqrt(variance / count)
        assert np.abs(errors).max() < 4.5
    for row in z:
        for lag in (1, 2, 3, 16, 400, 784):
            assert abs(np.mean(row[lag:] * row[:-lag])) * np.sqrt(count - lag) < 4.5
            squares = (row[lag:] ** 2 - 1) * (row[:-lag] ** 2 - 1)
            assert abs(np.mean(squares)) * np.sqrt(count - lag) / 2 < 4.5
    correlations = np.corrcoef(z) * np.sqrt(count)
    assert np.abs(correlations[np.triu_indices(4, 1)]).max() < 4.5


@pytest.mark.parametrize("name", ["bits", "uniform", "normal"])
def test_pure_functions_of_key_and_shape(name):
    fn = getattr(random, name)
    key = jax.random.key(3)
    first = fn(key, (6, 5))
    assert first.shape == (6, 5) and fn(key).shape == () and fn(key, (0, 3)).shape == (0, 3)
    np.testing.assert_array_equal(first, fn(key, (6, 5)))
    np.testing.assert_array_equal(first.ravel(), fn(key, (30,)))
    assert (np.array(first) != np.array(fn(jax.random.key(4), (6, 5)))).all()
    np.testing.assert_array_equal(jax.jit(lambda key: fn(key, (6, 5)))(key), first)
    keys = jax.random.split(key, 3)
    together = jax.vmap(lambda key: fn(key, (5,)))(keys)
    np.testing.assert_array_equal(together, [fn(one, (5,)) for one in keys])


def test_other_kinds_of_keys():
    for impl in ("rbg", "unsafe_rbg"):
        words = random.bits(jax.random.key(0, impl=impl), (1000,))
        assert len(np.unique(words)) == 1000


def test_raises():
    for fn in (random.bits, random.uniform, random.normal):
        with pytest.raises(TypeError, match="key must be one typed key"):
            fn(jnp.zeros(2, jnp.uint32), (3,))
        with pytest.raises(ValueError, match=r"at most 2\*\*32 entries, got \(65536, 65537\)"):
            jax.eval_shape(lambda fn=fn: fn(jax.random.key(0), (65536, 65537)))
