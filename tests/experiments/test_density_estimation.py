"""experiments.density_estimation: a run file by file, killed and resumed; the posterior's law."""

import itertools
import json
import signal
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import study_runs
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from PIL import Image
from scipy import special, stats

from experiments.bags import by_chain
from experiments.density_estimation import figures, posterior, quadrature, study, tables
from experiments.density_estimation.settings import Settings
from experiments.flags import resolve
from kd import inference, samplers
from kd.export import load_student
from kd.models import GaussianMixture

MODULE = "experiments.density_estimation"
TINY = {
    "num_points": "3,6",
    "num_samples": 400,
    "num_chains": 2,
    "burn_in": 20,
    "num_fitted": 50,
    "batch_size": 10,
    "num_iterations": 12,
    "num_repeats": 2,
    "batch_sizes": "2,5",
    "sweep_points": 3,
    "sweep_thin": 2,
    "grid_points": 501,
}
ONLINE = [f"online[{n}]" for n in (3, 6)] + [
    f"online[3,{route},{size}]" for size in (2, 5) for route in ("one", "thinned", "parallel")
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("density_estimation") / "run"
    with study_runs.unverified_exports():
        return study_runs.succeed_here(path, TINY, module=MODULE)


# A run.


def test_a_run_leaves_what_it_promises(finished):
    assert finished.stderr == ""
    assert {path.name for path in (finished.path / "figures").iterdir()} == {
        *("points-3.png", "points-6.png", "kl.png", "batches.png")
    }
    assert {path.name for path in (finished.path / "student").iterdir()} == {
        f"{name}-{n}" for name in ("batch", "online") for n in (3, 6)
    }
    for path in (finished.path / "figures").iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200 and np.std(pixels) > 5


def test_metrics_and_rows(finished):
    metrics, values = finished.metrics(), finished.values()
    phases = {"bag[3]", "bag[6]", *ONLINE}
    assert set(metrics) == phases | {f"burn_in-{phase}" for phase in phases}
    assert float(metrics["bag[3]"][-1]["stored"]) > 390
    rows = {row["name"]: row for row in finished.summary()["rows"]}
    for n in (3, 6):
        for name in ("batch", "online", "truth"):
            row = rows[f"kl.{name}[{n}]"]
            assert row["value"] > 0 and row["stderr"] > 0 and row["repeats"] == 2
        gap = values[f"kl.online[{n}]"] - values[f"kl.batch[{n}]"]
        assert values[f"kl.online_less_batch[{n}]"] == pytest.approx(gap)
        assert 0.9 < values[f"r_hat[{n}]"] < 5 and 0 < values[f"ess[{n}]"] < 800
        last = metrics[f"online[{n}]"][-1]
        assert int(last["step"]) == 12 and float(last["kl"]) == pytest.approx(
            values[f"kl.online[{n}]"], rel=1e-9
        )
    for route, size in itertools.product(("one", "thinned", "parallel"), (2, 5)):
        phase = metrics[f"online[3,{route},{size}]"]
        assert int(phase[-1]["step"]) == 120 // size
        assert float(phase[-1]["kl"]) == pytest.approx(values[f"kl.sweep[{route},{size}]"])


def test_rows_of_the_chains(finished):
    """The worst mean of the worst data set, by NumPy, from the bags' checkpoints."""
    values = finished.values()
    for n, extra in ((3, (("r_hat.sweep", "ess.sweep"),)), (6, ())):
        kept = study_runs.checkpointed_student(finished.path, f"bag-{n}")["kept"]
        # A hundred batches, in each two draws of each of two chains.
        batches = np.asarray(kept, float).reshape(2, 100, 2, 2, 3)
        bags = [np.stack([np.concatenate(one[:, chain]) for chain in range(2)]) for one in batches]
        series = [bag[..., k] for bag in bags for k in range(3)]
        r_hats = [oracles.split_r_hat(one) for one in series]
        sizes = [oracles.effective_samples(one) for one in series]
        # Whichever is taken for the worst, another figure is shown.
        assert np.ptp(r_hats[:3]) > 1e-3 and abs(max(r_hats[:3]) - max(r_hats[3:])) > 1e-3
        for r_hat, ess in ((f"r_hat[{n}]", f"ess[{n}]"), *extra):
            for name, value in ((r_hat, max(r_hats)), (ess, min(sizes))):
                assert values[name] == pytest.approx(value, rel=1e-6), name
        with np.load(finished.path / "draws" / f"points-{n}.npz") as file:
            np.testing.assert_array_equal(file["w"], bags[0])


def test_the_table_fits(finished):
    shown = finished.stdout[: finished.stdout.index("Look at")]
    assert max(map(len, shown.splitlines())) <= 80, shown
    assert f"{finished.values()['kl.online[6]']:.4f}" in shown
    assert "KL(Monte Carlo ‖ density), nats" in shown and "the true density" in shown
    assert ("* The chains do not agree" in shown) == (
        max(finished.values()[f"r_hat[{n}]"] for n in (3, 6)) >= tables.MOST_R_HAT
    )


def test_limits_cut_no_visible_tail():
    """The thesis's limits, or wider ones where a density has a hundredth of the highest."""
    x = np.linspace(-60, 60, 4001)
    narrow, wide = stats.norm(0, 2).pdf(x), stats.norm(0, 8).pdf(x)
    assert figures.limits(x, [narrow]) == (-15, 10)
    assert figures.limits(x, [narrow, stats.norm(9, 1).pdf(x)]) == (-15, 15)
    # exp(-r^2 / 2) is a hundredth at r = 3.03; beside a density four times as high, at 2.54.
    assert figures.limits(x, [wide]) == (-25, 25)
    assert figures.limits(x, [wide, narrow]) == (-25, 25)
    assert figures.limits(x, [wide, 4 * narrow]) == (-20, 20)


def test_an_exported_student_has_the_divergence_it_says(finished):
    """By SciPy, from the points of the first data set and the bag's checkpoint."""
    x = quadrature.grid(501)
    bags = np.asarray(study_runs.checkpointed_student(finished.path, "bag-3")["kept"], float)
    p = np.mean(
        [
            np.mean(stats.norm.pdf(x[:, None], means, np.sqrt(posterior.VARIANCES)), axis=1)
            for means in bags[0]
        ],
        axis=0,
    )
    for name in ("batch", "online"):
        student = load_student(finished.path / "student" / f"{name}-3")
        log_q = np.asarray(student(jnp.asarray(x[:, None], jnp.float32)), float)
        kl = np.trapezoid(p * (np.log(np.maximum(p, 1e-300)) - log_q), x)
        metadata = json.loads(
            (finished.path / "student" / f"{name}-3" / "student.json").read_text()
        )["metadata"]
        assert metadata["kl"] == pytest.approx(kl, rel=1e-3)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(finished, tmp_path):
    """While a bag is filled, and in the middle of an online student."""
    path = tmp_path / "run"
    for phase in ("bag-3", "online-3-thinned-2"):
        process = study_runs.start(path, TINY | {"checkpoint_seconds": 0}, module=MODULE)
        stopped = study_runs.interrupt(
            process, lambda phase=phase: study_runs.checkpoints(path, phase), signal.SIGKILL
        )
        assert stopped.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()
    with study_runs.unverified_exports():
        resumed = study_runs.succeed_here(path, TINY, module=MODULE)
    assert "done before" in resumed.stdout
    study_runs.assert_same_bits(resumed, finished)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"num_samples": 500}, "--num_samples must be a multiple of 100 x --num_chains = 200"),
        ({"num_points": "0"}, "--num_points"),
        ({"step_size": "cosine"}, "--step_size must be linear | power; got 'cosine'."),
        ({"power": 0.5}, "--power must be a number and > 0.5 and <= 1"),
        ({"num_chains": 1}, "--num_chains must be an integer and >= 2"),
    ],
)
def test_mistakes_are_one_line(changed, expected, tmp_path):
    line = study_runs.refusal(tmp_path / "run", TINY | changed, module=MODULE)
    assert expected in line and not (tmp_path / "run").exists()


