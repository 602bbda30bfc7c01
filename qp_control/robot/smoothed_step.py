"""Steps averaged over Gaussian samples of the input, so that gradients see contacts that are still open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SmoothedStep:
    """The mean of a step over samples of its input and its state.

        x_next = mean over s of step(x (+) state_noise o xi_s, u + noise o epsilon_s)

    dynamics: a model with a step, such as `ContactDynamics`. samples: their number, at least 2.
    noise: standard deviations of the input, a number or (nu,). state_noise: those of the state's error, a number or
        (ndx,).
    seed: of the samples. They are drawn once and are the same for every element of a batch and for every step, so that
        a step is a function of its arguments alone; and they are shifted and scaled to mean zero and variance one:
        where the step is linear, the mean is the step without noise.

    If configurations do not form a vector space, the mean is taken of the errors from the first sample's state.

    Source: Q. Le Lidec et al., "Leveraging randomized smoothing for optimal control of nonsmooth dynamical systems",
    Nonlinear Analysis: Hybrid Systems 52 (2024).
    """

    def __init__(
        self,
        dynamics: Any,
        *,
        samples: int = 5,
        noise: float | Tensor = 0.1,
        state_noise: float | Tensor = 0.0,
        seed: int = 0,
    ) -> None:
        if samples < 2:
            raise ValueError(f"samples is {samples}, expected at least 2")
        self.dynamics, self.samples = dynamics, samples
        self.noise = self._deviations("noise", noise, dynamics.nu)
        self.state_noise = self._deviations("state_noise", state_noise, dynamics.ndx)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(samples, dynamics.nu + dynamics.ndx, generator=generator, dtype=torch.float64)
        draws = draws - draws.mean(0)
        self.draws = draws / draws.square().mean(0).sqrt()
        """(samples, nu + ndx) standard normal numbers: of the input, then of the state's error."""

    @staticmethod
    def _deviations(name: str, given: float | Tensor, size: int) -> Tensor:
        value = torch.as_tensor(given, dtype=torch.float64)
        if value.shape not in ((), (size,)) or not bool((value >= 0.0).all() & value.isfinite().all()):
            raise ValueError(f"{name} is {given}, expected a number of at least 0 or {size} of them")
        return value.expand(size)

    def step(
        self, x: Tensor, u: Tensor, parameters: Tensor | None = None, *, draws: Tensor | None = None, **options: Any
    ) -> Tensor:
        """State x_next (B, nx) from x (B, nx) and u (B, nu), differentiable like the dynamics' own step.

        parameters (n_par,). options: further arguments of the dynamics' step, shared by the batch, such as friction
        (contacts,). draws (samples, nu + ndx) or (samples, B, nu + ndx): samples to use in place of those of the seed.
        """
        batch, dynamics = torch.broadcast_shapes(x.shape[:-1], u.shape[:-1]), self.dynamics  # type: ignore[no-untyped-call]
        draws = self.draws if draws is None else draws
        size = dynamics.nu + dynamics.ndx
        if draws.shape[1:] == (size,):
            draws = draws.reshape(-1, *[1] * len(batch), size)
        if draws.ndim != len(batch) + 2 or draws.shape[-1] != size:
            raise ValueError(
                f"draws has shape {tuple(draws.shape)}, expected (samples, {size}) or (samples, B, {size})"
            )
        draws = draws.to(x.device, x.dtype)
        of_input, of_state = draws[..., : dynamics.nu], draws[..., dynamics.nu :]
        around = (len(draws), *batch)
        u = (u + self.noise.to(u) * of_input).expand(*around, dynamics.nu)
        x = x.expand(*around, dynamics.nx)
        if bool((self.state_noise > 0.0).any()):
            x = dynamics.integrate(x, (self.state_noise.to(x) * of_state).expand(*around, dynamics.ndx))
        found: Tensor = dynamics.step(x, u, parameters, **options)
        if dynamics.vector_space:
            return found.mean(0)
        first = found[0]
        mean: Tensor = dynamics.integrate(first, dynamics.difference(first.expand_as(found), found).mean(0))
        return mean
