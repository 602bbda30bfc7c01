"""A robot, its surroundings and the camera in a meshcat window."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qp_control.viewer.drawn_robot import Robot
from qp_control.viewer.scenery import Floats, Item, Pose, as_numbers

Pathlike = str | os.PathLike[str]
Moved = Mapping[str, ArrayLike]
Clip = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Camera:
    """Position of the camera and of the point it looks at [m], z up. follow: both move with the robot's centre of
    mass, but not vertically."""

    position: tuple[float, float, float] = (2.0, -2.0, 1.2)
    target: tuple[float, float, float] = (0.0, 0.0, 0.3)
    follow: bool = False

    def __post_init__(self) -> None:
        eye, target = (as_numbers(f"the camera's {n}", getattr(self, n), (3,)) for n in ("position", "target"))
        if np.array_equal(eye, target):
            raise ValueError(f"the camera's position is its target, {self.target}, expected another place")


class Scene:
    """A robot, its surroundings and the camera in a meshcat window."""

    def __init__(
        self,
        window: Any,
        urdf: Pathlike,
        scenery: Sequence[Item],
        camera: Camera,
        package_dirs: Sequence[Pathlike],
        floating_base: bool,
        locked: Sequence[str],
    ) -> None:
        import meshcat

        self.robot = Robot("robot", urdf, package_dirs=package_dirs, floating_base=floating_base, locked=locked)
        self.model, self.camera = self.robot.model, camera
        self.scenery: dict[str, Item] = {}
        for item in scenery:
            if not isinstance(item, Item):
                raise TypeError(f"scenery has a {type(item).__name__}, expected items such as Shape")
            if not item.name or item.name in self.scenery:
                raise ValueError(f"scenery has the name {item.name!r} {'twice' if item.name else '(none)'}")
            self.scenery[item.name] = item
        self._moved: set[str] = set()
        self.root = meshcat.Visualizer(window=window)
        for path, item in (("robot", self.robot), *((f"scenery/{item.name}", item) for item in scenery)):
            item.put_into(self.root[path])
            self._place(path, item.poses(None))
        self.root["/Grid"].set_property("visible", False)
        self.root["/Axes"].set_property("visible", False)
        self.root["/Background"].set_property("top_color", [0.93, 0.95, 0.98])
        self.root["/Background"].set_property("bottom_color", [1.0, 1.0, 1.0])
        # The camera orbits the world's origin and looks at it, wherever its own parent is, as three.js takes the point
        # to look at in world coordinates. So the whole scene is moved there. In the camera's frame y points up.
        offset = np.subtract(camera.position, camera.target)
        self.root["/Cameras/default/rotated/<object>"].set_property(
            "position", [float(offset[0]), float(offset[2]), float(-offset[1])]
        )

    def configuration(self, state: ArrayLike) -> Floats:
        """The q of a state (q, v) or of a configuration q, checked."""
        x = np.array(state, dtype=np.float64)
        nq, nx = self.model.nq, self.model.nq + self.model.nv
        if x.shape not in ((nq,), (nx,)):
            raise ValueError(f"the state has shape {x.shape}, expected ({nx},) or ({nq},)")
        if not np.isfinite(x).all():
            raise ValueError(f"the state is {x}, expected finite numbers")
        return x[:nq]

    def paths(self, moved: Moved | None, length: int | None) -> dict[str, Floats]:
        """What moves, as arrays of the shapes that the scenery's items require; length: of their first axis, if any."""
        paths = {}
        for name, given in (moved or {}).items():
            if name not in self.scenery:
                raise ValueError(f"moved has the name {name!r}, expected one of {sorted(self.scenery)}")
            values, shape = np.asarray(given, dtype=np.float64), self.scenery[name].moved_by
            if length is not None and values.shape != (length, *shape):
                wanted = ", ".join(map(str, shape))
                raise ValueError(
                    f"moved[{name!r}] has shape {values.shape}, expected (T, {wanted}) = {(length, *shape)}"
                )
            if length is None and values.shape != shape:
                raise ValueError(f"moved[{name!r}] has shape {values.shape}, expected {shape}")
            paths[name] = values
        return paths

    def display(self, state: ArrayLike, moved: Moved | None = None) -> None:
        q = self.configuration(state)
        self.root.set_transform(self._shift(q))
        self._place("robot", self.robot.poses(q))
        paths = self.paths(moved, None)
        for name in self._moved | paths.keys():  # what an earlier call moved returns to its own position
            self._place(f"scenery/{name}", self.scenery[name].poses(paths.get(name)))
        self._moved = set(paths)

    def clips(self, times: Floats, states: Floats, paths: Mapping[str, Floats]) -> list[Clip]:
        """The states as an animation that starts at time 0: a clip for each node of the scene, as meshcat takes them.

        paths: of the items of the scenery that move.
        """
        import meshcat.animation

        configurations = [self.configuration(x) for x in states]
        frames = [_below("robot", self.robot.poses(q)) for q in configurations]
        for k, poses in enumerate(frames):
            for name, moved in paths.items():
                poses |= _below(f"scenery/{name}", self.scenery[name].poses(moved[k]))
        resized = {path for path in frames[0] if len({poses[path].scale for poses in frames}) > 1}
        # Key frames have their time in frames: one frame is a millisecond.
        animation = meshcat.animation.Animation(default_framerate=1000)
        for k, (t, q, poses) in enumerate(zip(times - times[0], configurations, frames, strict=True)):
            with animation.at_frame(self.root, 1000.0 * float(t)) as frame:
                if self.camera.follow:
                    frame.set_transform(self._shift(q))
                for path, pose in poses.items():
                    frame[path].set_transform(pose.matrix)
                    if k == 0 or path in resized:
                        frame[path].set_property("scale", "vector3", list(pose.scale))
        clips: list[Clip] = animation.lower()
        return clips

    def _place(self, path: str, poses: Mapping[str, Pose]) -> None:
        for node, pose in _below(path, poses).items():
            scaled = pose.matrix.copy()
            scaled[:3, :3] *= pose.scale
            self.root[node].set_transform(scaled)

    def _shift(self, q: Floats) -> Floats:
        """The translation of the camera's target to the origin."""
        shift = np.eye(4)
        shift[:3, 3] = -np.array(self.camera.target)
        if self.camera.follow:
            shift[:2, 3] -= self.robot.center_of_mass(q)[:2]
        return shift


def _below(path: str, poses: Mapping[str, Pose]) -> dict[str, Pose]:
    """The poses of nodes by their full paths."""
    return {f"{path}/{name}" if name else path: pose for name, pose in poses.items()}