# The posterior.


def exact_posterior(x):
    """Weights, means and covariances of the mixture of 3^N Gaussians, in a loop."""
    found = []
    for labels in itertools.product(range(3), repeat=len(x)):
        log_weight, means, variances = 0.0, [], []
        for k in range(3):
            own = [value for value, label in zip(x, labels, strict=True) if label == k]
            s2 = posterior.VARIANCES[k]
            precision = 1 / posterior.PRIOR_VARIANCE + len(own) / s2
            variances.append(1 / precision)
            means.append(sum(own) / s2 / precision)
            # The points of a component are jointly Gaussian once its mean is integrated out.
            if own:
                covariance = s2 * np.eye(len(own)) + posterior.PRIOR_VARIANCE
                log_weight += stats.multivariate_normal(cov=covariance).logpdf(own)
        found.append((log_weight, means, variances))
    log_weights, means, variances = map(np.array, zip(*found, strict=True))
    return special.softmax(log_weights), means, variances


@pytest.fixture(scope="module", params=[2, 3, 4, 5])
def exact(request):
    """N points, the exact posterior of the means, and 4 chains."""
    num = request.param
    x = np.asarray(posterior.draw(jax.random.key(num), num), float)
    sampler = posterior.sampler(jnp.asarray(x, jnp.float32), 500)
    samples = samplers.sample(
        jax.random.key(1),
        sampler,
        jnp.zeros((4, 3)),
        num_samples=5000,
        burn_in=500,
        thin=4,
        num_chains=4,
    )
    return x, exact_posterior(x), np.asarray(samples.position, float)


