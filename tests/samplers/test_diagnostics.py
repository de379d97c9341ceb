"""Diagnoses of chains with known autocorrelation, their table and their file."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from kd import samplers
from kd.samplers import Diagnosis, diagnostics

RHOS = np.linspace(0.0, 0.9, 10)


def autoregressive(rho, num_chains=4, num_samples=5000, seed=0):
    """x' = rho x + sqrt(1 - rho^2) noise: effective samples are (1 - rho) / (1 + rho)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num_chains, num_samples))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0]
    for t in range(1, num_samples):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_samples_of_an_autoregression(rho):
    found = samplers.diagnose(autoregressive(rho), num_chains=4)["x"]
    assert found.ess == pytest.approx(20_000 * (1 - rho) / (1 + rho), rel=0.15)
    assert found.mcse == pytest.approx(found.std / np.sqrt(found.ess))
    assert found.r_hat == pytest.approx(1, abs=0.01)


def test_chains_that_disagree():
    x = autoregressive(0.0) + np.array([[0.0], [0.0], [0.0], [3.0]])
    assert samplers.diagnose(x, num_chains=4)["x"].r_hat > 1.5
    drifting = autoregressive(0.0) + np.linspace(0, 3, 5000)[None]
    assert samplers.diagnose(drifting, num_chains=4)["x"].r_hat > 1.2


def test_names_and_order():
    draws = {"w": jnp.zeros((2, 8, 2, 1)), "b": [jnp.ones((2, 8))]}
    assert list(samplers.diagnose(draws, num_chains=2)) == ["b.0", "w[0,0]", "w[1,0]"]
    found = samplers.diagnose(draws, num_chains=2)["b.0"]
    assert found.mean == 1 and found.std == 0 and np.isnan(found.ess) and np.isnan(found.r_hat)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("num_chains", [1, 3])
def test_many_coordinates_have_the_figures_of_each_alone(num_chains, dtype, monkeypatch):
    """By numpyro's functions of one coordinate at a time; in blocks, the last of them short."""
    monkeypatch.setattr(diagnostics, "BLOCK", 4 * num_chains * 101)
    x = np.stack([autoregressive(rho, num_chains, 101, seed=i) for i, rho in enumerate(RHOS)], -1)
    x = x.reshape(num_chains, 101, 2, 5).astype(dtype)
    x[..., 0, 3] = 0.1  # Never moves, and its mean rounds.
    x[..., 1, 1] = np.nan
    found = samplers.diagnose({"w": x}, num_chains=num_chains)
    assert list(found) == [f"w[{i},{j}]" for i in range(2) for j in range(5)]
    for (i, j), one in zip(np.ndindex(2, 5), found.values(), strict=True):
        alone = x[..., i, j].astype(np.float64)
        std, ess, r_hat = 0.0, np.nan, np.nan
        if (i, j) != (0, 3):
            std, ess, r_hat = alone.std(), effective_sample_size(alone), split_gelman_rubin(alone)
        expected = Diagnosis(alone.mean(), std, std / np.sqrt(ess), ess, r_hat)
        np.testing.assert_allclose(one, expected, rtol=1e-12)


def test_the_table_fits_and_has_the_worst_first():
    found = {
        f"a_long_name_of_weights[{i},{i}]": Diagnosis(
            -123456.789, 1e-5, 1e-7, 123456.0, 1 + i / 100
        )
        for i in range(30)
    }
    found["still"] = Diagnosis(0.0, 0.0, float("nan"), float("nan"), float("nan"))
    lines = samplers.diagnosis_table(found, at_most=5).split("\n")
    assert len(lines) == 7 and max(map(len, lines)) <= 79
    assert "still" in lines[1] and "nan" in lines[1]
    assert "1.2900" in lines[2] and "1.2800" in lines[3]
    assert "...of_weights[29,29] " in lines[2]
    assert lines[-1] == "and 26 more, with a smaller R-hat"
    with pytest.raises(ValueError, match="at_most must be at least 1, got 0"):
        samplers.diagnosis_table(found, at_most=0)
    with pytest.raises(TypeError, match="at_most must be an integer, got 2.0"):
        samplers.diagnosis_table(found, at_most=2.0)


