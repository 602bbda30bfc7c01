"""Shared by the meshcat examples: their options, the learned and the initial controller, and the page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qp_control import viewer
from qp_control.training import RunFolder, Trainer, closed_loop, create
from qp_control.training.trainer import load_module

BLUE, RED, GREY, ORANGE, GREEN = 0x1F77B4, 0xD62728, 0x9AA0A6, 0xF07823, 0x2CA02C
NOWHERE = np.nan  # what is there is not seen


class Demo:
    """Options of the command line, the task, and its controllers by name: `untuned`, stages of training, `learned`.

    phases: names of the task's options that say how long its phases are.
    """

    STAGES = 4  # of training, the last one included

    def __init__(self, doc: str | None, task: str, phases: list[str], steps: int, **options: Any) -> None:
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--run", type=Path, help=f"folder of `qp-control train {task}`; else it learns first")
        parser.add_argument(
            "--iterations", type=int, help="of each phase, where there is no run; 0: nothing is learned"
        )
        parser.add_argument("--steps", type=int, default=steps, help="control periods")
        parser.add_argument("--out", type=Path, default=Path("runs/meshcat"), help="folder of the page and the movie")
        parser.add_argument("--movie", choices=("gif", "mp4"), help="record the page; needs Chromium, mp4 also ffmpeg")
        parser.add_argument("--live", action="store_true", help="show it in your browser, from a server on 127.0.0.1")
        self.given = parser.parse_args()
        few = {} if self.given.iterations is None else dict.fromkeys(phases, self.given.iterations)
        self.task: Any = create(task, **few, **options)
        self.plant, self.untuned = self.task.plant, self.task.module()
        self.stages = {"untuned": self.untuned} | self._learned()
        self.learned = self.stages["learned"]

    def _learned(self) -> dict[str, Any]:
        """The best controllers that were found up to parts of the training; of a run, the last one alone."""
        if self.given.iterations == 0:
            return {"learned": self.task.module()}
        if self.given.run is not None:
            return {"learned": load_module(RunFolder.open(self.given.run), self.task)}
        trainer = Trainer(self.task)
        ends = sorted({-(-trainer.iterations * k // self.STAGES) for k in range(1, self.STAGES + 1)})
        names = [*(f"after {end} of {ends[-1]} updates" for end in ends[:-1]), "learned"]
        return {name: trainer.train(until=end) for name, end in zip(names, ends, strict=True)}

    def closed_loop(self, controller: Any, x: Any) -> Iterator[tuple[Any, Any]]:
        """State (nx,) and what the controller decides there, period by period, from x (nx,)."""
        decided: list[Any] = []
        start = torch.as_tensor(x, dtype=torch.float64)[None]
        with torch.no_grad():
            loop = closed_loop(controller, self.plant.step, start, self.given.steps, see=decided.append)
        return zip(loop.states[0, :-1].numpy(), decided, strict=True)

    def show(self, stages: list[Any], seconds: float | None = None, **look: Any) -> None:
        """Write the page, and what else is asked for. seconds: between states; look: as in `write_replay`."""
        given, name, last = self.given, self.task.name, stages[-1]
        times = (seconds or self.plant.control_period) * np.arange(len(last.states))
        look = {"floating_base": self.plant.floating_base, "locked": self.plant.locked} | look
        if given.live:
            live = {key: value for key, value in look.items() if key not in ("moved", "overlay", "title")}
            view = viewer.LiveViewer(self.plant.urdf, **live)
            try:
                view.play(times, last.states, moved=look.get("moved", {}) | last.moved)
            finally:
                view.close()
        page = viewer.write_replay(given.out / f"{name}.html", self.plant.urdf, times, stages, **look)
        print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
        if given.movie:
            print(viewer.write_movie(page.with_suffix(f".{given.movie}"), page))
