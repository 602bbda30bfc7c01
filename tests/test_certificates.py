"""What backward passes tell of the QPs they pass through."""

import torch

import qp_control as qc
from qp_control.qp.certificates import weakly_active_counts
from qp_control.training.batch_parts import descend, differentiate
from qp_control.training.phase import DivisiblePhase, Phase, Update
from qp_control.training.process_group import Group

UPPER = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)  # of x, which would like to be 1


def solved(upper: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    one = torch.ones(1, 1, dtype=torch.float64)
    return qc.QPLayer()(one, -target, ub=upper).x


def test_weakly_active_qps_are_counted_while_somebody_listens() -> None:
    """Of three bounds the first is met without pressing, the second is out of reach, the third presses."""
    target = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x = solved(UPPER, target)
    with weakly_active_counts() as outer, weakly_active_counts() as inner:
        x.sum().backward()
    solved(UPPER, target).sum().backward()
    assert [count.tolist() for count in inner] == [[1, 0, 0]] == [count.tolist() for count in outer]


def test_weakly_active_optimal_control_problems_are_counted() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    r = -torch.ones(1, dtype=torch.float64).requires_grad_()
    out = qc.OcpLayer(horizon=1)(
        one, one, x0=torch.zeros(3, 1, dtype=torch.float64), R=one, r=r, u_upper=UPPER[:, None]
    )
    with weakly_active_counts() as counts:
        out.u.sum().backward()
    assert [count.tolist() for count in counts] == [[1, 0, 0]]


class Bounded(DivisiblePhase):
    """Learns the target."""

    def __init__(self) -> None:
        super().__init__("bounded", 1, 0.1)

    def parameters(self, module):
        return list(module.parameters())

    def draw(self, module, generator):
        return UPPER

    def part(self, module, drawn):
        x = solved(drawn, module.weight[0])
        return Update(x.mean(), torch.zeros(len(drawn), dtype=torch.int64), None, len(drawn))


def test_share_of_weakly_active_qps_does_not_depend_on_the_parts() -> None:
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.ones_(module.weight)
    for parts in (1, 2, 3):
        found = differentiate(Bounded(), module, list(module.parameters()), torch.Generator(), parts)
        assert (found.weakly_active, found.differentiated) == (1, 3)
        assert found.weakly_active_share == 1 / 3


class Whole(Phase):
    """A recipe that steps by itself, as reinforcement learning does, and only tells how."""

    def __init__(self) -> None:
        super().__init__("whole", 2, 0.1)

    def parameters(self, module):
        return list(module.parameters())

    def update(self, module, generator):
        with torch.no_grad():
            module.weight += 1.0
        return Update(torch.tensor(2.5), torch.zeros(1, dtype=torch.int64), None, 1)

    def backward(self, update, optimizer, clip, generator):
        return 0.25


def test_recipes_may_have_a_backward_pass_of_their_own() -> None:
    module, phase = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64), Whole()
    torch.nn.init.ones_(module.weight)
    optimizer = phase.optimizer(phase.parameters(module))
    found, norm = descend(phase, module, optimizer, 1.0, torch.Generator(), 2, Group())
    assert (found.loss, norm, float(module.weight)) == (2.5, 0.25, 2.0)
