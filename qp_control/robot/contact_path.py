"""Control periods with contact as a function that torch differentiates: one call of C++ each way."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qp_control.exceptions import SolveError
from qp_control.robot.motions import array, call, tensor
from qp_control.settings import Settings, Status


def follow(
    native: Any, settings: Settings, contacts: bool, *arguments: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """States (B, periods, nx) at the ends of the periods; gaps (B, periods, contacts) and forces (B, periods, contacts,
    3) in the last step of each, if asked for.

    arguments: x (B, nx), u (B, periods, nu), parameters, friction, dry friction; float64 on the CPU.
    """
    if torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in arguments):
        found: tuple[Tensor, Tensor | None, Tensor | None] = call(ContactPath, native, settings, contacts, *arguments)
        return found
    states, _, shown, status, worst = native.run(*map(array, arguments), False, contacts)
    if worst > Status.CLOSEST_FEASIBLE:
        report_failures(settings, status, arguments)
    gaps, forces = map(tensor, shown)
    return torch.from_numpy(states), gaps, forces


class ContactPath(torch.autograd.Function):
    """(native, settings, contacts, x, u, parameters, friction, dry friction) -> states, gaps, forces."""

    @staticmethod
    def forward(
        ctx: Any, native: Any, settings: Settings, contacts: bool, *arguments: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        states, path, shown, status, worst = native.run(*map(array, arguments), True, contacts)
        if worst > Status.CLOSEST_FEASIBLE:
            report_failures(settings, status, arguments)
        ctx.native, ctx.path = native, (path, status)
        ctx.save_for_backward(*arguments)
        ctx.set_materialize_grads(False)
        gaps, forces = map(tensor, shown)
        if contacts:
            ctx.mark_non_differentiable(gaps, forces)
        return torch.from_numpy(states), gaps, forces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> Any:
        if g is None:
            return (None,) * 8
        arguments, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[3:])
        found, residual = ctx.native.adjoint(*map(array, arguments), *ctx.path, array(g), wanted)
        if residual > 1e-6:
            warnings.warn(
                f"the adjoint of a contact step's QP has a residual of {residual:.1e}", RuntimeWarning, stacklevel=2
            )
        gradients = [tensor(gradient) for gradient in found]
        for k in (3, 4):  # friction coefficients that the batch shares
            if wanted[k] and arguments[k].ndim == 1:
                gradients[k] = gradients[k].sum(0)  # type: ignore[union-attr]
        return None, None, None, *gradients


def report_failures(settings: Settings, status: Any, arguments: Any) -> None:
    """Warn of elements whose QPs had no solution, or raise."""
    worst = status.max(1)
    failed = np.flatnonzero(worst > Status.CLOSEST_FEASIBLE)
    counts = ", ".join(f"{int((worst == s).sum())} {Status(int(s)).name}" for s in np.unique(worst[failed]))
    message = f"contact steps of {failed.size} of {len(worst)} elements failed ({counts}; first: element {failed[0]})"
    if settings.on_failure == "raise":
        names = ("x", "u", "parameters", "friction", "dry_friction")
        raise SolveError(message, {name: array(a) for name, a in zip(names, arguments, strict=True)}, status)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
