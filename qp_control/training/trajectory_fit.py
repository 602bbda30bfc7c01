"""Recipe: parameters of a model from whole trajectories, every state of which is measured with noise.

Predictions from one measured state to the next (`Identification`) mistake the noise of the first for motion. Here no
measurement enters the model: the initial states are estimated as well,

    minimise over p, x_0    sum_i |r_i|^2,    r_i = (simulation from x_0i with p, all states) - (measured states)

which is the maximum-likelihood estimate for white Gaussian noise proportional to the scale. The initial states are
eliminated. With the thin QR factorisation dr_i/dx_0i = Q_i R_i, the sum of squares of (I - Q_i Q_i') r_i has the same
minimum, and its Jacobian with respect to p is (I - Q_i Q_i') dr_i/dp. With this Jacobian, J, and noise of standard
deviation sigma, no unbiased estimator has a covariance below sigma^2 (J'J)^-1, the Cramer-Rao bound.

Sources: L. Ljung, "System Identification", 2nd ed. (1999), ch. 7 (output error, its covariance); L. Kaufman, BIT 15
(1975) (variable projection without derivatives of Q).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.settings import Status
from qp_control.training.gauss_newton import flat
from qp_control.training.identification import Predict
from qp_control.training.phase import DivisiblePhase, LeastSquares, Update, chosen_parameters

_DIFFERENCE = 1e-5  # step in a parameter: over larger steps, contacts change between sticking and slipping
_UNKNOWN = 1e-10  # eigenvalues of J'J, scaled to unit diagonal, below which a direction is not identifiable


class TrajectoryFit(DivisiblePhase, LeastSquares):
    """Mean squared error of all states, simulated from unknown initial states.

    predict: x_next (B, nx) of the module, x (B, nx) and u (B, nu); rollout: states (B, T, nx) after x (B, nx) under the
    inputs (B, T, nu). states (D, T + 1, nx) as measured, inputs (D, T, nu). scale (nx,): of the noise, up to a common
    factor. learned: name prefixes of the parameters to learn; None: all that require grad. Simulations should roughly
    follow the measurements from the start, as after `Identification`.
    """

    noisy = False  # every update sees all of them
    from_best = False
    damping = (1e-2, 1e-10)
    probes = 24

    def __init__(
        self,
        predict: Predict,
        rollout: Callable[[Any, Tensor, Tensor], Tensor],
        states: Tensor,
        inputs: Tensor,
        scale: Tensor,
        iterations: int,
        rate: float = 1.0,
        *,
        learned: Sequence[str] | None = None,
    ) -> None:
        super().__init__("trajectories", iterations, rate)
        self.predict, self.rollout, self.learned = predict, rollout, learned
        self.states, self.inputs, self.scale = states, inputs, scale
        # Initial states for the best parameters so far, and those of the last update.
        self._begin, self._tried = states[:, 0].clone(), states[:, 0].clone()
        self._loss = states.new_tensor(float("inf"))

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return chosen_parameters(module, self.learned)

    def draw(self, module: Any, generator: torch.Generator) -> Tensor:
        """Indices of trajectories: all of them."""
        return torch.arange(len(self.states))

    def part(self, module: Any, drawn: Tensor) -> Update:
        begin = self._better(module, self._better(module, self._begin[drawn], drawn), drawn)
        with torch.no_grad():
            Q, _ = self._by_begin(module, begin, drawn)
        residuals = _without(Q, self._residuals(module, begin, drawn)).flatten()
        residuals = residuals / len(residuals) ** 0.5
        status = torch.tensor([int(Status.SOLVED)])
        steps = len(drawn) * self.inputs.shape[1]
        return Update(residuals.square().sum(), status, None, steps, residuals, {"begin": begin})

    def keep(self, module: Any, drawn: Tensor, carried: dict[str, Tensor]) -> None:
        self._tried[drawn] = carried["begin"]

    def take(self, loss: float, gradients: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> float:
        if loss <= float(self._loss):  # otherwise these are restored like the parameters
            self._begin, self._loss = self._tried.clone(), self._loss.new_tensor(loss)
        return super().take(loss, gradients, optimizer, clip)

    def memory(self) -> dict[str, Tensor]:
        return {"begin": self._begin, "loss": self._loss}

    def remember(self, memory: dict[str, Tensor]) -> None:
        if memory:
            self._begin, self._loss = memory["begin"].clone(), memory["loss"].clone()

    def deviations(self, module: Any, numbers: Callable[[Any], Tensor], noise: float | None = None) -> Tensor:
        """Standard deviations (n,) of numbers(module) (n,), according to the Cramer-Rao bound.

        noise: standard deviation of the measurements, in units of the scale; None: estimated from the residuals.
        Infinite for numbers that the trajectories do not determine.
        """
        everything = torch.arange(len(self.states))
        begin, parameters = self._begin, self.parameters(module)
        for _ in range(3):
            begin = self._better(module, begin, everything)
        with torch.no_grad():
            Q, _ = self._by_begin(module, begin, everything)
            rows = [_without(Q, column).flatten() for column in self._columns(module, parameters, begin, everything)]
            left = _without(Q, self._residuals(module, begin, everything)).flatten()
        J = torch.stack(rows, 1)
        if noise is None:
            noise = float((left.square().sum() / max(1, len(left) - begin.numel() - J.shape[1])).sqrt())
        with torch.enable_grad():
            values = numbers(module)
            found = [torch.autograd.grad(v, parameters, retain_graph=True, allow_unused=True) for v in values]
        slopes = torch.stack([flat(parameters, one) for one in found])
        size = J.norm(dim=0)
        size = torch.where(size > 0.0, size, 1.0)
        eigenvalues, V = torch.linalg.eigh((J / size).T @ (J / size))
        told = eigenvalues > _UNKNOWN
        along = (slopes / size) @ V
        variance = (along[:, told].square() / eigenvalues[told]).sum(1)
        untold = along[:, ~told].square().sum(1) > 1e-6 * along.square().sum(1)
        return torch.where(untold, torch.inf, noise * variance.sqrt())

    def _simulated(self, module: Any, begin: Tensor, drawn: Tensor) -> Tensor:
        return torch.cat([begin[:, None], self.rollout(module, begin, self.inputs[drawn])], 1)

    def _residuals(self, module: Any, begin: Tensor, drawn: Tensor) -> Tensor:
        """(B, (T + 1) nx)"""
        return ((self._simulated(module, begin, drawn) - self.states[drawn]) / self.scale).flatten(1)

    def _by_begin(self, module: Any, begin: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """QR factors (B, (T + 1) nx, nx) and (B, nx, nx) of the residuals' Jacobian w.r.t. the initial states."""
        x, u = self._simulated(module, begin, drawn), self.inputs[drawn]
        flat_x = x[:, :-1].flatten(0, 1).detach().requires_grad_()
        with torch.enable_grad():
            ahead = self.predict(module, flat_x, u.flatten(0, 1))
            rows = [torch.autograd.grad(ahead[:, j].sum(), flat_x, retain_graph=True)[0] for j in range(x.shape[-1])]
        A = torch.stack(rows, 1).reshape(*u.shape[:2], x.shape[-1], x.shape[-1])
        S = [torch.eye(x.shape[-1], dtype=x.dtype).expand(len(x), -1, -1)]
        for k in range(u.shape[1]):
            S.append(A[:, k] @ S[-1])
        Q, R = torch.linalg.qr((torch.stack(S, 1) / self.scale[:, None]).flatten(1, 2))
        return Q, R

    @torch.no_grad()
    def _better(self, module: Any, begin: Tensor, drawn: Tensor) -> Tensor:
        """Initial states after a Gauss-Newton step, where that reduces the errors."""
        errors = self._residuals(module, begin, drawn)
        Q, R = self._by_begin(module, begin, drawn)
        change = torch.linalg.solve_triangular(R, Q.mT @ errors[..., None], upper=True)[..., 0]
        after = self._residuals(module, begin - change, drawn)
        good = after.square().sum(1) < errors.square().sum(1)
        return torch.where(good[:, None], begin - change, begin)

    def _columns(self, module: Any, parameters: list[nn.Parameter], begin: Tensor, drawn: Tensor) -> list[Tensor]:
        """Derivatives of the residuals with respect to the parameters' entries, by central differences."""
        columns = []
        for p in parameters:
            entries = p.view(-1)
            for k in range(len(entries)):
                value, ends = float(entries[k]), []
                for side in (1.0, -1.0):
                    entries[k] = value + side * _DIFFERENCE
                    ends.append(self._residuals(module, begin, drawn))
                entries[k] = value
                columns.append((ends[0] - ends[1]) / (2.0 * _DIFFERENCE))
        return columns


def _without(Q: Tensor, errors: Tensor) -> Tensor:
    """(I - Q Q') errors."""
    return errors - (Q @ (Q.mT @ errors[..., None]))[..., 0]
