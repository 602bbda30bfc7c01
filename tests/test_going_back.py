"""A phase that one bad step led astray goes back to the best module, with half the learning rate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qp_control.settings import Settings
from qp_control.training import RunFolder, Trainer, TrainingOptions, TrainingTask, create
from qp_control.training.phase import Phase, Update
from qp_control.training.run_folder import read_metrics
from qp_control.training.task import Score


class Place(nn.Module):
    """One number, to be as near one as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros((), dtype=torch.float64))


class Walk(Phase):
    """Steps of Adam towards one; those of `slips` go elsewhere, by a thousand times as much."""

    def __init__(self, slips: tuple[int, ...], goes_back: bool) -> None:
        super().__init__("walk", 30, 0.1)
        self.slips, self.goes_back, self.done = slips, goes_back, 0

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        return list(module.parameters())

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        self.done = done
        optimizer.param_groups[0]["lr"] = self.pace * (1e3 if done in self.slips else 1.0) * self.rate

    def lost(self, value: float, first: float, best: float) -> bool:
        return self.goes_back and not value >= first and best > first

    def update(self, module: Place, generator: torch.Generator) -> Update:
        loss = module.value if self.done in self.slips else (module.value - 1.0).square()
        return Update(loss, torch.zeros(1, dtype=torch.int64), None, 1)


@dataclass(frozen=True)
class WalkOptions(TrainingOptions):
    """A walk."""

    slips: tuple[int, ...] = ()
    """Iterations that lead astray."""
    goes_back: bool = True

    def __post_init__(self) -> None:
        pass  # nothing to check


class WalkTask(TrainingTask):
    name = "walk"
    options_type = WalkOptions
    metrics = ("distance",)

    def module(self, settings: Settings | None = None) -> Place:
        return Place()

    def phases(self) -> list[Phase]:
        return [Walk(self.options.slips, self.options.goes_back)]

    def score(self, module: Place, seed: int, count: int) -> Score:
        distance = float((module.value - 1.0).abs())
        return Score({"distance": distance}, (-distance,))


def train(*slips: int, goes_back: bool = True) -> tuple[Trainer, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    trainer = Trainer(WalkTask(WalkOptions(validate_every=5, slips=slips, goes_back=goes_back)))
    trainer.train(rows.append)
    return trainer, rows


def test_a_lost_phase_goes_back_and_slows_down() -> None:
    trainer, rows = train(7, 16)
    assert [row["pace"] for row in rows] == 10 * [1.0] + 10 * [0.5] + 10 * [0.25]
    lost = [row["validation_distance"] for row in rows[4::5]]
    assert lost[1] > 50.0 and lost[3] > 20.0  # the steps of 100 and 50 that it went back from
    assert lost[0] > lost[2] > lost[4] > lost[5]
    assert trainer.best is not None and trainer.best.rank == (-lost[5],)
    _, alone = train(7, 16, goes_back=False)
    assert alone[-1]["validation_distance"] > 1.0 and {row["pace"] for row in alone} == {1.0}


def test_a_phase_that_only_gets_worse_has_nowhere_to_go_back_to() -> None:
    _, rows = train(*range(30))
    assert {row["pace"] for row in rows} == {1.0}
    assert rows[-1]["validation_distance"] > 1e3


def test_an_optimiser_forgets_the_way_that_led_astray() -> None:
    trainer, _ = train(29 - 5)  # back at the last validation but one
    steps = trainer.optimizer.state[trainer.learnable[0]]["step"]
    assert trainer.returns == 1 and int(steps) == 5


def test_real_phases_slow_down() -> None:
    task = create("cart_pole_swing_up", closed_loop_iterations=4)
    phase = task.phases()[-1]
    assert phase.lost(2.0, first=3.0, best=3.0) and phase.lost(float("nan"), 3.0, 4.0) and not phase.lost(3.0, 3.0, 4.0)
    assert not task.phases()[0].lost(2.0, 3.0, 4.0)  # an imitation's returns are not what it minimises
    optimizer = phase.optimizer(phase.parameters(task.module()))
    phase.schedule(optimizer, 2)
    before = optimizer.param_groups[0]["lr"]
    phase.pace = 0.25
    phase.schedule(optimizer, 2)
    assert before > 0.0 and optimizer.param_groups[0]["lr"] == 0.25 * before


def test_the_controller_of_ppo_slows_down_and_its_values_do_not() -> None:
    pytest.importorskip("stable_baselines3")
    scales = {}
    for pace in (1.0, 0.25):
        task = create("cart_pole_ppo", ppo_iterations=2, robots=2, steps=4, batch=8, epochs=1, warm_up=1)
        module, (phase,) = task.module(), task.phases()
        optimizer = phase.optimizer(phase.parameters(module))
        assert phase.lost(2.0, first=3.0, best=4.0) and not phase.lost(2.0, first=3.0, best=3.0)
        phase.pace = pace
        for _ in range(2):  # the controller rests in the first
            phase.update(module, torch.Generator().manual_seed(0))
        scales[pace] = [group["scale"] for group in optimizer.param_groups]
    learns = [scale for scale in zip(*scales.values(), strict=True) if scale[0] != scale[1]]
    assert learns and all(slow == 0.25 * before for before, slow in learns)
    assert len(learns) < len(scales[1.0])


@pytest.mark.parametrize("stop", [8, 10, 13, 20])
def test_going_on_from_a_checkpoint_changes_nothing(tmp_path: Path, stop: int) -> None:
    task = WalkTask(WalkOptions(validate_every=5, slips=(7, 16)))
    whole, _ = train(7, 16)
    run = RunFolder.create(tmp_path / "run", "walk", dataclasses.asdict(task.options))
    Trainer(task, run).train(until=stop)
    trainer = Trainer(task, run)
    trainer.resume()
    trainer.train()
    assert torch.equal(trainer.module.value, whole.module.value)
    assert [float(row["pace"]) for row in read_metrics(run)] == 10 * [1.0] + 10 * [0.5] + 10 * [0.25]
