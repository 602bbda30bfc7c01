"""Replays show a moving robot, environments draw themselves, browsers end, and a missing one is told."""

import gc
import os
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from pictures import BLUE, GREEN, ORANGE, RED, TIMES, running, trajectory, where

import qp_control.envs  # noqa: F401, registers the environments
from qp_control import viewer
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    task = CartPoleSwingUp()
    path = tmp_path_factory.mktemp("replay with spaces and ünïcödé") / "new folder" / "replay №1.html"
    return viewer.write_replay(
        path,
        task.urdf,
        TIMES,
        trajectory(),
        scenery=task.scenery(),
        camera=task.camera(),
        title="<Füße & co>",
    )


def test_replay_shows_the_robot_moving(replay, browser_needed):
    first, middle, last = viewer.capture_frames(replay, [0.0, 0.5, 1.0], 320, 240)
    assert first.shape == (240, 320, 3) and first.dtype == np.uint8
    cart = [where(p, BLUE) for p in (first, middle, last)]
    pole = [where(p, ORANGE) for p in (first, middle, last)]
    for _, _, count in (*cart, *pole):
        assert 40 < count < 8000  # there, and not the whole picture
    # columns grow to the right, rows downwards; half way the cart is in the middle with the pole level
    assert cart[0][0] < cart[1][0] - 30 and cart[1][0] < cart[2][0] - 30
    assert abs(cart[1][0] - 160) < 10
    assert pole[0][1] > cart[0][1] + 10 and pole[2][1] < cart[2][1] - 10
    assert abs(pole[1][1] - cart[1][1]) < 10 and pole[1][0] > cart[1][0] + 10


def test_replay_opens_offline_without_errors(replay, browser_needed):
    text = replay.read_text(encoding="utf-8")
    assert "<title>&lt;Füße &amp; co&gt;</title>" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", text)
    with viewer.Browser(320, 240) as browser:
        browser.open(replay)
        assert browser.evaluate("viewer.animator.duration") == pytest.approx(1.0)
        assert browser.evaluate("viewer.animator.playing") is True
        assert browser.console_errors == []
        assert browser.evaluate("performance.getEntriesByType('resource').filter(r => r.name.startsWith('http'))") == []


def test_shapes_move_in_replays_and_pictures(tmp_path, browser_needed):
    task = CartPoleSwingUp()
    ball = [viewer.Shape("ball", 0.2, (0.0, 0.0, 1.2), 0x2E8B2E)]
    path = np.zeros((21, 3))
    path[:, 0], path[:, 2] = np.linspace(-1.0, 1.0, 21), 1.2
    look = {"scenery": ball, "camera": task.camera()}
    page = viewer.write_replay(tmp_path / "moved.html", task.urdf, TIMES, trajectory(), moved={"ball": path}, **look)
    first, middle, last = (where(p, GREEN) for p in viewer.capture_frames(page, [0.0, 0.5, 1.0]))
    assert first[0] < middle[0] - 60 < last[0] - 120 and abs(middle[0] - 320) < 20 and middle[1] < 240
    taker = viewer.PictureTaker(task.urdf, **look)
    shown = [where(taker.picture(np.zeros(4), moved={"ball": p}), GREEN) for p in (path[0], path[-1])]
    taker.close()
    for (x, y, count), (x_replay, y_replay, _) in zip(shown, (first, last), strict=True):
        assert abs(x - x_replay) < 6 and abs(y - y_replay) < 6 and count > 100


def test_the_camera_looks_at_its_target_and_follows(tmp_path, browser_needed):
    task = CartPoleSwingUp()
    target = (0.3, 0.0, 1.5)
    ball = [viewer.Shape("ball", 0.1, target, 0x2E8B2E)]
    for follow, cart in ((False, -0.3), (True, 0.0)):
        look = viewer.Camera(position=(0.5, -3.0, 2.5), target=target, follow=follow)
        taker = viewer.PictureTaker(task.urdf, scenery=ball, camera=look)
        x, y, count = where(taker.picture([cart, 0.0], 320, 240), GREEN)
        assert abs(x - 160) < 2 and abs(y - 120) < 2 and count > 50
        if follow:  # with the cart, whose centre of mass is its own, goes the eye, and the ball falls behind
            assert where(taker.picture([0.5, 0.0], 320, 240), GREEN)[0] < 140
        taker.close()
    states = np.zeros((2, 4))
    states[1, 0] = 0.5
    page = viewer.write_replay(tmp_path / "followed.html", task.urdf, [0.0, 1.0], states, scenery=ball, camera=look)
    first, last = (where(p, GREEN) for p in viewer.capture_frames(page, [0.0, 1.0], 320, 240))
    assert abs(first[0] - 160) < 2 and last[0] < 140