def assert_mean(values, expected):
    error = values.std() / np.sqrt(effective_sample_size(values))
    assert abs(values.mean() - expected) < 4.5 * error, (values.mean(), expected, error)


def test_moments_of_the_exact_posterior(exact):
    _, (weights, means, variances), found = exact
    for k in range(3):
        assert split_gelman_rubin(found[..., k]) < 1.01
        assert_mean(found[..., k], weights @ means[:, k])
        assert_mean(found[..., k] ** 2, weights @ (variances[:, k] + means[:, k] ** 2))
    assert_mean(found[..., 0] * found[..., 2], weights @ (means[:, 0] * means[:, 2]))


def test_monte_carlo_density_is_the_exact_predictive(exact):
    _, (weights, means, variances), found = exact
    x = quadrature.grid(1001)
    (p,) = quadrature.monte_carlo(found.reshape(1, -1, 3), x)
    scales = np.sqrt(variances + posterior.VARIANCES[None])
    densities = stats.norm.pdf(x[:, None, None], means[None], scales[None]).mean(-1)
    kl = quadrature.kl_divergence(densities @ weights, np.log(np.maximum(p, 1e-300)), x)
    assert 0 <= kl < 0.01


def test_the_posterior_is_prior_times_likelihood():
    x, means = np.array([0.3, -2.0, 5.0]), np.array([1.0, -0.5, 4.0])
    likelihood = stats.norm.pdf(x[:, None], means, np.sqrt(posterior.VARIANCES)).mean(1)
    with jax.enable_x64(True):
        found = posterior.log_density(jnp.asarray(x), jnp.asarray(means))
        joint = posterior.log_posterior(jnp.asarray(means), jnp.asarray(x))
    np.testing.assert_allclose(found, np.log(likelihood), rtol=1e-12)
    prior = stats.norm.logpdf(means, scale=10).sum() - 3 * stats.norm.logpdf(0, scale=10)
    assert float(joint) == pytest.approx(np.log(likelihood).sum() + prior, rel=1e-12)


def joint_functions(means, x):
    """Of means `[..., 3]` and points `[..., N]` together: `[..., 17]`."""
    log_p = stats.norm.logpdf(x[..., None], means[..., None, :], np.sqrt(posterior.VARIANCES))
    log_likelihood = special.logsumexp(log_p, axis=-1).sum(-1)
    log_prior = -0.5 * np.sum(means**2, axis=-1) / posterior.PRIOR_VARIANCE
    shares = special.softmax(log_p, axis=-1).mean(-2)
    products = means * x.mean(-1, keepdims=True)
    totals = np.stack([log_likelihood, log_likelihood + log_prior], axis=-1)
    return np.concatenate([totals, shares, log_p.max(-2), products, means, means**2], axis=-1)


