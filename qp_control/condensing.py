"""Condensing: the states of a linear time-varying system as an affine function of its inputs.

    x_{k+1} = A_k x_k + B_k u_k + c_k,  k = 0..N-1      =>      X = G U + e

X: the states x_1..x_N, U: the inputs u_0..u_{N-1}, both stacked in order of time. The states are eliminated exactly, so
a quadratic program in (X, U) becomes one in U alone. G and e grow with the N-th power of an unstable A: meant for
horizons of a few seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Condense(torch.autograd.Function):
    """M (B, N, nx, N nu + 1) with [G_k | e_k] in stage k, by the recursion M_{k+1} = A_k M_k + [0 B_k 0 | c_k].

    The backward pass is the adjoint recursion L_k = dM_k + A_k' L_{k+1}; then dA_k = L_{k+1} M_k',
    while dB_k and dc_k are columns of L_{k+1}. One matrix product per stage each way, and no graph between.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, c: Tensor, x0: Tensor) -> Tensor:
        batch, horizon, nx, nu = B.shape
        M = A.new_zeros(horizon, batch, nx, horizon * nu + 1)
        previous = x0.unsqueeze(-1)
        for k in range(horizon):
            # Inputs after u_k cannot move x_{k+1}: their columns stay zero.
            if k:
                torch.matmul(A[:, k], M[k - 1, :, :, : k * nu], out=M[k, :, :, : k * nu])
            M[k, :, :, k * nu : (k + 1) * nu] = B[:, k]
            M[k, :, :, -1:] = torch.baddbmm(c[:, k, :, None], A[:, k], previous)
            previous = M[k, :, :, -1:]
        ctx.save_for_backward(A, x0, M)
        return M.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_M: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        A, x0, M = ctx.saved_tensors
        horizon, batch, nx, columns = M.shape
        nu = (columns - 1) // horizon
        L = g_M.transpose(0, 1).contiguous()
        if L is g_M or L.data_ptr() == g_M.data_ptr():
            L = L.clone()
        At = A.transpose(2, 3)
        g_B = A.new_empty(batch, horizon, nx, nu)
        for k in range(horizon - 1, -1, -1):
            g_B[:, k] = L[k, :, :, k * nu : (k + 1) * nu]
            if k:
                L[k - 1] += At[:, k] @ L[k]
        g_c = L[..., -1].transpose(0, 1)
        g_A = torch.empty_like(A)
        # Columns of inputs after u_{k-1} are zero in M_{k-1}, so what L holds there does not matter.
        g_A[:, 1:] = (L[1:] @ M[:-1].transpose(2, 3)).transpose(0, 1)
        g_A[:, 0] = L[0, :, :, -1:] * x0.unsqueeze(1)
        g_x0 = (At[:, 0] @ L[0, :, :, -1:])[..., 0]
        return g_A, g_B, g_c, g_x0


def condense(A: Tensor, B: Tensor, c: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Eliminate the states of x_{k+1} = A_k x_k + B_k u_k + c_k.

    A (batch, N, nx, nx), B (batch, N, nx, nu), c (batch, N, nx), x0 (batch, nx); differentiable in all.

    Returns G (batch, N, nx, N nu) and e (batch, N, nx) with x_{k+1} = G[:, k] U + e[:, k]. O(N^2 nx^2 nu) per element.
    Raises ValueError where the shapes do not fit together.
    """
    if B.ndim != 4:
        raise ValueError(f"B has shape {tuple(B.shape)}, expected (batch, N, nx, nu)")
    batch, horizon, nx, _ = B.shape
    for name, value, shape in (
        ("A", A, (batch, horizon, nx, nx)),
        ("c", c, (batch, horizon, nx)),
        ("x0", x0, (batch, nx)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}")
    M: Tensor = _Condense.apply(A, B, c, x0)  # type: ignore[no-untyped-call]
    return M[..., :-1], M[..., -1]
