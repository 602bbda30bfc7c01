"""What replays show beside a robot: another one, plans, a text over the picture, the time; and movies of them."""

import shutil

import numpy as np
import pytest
from pictures import BLUE, GREEN, RED, TIMES, trajectory, where

from qp_control import viewer
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp

TASK = CartPoleSwingUp()
FRONT = viewer.Camera(position=(0.0, -3.0, 0.0), target=(0.0, 0.0, 0.0))
WAIT = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_another_robot_moves_beside_the_first(tmp_path, browser_needed):
    other = viewer.Robot("other", TASK.urdf, position=(0.0, 0.0, 1.0), color=0xD62728)
    still = np.zeros((21, 4))
    look = {"scenery": [other], "camera": FRONT}
    page = viewer.write_replay(
        tmp_path / "two.html", TASK.urdf, TIMES, still, moved={"other": trajectory()[:, :2]}, **look
    )
    first, last = viewer.capture_frames(page, [0.0, 1.0])
    assert where(last, RED)[0] > where(first, RED)[0] + 50
    assert where(last, BLUE) == pytest.approx(where(first, BLUE), rel=0.3)  # the other pole may hide some of it
    taker = viewer.PictureTaker(TASK.urdf, **look)
    picture = taker.picture(np.zeros(4), moved={"other": trajectory()[-1, :2]})
    assert where(picture, RED)[:2] == pytest.approx(where(last, RED)[:2], abs=3)
    assert where(taker.picture(np.zeros(4), moved={"other": [np.nan, 0.0]}), RED)[2] == 0
    taker.close()


def test_lines_go_through_their_points(tmp_path, browser_needed):
    line = viewer.Line("plan", 4, radius=0.02, color=0x2E8B2E)
    points = np.array([[0.0, 0.0, 0.4], [0.4, 0.0, 0.4], [0.4, 0.0, 0.4], [0.8, 0.0, 0.8]])
    taker = viewer.PictureTaker(TASK.urdf, scenery=[line], camera=FRONT)
    away = [2.0, np.pi]
    assert where(taker.picture(away), GREEN)[2] == 0
    picture = taker.picture(away, moved={"plan": points})
    # 104 pixels per metre, the middle at (320, 240): a level part, one of no length, and one that rises.
    pixels = picture.astype(int)
    green = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 40)
    rows, columns = np.nonzero(green)
    assert abs(columns.min() - 320) <= 3 and abs(columns.max() - (320 + 104 * 0.8)) <= 3
    assert abs(rows[columns < 355].mean() - (240 - 104 * 0.4)) <= 2 and abs(rows.min() - (240 - 104 * 0.8)) <= 3
    cut = points.copy()
    cut[3] = np.nan
    assert 0 < where(taker.picture(away, moved={"plan": cut}), GREEN)[2] < 0.75 * green.sum()
    taker.close()


def test_overlay_tells_and_looks_from_elsewhere(tmp_path, browser_needed):
    over = viewer.Overlay(
        heading="<learned> & not",
        legend={"force": 0xD62728},
        table=[["weight", "before"], ["angle", "1.0"]],
        eyes={"left": (-3.0, 0.0, 0.0)},
    )
    page = viewer.write_replay(tmp_path / "page.html", TASK.urdf, TIMES, trajectory(), camera=FRONT, overlay=over)
    with viewer.Browser() as browser:
        browser.open(page)
        browser.evaluate("viewer.animator.pause(), viewer.animator.seek(0)")
        text = browser.evaluate("document.getElementById('overlay').innerText")
        assert all(word in text for word in ("<learned> & not", "force", "weight", "before", "angle", "1.0", "left"))
        # The cart at -1.5 m is left of the middle from the front, and in the middle from the left.
        assert where(browser.picture(browser.evaluate("viewer.capture_image()")), BLUE)[0] < 220
        browser.evaluate(f"document.querySelector('#overlay button').click(), {WAIT}")
        assert abs(where(browser.picture(browser.evaluate("viewer.capture_image()")), BLUE)[0] - 320) < 40
        # A click in the middle of the bar goes to the middle of the second that the replay takes.
        browser.evaluate(
            "document.getElementById('bar').dispatchEvent(new MouseEvent('click', {clientX: innerWidth / 2}))"
        )
        browser.evaluate(WAIT)
        assert browser.evaluate("document.getElementById('clock').textContent") == "0.50 s"
        assert browser.console_errors == []


