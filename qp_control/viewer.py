"""Robots in meshcat: a replay as one html file that opens offline, a live view on 127.0.0.1, and pictures.

Only pictures need a browser on this machine (headless Chromium or Chrome). Meshes of a URDF are read from its
own folder and from `package_dirs`, and from nowhere else.
"""

from __future__ import annotations

import base64
import dataclasses
import html as html_text
import json
import os
import subprocess
import sys
import tempfile
import time
import weakref
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qp_control import robot_description
from qp_control.browser import Browser, BrowserError, BrowserNotFound, browser_path

__all__ = [
    "Browser",
    "BrowserError",
    "BrowserNotFound",
    "Camera",
    "LiveViewer",
    "PictureTaker",
    "Shape",
    "browser_path",
    "capture_frames",
    "write_replay",
]

Pathlike = str | os.PathLike[str]
Moved = Mapping[str, ArrayLike]


@dataclasses.dataclass(frozen=True)
class Camera:
    """Position of the eye and of the point it looks at [m], z up."""

    position: tuple[float, float, float] = (2.0, -2.0, 1.2)
    target: tuple[float, float, float] = (0.0, 0.0, 0.3)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A box, or with one number for its size a ball of that radius: size and centre [m], color 0xRRGGBB.

    It stays where it is unless a call says otherwise (`moved`).
    """

    name: str
    size: tuple[float, float, float] | float
    position: tuple[float, float, float]
    color: int = 0x888888


class _Page:
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


class _Scene:
    """A robot, its surroundings and the camera in a meshcat window."""

    def __init__(
        self,
        window: Any,
        urdf: Pathlike,
        scenery: Sequence[Shape],
        camera: Camera,
        package_dirs: Sequence[Pathlike],
        floating_base: bool,
    ) -> None:
        import meshcat
        import meshcat.geometry as geometry
        import pinocchio as pin
        from pinocchio.visualize import MeshcatVisualizer

        self.model = robot_description.read_urdf(urdf, floating_base=floating_base)
        visuals = robot_description.read_visuals(urdf, self.model, package_dirs=package_dirs)
        self.root = meshcat.Visualizer(window=window)
        self.robot = MeshcatVisualizer(self.model, pin.GeometryModel(), visuals)
        self.robot.initViewer(viewer=self.root)
        self.robot.loadViewerModel(rootNodeName="robot")
        self.robot.displayVisuals(True)
        for shape in scenery:
            node = self.root["scenery"][shape.name]
            size = shape.size
            body = geometry.Sphere(size) if isinstance(size, float) else geometry.Box(list(size))
            node.set_object(body, geometry.MeshLambertMaterial(color=shape.color))
            node.set_transform(meshcat.transformations.translation_matrix(shape.position))
        self.root["/Grid"].set_property("visible", False)
        self.root["/Axes"].set_property("visible", False)
        self.root["/Background"].set_property("top_color", [0.93, 0.95, 0.98])
        self.root["/Background"].set_property("bottom_color", [1.0, 1.0, 1.0])
        # The camera orbits the origin of its parent; in the frame it lives in, y points up.
        offset = np.subtract(camera.position, camera.target)
        self.root["/Cameras/default"].set_transform(meshcat.transformations.translation_matrix(camera.target))
        self.root["/Cameras/default/rotated/<object>"].set_property(
            "position", [float(offset[0]), float(offset[2]), float(-offset[1])]
        )

    def configuration(self, state: ArrayLike) -> NDArray[np.float64]:
        """The q of a state (q, v) or of a configuration q, checked."""
        x = np.array(state, dtype=np.float64)
        nq, nx = self.model.nq, self.model.nq + self.model.nv
        if x.shape not in ((nq,), (nx,)):
            raise ValueError(f"the state has shape {x.shape}, expected ({nx},) or ({nq},)")
        if not np.isfinite(x).all():
            raise ValueError(f"the state is {x}, expected finite numbers")
        return x[:nq]

    def display(self, state: ArrayLike, moved: Moved | None = None) -> None:
        from meshcat.transformations import translation_matrix

        self.robot.display(self.configuration(state))
        for name, position in (moved or {}).items():
            self.root["scenery"][name].set_transform(translation_matrix(np.asarray(position, dtype=np.float64)))

    def animate(
        self, times: NDArray[np.float64], states: NDArray[np.float64], moved: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Make the states an animation that starts at time 0; moved: positions (T, 3) of shapes."""
        import meshcat.animation
        import pinocchio as pin
        from meshcat.transformations import translation_matrix

        # Key frames carry their time in frames: one frame is a millisecond.
        animation = meshcat.animation.Animation(default_framerate=1000)
        data, visuals = self.model.createData(), self.robot.visual_model
        placements = pin.GeometryData(visuals)
        for k, (t, x) in enumerate(zip(times - times[0], states, strict=True)):
            pin.forwardKinematics(self.model, data, self.configuration(x))
            pin.updateGeometryPlacements(self.model, data, visuals, placements)
            with animation.at_frame(self.root, 1000.0 * float(t)) as frame:
                for i, visual in enumerate(visuals.geometryObjects):
                    node = frame[self.robot.getViewerNodeName(visual, pin.GeometryType.VISUAL)]
                    node.set_transform(placements.oMg[i].homogeneous)
                    if t == 0.0:
                        node.set_property("scale", "vector3", [float(s) for s in visual.meshScale])
                for name, positions in moved.items():
                    frame["scenery"][name].set_transform(translation_matrix(positions[k]))
        self.root.set_animation(animation, play=True, repetitions=100)


