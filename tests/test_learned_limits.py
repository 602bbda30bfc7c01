"""Limits from demonstrations: penalties on shifts, what data do not tell, and searches along directions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from descent import descend
from torch import Tensor, nn

import qp_control as qc
from qp_control.mpc.controller import MPC
from qp_control.mpc.nonlinear_ocp import StateRows
from qp_control.training import create
from qp_control.training.coordinate_search import Trials
from qp_control.training.expert_imitation import ExpertImitation, demonstrate
from qp_control.training.limit_intervals import Evidence, LearnedLimit, WidestLimits
from qp_control.training.tasks.constraint_learning import ConstraintLearning, controller, point_controller
from qp_control.training.tasks.polytope_learning import PolytopeLearning, walls

SCALE = torch.full((4,), 0.5, dtype=torch.float64)


class Corridor(nn.Module):
    """lower <= y <= upper [m]"""

    def __init__(self, lower: float, upper: float) -> None:
        super().__init__()
        self.lower, self.upper = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (lower, upper))

    def forward(self) -> StateRows:
        return StateRows(lambda x: x[..., 1:2], self.lower, self.upper)


def corridor(lower: float, upper: float) -> MPC:
    mpc = point_controller(5, [Corridor(lower, upper)])
    mpc.mode = "real_time"  # one QP: the problem is linear
    return mpc


def along_corridor(count: int = 4) -> Tensor:
    x0 = torch.zeros(count, 4, dtype=torch.float64)
    x0[:, 0], x0[:, 1] = torch.linspace(0.5, 1.5, count, dtype=torch.float64), 0.2
    return x0


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_penalty_on_the_shift_makes_limits_satisfiable_that_explain_all_but_contradict_each_other(
    weight: float,
) -> None:
    """The expert stays on a line. A lower bound as far above it as the upper one is below has the same closest feasible
    plans: a loss of zero, at limits that no plan can keep to."""
    shown = demonstrate(corridor(0.2, 0.2).requires_grad_(False), along_corridor(), SCALE)
    assert bool(shown.feasible.all())
    learner = corridor(0.3, 0.1)
    loss = descend(ExpertImitation("limits", shown, 20, batch=4, shift_weight=weight), learner)
    plan = learner(along_corridor())
    beyond = float(learner.violations(plan).max().detach())
    assert loss < 1e-8
    if weight:
        assert beyond < 1e-4
    else:
        assert abs(beyond - 0.1) < 1e-4 and bool((plan.status == qc.Status.CLOSEST_FEASIBLE).all())


def test_gradient_of_the_penalty_is_that_of_differences() -> None:
    task: Any = create("constraint_learning", demonstrations=6, horizon=6, shift_weight=1.0)
    assert isinstance(task, ConstraintLearning)
    shown = task.shown
    module = controller(0.35, 0.8, 0.75, 6)  # tighter than the expert's: kept to by it, and not by this one
    phase = ExpertImitation("limits", shown, 1, batch=6, shift_weight=1.0)
    parameters = phase.parameters(module)
    everything = torch.arange(6)
    with_penalty = phase.part(module, everything).loss
    without = ExpertImitation("limits", shown, 1, batch=6).part(module, everything).loss
    assert float(with_penalty.detach()) > float(without.detach()) + 1e-4
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(with_penalty, parameters)])
    differences = []
    for p in parameters:
        for k in range(p.numel()):
            ends = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    p.view(-1)[k] += step
                    ends.append(float(phase.part(module, everything).loss))
                    p.view(-1)[k] -= step
            differences.append((ends[0] - ends[1]) / 2e-4)
    # Least shifts are converged to 1e-5 of themselves, which a step of 1e-4 divides.
    assert torch.allclose(gradient, torch.tensor(differences, dtype=torch.float64), rtol=2e-2, atol=1e-3)


def test_violations_are_the_shifts_of_the_closest_feasible_problem() -> None:
    dt = 0.1
    dynamics = qc.TorchDynamics(
        lambda x, u: torch.stack([x[..., 0] + dt * x[..., 1], x[..., 1] + dt * u[..., 0]], -1),
        2,
        1,
        input_limit=torch.tensor([1.0]),
    )
    mpc = MPC(dynamics, 4, state_limit=[0.5, math.inf], mode="real_time")
    x0 = torch.tensor([[0.0, 0.0], [0.9, 0.3]], dtype=torch.float64)
    plan = mpc(x0)
    assert plan.status.tolist() == [qc.Status.SOLVED, qc.Status.CLOSEST_FEASIBLE]
    out = qc.OcpLayer()(**mpc.build(x0).data())
    shifts = [out.s_x_lower, out.s_x_upper, out.s_u_lower, out.s_u_upper]
    expected = torch.stack([shift.square().sum((1, 2)) for shift in shifts]).sum(0)
    got = mpc.violations(plan).square().sum(1)
    assert torch.allclose(got, expected, rtol=1e-6, atol=1e-12) and float(got[1].detach()) > 0.1


def test_expert_that_could_not_keep_to_its_limits_is_exempt_from_the_penalty() -> None:
    task: Any = create("constraint_learning", demonstrations=12, horizon=6)
    everything = torch.arange(12)
    assert not bool(task.shown.feasible.all())
    loss = ExpertImitation("limits", task.shown, 1, batch=12, shift_weight=1.0).part(task.expert, everything).loss
    assert float(loss.detach()) < 1e-10
    plan = task.expert(task.shown.states[:, 0])
    assert task.expert.violations(plan).max().item() > 1e-2


def bound(reach: float = 3.0) -> LearnedLimit:
    return LearnedLimit("upper", lambda mpc: mpc.learned_rows[0].upper, float, reach=reach)


def test_limit_that_no_demonstration_meets_is_taken_as_wide_as_can_be_and_one_that_is_met_stays() -> None:
    x0 = along_corridor()
    x0[:, 3] = 0.4  # upwards; at most decelerated, it stops at 0.24
    free = float(demonstrate(corridor(-1.0, 5.0).requires_grad_(False), x0, SCALE).states[:, 1:, 1].max())
    assert free > 0.241
    for upper, met in ((0.5 * (0.24 + free), True), (5.0, False)):
        shown = demonstrate(corridor(-1.0, upper).requires_grad_(False), x0, SCALE)
        highest = float(shown.states[:, 1:, 1].max())
        assert (abs(highest - upper) < 1e-6) == met
        learner = corridor(-1.0, highest)
        evidence = Evidence(learner, shown)
        tight, wide = evidence.farthest(bound(), -1.0), evidence.farthest(bound(), 1.0)
        # A thousandth of the reach is as near as it looks.
        assert highest - 4e-3 < tight <= highest
        assert wide == pytest.approx(highest if met else highest + 3.0, abs=4e-3)
        assert learner.learned_rows[0].upper.item() == highest  # looked at, not changed
        phase, generator = WidestLimits("widest", shown, [bound()]), torch.Generator()
        optimizer = phase.optimizer(phase.parameters(learner))
        phase.schedule(optimizer, 0)
        phase.backward(phase.update(learner, generator), optimizer, 1.0, generator)
        optimizer.step()
        assert float(learner.learned_rows[0].upper) == pytest.approx(wide)


def test_given_bounds_stay_as_they_are() -> None:
    shown = demonstrate(corridor(-1.0, 5.0).requires_grad_(False), along_corridor(), SCALE)
    learner = corridor(-1.0, 1.0)
    learner.learned_rows[0].upper.requires_grad_(False)
    phase, generator = WidestLimits("widest", shown, [bound()]), torch.Generator()
    optimizer = phase.optimizer(phase.parameters(learner))
    phase.backward(phase.update(learner, generator), optimizer, 1.0, generator)
    assert float(learner.learned_rows[0].upper) == 1.0


def test_recovery_reports_the_interval_of_bounds_that_the_data_allow() -> None:
    task: Any = create("lqr_recovery", demonstrations=5)
    seen = task.shown.inputs.abs().amax((0, 1))
    for i, one in enumerate(task.estimates(task.expert)):
        assert one.interval is not None
        low, high = one.interval
        assert low <= one.value + 1e-9 and high >= one.value - 1e-9
        met = float(seen[i]) > float(task.expert.input_bound()[i]) - 1e-6
        assert (high < one.value + 0.01) == met and low > 0.5 * float(seen[i])


def test_search_along_directions_crosses_a_narrow_valley() -> None:
    """|p_1 - p_2| rises a hundred times as fast as |p_1 + p_2| falls: no change of one number alone is any good."""

    def loss(p: Tensor) -> float:
        return float(100.0 * (p[0] - p[1]).abs() + (p[0] + p[1] - 0.4).abs())

    found = {}
    for name, directions in (("single", None), ("both", lambda values: torch.tensor([[1.0, 1.0]]).to(values))):
        p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        trials = Trials([p], (-0.1, 0.1), 2, directions)
        for _ in range(1 + 2 * 2 * (1 if directions else 2)):
            trials.judge(loss(p.detach()))
            trials.step()
        found[name] = p.detach().tolist()
    assert found == {"single": [0.0, 0.0], "both": [0.2, 0.2]}


def test_walls_turn_about_where_they_are_touched_and_are_placed_as_near_as_demonstrations_allow() -> None:
    task: Any = create("polytope_learning", demonstrations=30)
    assert isinstance(task, PolytopeLearning)
    found = walls(task.expert)
    values = torch.cat([found.angle, found.log_distance]).detach()
    position = task.shown.states[:, 1:, :2].flatten(0, 1)
    for k, turn in enumerate(task.turns_and_distances(values)[:3]):
        turned = values + 1e-3 * turn
        angle, distance = turned[k], turned[3 + k].exp()
        before = position @ found.normals()[k].detach() - found.log_distance[k].exp().detach()
        after = position @ torch.stack([angle.cos(), angle.sin()]) - distance
        near = before.abs() < 0.05
        # The mean distance of those near the wall changes by second-order terms.
        assert int(near.sum()) > 0 and abs(float((after - before)[near].mean())) < 1e-5
    kept = task.shown.states[task.shown.feasible][:, 1:, :2]
    for k, change in enumerate(task.places(values)):
        angle, log_distance = (values + change)[[k // 24, 3 + k // 24]]
        reach = float((kept @ torch.stack([angle.cos(), angle.sin()])).max())
        assert reach == pytest.approx(float(log_distance.exp()), abs=1e-12) or reach < 0.05
        assert int((change != 0.0).sum()) <= 2


def test_weight_of_shifts_is_an_option_that_the_last_updates_are_without() -> None:
    task: Any = create("constraint_learning", demonstrations=2, horizon=4, shift_weight=2.0)
    phases = [phase for phase in task.phases() if isinstance(phase, ExpertImitation)]
    assert [(phase.name, phase.shift_weight) for phase in phases] == [
        ("search", 2.0),
        ("satisfiable", 2.0),
        ("limits", 0.0),
    ]
    with pytest.raises(ValueError, match=r"shift_weight is -1\.0, expected a number >= 0"):
        create("constraint_learning", shift_weight=-1.0)
