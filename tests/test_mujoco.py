"""The same scenes here and in MuJoCo, where that is installed: a simulator that shares no code with ours."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def scenes():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("contact_scenes"), importlib.import_module("mujoco_models")
    finally:
        sys.path.remove(str(BENCHMARKS))


def both(scenes, name):
    ours, peer = scenes
    scene = next(scene for scene in ours.SCENES if scene.name == name)
    return ours.play(scene), peer.play(scene)


def test_without_contact_the_motion_is_the_same(scenes):
    """In the air, where both are semi-implicit steps of the same equations: torques and all joints."""
    ours, peer = scenes
    for robot, height in ((ours.HOPPER, 1), (ours.QUADRUPED, 2)):
        dynamics, other = robot.ours(), peer.build(robot)
        x = robot.start()
        x[height] += 5.0
        x[-dynamics.nu :] = 0.5
        if not robot.floating:
            x[dynamics.nq : dynamics.nq + 3] = 0.3
        other.start(x)
        mine, u = torch.from_numpy(x)[None], torch.linspace(-0.3, 0.3, dynamics.nu, dtype=torch.float64)[None]
        for _ in range(50):
            mine = dynamics.step(mine, u)
            theirs = other.step(u[0].numpy())
        # While bodies turn, linear velocities stand along other axes, a difference of the order of the step: 1e-3 here.
        tolerance = 1e-9 if not robot.floating else 2e-3
        np.testing.assert_allclose(mine[0].numpy(), theirs, rtol=0, atol=tolerance)


def test_a_block_slides_as_far(scenes):
    """v^2 / (2 mu g) = 0.765 m; both are within a percent of it, and of one another."""
    mine, theirs = both(scenes, "block slides")
    expected = 9.0 / (2 * 0.6 * 9.81)
    assert mine.states[-1, 0] == pytest.approx(expected, rel=0.01)
    assert mine.states[-1, 0] == pytest.approx(theirs.states[-1, 0], rel=0.01)


@pytest.mark.parametrize("name", ["block falls", "hopper lands", "quadruped pushed"])
def test_robots_come_to_rest_at_the_same_place(scenes, name):
    mine, theirs = both(scenes, name)
    height = 1 if name == "hopper lands" else 2
    weight = theirs.forces[-50:, 2].mean()
    assert mine.forces[-50:, 2].mean() == pytest.approx(weight, rel=0.02)
    # Contacts give way by a millimetre or two in both, and springs that hold postures with them.
    assert mine.states[-1, height] == pytest.approx(theirs.states[-1, height], abs=4e-3)
    # Feet slide by some millimetres where they land and where they are pushed, four of them one way or the other.
    assert np.abs(mine.states[-1, :2] - theirs.states[-1, :2]).max() < 0.06
    # Ours are stiffer: they sink in less.
    assert 0.0 > mine.gaps.min() > theirs.gaps.min()
