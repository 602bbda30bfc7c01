"""A network inside a whole-body controller, trained through its QP: it corrects a task based on observations.

An arm holds a load that is missing from its model and different every time, so that no constants fit all loads.

python examples/08_network_in_the_loop.py [updates]
"""

import sys

import torch

import qp_control as qc
from qp_control.envs.arm_reach import ArmReach
from qp_control.training import closed_loop

torch.manual_seed(0)
torch.set_num_threads(1)
arm = ArmReach()
dt, model = arm.control_period, arm.dynamics
tasks = [qc.PositionTask("tool", stiffness=50.0), qc.PostureTask(arm.build.home, weight=0.01, stiffness=10.0)]
controller = qc.InverseDynamics(qc.RobotModel(model.model), tasks, [qc.TorqueLimit(), qc.JointVelocityLimit(dt)])
load = qc.Payload(model, "tool")  # the parameters of an arm that holds something


def targets(situation: qc.Situation) -> dict:
    return {"tool.reference": arm.target(situation.state), "tool.acceleration": torch.zeros(3, dtype=torch.float64)}


def observe(situation: qc.Situation) -> torch.Tensor:
    """What the last torques gave, against what they were to give [rad/s^2], and where the joints are."""
    x, before = situation.state, situation.before
    missed = 0.0 * x[:, 6:12] if before is None else (x[:, 6:12] - before.state[:, 6:12]) / dt - before.acceleration
    return torch.cat([missed / 10.0, x[:, :6]], 1)


network = qc.NumberNetwork(observe, 12, added={"tool.acceleration": 20.0}, sizes={"tool.acceleration": 3}, hidden=[16])
policy = qc.InverseDynamicsPolicy(controller, [targets, network])


def distance(seed: int, batch: int, steps: int = 80) -> torch.Tensor:
    """Mean distance from the target [m] over the second half of loops with loads of 0 to 3 kg."""
    mass = 3.0 * torch.rand(batch, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    held = model.parameters + mass * (load().detach() - model.parameters) / load.mass.detach()
    rollout = closed_loop(policy, lambda x, u: arm.step(x, u, held), arm.sample_starts(batch, seed), steps, truncate=20)
    return arm.way(rollout.states[:, steps // 2 :]).square().sum(-1).sqrt().mean()


optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
for update in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
    with torch.no_grad():
        if update == 0:
            print(f"without influence {1e3 * distance(10_000, 16):6.1f} mm from targets not trained on")
    optimizer.zero_grad()
    distance(update, 8).backward()
    optimizer.step()
with torch.no_grad():
    print(f"trained           {1e3 * distance(10_000, 16):6.1f} mm")
