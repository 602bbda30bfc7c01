"""Train a task in a process that is killed at random moments, and goes on in another one, until it is through.

python killed_training.py TASK OPTIONS FOLDER KILLS; options as JSON. Prints how many were killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard

from qp_control.training import RunFolder, Trainer, create

with contextlib.suppress(ImportError):  # here, so that no child has to
    import qp_control.training.reinforcement  # noqa: F401

LONGEST = 0.03  # [s] between a checkpoint and the kill: an iteration or so
EPISODE = 25  # control periods: validations are not what is looked at


def train(name: str, options: dict[str, Any], folder: Path) -> None:
    """To the end, from the checkpoint where there is one."""
    task: Any = create(name, **options)
    if hasattr(task, "plant"):
        task.plant.episode_steps = EPISODE
    begun = RunFolder.exists(folder)
    trainer = Trainer(task, RunFolder.open(folder) if begun else RunFolder.create(folder, name, options))
    if begun:
        trainer.resume()
    trainer.train()


def changed(checkpoint: Path) -> int:
    """When it was written; 0 where there is none."""
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def main() -> None:
    name, options, folder, kills = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    checkpoint, generator, killed = folder / "checkpoint.safetensors", random.Random(0), 0
    while True:
        before, began = changed(checkpoint), time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                train(name, options, folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if killed < kills:
            ended, status = 0, 0
            while not ended and changed(checkpoint) == before:
                time.sleep(0.002)
                ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                time.sleep(generator.random() * min(LONGEST, time.monotonic() - began))
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
        else:
            status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            print(killed)
            sys.exit(os.WEXITSTATUS(status))
        killed += 1


if __name__ == "__main__":
    main()
