"""Recipe: a controller's cost from the optimality conditions of an expert's plans (inverse KKT).

Along a demonstrated plan the costates follow from the learner's cost and model,

    y_N = P (x_N - r_N),      y_k = Q (x_k - r_k) + S' u_k + A_k' y_{k+1},

and at an input that is not at a bound the gradient of the Hamiltonian, R u_k + S x_k + B_k' y_{k+1}, is zero. With R
given these gradients are linear in Q and P: the sum of their squares lacks the spurious minima of plan errors, and no
problem has to be solved. However, noise in the demonstrations affects the weights more than with plan errors: this is
an initialisation of imitation, not a replacement.

Source: A. Keshavarz, Y. Wang, S. Boyd, "Imputing a convex objective function", IEEE International Symposium on
Intelligent Control (2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_kkt import cost_blocks, cost_slopes
from qp_control.mpc.nonlinear_ocp import full, times
from qp_control.settings import Status
from qp_control.training.expert_imitation import Demonstrations
from qp_control.training.phase import DivisiblePhase, LeastSquares, Update, chosen_parameters

_KNOWN = {"A", "B", "c", "x0", "Q", "R", "S", "q", "r", "Q_N", "q_N", "u_lower", "u_upper"}
_AT_BOUND = 1e-4  # relative to the range between the bounds; absolute if one is missing


class ExpertOptimality(DivisiblePhase, LeastSquares):
    """Mean squared gradient of the Hamiltonian with respect to demonstrated inputs not at the learner's bounds.

    In units of the input's own weight and limit: how far the learner would move an input if it could move it alone,
    with fixed costates. learned: name prefixes of the weights to learn; the model has to be known.

    Raises ValueError, in the first update, for controllers with limits or rows other than input bounds, whose
    multipliers cannot be found from plans, with a delay, without input limits, and with states that do not form a
    vector space.
    """

    noisy = False  # every update sees all demonstrations
    # Gradients grow with the weights, by orders of magnitude from ones: curvature of earlier steps is no guide.
    probes = None
    from_best = False  # as in `ExpertImitation`: continue with the identified model

    def __init__(
        self,
        demonstrations: Demonstrations,
        iterations: int,
        rate: float = 1.0,
        *,
        learned: Sequence[str],
    ) -> None:
        super().__init__("optimality", iterations, rate)
        self.demonstrations, self.learned = demonstrations, learned

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return chosen_parameters(module, self.learned)

    def draw(self, module: MPC, generator: torch.Generator) -> Tensor:
        """Indices of demonstrations: all of them."""
        return torch.arange(len(self.demonstrations))

    def part(self, module: MPC, drawn: Tensor) -> Update:
        if not bool(module.input_limit.isfinite().all()):
            raise ValueError("the controller has no input limits, which errors are told in units of")
        x, u = self.demonstrations.states[drawn], self.demonstrations.inputs[drawn]
        residuals = (hamiltonian_slopes(module, x, u) / module.input_limit).flatten()
        residuals = residuals / len(residuals) ** 0.5
        return Update(residuals.square().sum(), torch.tensor([int(Status.SOLVED)]), None, u[..., 0].numel(), residuals)


def hamiltonian_slopes(module: MPC, states: Tensor, inputs: Tensor) -> Tensor:
    """Gradients (B, N, nu) with respect to the inputs along plans, divided by the inputs' weights [N or N m].

    They are zero at bounds. states (B, N + 1, nx), inputs (B, N, nu) of an expert. Differentiable in the module's
    parameters. Raises ValueError for controllers whose multipliers cannot be found from plans, see `ExpertOptimality`.
    """
    unknown = {"a delay": module.delay, "a rate limit": module.rate_limit is not None}
    unknown |= {"states that form no vector space": module.in_errors}
    if any(unknown.values()):
        raise ValueError(f"the controller has {' and '.join(name for name, there in unknown.items() if there)}")
    ocp = module.problem(states[:, 0])
    data = ocp.around(states, inputs).data()
    if others := data.keys() - _KNOWN:
        raise ValueError(f"the controller has limits or rows beside bounds of its inputs: {', '.join(sorted(others))}")
    A, B, R = (full(name, data[name], ocp) for name in "ABR")
    at_x, at_u, y = cost_slopes(cost_blocks(data, ocp), states, inputs)
    slopes = []
    for k in reversed(range(module.horizon)):
        slopes.append(at_u[:, k] + times(B[:, k].mT, y))
        y = at_x[:, k] + times(A[:, k].mT, y)
    none = torch.full_like(inputs, torch.inf)
    lower, upper = data.get("u_lower", -none), data.get("u_upper", none)
    range_ = (upper - lower).nan_to_num(posinf=1.0)
    inside = torch.minimum(inputs - lower, upper - inputs) > _AT_BOUND * range_
    slope = torch.stack(slopes[::-1], 1) / R.diagonal(dim1=-2, dim2=-1)
    return torch.where(inside, slope, 0.0)