def _checked_trajectory(times: ArrayLike, states: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t, x = np.array(times, dtype=np.float64), np.array(states, dtype=np.float64)
    if x.ndim != 2 or t.shape != x.shape[:1] or len(t) == 0:
        raise ValueError(f"times has shape {t.shape} and states {x.shape}, expected (T,) and (T, nx), T >= 1")
    if not np.isfinite(t).all() or np.any(np.diff(t) <= 0.0):
        raise ValueError("times must be finite and increasing")
    return t, x


def write_replay(
    path: Pathlike,
    urdf: Pathlike,
    times: ArrayLike,
    states: ArrayLike,
    *,
    scenery: Sequence[Shape] = (),
    camera: Camera | None = None,
    title: str | None = None,
    package_dirs: Sequence[Pathlike] = (),
    floating_base: bool = False,
    moved: Moved | None = None,
) -> Path:
    """Write an animated meshcat scene of a trajectory as one html file that needs neither network nor server.

    path: of the html file; missing folders are made. urdf: the robot.
    times (T,) [s], increasing; states (T, nx) = (q, v), or configurations (T, nq).
    scenery, camera: what else is drawn, and from where. moved: positions (T, 3) [m] of shapes of the scenery, by name.
    Returns the path.

    Raises ValueError for a trajectory that does not fit the robot, OSError (such as PermissionError) naming
    the file where it cannot be written.
    """
    t, x = _checked_trajectory(times, states)
    page = _Page()
    scene = _Scene(page, urdf, scenery, camera or Camera(), package_dirs, floating_base)
    paths = {name: np.asarray(positions, dtype=np.float64) for name, positions in (moved or {}).items()}
    for name, positions in paths.items():
        if positions.shape != (len(t), 3):
            raise ValueError(f"moved[{name!r}] has shape {positions.shape}, expected (T, 3) = ({len(t)}, 3)")
    scene.display(x[0], {name: positions[0] for name, positions in paths.items()})
    scene.animate(t, x, paths)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page.html(title or f"{scene.model.name} - {t[-1] - t[0]:g} s"), encoding="utf-8")
    return target


def capture_frames(
    replay: Pathlike, times: ArrayLike, width: int = 640, height: int = 480, *, timeout: float = 60.0
) -> NDArray[np.uint8]:
    """Pictures (n, height, width, 3) of a replay written by `write_replay`, at `times` (n,) [s] after its
    start.

    Raises BrowserNotFound without Chromium or Chrome, BrowserError when it fails or takes longer than
    `timeout` [s] for one answer, FileNotFoundError without the file.
    """
    when = np.atleast_1d(np.asarray(times, dtype=np.float64))
    with Browser(width, height, timeout=timeout) as browser:
        browser.open(replay)
        browser.evaluate("viewer.animator.pause()")
        frames = [
            browser.picture(browser.evaluate(f"viewer.animator.seek({float(t)!r}), viewer.capture_image()"))
            for t in when
        ]
    return np.stack(frames)


