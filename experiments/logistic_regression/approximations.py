"""What the students are compared with: Gaussian posteriors, and another sampler."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bags import keep_draws
from experiments.flags import UserError
from experiments.logistic_regression.problems import Problem
from experiments.run import Run
from kd import inference
from kd.types import PyTree

WARMUP = 1000
PREDICT_BLOCK = 250


class Approximation(NamedTuple):
    """A posterior of other means.

    Attributes:
      gaussian: over the weights, or None.
      samples: `[S, ...]`, or None.
      method: how a Gaussian predicts, see `kd.inference.logistic_log_probs`.
      r_hat: of samples, the largest of a weight.
      num_divergences: of Hamiltonian Monte Carlo.
    """

    gaussian: inference.Gaussian | None
    samples: np.ndarray | None
    method: str = "quadrature"
    r_hat: float = float("nan")
    num_divergences: int = 0

    def log_probs(self, problem: Problem, x: np.ndarray) -> np.ndarray:
        """Of the classes at inputs `[M, D]`: `[M, C]`, nats."""
        if self.gaussian is None:
            return bag_log_probs(problem, self.samples, x)
        return inference.logistic_log_probs(self.gaussian, x, method=self.method)

    def num_bytes(self) -> int:
        """Of what a prediction needs."""
        kept = (
            (self.samples,)
            if self.gaussian is None
            else (
                self.gaussian.mean,
                self.gaussian.covariance,
            )
        )
        return sum(array.nbytes for array in kept)


def all_of(run: Run, problem: Problem) -> dict[str, Approximation]:
    """By name; the Gaussian ones are for two classes."""
    found = {}
    if problem.is_binary:
        x, y = problem.train_x.astype(np.float64), problem.train_y
        prior = run.settings.prior_variance
        exact = inference.logistic_ep(x, y, prior_covariance=prior, damping=0.1)
        mackay = inference.logistic_ep(x, y, prior_covariance=prior, damping=0.1, moments="mackay")
        mode = inference.logistic_laplace(x, y, prior_covariance=prior)
        for name, result, method in (
            ("ep", exact, "quadrature"),
            ("ep_thesis", mackay, "quadrature"),
            ("ep_mackay", mackay, "mackay"),
            ("laplace", mode, "quadrature"),
        ):
            if not result.is_converged:
                raise UserError(
                    f"{name} has not converged on these data; a smaller --prior_variance may help."
                )
            gaussian = inference.Gaussian(result.mean, result.covariance)
            found[name] = Approximation(gaussian, None, method)
    found["hmc"] = hamiltonian(run, problem)
    return found


def hamiltonian(run: Run, problem: Problem) -> Approximation:
    """As many samples as the bag has, by numpyro's NUTS; they stay in `draws/` too."""
    import numpyro.infer

    settings = run.settings
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(
            potential_fn=lambda w: -problem.log_posterior(w, settings.prior_variance),
            target_accept_prob=0.95,
        ),
        num_warmup=WARMUP,
        num_samples=settings.num_samples // settings.num_chains,
        num_chains=settings.num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = jnp.zeros((settings.num_chains, *problem.weight_shape()))
    mcmc.run(run.key("hmc"), init_params=start, extra_fields=("diverging",))
    draws = np.asarray(mcmc.get_samples(group_by_chain=True))
    r_hat, _ = keep_draws(run.workdir, "hmc", draws)
    num_divergences = int(np.sum(mcmc.get_extra_fields()["diverging"]))
    samples = draws.reshape(-1, *draws.shape[2:])
    return Approximation(None, samples, r_hat=r_hat, num_divergences=num_divergences)


def bag_log_probs(problem: Problem, samples: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Logs of a bag's mean probabilities at inputs `[M, D]`: `[M, C]`, nats, in blocks of inputs.

    Never by way of the probabilities, which single precision may have as 0.
    """
    params = {"params": {"w": jnp.asarray(samples)}}
    log_probs = _compiled(problem.num_classes)(params, jnp.asarray(x, jnp.float32))
    return np.asarray(log_probs, np.float64)


@functools.cache
def _compiled(num_classes: int) -> Callable[[PyTree, jax.Array], jax.Array]:
    """A bag's log-probabilities at many inputs, compiled once for all bags of a shape."""
    shell = Problem(np.zeros((1, 1)), np.zeros(1, int), None, None, num_classes)
    return jax.jit(
        lambda params, x: jax.lax.map(
            lambda x: shell.bag_log_probs(params, x), x, batch_size=PREDICT_BLOCK
        )
    )
