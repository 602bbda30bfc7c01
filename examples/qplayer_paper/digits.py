"""Handwritten digits: a fully connected network whose last layer is a QP (sections 4 and C.3 of the paper).

    minimise    1/2 x'H x - p(image)'x      10 numbers x, the scores of the digits
    subject to  l <= C x <= u               200 rows

p is a network with one hidden layer; the network, H = L'L, C, l and u are learned by Adam with the negative
log-likelihood of softmax(x) as loss. There are two models: one-sided rows with u = C z0 + exp(s), feasible at z0, and
positive definite H, which all solvers can take; and the paper's two-sided bounds, which are free and may come to
contradict each other.

The images are scikit-learn's 8x8 digits (part of its package: pip install scikit-learn), 1500 for training and 297 for
testing, or MNIST's: --mnist names a folder with its files, gzipped or not. If the training files are missing, the last
tenth of the test images is used for testing and the rest for training.

    python examples/qplayer_paper/digits.py
    python examples/qplayer_paper/digits.py --mnist FOLDER --epochs 5
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from layers import Answer, Problem
from learning import Options, Task, run
from records import curves, merge, series
from torch import Tensor

ROWS = 200
PUBLISHED = {"paper's QPLayer on MNIST": 0.136, "paper's OptNet on MNIST": 0.326}
Model = Literal["two_sided", "one_sided"]
Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DigitsOptions(Options):
    """Learn to read digits."""

    epochs: int = 30
    """Passes over the training images."""
    batch: int = 64
    """Images of a step."""
    rate: float = 1e-3
    """Learning rate."""
    models: tuple[Model, ...] = ("two_sided", "one_sided")
    """two_sided: the paper's, for solvers with l <= C x <= u; one_sided: what all solvers can do."""
    hidden: int = 200
    """Neurons of the hidden layer."""
    room: float = 10.0
    """How far the bounds are first from zero."""
    mnist: Path | None = None
    """Folder with MNIST's idx files instead of the digits of scikit-learn."""


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array of MNIST's format: two zeros, 8 for bytes, number of axes, their lengths (big endian), the entries."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    entries = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if len(entries) != np.prod(shape):
        raise ValueError(f"{path} has {len(entries)} entries, expected {np.prod(shape)}")
    return entries.reshape(shape)


def mnist(folder: Path) -> tuple[Images, Images]:
    def read(part: str) -> Images | None:
        arrays = []
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
            paths = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
            if not paths:
                return None
            arrays.append(read_idx(paths[0]))
        images, labels = arrays
        return torch.tensor(images.reshape(len(images), -1) / 255.0), torch.tensor(labels.astype(np.int64))

    train, test = read("train"), read("t10k")
    if test is None:
        raise FileNotFoundError(f"{folder} has no t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte")
    return (train, test) if train is not None else _split(test, max(1, len(test[0]) // 10))


def embedded() -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return _split((torch.tensor(pixels[order] / 16.0), torch.tensor(labels[order])), 297)


def _split(images: Images, tests: int) -> tuple[Images, Images]:
    (x, y) = images
    return (x[:-tests], y[:-tests]), (x[-tests:], y[-tests:])


class Classifier(torch.nn.Module):
    """Scores p of an image, and the numbers of the QP."""

    def __init__(self, model: Model, pixels: int, hidden: int, room: float) -> None:
        super().__init__()
        self.scores = torch.nn.Sequential(
            torch.nn.Linear(pixels, hidden, dtype=torch.float64),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, 10, dtype=torch.float64),
        )
        self.L = torch.nn.Parameter(torch.eye(10, dtype=torch.float64))
        self.C = torch.nn.Parameter(2.0 * torch.rand(ROWS, 10, dtype=torch.float64) - 1.0)
        self.two_sided = model == "two_sided"
        if self.two_sided:
            self.l = torch.nn.Parameter(torch.full((ROWS,), -room, dtype=torch.float64))
            self.u = torch.nn.Parameter(torch.full((ROWS,), room, dtype=torch.float64))
        else:
            self.z0 = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
            self.log_room = torch.nn.Parameter(torch.full((ROWS,), math.log(room), dtype=torch.float64))

    def forward(self, images: Tensor) -> Problem:
        g = -self.scores(images)
        H = self.L.T @ self.L
        if self.two_sided:
            return Problem(g, H, C=self.C, l=self.l, u=self.u)
        u = self.C @ self.z0 + self.log_room.exp()
        return Problem(g, H + 1e-4 * torch.eye(10, dtype=torch.float64), C=self.C, u=u)


class Digits(Task):
    total = ("wrong",)

    def __init__(self, options: DigitsOptions, model: Model) -> None:
        self.kind, self.options = model, options
        self.name = "digits" if options.mnist is None else "mnist"
        self.model = model.replace("_", "-")
        (x, y), test = embedded() if options.mnist is None else mnist(options.mnist)
        count = options.samples
        self.train = (x[:count], y[:count])
        self.test = test if count is None else (test[0][: max(1, count // 9)], test[1][: max(1, count // 9)])

    def network(self) -> Classifier:
        return Classifier(self.kind, self.train[0].shape[1], self.options.hidden, self.options.room)

    def expressible(self, layer: str) -> bool:
        return layer != "qpth" or self.kind == "one_sided"

    def problem(self, network: torch.nn.Module, inputs: Tensor) -> Problem:
        problem: Problem = network(inputs)
        return problem

    def losses(self, answer: Answer, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(answer.x, targets, reduction="none")

    def measures(self, network: torch.nn.Module, answer: Answer, targets: Tensor) -> dict[str, Tensor]:
        return {"wrong": answer.x.argmax(1) != targets}


def main(options: DigitsOptions) -> None:
    tasks = [Digits(options, model) for model in options.models]
    for task in tasks:
        run(task, options)
    for name in {task.name for task in tasks}:
        rows = merge(options.out, name)
        title = f"{name}: negative log-likelihood of the test images"
        levels = PUBLISHED if name == "mnist" else {}
        path = options.out / f"{name}.png"
        curves(path, series(rows, "test_loss"), title=title, xlabel="epoch", ylabel="test loss", levels=levels)


if __name__ == "__main__":
    main(tyro.cli(DigitsOptions, description=__doc__))
