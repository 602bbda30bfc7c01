"""Robots of the optional extra: clear words where it is missing, and the same tasks where it is there."""

import importlib.util

import numpy as np
import pytest
import torch

from qp_control.envs.arm_reach import ArmReach
from qp_control.envs.arm_track import ArmTrack
from qp_control.envs.quadruped import Quadruped
from qp_control.envs.quadruped_walk import QuadrupedWalk
from qp_control.robot.description import read_urdf, read_visuals

INSTALLED = importlib.util.find_spec("example_robot_data") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="example-robot-data-loaders is not installed")


@pytest.mark.parametrize(("kind", "robot"), [(Quadruped, "go2"), (QuadrupedWalk, "solo12"), (ArmReach, "panda")])
def test_a_missing_extra_is_named(kind, robot, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"robot='{robot}' needs .*pip install 'qp-control\[robots\]'"):
        kind(robot=robot)
    kind()  # the shipped one needs nothing


@pytest.mark.parametrize(("kind", "known"), [(Quadruped, "go2.*solo12"), (ArmTrack, "panda.*ur5")])
def test_robots_that_are_none_are_refused(kind, known):
    with pytest.raises(ValueError, match=f"robot is 'atlas', expected None or one of .*{known}"):
        kind(robot="atlas")


def test_an_installation_without_the_robot_is_told(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "python3" / "site-packages" / "example_robot_data"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    if not INSTALLED:
        with pytest.raises(FileNotFoundError, match=r"there is no .*go2\.urdf"):
            Quadruped(robot="go2")


@needed
@pytest.mark.parametrize(("robot", "height", "mass"), [("go2", 0.319, 16.1), ("solo12", 0.239, 2.5)])
def test_quadrupeds_stand(robot, height, mass):
    task = Quadruped(robot=robot)
    assert task.height == pytest.approx(height, abs=1e-3)
    assert float(task.parameters[: 10 * task.dynamics.bodies : 10].sum()) == pytest.approx(mass, abs=0.1)
    assert (task.action_space.high < 50.0).all() and (np.abs(task.rest_input) < task.action_space.high).all()
    x, u = task.stand[None], torch.from_numpy(task.rest_input)[None]
    for _ in range(5):
        x = task.step(x, u)
    assert not task.failed(x).any() and task.at_goal(x).all()
    visuals = read_visuals(task.urdf, read_urdf(task.urdf, floating_base=True), package_dirs=task.package_dirs)
    assert visuals.ngeoms >= 13


@needed
@pytest.mark.parametrize("kind", [ArmReach, ArmTrack])
@pytest.mark.parametrize(("robot", "joints"), [("panda", 7), ("ur5", 6)])
def test_arms_reach_and_track(kind, robot, joints):
    task = kind(robot=robot)
    assert task.dynamics.nu == task.dynamics.nv == joints
    x = task.sample_starts(200, seed=0)
    assert not task.failed(x).any() and task.target(x).std(0).min() > 0.05
    q = x[:, :joints]
    u = task.dynamics.inverse_dynamics(q, torch.zeros_like(q), torch.zeros_like(q))
    assert (u.abs() < task.dynamics.effort_limit).all()  # the motors carry it
    after = task.step(x, u)
    assert (after[:, :joints] - q).abs().max() < 1e-3 and task.observe(after).isfinite().all()
    model = read_urdf(task.urdf, locked=task.locked)
    assert read_visuals(task.urdf, model, package_dirs=task.package_dirs, locked=task.locked).ngeoms >= joints
