"""Values and gradients of torchdistill's losses, in double precision, from a file into a file.

    python torch_features.py TENSORS.npz ANSWERS.npz

A process of its own, for an interpreter that has PyTorch and torchdistill: this file needs those
and NumPy alone. It reads tensors named `kind/case/tensor`, as
`experiments.benchmarks.agreement` draws them, and writes them again with `kind/case/loss/value` and
`kind/case/loss/slope/tensor`, one for each of the student's tensors that the loss depends on.

The losses are torchdistill's own modules with their own reductions; channels, last in the file, go
where PyTorch has them. Two of them are norms, and are squared here: the correlations'
distance, and the flow's norms, of one column of one input at a time.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn
from torchdistill.losses import mid_level

Tensors = dict[str, Tensor]
VARIANCE_FLOOR = 1e-5
PLACE = {"io": "output", "path": "layer"}
BETWEEN = {
    f"{who}_module_{what}": value
    for who in ("student", "teacher")
    for what, value in (("path", "layer"), ("io", "output"))
}


def told(value: object) -> dict:
    """What a hook would have brought of a layer."""
    return {"layer": {"output": value}}


def compared(loss: nn.Module, student: object, teacher: object, *more: Tensor) -> Tensor:
    """A loss of one layer of each."""
    return loss(told(student), told(teacher), *more)


def channels_first(x: Tensor) -> Tensor:
    """`[N, ..., C]` to `[N, C, ...]`."""
    return x.movedim(-1, 1)


def soft_target(x: Tensors) -> Tensor:
    """Without labels, and so without its factor T²."""
    loss = mid_level.KDLoss(**BETWEEN, temperature=x["temperature"].item(), beta=1.0)
    return compared(loss, x["student"], x["teacher"])


def soft_target_with_label(x: Tensors) -> Tensor:
    """Both parts; that of the labels has the weight `alpha`."""
    weight, temperature = x["label_weight"].item(), x["temperature"].item()
    loss = mid_level.KDLoss(**BETWEEN, temperature=temperature, alpha=weight)
    return compared(loss, x["student"], x["teacher"], x["label"])


def square_error(x: Tensors) -> Tensor:
    """A low-level loss, PyTorch's own, in its wrapper."""
    place = {"module_path": "layer", "io": "output"}
    ends = {
        "input": {"is_from_teacher": False, **place},
        "target": {"is_from_teacher": True, **place},
    }
    loss = mid_level.SimpleLossWrapper(nn.MSELoss(), **ends)
    return compared(loss, x["student"], x["teacher"], None)


def knowledge_transfer(x: Tensors) -> Tensor:
    """As it is by default, with 1e-7 in the lengths and the logarithms."""
    return compared(mid_level.PKTLoss(**BETWEEN), x["student"], x["teacher"])


def knowledge_transfer_without_eps(x: Tensors) -> Tensor:
    """The same with that constant at 0."""
    return compared(mid_level.PKTLoss(**BETWEEN, eps=0.0), x["student"], x["teacher"])


def correlations(x: Tensors) -> Tensor:
    """The squared distance of matrices of products."""
    loss = mid_level.CCKDLoss("layer", "layer", {"type": "bilinear"}, "sum")
    return compared(loss, x["student"], x["teacher"]).square()


def variational_information(x: Tensors) -> Tensor:
    """With the variance that its regressor has: a softplus, and a floor."""
    variance = nn.functional.softplus(x["student_raw_variance"]) + VARIANCE_FLOOR
    loss = mid_level.VIDLoss({"pair": {"student": PLACE, "teacher": PLACE}})
    guess = channels_first(x["student"]), variance.reshape(1, -1, 1, 1)
    return compared(loss, guess, channels_first(x["teacher"]))


def attention(x: Tensors) -> Tensor:
    """In its mode "code", the default."""
    loss = mid_level.ATLoss({"pair": {"student": PLACE, "teacher": PLACE}}, mode="code")
    return compared(loss, channels_first(x["student"]), channels_first(x["teacher"]))


def flows(x: Tensors) -> Tensor:
    """Squares of the norms that it adds up."""
    ends = ("student_first", "student_second", "teacher_first", "teacher_second")
    loss = mid_level.FSPLoss({"pair": {end: {"path": end, "io": "output"} for end in ends}})
    total = torch.zeros((), dtype=torch.float64)
    for one in range(len(x["student_first"])):
        for column in range(x["student_second"].shape[-1]):
            found = {}
            for end in ends:
                of_one = channels_first(x[end][one : one + 1])
                is_second = end.endswith("second")
                found[end] = {"output": of_one[:, column : column + 1] if is_second else of_one}
            total = total + loss(found, found).square()
    return total


LOSSES: dict[str, dict[str, Callable[[Tensors], Tensor]]] = {
    "logits": {
        "soft_target": soft_target,
        "soft_target_with_label": soft_target_with_label,
        "square_error": square_error,
    },
    "features": {
        "knowledge_transfer": knowledge_transfer,
        "knowledge_transfer_without_eps": knowledge_transfer_without_eps,
        "correlations": correlations,
    },
    "opposites": {"knowledge_transfer": knowledge_transfer},
    "regressed": {
        "square_error": square_error,
        "variational_information": variational_information,
    },
    "maps": {"attention": attention},
    "flows": {"flows": flows},
}


def answers(loss: Callable[[Tensors], Tensor], arrays: dict[str, np.ndarray]) -> dict:
    """Value and slopes of one loss."""
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    own = {name: one for name, one in tensors.items() if name.startswith("student")}
    for one in own.values():
        one.requires_grad_()
    value = loss(tensors)
    value.backward()
    slopes = {f"slope/{name}": one.grad for name, one in own.items() if one.grad is not None}
    return {name: one.detach().numpy() for name, one in {"value": value, **slopes}.items()}


def main() -> None:
    """Answers every loss for every case of its kind."""
    with np.load(sys.argv[1], allow_pickle=False) as file:
        found = dict(file)
    cases = defaultdict(dict)
    for name, array in found.items():
        kind, case, tensor = name.split("/")
        cases[kind, case][tensor] = array
    for (kind, case), arrays in cases.items():
        for name, loss in LOSSES[kind].items():
            for what, array in answers(loss, arrays).items():
                found[f"{kind}/{case}/{name}/{what}"] = array
    found["versions"] = np.array([f"torch {torch.__version__}", _version("torchdistill")])
    np.savez_compressed(sys.argv[2], **found)


def _version(package: str) -> str:
    return f"{package} {metadata.version(package)}"


if __name__ == "__main__":
    main()
