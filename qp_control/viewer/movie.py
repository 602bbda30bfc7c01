"""Pictures and movies of replays, taken by a headless browser."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qp_control.qp.problem import as_integer
from qp_control.viewer.browser import Browser
from qp_control.viewer.scene import Pathlike


def capture_frames(
    replay: Pathlike, times: ArrayLike, width: int = 640, height: int = 480, *, timeout: float = 60.0
) -> NDArray[np.uint8]:
    """Pictures (n, height, width, 3) of a replay written by `write_replay`, at `times` (n,) [s] after its start,
    without the overlay.

    Raises BrowserNotFound without Chromium or Chrome, BrowserError if it fails or takes longer than `timeout` [s] for
    one answer, FileNotFoundError without the file.
    """
    when = np.atleast_1d(np.asarray(times, dtype=np.float64))
    with Browser(width, height, timeout=timeout) as browser:
        browser.open(replay)
        browser.evaluate("viewer.animator.pause()")
        return np.stack([scene_picture(browser, f"viewer.animator.seek({float(t)!r})", width, height) for t in when])


def scene_picture(browser: Browser, what: str, width: int, height: int) -> NDArray[np.uint8]:
    """The scene after the JavaScript `what`, at that size even if the page has not yet been resized."""
    return browser.picture(
        browser.evaluate(f"{what}, viewer.set_3d_pane_size({width:d}, {height:d}), viewer.capture_image()")
    )


def write_movie(
    path: Pathlike, replay: Pathlike, *, frames_per_second: int = 20, width: int = 640, height: int = 400
) -> Path:
    """Record a replay written by `write_replay`, with its overlay, as .gif or .mp4.

    Returns the path. Raises BrowserNotFound without Chromium or Chrome, BrowserError when it fails, ValueError for
    another file extension, sizes that are not positive integers (even ones for .mp4) and more than 50 frames per second
    of a .gif, whose frames last multiples of 10 ms, FileNotFoundError without the replay or, for .mp4, without ffmpeg.
    """
    target = Path(path)
    frames_per_second = as_integer("frames_per_second", frames_per_second, 1)
    width, height = as_integer("width", width, 1), as_integer("height", height, 1)
    if target.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path is {str(path)!r}, expected it to end in .gif or .mp4")
    if target.suffix == ".gif" and frames_per_second > 50:
        raise ValueError(f"frames_per_second is {frames_per_second}, expected at most 50 of a .gif")
    if target.suffix == ".mp4" and (width % 2 or height % 2):
        raise ValueError(f"the movie is {width} x {height}, expected even numbers of an .mp4")
    if target.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise FileNotFoundError("ffmpeg, which makes .mp4 files, is not on the PATH; .gif needs none")
    target.parent.mkdir(parents=True, exist_ok=True)
    write = _write_gif if target.suffix == ".gif" else _write_mp4
    write(target, _screenshots(replay, frames_per_second, width, height), frames_per_second)
    return target


def _screenshots(replay: Pathlike, frames_per_second: int, width: int, height: int) -> Iterator[bytes]:
    """The frames as PNG files."""
    drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with Browser(width, height) as browser:
        browser.open(replay)
        duration = float(browser.evaluate("viewer.animator.pause(), viewer.gui.hide(), viewer.animator.duration"))
        for k in range(int(duration * frames_per_second) + 1):
            browser.evaluate(f"viewer.animator.seek({k / frames_per_second!r}), {drawn}")
            yield browser.screenshot()


def _write_gif(target: Path, pictures: Iterator[bytes], frames_per_second: int) -> None:
    from PIL import Image

    frames = []
    for png in pictures:
        with Image.open(io.BytesIO(png)) as image:
            frames.append(image.convert("RGB").quantize(128, dither=Image.Dither.NONE))
    # Hundredths of a second that add up: 30 frames per second are not 33.
    ends = [round(100 * k / frames_per_second) for k in range(len(frames) + 1)]
    durations = [10 * (end - begin) for begin, end in itertools.pairwise(ends)]
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def _write_mp4(target: Path, pictures: Iterator[bytes], frames_per_second: int) -> None:
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "image2pipe", "-framerate", str(frames_per_second)]
    command += ["-i", "-", "-pix_fmt", "yuv420p", str(target)]
    result = subprocess.run(command, input=b"".join(pictures), capture_output=True, check=False)
    if result.returncode:
        raise OSError(f"ffmpeg could not write {str(target)!r}: {result.stderr.decode(errors='replace').strip()}")