class PictureTaker:
    """Pictures of a robot's states by a headless browser that is kept open; `close()` ends it.

    Arguments as in `write_replay`. Raises BrowserNotFound where there is no Chromium or Chrome.
    """

    def __init__(
        self,
        urdf: Pathlike,
        *,
        scenery: Sequence[Shape] = (),
        camera: Camera | None = None,
        package_dirs: Sequence[Pathlike] = (),
        floating_base: bool = False,
    ) -> None:
        self._page = _Page()
        self._scene = _Scene(self._page, urdf, scenery, camera or Camera(), package_dirs, floating_base)
        self._browser = Browser()
        try:
            with tempfile.TemporaryDirectory(prefix="qp-control-page-") as folder:
                file = Path(folder, "scene.html")
                file.write_text(self._page.html(self._scene.model.name), encoding="utf-8")
                self._browser.open(file)
        except BaseException:
            self.close()
            raise

    def picture(
        self, state: ArrayLike, width: int = 640, height: int = 480, *, moved: Moved | None = None
    ) -> NDArray[np.uint8]:
        """The state (nx,) or configuration (nq,) as a (height, width, 3) picture; moved: positions (3,) of shapes."""
        self._page.commands.clear()
        self._scene.display(state, moved)
        moves = [base64.b64encode(c).decode() for c in self._page.commands.values()]
        if self._browser.size != (width, height):
            self._browser.resize(width, height)
        return self._browser.picture(
            self._browser.evaluate(f"{json.dumps(moves)}.forEach(command), viewer.capture_image()")
        )

    def close(self) -> None:
        """End the browser."""
        self._browser.close()


class LiveViewer:
    """A meshcat view that follows `display(state)`, served on 127.0.0.1 only; `close()` ends the server.

    url: the page to look at; it is opened in the user's browser when `open_browser`. Other arguments as in
    `write_replay`.
    """

    def __init__(
        self,
        urdf: Pathlike,
        *,
        scenery: Sequence[Shape] = (),
        camera: Camera | None = None,
        package_dirs: Sequence[Pathlike] = (),
        floating_base: bool = False,
        open_browser: bool = True,
    ) -> None:
        server = subprocess.Popen(
            [sys.executable, "-m", "qp_control.meshcat_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._server = server
        sockets: list[Any] = []
        self._close = weakref.finalize(self, _end_server, os.getpid(), server, sockets)
        assert server.stdout is not None
        urls = [server.stdout.readline().strip().partition("=")[2] for _ in range(2)]
        if not all(urls):
            self.close()
            raise RuntimeError(f"meshcat's server ended with exit status {server.poll()}")
        window = _connect(*urls)
        sockets.append(window.zmq_socket)
        self.url = urls[1]
        try:
            self._scene = _Scene(window, urdf, scenery, camera or Camera(), package_dirs, floating_base)
        except BaseException:
            self.close()
            raise
        self._due = 0.0
        if open_browser and not webbrowser.open(self.url):
            print(f"open {self.url} to see the robot", file=sys.stderr)

    @property
    def process_id(self) -> int:
        """The server's process."""
        return self._server.pid

    def display(self, state: ArrayLike, *, pause: float = 0.0, moved: Moved | None = None) -> None:
        """Show the state (nx,) or configuration (nq,), not before `pause` [s] after the previous call: real
        time. moved: positions (3,) of shapes of the scenery."""
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._scene.display(state, moved)
        self._due = time.monotonic() + pause

    def play(self, times: ArrayLike, states: ArrayLike) -> None:
        """Show a trajectory once in real time; arguments as in `write_replay`."""
        t, x = _checked_trajectory(times, states)
        start = time.monotonic()
        for when, state in zip(t - t[0], x, strict=True):
            time.sleep(max(0.0, start + when - time.monotonic()))
            self._scene.display(state)

    def close(self) -> None:
        """End the server; may be called again."""
        self._close()


def _connect(zmq_url: str, web_url: str) -> Any:
    """meshcat's window on a running server, without its constructor, which prints and leaves a socket behind."""
    from meshcat.visualizer import ViewerWindow

    window = ViewerWindow.__new__(ViewerWindow)
    window.server_proc, window.zmq_url, window.web_url = None, zmq_url, web_url
    window.connect_zmq()
    window.zmq_socket.RCVTIMEO = 10_000  # [ms] a dead server must not hang the caller
    window.zmq_socket.LINGER = 0
    return window


def _end_server(owner: int, server: subprocess.Popen[str], sockets: list[Any]) -> None:
    if os.getpid() != owner:  # a forked copy of the object: the server is its parent's
        return
    for socket in sockets:
        socket.close()
    server.kill()
    server.wait()
    for pipe in (server.stdin, server.stdout):
        if pipe is not None:
            pipe.close()