def test_geweke(monkeypatch):
    """Means and points drawn in turn, each given the other, keep their joint law.

    From exact draws on, three steps a round; the scales are so unlike that an exchange counts.
    """
    monkeypatch.setattr(posterior, "VARIANCES", np.array([0.1, 5.0, 1.0]))
    monkeypatch.setattr(posterior, "PRIOR_VARIANCE", 9.0)
    num_chains, num_rounds, num_points = 2000, 30, 3

    def round_(means, key):
        point_key, init_key, *step_keys = jax.random.split(key, 5)
        x = posterior.draw_given(point_key, jnp.broadcast_to(means, (num_points, 3)))
        sampler = posterior.sampler(x, 0)
        state, _ = jax.lax.scan(
            lambda state, key: (sampler.step(key, state)[0], None),
            sampler.init(means, init_key),
            jnp.stack(step_keys),
        )
        return state.position, (state.position, x)

    def run(inputs):
        key, means = inputs
        return jax.lax.scan(round_, means, jax.random.split(key, num_rounds))[1]

    start = 3 * jax.random.normal(jax.random.key(0), (num_chains, 3))
    keys = jax.random.split(jax.random.key(1), num_chains)
    found = jax.jit(lambda inputs: jax.lax.map(run, inputs))((keys, start))
    found = joint_functions(*(np.asarray(leaf, np.float64) for leaf in found)).mean(axis=1)

    rng = np.random.default_rng(0)
    means, labels = rng.normal(scale=3, size=(200_000, 3)), rng.integers(3, size=(200_000, 3))
    noise = np.sqrt(posterior.VARIANCES)[labels] * rng.normal(size=labels.shape)
    expected = joint_functions(means, np.take_along_axis(means, labels, axis=1) + noise)
    errors = np.sqrt(found.var(0) / len(found) + expected.var(0) / len(expected))
    assert np.abs((found.mean(0) - expected.mean(0)) / errors).max() < 4


def test_the_state_keeps_the_log_density_of_its_position():
    """After an exchange too: most of these steps end with one."""
    x = posterior.draw(jax.random.key(0), 4)
    sampler = posterior.sampler(x, 0)

    def step(state, key):
        state, _ = sampler.step(key, state)
        return state, (state.log_density, posterior.log_posterior(state.position, x))

    keys = jax.random.split(jax.random.key(1), 100)
    kept, expected = jax.lax.scan(step, sampler.init(jnp.zeros(3)), keys)[1]
    np.testing.assert_allclose(kept, expected, rtol=1e-5)


def test_exchanges_find_the_peak_that_slices_alone_do_not():
    """With many points and the means in the wrong order: one exchange away from the right."""
    x = posterior.draw(jax.random.key(0), 500)
    wrong = jnp.asarray([2.0, 0.0, -3.0])
    plain = samplers.slice_sampler(lambda means: posterior.log_posterior(means, x), width=1.0)
    ends = []
    for sampler in (plain, posterior.sampler(x, 0)):
        samples = samplers.sample(jax.random.key(1), sampler, wrong, num_samples=300)
        ends.append(np.asarray(samples.position[-1]))
    assert ends[0][0] > 0 > ends[0][2]
    np.testing.assert_allclose(ends[1], posterior.MEANS, atol=1.0)


def test_draws_have_the_true_law():
    x = np.asarray(posterior.draw(jax.random.key(0), 20_000))
    cdf = lambda x: np.mean(
        stats.norm.cdf(np.asarray(x)[:, None], posterior.MEANS, np.sqrt(posterior.VARIANCES)), 1
    )
    assert stats.kstest(x, cdf).pvalue > 1e-3


def test_streams_of_one_key_share_points_and_nothing_else():
    key = jax.random.key(3)
    one, other = (posterior.chain(4, batch_size=6, adapt_steps=5, salt=salt) for salt in (0, 1))
    states = [stream.init(key) for stream in (one, other)]
    for state in states:
        np.testing.assert_array_equal(state[0], posterior.points_of(key, 4))
    batches = [
        stream.next(jax.random.key(0), state)[1]
        for stream, state in zip((one, other), states, strict=True)
    ]
    assert not np.array_equal(batches[0]["w"], batches[1]["w"])


# Quadrature.


def test_divergence_of_two_gaussians():
    x = quadrature.grid(4001)
    p, q = stats.norm(1.0, 2.0), stats.norm(-0.5, 3.0)
    expected = np.log(3 / 2) + (4 + 1.5**2) / (2 * 9) - 0.5
    found = quadrature.kl_divergence(p.pdf(x), q.logpdf(x), x)
    assert float(found) == pytest.approx(expected, abs=1e-9)
    assert float(quadrature.kl_divergence(p.pdf(x), p.logpdf(x), x)) == pytest.approx(0, abs=1e-12)


