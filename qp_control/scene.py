"""A robot, its surroundings and the camera in a meshcat window, or in a page of this process."""

from __future__ import annotations

import base64
import dataclasses
import html as html_text
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qp_control import robot_description
from qp_control.scenery import Floats, Item

Pathlike = str | os.PathLike[str]
Moved = Mapping[str, ArrayLike]


@dataclasses.dataclass(frozen=True)
class Camera:
    """Position of the eye and of the point it looks at [m], z up. follow: both move along with the robot's centre of
    mass, but not up and down."""

    position: tuple[float, float, float] = (2.0, -2.0, 1.2)
    target: tuple[float, float, float] = (0.0, 0.0, 0.3)
    follow: bool = False


class Page:
    """Stands in for meshcat's window: keeps the scene in this process, without server or socket."""

    def __init__(self) -> None:
        self.commands: dict[tuple[str, str, str], bytes] = {}
        self.web_url = ""

    def send(self, command: Any) -> None:
        import umsgpack  # type: ignore[import-untyped]

        data = command.lower()
        key = (data["type"], data.get("path", ""), str(data.get("property", "")))
        self.commands.pop(key, None)
        self.commands[key] = umsgpack.packb(data)

    def html(self, title: str) -> str:
        from meshcat.servers.zmqserver import VIEWER_ROOT

        script = Path(VIEWER_ROOT, "main.min.js").read_text(encoding="utf-8")
        commands = json.dumps([base64.b64encode(c).decode() for c in self.commands.values()])
        return _TEMPLATE.format(title=html_text.escape(title), script=script, commands=commands)


# Everything the page needs is in the file; the policy keeps it from loading anything else.
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline';
 img-src data: blob:; font-src data:; connect-src data: blob:; worker-src blob:">
<title>{title}</title>
<style>
body {{ margin: 0; }}
#meshcat-pane {{ width: 100vw; height: 100vh; overflow: hidden; }}
</style>
</head>
<body>
<div id="meshcat-pane"></div>
<script>{script}</script>
<script>
function command(data) {{
  viewer.handle_command_bytearray(Uint8Array.from(atob(data), c => c.charCodeAt(0)));
}}
var viewer = new MeshCat.Viewer(document.getElementById("meshcat-pane"));
{commands}.forEach(command);
</script>
</body>
</html>
"""


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
        import pinocchio as pin
        from pinocchio.visualize import MeshcatVisualizer

        self.model = robot_description.read_urdf(urdf, floating_base=floating_base, locked=locked)
        visuals = robot_description.read_visuals(urdf, self.model, package_dirs=package_dirs, locked=locked)
        self.scenery, self.camera, self._data = {item.name: item for item in scenery}, camera, self.model.createData()
        self._moved: set[str] = set()
        self.root = meshcat.Visualizer(window=window)
        self.robot = MeshcatVisualizer(self.model, pin.GeometryModel(), visuals)
        self.robot.initViewer(viewer=self.root)
        self.robot.loadViewerModel(rootNodeName="robot")
        self.robot.displayVisuals(True)
        for item in scenery:
            item.put_into(self.root["scenery"][item.name])
            self._place(item, None)
        self.root["/Grid"].set_property("visible", False)
        self.root["/Axes"].set_property("visible", False)
        self.root["/Background"].set_property("top_color", [0.93, 0.95, 0.98])
        self.root["/Background"].set_property("bottom_color", [1.0, 1.0, 1.0])
        # The camera orbits the origin of the world and looks at it, wherever its own parent is: three.js takes the
        # point to look at as one of the world. So the whole scene is moved there. In the camera's frame y points up.
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
        """What moves, as arrays of the shape that the scenery's items ask for; length: of their first axis, if any."""
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
        self.robot.display(q)
        paths = self.paths(moved, None)
        for name in self._moved | paths.keys():  # what a call before has moved is back where it was
            self._place(self.scenery[name], paths.get(name))
        self._moved = set(paths)

    def animate(self, times: Floats, states: Floats, paths: Mapping[str, Floats]) -> None:
        """Make the states an animation that starts at time 0; paths: of the items of the scenery that move."""
        import meshcat.animation
        import pinocchio as pin

        # Key frames carry their time in frames: one frame is a millisecond.
        animation = meshcat.animation.Animation(default_framerate=1000)
        visuals = self.robot.visual_model
        placements = pin.GeometryData(visuals)
        for k, (t, x) in enumerate(zip(times - times[0], states, strict=True)):
            q = self.configuration(x)
            pin.forwardKinematics(self.model, self._data, q)
            pin.updateGeometryPlacements(self.model, self._data, visuals, placements)
            with animation.at_frame(self.root, 1000.0 * float(t)) as frame:
                if self.camera.follow:
                    frame.set_transform(self._shift(q))
                for i, visual in enumerate(visuals.geometryObjects):
                    node = frame[self.robot.getViewerNodeName(visual, pin.GeometryType.VISUAL)]
                    node.set_transform(placements.oMg[i].homogeneous)
                    if t == 0.0:
                        node.set_property("scale", "vector3", [float(s) for s in visual.meshScale])
                for name, path in paths.items():
                    pose, node = self.scenery[name].pose(path[k]), frame["scenery"][name]
                    node.set_transform(pose.matrix)
                    node.set_property("scale", "vector3", list(pose.scale))
        self.root.set_animation(animation, play=True, repetitions=100)

    def _place(self, item: Item, moved: Floats | None) -> None:
        pose = item.pose(moved)
        scaled = pose.matrix.copy()
        scaled[:3, :3] *= pose.scale
        self.root["scenery"][item.name].set_transform(scaled)

    def _shift(self, q: Floats) -> Floats:
        """What moves the point that the camera looks at to the origin."""
        import pinocchio as pin

        shift = np.eye(4)
        shift[:3, 3] = -np.array(self.camera.target)
        if self.camera.follow:
            shift[:2, 3] -= pin.centerOfMass(self.model, self._data, q)[:2]
        return shift