def test_the_first_picture_has_its_size(browser_needed):
    task = CartPoleSwingUp()
    taker = viewer.PictureTaker(task.urdf)
    shapes = [taker.picture(np.zeros(4), *size).shape for size in ((200, 100), (640, 480), (123, 457))]
    taker.close()
    assert shapes == [(100, 200, 3), (480, 640, 3), (457, 123, 3)]


def test_arrows_and_cones_are_where_they_are_moved(tmp_path, browser_needed):
    task = CartPoleSwingUp()
    items = [viewer.Arrow("force"), viewer.FrictionCone("cone", 0.5, height=0.4, color=0x2E8B2E)]
    look = {"scenery": items, "camera": viewer.Camera(position=(0.0, -3.0, 0.0), target=(0.0, 0.0, 0.0))}
    start, tip, robot = np.array([-0.6, 0.0, 0.6]), np.array([0.6, 0.0, -0.6]), [2.0, np.pi]
    taker = viewer.PictureTaker(task.urdf, **look)
    assert where(taker.picture(robot), RED)[2] == 0  # not told where yet
    shown = {}
    for name, vector in (("right", [0.8, 0.0, 0.0]), ("down", [0.0, 0.0, -0.8]), ("left", [-0.8, 0.0, 0.0])):
        picture = taker.picture(robot, moved={"force": [start, vector], "cone": tip})
        shown[name] = where(picture, RED)
    # The eye is 3 m away and sees an angle of 75 degrees upright: 104 pixels per metre, and the middle at (320, 240).
    # The mean of an arrow's area is between its middle and its head.
    x, y = 320 - 104 * 0.6, 240 - 104 * 0.6
    assert x + 35 < shown["right"][0] < x + 84 and abs(shown["right"][1] - y) < 3
    assert y + 35 < shown["down"][1] < y + 84 and abs(shown["down"][0] - x) < 3
    assert x - 84 < shown["left"][0] < x - 35 and abs(shown["left"][1] - y) < 3
    assert all(count > 100 for *_, count in shown.values())
    for nothing in ([0.0, 0.0, 0.0], [np.nan, 0.0, 1.0]):
        assert where(taker.picture(robot, moved={"force": [start, nothing]}), RED)[2] == 0
    # The cone is translucent: greener than the background.
    with_cone, without = (taker.picture(robot, moved={"cone": p}).astype(int) for p in (tip, [np.nan] * 3))
    rows, columns = np.nonzero((with_cone - without)[..., 0] < -30)
    assert len(rows) > 200 and abs(columns.mean() - (320 + 104 * 0.6)) < 4
    assert rows.min() > 240 + 104 * 0.15 and rows.max() < 240 + 104 * 0.65
    taker.close()
    paths = np.stack([np.full((2, 3), np.nan), np.stack([start, [0.8, 0.0, 0.0]])])
    page = viewer.write_replay(
        tmp_path / "forces.html", task.urdf, [0.0, 1.0], [robot, robot], moved={"force": paths}, **look
    )
    off, on = (where(p, RED) for p in viewer.capture_frames(page, [0.0, 1.0]))
    assert off[2] == 0 and on == pytest.approx(shown["right"], abs=3)


def test_quadruped_is_drawn_with_its_forces_after_a_step(browser_needed):
    env = gym.make("QPControl/Quadruped-v0", render_mode="rgb_array")
    env.reset(seed=0)
    counts = [where(env.render(), RED)[2]]
    for _ in range(10):
        env.step(env.unwrapped.task.rest_input)
    counts.append(where(env.render(), RED)[2])
    env.reset(seed=0)
    counts.append(where(env.render(), RED)[2])
    env.close()
    assert counts[0] == counts[2] == 0 and counts[1] > 100


def test_paths_of_shapes_must_fit_the_times(tmp_path):
    task = CartPoleSwingUp()
    with pytest.raises(ValueError, match=r"moved\['goal'\] has shape \(20, 3\), expected \(T, 3\) = \(21, 3\)"):
        viewer.write_replay(
            tmp_path / "page.html",
            task.urdf,
            TIMES,
            trajectory(),
            scenery=task.scenery(),
            moved={"goal": np.zeros((20, 3))},
        )
    for moved, message in (
        ({"gaol": np.zeros((21, 3))}, r"moved has the name 'gaol', expected one of \['force', 'goal', "),
        ({"force": np.zeros((21, 3))}, r"moved\['force'\] has shape \(21, 3\), expected \(T, 2, 3\) = \(21, 2, 3\)"),
    ):
        items = [*task.scenery(), viewer.Arrow("force")]
        with pytest.raises(ValueError, match=message):
            viewer.write_replay(tmp_path / "page.html", task.urdf, TIMES, trajectory(), scenery=items, moved=moved)