def test_a_slider_chooses_among_recorded_runs(tmp_path, browser_needed):
    ball = viewer.Shape("ball", 0.2, (0.0, 0.0, 1.0), 0x2E8B2E)
    still, path = np.zeros((21, 4)), np.zeros((21, 3))
    path[:, 0] = 1.0
    stages = [
        viewer.Stage("first </script>", still, {"ball": path}, {"gain": "1.0"}),
        viewer.Stage("last", trajectory(), {"ball": -path}, {"gain": "2.0"}),
    ]
    page = viewer.write_replay(tmp_path / "stages.html", TASK.urdf, TIMES, stages, scenery=[ball], camera=FRONT)

    def seen(browser):
        picture = browser.picture(browser.evaluate(f"{WAIT}.then(() => viewer.capture_image())"))
        return where(picture, BLUE)[0], where(picture, GREEN)[0]

    with viewer.Browser() as browser:
        browser.open(page)
        told = "document.getElementById('panel').innerText"
        browser.evaluate("viewer.animator.pause(), viewer.animator.seek(1.0)")
        cart, shape = seen(browser)
        assert cart > 420 and shape < 250 and "last" in browser.evaluate(told) and "2.0" in browser.evaluate(told)
        slide = "stage = document.getElementById('stage'), stage.value = {}, stage.dispatchEvent(new Event('input'))"
        browser.evaluate("var stage; " + slide.format(0))
        cart, shape = seen(browser)
        assert abs(cart - 320) < 20 and shape > 390
        assert "first </script>" in browser.evaluate(told) and "1.0" in browser.evaluate(told)
        # The time and whether it runs stay as they are.
        assert browser.evaluate("[viewer.animator.actions[0].time, viewer.animator.playing]") == [1.0, False]
        browser.evaluate("viewer.animator.seek(0.5), viewer.animator.play(), " + slide.format(1))
        assert browser.evaluate("viewer.animator.playing") is True
        assert browser.console_errors == []


def test_what_all_stages_share_is_written_once(tmp_path):
    other = viewer.Robot("other", TASK.urdf, color=0xD62728)
    rng = np.random.default_rng(0)
    moved = {"other": rng.uniform(-1.0, 1.0, (21, 2))}
    sizes = []
    for count in (1, 2, 4):
        stages = [viewer.Stage(str(k), trajectory() + 0.1 * k) for k in range(count)]
        page = viewer.write_replay(tmp_path / "s.html", TASK.urdf, TIMES, stages, scenery=[other], moved=moved)
        sizes.append(page.stat().st_size)
        assert ('id="panel"' in page.read_text()) == (count > 1)
    # Two more stages cost twice the second one: the other robot is not among them.
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.2)
    assert page.read_text().count("scenery/other/") < 3 * len(viewer.Robot("r", TASK.urdf).poses(np.zeros(2)))


def test_stages_that_do_not_fit_are_told(tmp_path):
    stages = [viewer.Stage("a", trajectory(), values={"gain": "1"}), viewer.Stage("b", trajectory())]
    with pytest.raises(ValueError, match=r"stage 'b' has the values \[\], expected \['gain'\]"):
        viewer.write_replay(tmp_path / "x.html", TASK.urdf, TIMES, stages)
    with pytest.raises(TypeError, match="has a ndarray among its stages"):
        viewer.write_replay(tmp_path / "x.html", TASK.urdf, TIMES, [stages[0], trajectory()])
    with pytest.raises(ValueError, match="times has shape"):
        viewer.write_replay(tmp_path / "x.html", TASK.urdf, TIMES, [viewer.Stage("a", trajectory()[:5])])


def test_table_of_an_overlay_is_checked():
    with pytest.raises(ValueError, match=r"table has rows of \[1, 2\] cells"):
        viewer.Overlay(table=[["a", "b"], ["c"]])


def test_movies_show_the_page(tmp_path, browser_needed):
    from PIL import Image

    over = viewer.Overlay(heading="Heading", legend={"green": 0x2E8B2E})
    page = viewer.write_replay(tmp_path / "page.html", TASK.urdf, TIMES, trajectory(), camera=FRONT, overlay=over)
    movie = viewer.write_movie(tmp_path / "new" / "page.gif", page, frames_per_second=5, width=320, height=240)
    with Image.open(movie) as gif:
        assert gif.size == (320, 240) and gif.n_frames == 6
        frames = []
        for k in (0, 5):
            gif.seek(k)
            frames.append(np.array(gif.convert("RGB")))
    assert where(frames[1], BLUE)[0] > where(frames[0], BLUE)[0] + 60
    assert where(frames[0], GREEN)[2] > 50  # of the legend
    if shutil.which("ffmpeg"):
        assert viewer.write_movie(tmp_path / "page.mp4", page, frames_per_second=5).stat().st_size > 1000


