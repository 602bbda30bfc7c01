"""The live view is private to the machine, and its sliders change numbers."""

import contextlib
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from pictures import BLUE, running, where

import qp_control.envs  # noqa: F401, registers the environments
from qp_control import viewer
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp


def listening_addresses(process_id):
    """Local addresses, in /proc's hexadecimal, on which the process accepts connections."""
    inodes = set()
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            found = re.match(r"socket:\[(\d+)\]", os.readlink(descriptor))
            inodes.update(found.groups() if found else ())
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process_id}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.append(fields[1].split(":")[0])
    return addresses


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_live_view_listens_on_this_machine_only():
    with socket.socket() as open_to_all:  # negative control: the look-up sees such a socket
        open_to_all.bind(("0.0.0.0", 0))
        open_to_all.listen()
        assert "00000000" in listening_addresses(os.getpid())
    task = CartPoleSwingUp()
    live = viewer.LiveViewer(task.urdf, scenery=task.scenery(), open_browser=False)
    try:
        addresses = listening_addresses(live.process_id)
        assert len(addresses) >= 2  # web and command socket
        assert set(addresses) == {"0100007F"}
        page = urllib.request.urlopen(live.url, timeout=10).read()
        assert b"meshcat" in page.lower()
        live.display([0.5, 0.1, 0.0, 0.0])
        live.play([0.0, 0.05], [[0.5, 0.1, 0.0, 0.0], [0.5, 0.2, 0.0, 0.0]])
    finally:
        live.close()
    assert not running(live.process_id)


def send(url, values, **headers):
    """Status of a POST to the page of sliders."""
    request = urllib.request.Request(url, json.dumps(values).encode(), headers)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_sliders_of_a_live_view_change_numbers(browser_needed):
    sliders = {"gain <1>": viewer.Slider(1.0, 0.0, 10.0), "mass [kg]": viewer.Slider(0.5, 0.1, 1.0)}
    live = viewer.LiveViewer(CartPoleSwingUp.urdf, open_browser=False, sliders=sliders)
    try:
        assert live.url.startswith("http://127.0.0.1:") and live.values == {"gain <1>": 1.0, "mass [kg]": 0.5}
        live.display([0.5, 0.1, 0.0, 0.0])
        with viewer.Browser(640, 480) as browser:
            browser.open_url(live.url)
            assert "gain <1>" in browser.evaluate("document.getElementById('panel').innerText")
            # Without an icon of its own the browser asks for one, and the console tells that there is none.
            assert browser.evaluate("document.querySelector('link[rel=icon]').href") == "data:,"
            browser.evaluate("s = document.querySelector('input'), s.value = 7.5, s.dispatchEvent(new Event('input'))")
            end = time.monotonic() + 20
            while live.values["gain <1>"] != 7.5 and time.monotonic() < end:
                time.sleep(0.01)
            assert live.values == {"gain <1>": 7.5, "mass [kg]": 0.5}
            assert browser.evaluate("document.querySelector('iframe').contentWindow.viewer !== undefined")
            browser.open_url(live.url)  # again: at the number that it has now
            assert browser.evaluate("document.querySelector('input').value") == "7.5"
            assert browser.console_errors == []
    finally:
        live.close()
    assert not running(live.process_id)


def test_sliders_take_numbers_of_their_own_page_alone():
    live = viewer.LiveViewer(CartPoleSwingUp.urdf, open_browser=False, sliders={"gain": viewer.Slider(1.0, 0.0, 10.0)})
    try:
        own = live.url.removesuffix("/panel/")
        assert send(live.url, {"gain": 2.0}) == 403  # from nowhere
        assert send(live.url, {"gain": 2.0}, Origin="http://example.org") == 403
        rebound = {"Host": "example.org:7000", "Origin": "http://example.org:7000"}
        assert send(live.url, {"gain": 2.0}, **rebound) == 403
        for wrong in ({"gain": 11.0}, {"gain": "2"}, {"gain": float("nan")}, {"other": 1.0}, [1.0]):
            assert send(live.url, wrong, Origin=own) == 400
        assert live.values == {"gain": 1.0}
        assert send(live.url, {"gain": 2.0}, Origin=own) == 200  # negative control
        end = time.monotonic() + 20
        while live.values["gain"] != 2.0 and time.monotonic() < end:
            time.sleep(0.01)
        assert live.values == {"gain": 2.0}
    finally:
        live.close()
    with pytest.raises(ValueError, match=r"a slider from 0\.0 to 1\.0 cannot be at 2\.0"):
        viewer.Slider(2.0, 0.0, 1.0)


def test_live_view_shows_the_state(browser_needed, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    env = gym.make("QPControl/CartPoleSwingUp-v0", render_mode="human")
    env.reset(options={"state": [-1.0, 0.0, 0.0, 0.0]})
    env.step(np.zeros(1))
    assert len(opened) == 1 and opened[0].startswith("http://127.0.0.1:")
    with viewer.Browser(320, 240) as browser:
        browser.open_url(opened[0])
        end = time.monotonic() + 20
        seen = (0.0, 0.0, 0)
        while seen[2] < 40 and time.monotonic() < end:
            picture = browser.picture(browser.evaluate("viewer.capture_image()"))
            if (picture.astype(int).max(axis=2) - picture.min(axis=2) > 60).any():
                seen = where(picture, BLUE)
        assert seen[2] >= 40 and seen[0] < 160
    process = env.unwrapped._viewer.process_id
    env.close()
    assert not running(process)