def test_the_file_holds_the_draws(tmp_path):
    draws = {"w": autoregressive(0.5, num_samples=10)[..., None], "b": {"c": np.ones((4, 10))}}
    samplers.save_draws(tmp_path / "draws.npz", draws, num_chains=4)
    with np.load(tmp_path / "draws.npz", allow_pickle=False) as file:
        assert set(file) == {"w", "b.c"}
        np.testing.assert_array_equal(file["w"], draws["w"])
    assert [path.name for path in tmp_path.iterdir()] == ["draws.npz"]


def test_arviz_reads_the_file(tmp_path):
    """By the line of the docstring; its effective samples are near ours, by another estimator."""
    import arviz

    draws = {"w": np.stack([autoregressive(0.5, num_samples=500)] * 2, axis=-1)}
    samplers.save_draws(tmp_path / "draws.npz", draws, num_chains=4)
    tree = arviz.from_dict({"posterior": dict(np.load(tmp_path / "draws.npz"))})
    assert dict(tree["posterior"].sizes) == {"chain": 4, "draw": 500, "w_dim_0": 2}
    found = samplers.diagnose(draws, num_chains=4)["w[0]"]
    assert float(arviz.ess(tree)["w"][0]) == pytest.approx(found.ess, rel=0.1)
    assert float(arviz.rhat(tree)["w"][0]) == pytest.approx(found.r_hat, abs=0.01)


def test_raises(tmp_path):
    for position, message in (
        (np.zeros(5), "position must have axes of chains and draws"),
        (np.zeros((2, 3)), "the number of draws must be at least 4, got 3"),
        ({"a": np.zeros((2, 5)), "b": np.zeros((2, 6))}, "one number of chains and draws"),
        ({}, "one number of chains and draws"),
    ):
        with pytest.raises(ValueError, match=message):
            samplers.diagnose(position, num_chains=2)
    with pytest.raises(ValueError, match="path must end in .npz"):
        samplers.save_draws(tmp_path / "draws.nc", np.zeros((2, 5)))
    with pytest.raises(ValueError, match="num_chains = 3, got 2"):
        samplers.diagnose(np.zeros((2, 5)), num_chains=3)
    with pytest.raises(ValueError, match=r"must have an axis of draws, got \(\)"):
        samplers.diagnose({"a": np.zeros(())})
    with pytest.raises(TypeError, match="as samples.position; got Samples"):
        samplers.diagnose(samplers.Samples(np.zeros(5), (), ()))


def test_one_chain_has_no_axis_of_chains(tmp_path):
    draws = np.random.default_rng(0).normal(size=(4000, 10))
    found = samplers.diagnose({"w": draws})
    assert list(found) == [f"w[{i}]" for i in range(10)]
    again = samplers.diagnose({"w": draws[None]}, num_chains=1)
    assert found == again and found["w[3]"].mean == pytest.approx(draws[:, 3].mean())
    samplers.save_draws(tmp_path / "draws.npz", {"w": draws})
    with np.load(tmp_path / "draws.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["w"], draws[None])


def test_names_that_are_one_or_numpys_own_are_refused(tmp_path):
    twice = {"a": {"b": np.ones(5)}, "a.b": np.zeros(5)}
    for fn in (samplers.diagnose, lambda draws: samplers.save_draws(tmp_path / "d.npz", draws)):
        with pytest.raises(ValueError, match="two leaves named 'a.b'"):
            fn(twice)
    for name in ("file", "allow_pickle"):
        with pytest.raises(ValueError, match=f"no leaf named '{name}'"):
            samplers.save_draws(tmp_path / "d.npz", {name: np.ones(5), "w": np.ones(5)})
    assert not list(tmp_path.iterdir())