def test_movies_that_cannot_be_made_are_told(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"expected it to end in \.gif or \.mp4"):
        viewer.write_movie(tmp_path / "page.avi", tmp_path / "page.html")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ffmpeg"):
        viewer.write_movie(tmp_path / "page.mp4", tmp_path / "page.html")


def test_scenery_that_cannot_be_drawn_is_refused(tmp_path):
    nan = float("nan")
    for size in (nan, -1.0, 0.0, (1.0, 1.0), (1.0, 0.0, 1.0), "large"):
        with pytest.raises(ValueError, match="the size of 'box' is"):
            viewer.Shape("box", size, (0.0, 0.0, 0.0))
    for item, message in (
        (lambda: viewer.Shape("box", 1, (0.0, nan, 0.0)), "the position of 'box' is"),
        (lambda: viewer.Shape("box", 1, (0.0, 0.0, 0.0), -5), "the color of 'box' is -5, expected 0xRRGGBB"),
        (lambda: viewer.Arrow("force", 0x1000000), "the color of 'force' is 16777216"),
        (lambda: viewer.Line("plan", 1), "the number of points of 'plan' is 1, expected an integer of at least 2"),
        (lambda: viewer.Line("plan", 3, radius=0.0), "the radius of 'plan' is"),
        (lambda: viewer.FrictionCone("cone", nan), "friction and height of 'cone' is"),
        (lambda: viewer.FrictionCone("cone", -0.1), "friction of 'cone' is"),
        (lambda: viewer.Camera(position=(nan, 0.0, 0.0)), "the camera's position is"),
        (lambda: viewer.Camera((1.0, 0.0, 0.0), (1.0, 0.0, 0.0)), "the camera's position is its target"),
        (lambda: viewer.Overlay(legend={"force": "red"}), "the color of 'force' is 'red'"),
        (lambda: viewer.Overlay(eyes={"left": (1.0, 2.0)}), "the eye of 'left' is"),
        (lambda: viewer.Slider(0.0, -np.inf, np.inf), "a slider from -inf to inf"),
    ):
        with pytest.raises(ValueError, match=message):
            item()

    def replay(**options):
        viewer.write_replay(tmp_path / "page.html", TASK.urdf, TIMES, trajectory(), **options)

    ball = viewer.Shape("ball", 1, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="scenery has the name 'ball' twice"):
        replay(scenery=[ball, ball])
    with pytest.raises(TypeError, match="scenery has a int, expected items"):
        replay(scenery=[3])
    # Each letter would be a folder, and "/" all of them.
    with pytest.raises(ValueError, match="package_dirs is '/usr', expected a list of folders"):
        replay(package_dirs="/usr")
    assert not (tmp_path / "page.html").exists()
    replay(scenery=[ball])


def test_movies_of_impossible_sizes_and_rates_are_refused(tmp_path):
    page = tmp_path / "page.html"
    for options, message in (
        ({"frames_per_second": 0}, "frames_per_second is 0, expected an integer of at least 1"),
        ({"frames_per_second": 2.5}, r"frames_per_second is 2\.5"),
        ({"frames_per_second": 60}, r"frames_per_second is 60, expected at most 50 of a \.gif"),
        ({"width": 0}, "width is 0, expected an integer of at least 1"),
        ({"height": -1}, "height is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            viewer.write_movie(tmp_path / "page.gif", page, **options)
    with pytest.raises(ValueError, match=r"the movie is 321 x 400, expected even numbers of an \.mp4"):
        viewer.write_movie(tmp_path / "page.mp4", page, width=321)


def test_gif_keeps_the_time(tmp_path, browser_needed):
    from PIL import Image

    page = viewer.write_replay(tmp_path / "page.html", TASK.urdf, TIMES, trajectory(), camera=FRONT)
    movie = viewer.write_movie(tmp_path / "page.gif", page, frames_per_second=30, width=160, height=120)
    with Image.open(movie) as gif:
        shown = 0
        for k in range(gif.n_frames):
            gif.seek(k)
            shown += gif.info["duration"]
    # 31 pictures of a second, to a hundredth of a second each.
    assert shown == pytest.approx(1000 * 31 / 30, abs=10)
