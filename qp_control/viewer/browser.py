"""A headless Chromium that shows one page, driven over the DevTools protocol on a pipe (no port is
opened)."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OVERRIDE = "QP_CONTROL_BROWSER"

# Chromium reads commands from descriptor 3 and answers on 4.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class BrowserNotFound(RuntimeError):
    """No Chromium or Chrome was found to take pictures with."""


class BrowserError(RuntimeError):
    """The browser exited, did not answer in time or reported an error."""


def browser_path() -> str:
    """Path of the browser: the environment variable QP_CONTROL_BROWSER, else the first of chromium,
    chromium-browser, google-chrome, google-chrome-stable, chrome on the PATH. Raises BrowserNotFound."""
    wanted = os.environ.get(OVERRIDE)
    if wanted:
        path = shutil.which(wanted)
        if path is None:
            raise BrowserNotFound(f"{OVERRIDE} is {wanted!r}, expected the path of a Chromium or Chrome")
        return path
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise BrowserNotFound(
        f"no browser for pictures: none of {', '.join(NAMES)} is on the PATH; "
        f"install one (Debian: apt install chromium) or set {OVERRIDE}; writing replays needs none"
    )


class Browser:
    """One page in a headless browser; a context manager. The process ends and its profile is deleted on `close()`,
    garbage collection or exit.

    width, height: of the page [pixels]; timeout: longest wait for an answer [s].
    Raises BrowserNotFound if there is no browser and BrowserError if it does not start.
    """

    def __init__(self, width: int = 640, height: int = 480, *, timeout: float = 60.0) -> None:
        if width < 1 or height < 1:
            raise ValueError(f"the picture is {width} x {height}, expected at least 1 x 1")
        executable = browser_path()
        self.timeout = timeout
        self.console_errors: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="qp-control-browser-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
            # Containers lack the user namespaces of the sandbox and a large /dev/shm. Only pages written by this
            # package are shown, and their policy forbids network access.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--mute-audio",
            f"--window-size={width},{height}",
        ]
        try:
            # A process group of its own, so that its children end with it.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(to_browser), str(from_browser), executable, *flags],
                pass_fds=(to_browser, from_browser),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(to_browser)
            os.close(from_browser)
        self._close = weakref.finalize(self, _end, os.getpid(), self._process, self._profile, self._in, self._out)
        self._buffer = b""
        self._next = 0
        self._loaded = False
        self._session: str | None = None
        try:
            target = self._send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self._send(f"{domain}.enable")
            self._send(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and delete its profile; may be called again."""
        self._close()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def open(self, page: str | os.PathLike[str]) -> None:
        """Load a local html file and wait until it is loaded. Raises FileNotFoundError or BrowserError."""
        file = Path(page).resolve()
        if not file.is_file():
            raise FileNotFoundError(f"no html file at {str(file)!r}")
        self.open_url(file.as_uri())

    def open_url(self, url: str) -> None:
        """Load a page and wait until it is loaded. Raises BrowserError."""
        self._loaded = False
        self.console_errors.clear()
        answer = self._send("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(f"the browser could not open {url}: {answer['errorText']}")
        end = time.monotonic() + self.timeout
        while not self._loaded:
            self._event(self._receive(end))

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression on the page. Raises BrowserError if it throws."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(f"the page threw: {details.get('exception', details).get('description', details)}")
        return answer["result"].get("value")

    def picture(self, data_url: str) -> NDArray[np.uint8]:
        """The (height, width, 3) pixels of a PNG given as a data URL."""
        from PIL import Image

        png = base64.b64decode(data_url.split(",", 1)[1])
        with Image.open(io.BytesIO(png)) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)

    def screenshot(self) -> bytes:
        """A PNG file of the visible page."""
        return base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"])

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._next += 1
        number = self._next
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        end = time.monotonic() + self.timeout
        try:
            while data:
                if not select.select([], [self._out], [], max(0.0, end - time.monotonic()))[1]:
                    raise BrowserError(f"the browser took no command for {self.timeout} s ({method})")
                data = data[os.write(self._out, data[:4096]) :]
        except OSError as error:
            raise BrowserError(f"the browser has ended ({method}): {error}") from error
        while True:
            answer = self._receive(end)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method} failed: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result
            self._event(answer)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError(f"the browser did not answer within {self.timeout} s")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise BrowserError(f"the browser ended with exit status {self._process.poll()}")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _event(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console_errors.append(str(details.get("exception", {}).get("description", details.get("text"))))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.console_errors.append(" ".join(str(a.get("value")) for a in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.console_errors.append(str(parameters["entry"]["text"]))


def _end(owner: int, process: subprocess.Popen[bytes], profile: str, *descriptors: int) -> None:
    if os.getpid() != owner:  # a forked copy of the object: the browser is its parent's
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    # Chromium ends by itself when the pipe closes; the group is killed in case it hangs.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()
    shutil.rmtree(profile, ignore_errors=True)
