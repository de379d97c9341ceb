"""experiments.benchmarks.features: that every loss of features is timed."""

import inspect

from experiments.benchmarks import features as benchmarks
from kd.losses import features

# What losses are made of, or begin with.
PARTS = {
    *("linear_kernel", "rbf_kernel", "pairwise_distances", "same_label", "init_variance"),
    *("cosine_similarity", "student_t_similarity", "similarity_divergence"),
    "quadratic_mutual_information",
}


def test_every_loss_of_features_is_timed():
    source = inspect.getsource(benchmarks)
    timed = {name for name in features.__all__ if f"features.{name}" in source}
    assert set(features.__all__) - timed <= PARTS
    assert PARTS <= set(features.__all__)
