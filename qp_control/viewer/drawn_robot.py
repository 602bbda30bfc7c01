"""A robot as an item of the scene."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from qp_control.robot import description as robot_description
from qp_control.viewer.scenery import HIDE, Floats, Item, Pose


class Robot(Item):
    """A robot; `moved` is its configuration (nq,). Hidden where that is not finite.

    urdf, package_dirs, floating_base, locked: as in `write_replay`.
    position: [m] offset of the origin of its configurations, to draw robots side by side.
    color: 0xRRGGBB of the whole robot, None: the colours of the URDF; opacity: 0 to 1, with a color.

    Raises ValueError and FileNotFoundError as `read_urdf`.
    """

    def __init__(
        self,
        name: str,
        urdf: str | os.PathLike[str],
        *,
        position: tuple[float, float, float] = (0.0, 0.0, 0.0),
        color: int | None = None,
        opacity: float = 1.0,
        package_dirs: Sequence[str | os.PathLike[str]] = (),
        floating_base: bool = False,
        locked: Sequence[str] = (),
    ) -> None:
        import pinocchio as pin

        self.name, self.position, self.color, self.opacity = name, np.array(position), color, opacity
        self.model = robot_description.read_urdf(urdf, floating_base=floating_base, locked=locked)
        self._visuals = robot_description.read_visuals(urdf, self.model, package_dirs=package_dirs, locked=locked)
        self._data, self._placements = self.model.createData(), pin.GeometryData(self._visuals)

    @property
    def moved_by(self) -> tuple[int, ...]:
        return (self.model.nq,)

    def put_into(self, node: Any) -> None:
        import pinocchio as pin
        from pinocchio.visualize import MeshcatVisualizer

        color = None
        if self.color is not None:
            color = [*(((self.color >> shift) & 0xFF) / 255.0 for shift in (16, 8, 0)), self.opacity]
        visualizer = MeshcatVisualizer(self.model, pin.GeometryModel(), self._visuals)
        visualizer.initViewer(viewer=node)
        visualizer.loadViewerModel(rootNodeName="robot", visual_color=color)

    def poses(self, moved: Floats | None) -> dict[str, Pose]:
        import pinocchio as pin

        names = [f"robot/visuals/{visual.name}" for visual in self._visuals.geometryObjects]
        if moved is not None and not np.isfinite(moved).all():
            return dict.fromkeys(names, HIDE)
        pin.forwardKinematics(self.model, self._data, pin.neutral(self.model) if moved is None else moved)
        pin.updateGeometryPlacements(self.model, self._data, self._visuals, self._placements)
        poses = {}
        for i, (name, visual) in enumerate(zip(names, self._visuals.geometryObjects, strict=True)):
            matrix = self._placements.oMg[i].homogeneous
            matrix[:3, 3] += self.position
            x, y, z = visual.meshScale
            poses[name] = Pose(matrix, (float(x), float(y), float(z)))
        return poses

    def center_of_mass(self, q: Floats) -> Floats:
        """(3,) [m] in the world."""
        import pinocchio as pin

        center: Floats = pin.centerOfMass(self.model, self._data, q) + self.position
        return center