def test_monte_carlo_is_a_mean_of_densities():
    bags = np.random.default_rng(0).normal(scale=4, size=(2, 407, 3))
    x = np.linspace(-5, 5, 11)
    expected = [
        np.mean(
            [stats.norm.pdf(x[:, None], m, np.sqrt(posterior.VARIANCES)).mean(1) for m in bag], 0
        )
        for bag in bags
    ]
    np.testing.assert_allclose(quadrature.monte_carlo(bags, x), expected, rtol=1e-10)


def test_bags_are_put_together_chain_by_chain():
    """A hundred batches, in each two steps of each of three chains, numbered by both."""
    kept = [
        (chain, 2 * batch + step) for batch in range(100) for chain in range(3) for step in (0, 1)
    ]
    found = by_chain(np.array(kept), 3)
    expected = [[(chain, step) for step in range(200)] for chain in range(3)]
    np.testing.assert_array_equal(found, expected)
    r_hat, ess = study.diagnose(np.random.default_rng(0).normal(size=(2, 400, 3)), 2)
    assert r_hat.shape == ess.shape == (2,) and r_hat.max() < 1.05 and ess.min() > 250


def test_an_online_student_has_one_size_and_a_bag_grows():
    """Bytes of the state that a compiled loop carries, by samples: flat, and linear."""
    from kd import inference, training

    mixture = GaussianMixture(3, 1, "spherical")
    stream = posterior.chain(10, batch_size=10, adapt_steps=1)

    def peak(update, start):
        run = training.init_fit(jax.random.key(0), stream, update.init(start))
        step = training.make_step(stream, update)
        loop = lambda state: jax.lax.fori_loop(0, 50, lambda _, state: step(state)[0], state)
        memory = jax.jit(loop, donate_argnums=0).lower(run).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    online = inference.expectation_maximization(mixture, step_size=0.1)
    start = mixture.init(jax.random.key(0), jnp.zeros(1))
    flat = peak(online, start)
    bags = [peak(training.store("w"), jnp.zeros((num, 3))) for num in (1000, 10_000, 100_000)]
    assert flat < 20_000 < bags[1] < bags[2]
    # Twelve bytes a sample.
    np.testing.assert_allclose(np.diff(bags), 12 * np.diff([1000, 10_000, 100_000]), rtol=0.05)


def test_batch_students_learn_the_mean_density_of_their_bags():
    """Draws have its law; and EM goes on beyond a plateau at which single precision stops."""
    rng = np.random.default_rng(0)
    bag = rng.normal(size=(500, 3)) * 3
    x = np.asarray(study.draws_of(jax.random.key(1), jnp.asarray(bag, jnp.float32), 4000))[:, 0]
    law = lambda x: np.mean(
        stats.norm.cdf(x[:, None, None], bag[None], np.sqrt(posterior.VARIANCES)), axis=(1, 2)
    )
    assert stats.kstest(x, law).pvalue > 1e-3


def test_batch_em_does_not_stop_at_a_plateau(tmp_path):
    """Three means in one place: a saddle, from which single precision sees no gain."""
    settings = resolve(Settings, "quick", {"num_repeats": "1", "num_fitted": "500"})
    run = SimpleNamespace(settings=settings, key=lambda phase: jax.random.key(0))
    bag = np.asarray(np.random.default_rng(0).normal(size=(1, 400, 3)) + posterior.MEANS * 4)
    near = lambda mixture: mixture.from_moments(
        jnp.full(3, 1 / 3),
        jnp.array([[-0.700], [-0.701], [-0.702]]),
        jnp.ones((3, 1, 1)),
    )
    mixture = study.student_of(settings)
    start = jax.tree.map(lambda leaf: leaf[None], near(mixture))
    with mock.patch.object(study, "starts", lambda run, phase: start):
        found = study.fit_batch(run, 5, bag)
    assert bool(found.is_converged[0])
    x = study.draws_of(jax.random.split(jax.random.key(0), 1)[0], jnp.asarray(bag[0]), 500)
    once = inference.fit_mixture(mixture, near(mixture), x)
    assert float(found.log_likelihood[0]) > float(once.log_likelihood) - 1e-5
    assert int(found.num_iterations[0]) > int(once.num_iterations)
