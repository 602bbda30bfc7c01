"""Robots in meshcat: a replay as one html file that opens offline, a live view on 127.0.0.1, and pictures.

Only pictures need a browser on this machine (headless Chromium or Chrome). Meshes of a URDF are read from its
own folder and from `package_dirs`, and from nowhere else.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qp_control.viewer.browser import Browser
from qp_control.viewer.movie import scene_picture
from qp_control.viewer.page import TIME_BAR, Overlay, Page, Stage, animation, panel
from qp_control.viewer.scene import Camera, Moved, Pathlike, Scene
from qp_control.viewer.scenery import Item
from qp_control.viewer.sliders import Slider, to_json


def _checked_trajectory(times: ArrayLike, states: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t, x = np.array(times, dtype=np.float64), np.array(states, dtype=np.float64)
    if x.ndim != 2 or t.shape != x.shape[:1] or len(t) == 0:
        raise ValueError(f"times has shape {t.shape} and states {x.shape}, expected (T,) and (T, nx), T >= 1")
    if not np.isfinite(t).all() or np.any(np.diff(t) <= 0.0):
        raise ValueError("times must be finite and increasing")
    return t, x


def _stages(states: ArrayLike | Sequence[Stage]) -> list[Stage]:
    """The runs of a replay, checked: one without a name, or the stages."""
    given: list[Any] = list(states) if isinstance(states, Sequence) else []
    if not any(isinstance(stage, Stage) for stage in given):
        return [Stage("", cast(ArrayLike, states))]
    for stage in given:
        if not isinstance(stage, Stage):
            raise TypeError(f"states has a {type(stage).__name__} among its stages, expected Stage alone")
        if stage.values.keys() != given[0].values.keys():
            names = list(given[0].values)
            raise ValueError(
                f"stage {stage.name!r} has the values {list(stage.values)}, expected {names} as in the first"
            )
    return given


def write_replay(
    path: Pathlike,
    urdf: Pathlike,
    times: ArrayLike,
    states: ArrayLike | Sequence[Stage],
    *,
    scenery: Sequence[Item] = (),
    camera: Camera | None = None,
    title: str | None = None,
    package_dirs: Sequence[Pathlike] = (),
    floating_base: bool = False,
    locked: Sequence[str] = (),
    moved: Moved | None = None,
    overlay: Overlay | None = None,
) -> Path:
    """Write an animated meshcat scene of a trajectory as one html file that needs neither network nor server.

    path: of the html file; missing folders are created. urdf: the robot.
    times (T,) [s], increasing; states (T, nx) = (q, v), or configurations (T, nq); or a list of `Stage`, recorded runs
        among which a slider on the page chooses, the last one shown first.
    scenery: what else is drawn, including other robots. camera: from where. moved: of items of the scenery, by name:
        positions (T, 3) of shapes, starts and vectors (T, 2, 3) of arrows, points (T, points, 3) of lines [m],
        configurations (T, nq) of robots.
    overlay: drawn over the scene.
    floating_base: a free-flyer carries the root link. locked: joints of the URDF that are not part of the states.
    Returns the path.

    Raises ValueError for a trajectory that does not fit the robot, OSError (such as PermissionError) naming the file if
    it cannot be written.
    """
    stages = _stages(states)
    page = Page()
    look = camera or Camera()
    scene = Scene(page, urdf, scenery, look, package_dirs, floating_base, locked)
    runs = []
    for stage in stages:
        t, x = _checked_trajectory(times, stage.states)
        paths = scene.paths({**(moved or {}), **stage.moved}, len(t))
        runs.append(scene.clips(t, x, paths))
    scene.display(x[0], {name: path[0] for name, path in paths.items()})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    over = (overlay or Overlay()).html(look.target, panel(stages)) + TIME_BAR
    # Written under another name and moved: a full disk leaves an existing page intact.
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_text(
            page.html(title or f"{scene.model.name} - {t[-1] - t[0]:g} s", over, animation(runs)), encoding="utf-8"
        )
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


class PictureTaker:
    """Pictures of a robot's states from a headless browser that is kept open; `close()` ends it.

    Arguments as in `write_replay`. Raises BrowserNotFound if there is no Chromium or Chrome.
    """

    def __init__(
        self,
        urdf: Pathlike,
        *,
        scenery: Sequence[Item] = (),
        camera: Camera | None = None,
        package_dirs: Sequence[Pathlike] = (),
        floating_base: bool = False,
        locked: Sequence[str] = (),
    ) -> None:
        self._page = Page()
        self._scene = Scene(self._page, urdf, scenery, camera or Camera(), package_dirs, floating_base, locked)
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
        """The state (nx,) or configuration (nq,) as a (height, width, 3) picture; moved: as in `write_replay`, without
        the time axis."""
        self._page.commands.clear()
        self._scene.display(state, moved)
        moves = [base64.b64encode(c).decode() for c in self._page.commands.values()]
        return scene_picture(self._browser, f"{json.dumps(moves)}.forEach(command)", width, height)

    def close(self) -> None:
        """End the browser."""
        self._browser.close()


class LiveViewer:
    """A meshcat view of the state given to `display(state)`, served on 127.0.0.1 only; `close()` ends the server.

    url: the page; opened in the user's browser if `open_browser`. sliders: numbers that can be changed on that page;
    `values` returns the current ones by name. Other arguments as in `write_replay`.
    """

    def __init__(
        self,
        urdf: Pathlike,
        *,
        scenery: Sequence[Item] = (),
        camera: Camera | None = None,
        package_dirs: Sequence[Pathlike] = (),
        floating_base: bool = False,
        locked: Sequence[str] = (),
        open_browser: bool = True,
        sliders: Mapping[str, Slider] | None = None,
    ) -> None:
        panel = sliders or {}
        server = subprocess.Popen(
            [sys.executable, "-m", "qp_control.viewer.meshcat_server", to_json(panel)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._server = server
        sockets: list[Any] = []
        followers: list[threading.Thread] = []
        self._close = weakref.finalize(self, _end_server, os.getpid(), server, sockets, followers)
        assert server.stdout is not None
        urls = [server.stdout.readline().strip().partition("=")[2] for _ in range(2)]
        if not all(urls):
            self.close()
            raise RuntimeError(f"meshcat's server ended with exit status {server.poll()}")
        window = _connect(*urls)
        sockets.append(window.zmq_socket)
        self.url = urls[1].replace("/static/", "/panel/") if panel else urls[1]
        self._values = {name: slider.value for name, slider in panel.items()}
        # The thread ends with the server, at the end of its output.
        followers.append(threading.Thread(target=_follow, args=(server.stdout, self._values), daemon=True))
        followers[0].start()
        try:
            self._scene = Scene(window, urdf, scenery, camera or Camera(), package_dirs, floating_base, locked)
        except BaseException:
            self.close()
            raise
        self._due = 0.0
        if open_browser and not webbrowser.open(self.url):
            print(f"open {self.url} to see the robot", file=sys.stderr)

    @property
    def process_id(self) -> int:
        """Process id of the server."""
        return self._server.pid

    @property
    def values(self) -> dict[str, float]:
        """The current numbers of the sliders, by name."""
        return dict(self._values)

    def display(self, state: ArrayLike, *, pause: float = 0.0, moved: Moved | None = None) -> None:
        """Show the state (nx,) or configuration (nq,), at the earliest `pause` [s] after the previous call, for real
        time. moved: as in `write_replay`, without the time axis."""
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._scene.display(state, moved)
        self._due = time.monotonic() + pause

    def play(self, times: ArrayLike, states: ArrayLike, *, moved: Moved | None = None) -> None:
        """Show a trajectory once in real time; arguments as in `write_replay`."""
        t, x = _checked_trajectory(times, states)
        paths = self._scene.paths(moved, len(t))
        start = time.monotonic()
        for k, (when, state) in enumerate(zip(t - t[0], x, strict=True)):
            time.sleep(max(0.0, start + when - time.monotonic()))
            self._scene.display(state, {name: path[k] for name, path in paths.items()})

    def close(self) -> None:
        """End the server; may be called again."""
        self._close()


def _follow(output: IO[str], values: dict[str, float]) -> None:
    """Receive changes of the sliders from the server."""
    for line in output:
        if line.startswith("{"):  # meshcat may print as well
            values.update(json.loads(line))


def _connect(zmq_url: str, web_url: str) -> Any:
    """meshcat's window on a running server, without its constructor, which prints and leaves a socket open."""
    from meshcat.visualizer import ViewerWindow

    window = ViewerWindow.__new__(ViewerWindow)
    window.server_proc, window.zmq_url, window.web_url = None, zmq_url, web_url
    window.connect_zmq()
    window.zmq_socket.RCVTIMEO = 10_000  # [ms] a dead server must not hang the caller
    window.zmq_socket.LINGER = 0
    return window


def _end_server(
    owner: int, server: subprocess.Popen[str], sockets: list[Any], followers: list[threading.Thread]
) -> None:
    if os.getpid() != owner:  # a forked copy of the object: the server is its parent's
        return
    for socket in sockets:
        socket.close()
    server.kill()
    server.wait()
    for follower in followers:
        follower.join()
    for pipe in (server.stdin, server.stdout):
        if pipe is not None:
            pipe.close()
