"""Losses that match what a teacher's layers say, rather than its answers.

Student and teacher are features of the same inputs. No gradient flows into a teacher: the rule is
in `kd.losses`. Losses of a batch, where the mathematics is of a batch, take arrays `[N, ...]` and
say so; the others are of one example, as all of `kd.losses`. Of features in half precision, which
would overflow in sums of squares, all are computed in single.
"""

from kd.losses.features.distances import (
    contrastive,
    distance_absolute_error,
    pairwise_distances,
)
from kd.losses.features.gaussian_processes import (
    gaussian_process_bhattacharyya,
    gaussian_process_hellinger,
    gaussian_process_kl,
    gaussian_process_square_distance,
    gaussian_process_wasserstein,
    gram_square_error,
)
from kd.losses.features.hints import (
    attention_transfer,
    hint,
)
from kd.losses.features.information_flow import information_flow
from kd.losses.features.kernels import linear_kernel, rbf_kernel
from kd.losses.features.mutual_information import (
    mutual_information_square_error,
    quadratic_mutual_information,
)
from kd.losses.features.relational import (
    cosine_similarity,
    probabilistic_knowledge_transfer,
    same_label,
    similarity_divergence,
    student_t_similarity,
    supervised_knowledge_transfer,
)
from kd.losses.features.sequences import (
    attention_square_error,
    flow_square_error,
    hidden_square_error,
    position_gram_square_error,
)
from kd.losses.features.variational import (
    init_variance,
    variational_information,
)

__all__ = [
    "attention_square_error",
    "attention_transfer",
    "contrastive",
    "cosine_similarity",
    "distance_absolute_error",
    "flow_square_error",
    "gaussian_process_bhattacharyya",
    "gaussian_process_hellinger",
    "gaussian_process_kl",
    "gaussian_process_square_distance",
    "gaussian_process_wasserstein",
    "gram_square_error",
    "hidden_square_error",
    "hint",
    "information_flow",
    "init_variance",
    "linear_kernel",
    "mutual_information_square_error",
    "pairwise_distances",
    "position_gram_square_error",
    "probabilistic_knowledge_transfer",
    "quadratic_mutual_information",
    "rbf_kernel",
    "same_label",
    "similarity_divergence",
    "student_t_similarity",
    "supervised_knowledge_transfer",
    "variational_information",
]
