"""The study itself: posteriors, bags of their samples, students by batch and online EM."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bags import BAG_STEPS, burn_in_batches, by_chain, check_bag, keep_draws
from experiments.chains import check_slices, slice_figures
from experiments.density_estimation import figures, posterior, quadrature, tables
from experiments.density_estimation.settings import ROUTES, Settings
from experiments.flags import Options
from experiments.report import Row
from experiments.run import Run, execute
from kd import inference, models, samplers, training
from kd.export import export_student
from kd.types import Array, Key, PyTree

EXPERIMENT = "density_estimation"
COLUMNS = ("loss", "kl", "stored", "num_empty", "num_floored", "num_exhausted", "num_limited")
NUM_POINTS = 12  # Of a curve.
GAIN, MOST_EM = 1e-7, 200_000  # Nats, of all inputs together, at which batch EM stops; iterations.


class Result(NamedTuple):
    """All that was found of one number of points, over R data sets.

    Attributes:
      points: `[R, N]`.
      bags: `[R, S, 3]`, means sampled from the posterior, chain by chain.
      monte_carlo: `[R, G]`, the predictive density that they give.
      students: parameters of R mixtures, by "batch" and "online".
      log_densities: `[R, G]`, the students', by the same.
      kl: `[R]`, nats: from the Monte Carlo prediction to the students, and to the truth.
      r_hat: the largest split R-hat of a mean, in each data set, `[R]`.
      ess: the least effective samples of a mean, `[R]`.
      mishaps: components without a share, the mean over the data sets, of "batch" and "online"
        EM; and the share of batch fits that had not converged.
    """

    points: np.ndarray
    bags: np.ndarray
    monte_carlo: np.ndarray
    students: dict[str, PyTree]
    log_densities: dict[str, np.ndarray]
    kl: dict[str, np.ndarray]
    r_hat: np.ndarray
    ess: np.ndarray
    mishaps: dict[str, float]


class Sweep(NamedTuple):
    """Online students by where their draws come from, and by draws a step.

    Attributes:
      kl: `[R]`, nats, by route and batch size.
      num_empty: components without a share in the end, the mean over data sets, by the same.
      r_hat, ess: as in `Result`, of the bag that they are compared with.
    """

    kl: dict[tuple[str, int], np.ndarray]
    num_empty: dict[tuple[str, int], float]
    r_hat: np.ndarray
    ess: np.ndarray


def run(preset: str, settings: Settings, options: Options) -> None:
    """Runs the study, or goes on with it, and shows the table; a finished one only shows it."""
    summary = execute(
        EXPERIMENT,
        preset,
        settings,
        options,
        columns=COLUMNS,
        inputs_fn=dict,
        load_fn=partial(load, settings),
        study_fn=estimate,
        products=("draws", "figures", "student"),
    )
    tables.show(summary, settings, options.workdir)


def load(settings: Settings) -> None:
    """Refuses what cannot be done."""
    check_bag(settings.num_samples, settings.num_chains)


def estimate(run: Run, _: None) -> list[Row]:
    """Every number of points, the comparison of batches; then figures, exports and rows."""
    settings = run.settings
    results = {num: solve(run, num) for num in settings.num_points}
    sweep = compare_batches(run) if settings.batch_sizes else None
    figures.draw(run, results, sweep)
    export(run, results)
    return tables.rows(settings, results, sweep)


def solve(run: Run, num_points: int) -> Result:
    """The posterior of so many points, and both students, over all data sets."""
    points, bags = fill_bags(run, num_points)
    x = quadrature.grid(run.settings.grid_points)
    monte_carlo = quadrature.monte_carlo(bags, x)
    evaluate = quadrature.mixtures(student_of(run.settings), x)
    batch = fit_batch(run, num_points, bags)
    phase = f"online[{num_points}]"
    students = {
        "batch": batch.params,
        "online": fit_online(run, phase, num_points, monte_carlo),
    }
    mishaps = {
        "batch": float(np.mean(batch.num_empty)),
        "online": float(run.log.rows(phase)[-1]["num_empty"]),
        "not_converged": float(np.mean(~np.asarray(batch.is_converged))),
    }
    log_densities = {name: evaluate(params) for name, params in students.items()}
    against = log_densities | {"truth": np.log(quadrature.truth(x))[None]}
    kl = {name: quadrature.kl_divergence(monte_carlo, log_q, x) for name, log_q in against.items()}
    r_hat, ess = diagnose(bags, run.settings.num_chains)
    first = bags[0].reshape(run.settings.num_chains, -1, bags.shape[-1])
    keep_draws(run.workdir, f"points-{num_points}", first)
    return Result(points, bags, monte_carlo, students, log_densities, kl, r_hat, ess, mishaps)


def student_of(settings: Settings) -> models.GaussianMixture:
    """The student, over one variable."""
    return models.GaussianMixture(settings.num_components, 1, "spherical")


def fill_bags(run: Run, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `[R, N]` and samples of their posteriors `[R, S, 3]`, chain by chain."""
    settings = run.settings
    share = settings.num_samples // BAG_STEPS
    stream = posterior.chain(
        num_points,
        batch_size=share,
        adapt_steps=settings.burn_in,
        num_chains=settings.num_chains,
        exchange=settings.exchange,
    )
    update = training.observe(training.store("w"), lambda batch: slice_figures(batch["info"]))
    empty = jnp.zeros((settings.num_repeats, settings.num_samples, posterior.NUM_MEANS))
    phase = f"bag[{num_points}]"
    kept = run.fit(
        phase,
        run.key(f"points[{num_points}]"),
        stream,
        update,
        jax.vmap(update.init)(empty),
        BAG_STEPS,
        burn_in=burn_in_batches(settings.burn_in, share, num_chains=settings.num_chains),
        num_replicas=settings.num_repeats,
    ).student.kept
    check_slices(run.log, phase)
    bags = np.stack([by_chain(bag, settings.num_chains) for bag in kept]).reshape(kept.shape)
    return data_sets(run, num_points), bags


