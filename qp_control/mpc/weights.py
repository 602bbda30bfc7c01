"""Learnable weight matrices, positive (semi)definite by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.qp.problem import check_symmetric, symmetry_tolerance


def _learnable(*shape: int, value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value, dtype=torch.float64))


class Diagonal(nn.Module):
    """W (n, n) = diag(exp(log_diagonal)), initially the identity."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.log_diagonal = _learnable(n)

    def forward(self) -> Tensor:
        return torch.diag(self.log_diagonal.exp())

    @torch.no_grad()
    def assign(self, value: Tensor | Sequence[Any]) -> None:
        """Set it to a diagonal (n,) of positive numbers; ValueError for anything else."""
        self.log_diagonal.copy_(_positive(value, len(self.log_diagonal)).log())


class Full(nn.Module):
    """W (n, n) = L L', L lower triangular with exp(log_diagonal) on its diagonal and `lower` below it.

    Positive definite; initially the identity.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.log_diagonal, self.lower = _learnable(n), _learnable(n * (n - 1) // 2)
        self._index = torch.tril_indices(n, n, -1)

    def forward(self) -> Tensor:
        L = torch.diag(self.log_diagonal.exp()).index_put((self._index[0], self._index[1]), self.lower)
        return L @ L.T

    @torch.no_grad()
    def assign(self, value: Tensor | Sequence[Any]) -> None:
        """Take a symmetric positive definite matrix (n, n) or a positive diagonal (n,); ValueError for all else."""
        W, n = torch.as_tensor(value, dtype=torch.float64), len(self.log_diagonal)
        W = torch.diag(_positive(W, n)) if W.ndim == 1 else W
        if W.shape != (n, n):
            raise ValueError(f"the weight has shape {tuple(W.shape)}, expected ({n}, {n}) or ({n},)")
        check_symmetric(_finite(W).detach().numpy(), symmetry_tolerance(getattr(value, "dtype", W.dtype)), "the weight")
        L, info = torch.linalg.cholesky_ex(W)
        if int(info):
            raise ValueError("the weight is not positive definite")
        self.log_diagonal.copy_(L.diagonal().log())
        self.lower.copy_(L[self._index[0], self._index[1]])


class LowRank(nn.Module):
    """W (n, n) = F'F, F (rank, n): positive semidefinite. Initially F is the first rows of the identity."""

    def __init__(self, n: int, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= n:
            raise ValueError(f"rank is {rank}, expected 1 to {n}")
        self.factor = nn.Parameter(torch.eye(n, dtype=torch.float64)[:rank].clone())

    def forward(self) -> Tensor:
        return self.factor.T @ self.factor

    @torch.no_grad()
    def assign(self, value: Tensor | Sequence[Any]) -> None:
        """Set the factor F (rank, n); ValueError for another shape."""
        F = torch.as_tensor(value, dtype=torch.float64)
        if F.shape != self.factor.shape:
            raise ValueError(f"the factor has shape {tuple(F.shape)}, expected {tuple(self.factor.shape)}")
        self.factor.copy_(_finite(F))


class Constant(nn.Module):
    """Returns what it was given."""

    def __init__(self, value: Tensor | None) -> None:
        super().__init__()
        self.value: Tensor | None
        self.register_buffer("value", value)

    def forward(self) -> Tensor | None:
        return self.value


def make_weight(kind: str | int | nn.Module, n: int) -> nn.Module:
    """ "diagonal", "full", a rank, or a module that returns the matrix when called."""
    if isinstance(kind, nn.Module):
        return kind
    if kind == "diagonal":
        return Diagonal(n)
    if kind == "full":
        return Full(n)
    if isinstance(kind, int) and not isinstance(kind, bool):
        return LowRank(n, kind)
    raise ValueError(f"the cost is {kind!r}, expected 'diagonal', 'full', a rank or a module")


def _positive(value: Any, n: int) -> Tensor:
    vector = torch.as_tensor(value, dtype=torch.float64)
    if vector.shape != (n,):
        raise ValueError(f"the weight has shape {tuple(vector.shape)}, expected ({n},)")
    if not bool(((vector > 0.0) & vector.isfinite()).all()):
        raise ValueError(f"the weight is {vector.tolist()}, expected positive numbers")
    return vector


def _finite(value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise ValueError(f"the weight is {value.tolist()}, expected finite numbers")
    return value
