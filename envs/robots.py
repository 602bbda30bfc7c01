"""Robots of the optional extra `robots`: their descriptions come with example-robot-data-loaders."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

Build = TypeVar("Build")


def chosen(robot: str | None, builds: Mapping[str, Build]) -> Build | None:
    """The build of the robot of that name, or None for the included one. ValueError for unknown names."""
    if robot is not None and robot not in builds:
        raise ValueError(f"robot is {robot!r}, expected None or one of {sorted(builds)}")
    return None if robot is None else builds[robot]


def description(robot: str, urdf: str) -> tuple[Path, Path]:
    """(URDF file, folder of its meshes) of a robot; urdf: its path below the folder of all robots.

    Raises ModuleNotFoundError if example-robot-data-loaders is not installed.
    """
    # Only located, not imported: the loaders would read the robots themselves.
    package = importlib.util.find_spec("example_robot_data")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            f"robot={robot!r} needs the descriptions of example-robot-data-loaders: pip install 'qp-control[robots]'"
        )
    share = Path(package.origin).parents[4] / "share"  # from <prefix>/lib/python3.x/site-packages/example_robot_data
    file = share / "example-robot-data" / "robots" / urdf
    if not file.is_file():
        raise FileNotFoundError(f"example-robot-data-loaders is installed, but there is no {str(file)!r}")
    return file, share