def data_sets(run: Run, num_points: int) -> np.ndarray:
    """The points that every stream of so many has, `[R, N]`."""
    keys = jax.random.split(run.key(f"points[{num_points}]"), run.settings.num_repeats)
    return np.asarray(
        jax.vmap(lambda key: posterior.points_of(jax.random.split(key)[0], num_points))(keys)
    )


def diagnose(bags: np.ndarray, num_chains: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest R-hat and the least effective samples of each bag."""
    chains = [bag.reshape(num_chains, -1, bag.shape[-1]) for bag in bags]
    found = [samplers.diagnose(one, num_chains=num_chains).values() for one in chains]
    r_hat = np.array([max(one.r_hat for one in each) for each in found])
    return r_hat, np.array([min(one.ess for one in each) for each in found])


def starts(run: Run, phase: str) -> PyTree:
    """Mixtures to begin with: equal weights, unit variances, means from N(0, 1)."""
    mixture = student_of(run.settings)
    keys = jax.random.split(run.key(f"start[{phase}]"), run.settings.num_repeats)
    return jax.vmap(lambda key: mixture.init(key, jnp.zeros(1)))(keys)


def fit_batch(run: Run, num_points: int, bags: np.ndarray) -> inference.EMResult:
    """Draws from the Monte Carlo predictions, and mixtures fitted to them by batch EM.

    Until the total log-likelihood gains less than 1e-7, as in the thesis's code, in double
    precision: in single it stops at the first plateau, as if it had converged.
    """
    settings, mixture = run.settings, student_of(run.settings)
    phase = f"batch[{num_points}]"

    keys = jax.random.split(run.key(phase), settings.num_repeats)
    x = jax.vmap(lambda key, bag: draws_of(key, bag, settings.num_fitted))(keys, jnp.asarray(bags))

    def fit(inputs: tuple[Array, PyTree]) -> inference.EMResult:
        x, start = inputs
        return inference.fit_mixture(
            mixture, start, x, tolerance=GAIN / settings.num_fitted, max_iterations=MOST_EM
        )

    inputs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (x, starts(run, phase)))
    with jax.enable_x64(True):
        found = jax.jit(lambda inputs: jax.lax.map(fit, inputs))(inputs)
        found = jax.tree.map(np.asarray, found)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), found.params)
    return found._replace(params=single)


def draws_of(key: Key, bag: Array, num_draws: int) -> Array:
    """Draws of the mean density of samples `[S, 3]`, `[num, 1]`."""
    choice_key, draw_key = jax.random.split(key)
    chosen = jax.random.randint(choice_key, (num_draws,), 0, len(bag))
    return posterior.draw_given(draw_key, bag[chosen])[:, None]


def fit_online(
    run: Run,
    phase: str,
    num_points: int,
    monte_carlo: np.ndarray,
    *,
    batch_size: int | None = None,
    num_iterations: int | None = None,
    thin: int | None = None,
    num_chains: int | None = None,
) -> PyTree:
    """Mixtures that learn from chains as they run; nothing of a chain is stored."""
    settings, mixture = run.settings, student_of(run.settings)
    batch_size, thin = batch_size or settings.batch_size, thin or settings.thin
    num_iterations = num_iterations or settings.num_iterations
    stream = posterior.chain(
        num_points,
        batch_size=batch_size,
        adapt_steps=settings.burn_in,
        thin=thin,
        num_chains=num_chains,
        exchange=settings.exchange,
        salt=1,  # Other chains than the bag's.
    )
    step_size = (
        inference.linear_step_size(num_iterations)
        if settings.step_size == "linear"
        else inference.power_step_size(settings.step_offset, settings.power)
    )
    update = training.observe(
        inference.expectation_maximization(mixture, step_size=step_size),
        lambda batch: slice_figures(batch["info"]),
    )
    x = quadrature.grid(settings.grid_points)
    log_densities = quadrature.mixtures(mixture, x)

    def evaluate(state: inference.EMState) -> dict[str, float]:
        kl = quadrature.kl_divergence(monte_carlo, log_densities(state.params), x)
        return {"kl": float(np.mean(kl))}

    return run.fit(
        phase,
        run.key(f"points[{num_points}]"),
        stream,
        update,
        jax.vmap(update.init)(starts(run, phase)),
        num_iterations,
        evaluate_fn=evaluate,
        num_points=NUM_POINTS,
        burn_in=burn_in_batches(
            settings.burn_in, batch_size, num_chains=num_chains or 1, thin=thin
        ),
        num_replicas=settings.num_repeats,
    ).student.params


def compare_batches(run: Run) -> Sweep:
    """Online students by route and batch size, all with as many draws.

    One chain, whose draws in a batch are correlated; one thinned; a chain for each draw.
    """
    settings, num_points = run.settings, run.settings.sweep_points
    x = quadrature.grid(settings.grid_points)
    evaluate = quadrature.mixtures(student_of(settings), x)
    _, bags = fill_bags(run, num_points)
    monte_carlo = quadrature.monte_carlo(bags, x)
    num_draws = settings.batch_size * settings.num_iterations
    found, num_empty = {}, {}
    for size in settings.batch_sizes:
        for route in ROUTES:
            phase = f"online[{num_points},{route},{size}]"
            params = fit_online(
                run,
                phase,
                num_points,
                monte_carlo,
                batch_size=size,
                num_iterations=max(2, num_draws // size),
                thin=settings.sweep_thin if route == "thinned" else 1,
                num_chains=size if route == "parallel" else None,
            )
            found[route, size] = quadrature.kl_divergence(monte_carlo, evaluate(params), x)
            num_empty[route, size] = float(run.log.rows(phase)[-1]["num_empty"])
    return Sweep(found, num_empty, *diagnose(bags, settings.num_chains))


def export(run: Run, results: dict[int, Result]) -> None:
    """The first data set's students, as functions to log-densities."""
    mixture = student_of(run.settings)
    for num_points, result in results.items():
        for name, params in result.students.items():
            export_student(
                run.workdir.file("student", f"{name}-{num_points}"),
                mixture.log_prob,
                jax.tree.map(lambda leaf: leaf[0], params),
                input_shape=(1,),
                metadata={
                    "experiment": EXPERIMENT,
                    "condition": [name, num_points],
                    "kl": float(result.kl[name][0]),
                    "model": {
                        "num_components": run.settings.num_components,
                        "num_dims": 1,
                        "covariance": "spherical",
                    },
                },
                # Of log-densities near -100 in single precision.
                tolerance=1e-3,
            )
