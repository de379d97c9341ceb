"""Posterior expectation distillation as the paper describes it, in PyTorch's eager mode.

A process of its own, for an interpreter that has PyTorch: this file needs that and NumPy alone.
Every line it reads is a number of student's steps to make, and is answered by the seconds they
took.
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH, THIN, STEP_SIZE, PRECISION, NOISE, RATE = 100, 100, 4e-6, 10.0, 1e-3, 1e-3


def network() -> nn.Module:
    """784-400-400-10 with ReLUs."""
    return nn.Sequential(
        nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


class Distillation:
    """Teacher's chain, student, and the data in random order."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.x, self.y, self.order, self.at = x, y, torch.randperm(len(x)), 0
        self.teacher, self.student = network(), network()
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=RATE)

    def batch(self) -> torch.Tensor:
        """Numbers of the next examples, without replacement."""
        if self.at + BATCH > len(self.x):
            self.order, self.at = torch.randperm(len(self.x)), 0
        self.at += BATCH
        return self.order[self.at - BATCH : self.at]

    def langevin(self) -> None:
        """One step of the chain."""
        index = self.batch()
        likelihood = functional.cross_entropy(self.teacher(self.x[index]), self.y[index])
        self.teacher.zero_grad()
        (len(self.x) * likelihood).backward()
        with torch.no_grad():
            for weights in self.teacher.parameters():
                slope = weights.grad + PRECISION * weights
                weights.add_(-0.5 * STEP_SIZE * slope + STEP_SIZE**0.5 * torch.randn_like(weights))

    def step(self) -> None:
        """The chain's steps, and one of the student towards the current sample."""
        for _ in range(THIN):
            self.langevin()
        x = self.x[self.batch()]
        x = x + NOISE * torch.randn_like(x)
        with torch.no_grad():
            target = functional.softmax(self.teacher(x), dim=1)
        loss = -(target * functional.log_softmax(self.student(x), dim=1)).sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def main() -> None:
    """Answers until its input ends."""
    with np.load(sys.argv[1], allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    torch.manual_seed(0)
    run = Distillation(x, y)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            run.step()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
