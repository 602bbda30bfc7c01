"""Robots in meshcat: a replay as one html file that opens offline, a live view on 127.0.0.1, and pictures.

Only pictures need a browser on this machine (headless Chromium or Chrome). Meshes of a URDF are read from its
own folder and from `package_dirs`, and from nowhere else.
"""

from qp_control.viewer.browser import Browser, BrowserError, BrowserNotFound, browser_path
from qp_control.viewer.drawn_robot import Robot
from qp_control.viewer.movie import capture_frames, write_movie
from qp_control.viewer.page import Overlay, Stage
from qp_control.viewer.scene import Camera
from qp_control.viewer.scenery import Arrow, FrictionCone, Item, Line, Shape
from qp_control.viewer.sliders import Slider
from qp_control.viewer.views import LiveViewer, PictureTaker, write_replay

__all__ = [
    "Arrow",
    "Browser",
    "BrowserError",
    "BrowserNotFound",
    "Camera",
    "FrictionCone",
    "Item",
    "Line",
    "LiveViewer",
    "Overlay",
    "PictureTaker",
    "Robot",
    "Shape",
    "Slider",
    "Stage",
    "browser_path",
    "capture_frames",
    "write_movie",
    "write_replay",
]