def test_console_errors_are_seen(tmp_path, browser_needed):
    page = tmp_path / "broken.html"
    page.write_text("<script>console.error('first'); undefinedFunction()</script>")
    with viewer.Browser() as browser:
        browser.open(page)
        assert "first" in browser.console_errors[0] and "undefinedFunction" in browser.console_errors[1]
        with pytest.raises(viewer.BrowserError, match="the page threw: ReferenceError"):
            browser.evaluate("nothing.at.all")


def test_browser_that_hangs_is_given_up(tmp_path, browser_needed):
    page = tmp_path / "empty.html"
    page.write_text("")
    with viewer.Browser(timeout=60) as browser:
        browser.open(page)
        browser.timeout = 1.0
        with pytest.raises(viewer.BrowserError, match=r"did not answer within 1.0 s"):
            browser.evaluate("(() => { for (;;); })()")
    assert not running(browser.process_id)


def test_environment_draws_itself_and_cleans_up(browser_needed):
    env = gym.make("QPControl/CartPoleSwingUp-v0", render_mode="rgb_array")
    env.reset(options={"state": [-1.0, 0.0, 0.0, 0.0]})
    left = env.render()
    env.reset(options={"state": [1.0, np.pi, 0.0, 0.0]})
    right = env.render()
    assert left.shape == (480, 640, 3) and left.dtype == np.uint8
    assert where(left, BLUE)[0] < 320 < where(right, BLUE)[0]
    assert where(left, ORANGE)[1] < where(left, BLUE)[1] and where(right, ORANGE)[1] > where(right, BLUE)[1]
    process = env.unwrapped._viewer._browser.process_id
    profile = Path(env.unwrapped._viewer._browser._profile)
    assert running(process) and profile.is_dir()
    env.close()
    assert not running(process) and not profile.exists()


def test_forgotten_browser_ends_with_the_garbage(browser_needed):
    browser = viewer.Browser()
    process = browser.process_id
    assert running(process)
    del browser
    gc.collect()
    assert not running(process)


def test_fork_leaves_the_parents_browser_alone(browser_needed):
    browser = viewer.Browser()
    child = os.fork()
    if child == 0:
        browser.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert browser.evaluate("1 + 1") == 2
    browser.close()


def test_missing_browser_is_told(replay, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("QP_CONTROL_BROWSER", raising=False)
    with pytest.raises(viewer.BrowserNotFound, match="none of chromium"):
        viewer.capture_frames(replay, [0.0])
    env = gym.make("QPControl/CartPoleSwingUp-v0", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(viewer.BrowserNotFound, match="QP_CONTROL_BROWSER"):
        env.render()
    env.close()
    monkeypatch.setenv("QP_CONTROL_BROWSER", "/no/such/browser")
    with pytest.raises(viewer.BrowserNotFound, match="'/no/such/browser'"):
        viewer.capture_frames(replay, [0.0])


def test_program_that_is_no_browser_is_told(replay, monkeypatch):
    monkeypatch.setenv("QP_CONTROL_BROWSER", "true")
    with pytest.raises(viewer.BrowserError, match=r"has ended|ended with"):
        viewer.capture_frames(replay, [0.0])


def test_trajectory_that_does_not_fit_is_told(tmp_path):
    urdf = CartPoleSwingUp.urdf
    file = tmp_path / "x.html"
    with pytest.raises(ValueError, match=r"times has shape \(3,\) and states \(21, 4\)"):
        viewer.write_replay(file, urdf, [0, 1, 2], trajectory())
    with pytest.raises(ValueError, match=r"state has shape \(3,\), expected \(4,\) or \(2,\)"):
        viewer.write_replay(file, urdf, [0, 1], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="increasing"):
        viewer.write_replay(file, urdf, [0, 0], np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        viewer.write_replay(file, urdf, [0, 1], np.full((2, 4), np.nan))
    with pytest.raises(FileNotFoundError, match="no_such"):
        viewer.write_replay(file, "no_such.urdf", [0, 1], np.zeros((2, 4)))
    assert not file.exists()


def test_place_that_cannot_be_written_is_told(tmp_path):
    taken = tmp_path / "a file"
    taken.write_text("")
    with pytest.raises(OSError, match="a file"):
        viewer.write_replay(taken / "x.html", CartPoleSwingUp.urdf, TIMES, trajectory())
    if os.geteuid() != 0:  # root may write everywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="closed"):
            viewer.write_replay(closed / "x.html", CartPoleSwingUp.urdf, TIMES, trajectory())
