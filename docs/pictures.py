"""Draws the pictures of the gallery, docs/figures/examples/<name>.png, from what the examples compute.

Those of meshcat are screenshots of the pages that the examples write, which needs Chromium; --pages names a folder
where these pages are already, as the examples learn for minutes first.

    python docs/pictures.py [01_solve_qp ...] [--pages runs/meshcat]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from qp_control import viewer

EXAMPLES = Path(__file__).parents[1] / "examples"
PICTURES = Path(__file__).parent / "figures" / "examples"
SIZE = 480, 300  # pixels
BLUE, RED, GREY = "#1f77b4", "#d62728", "#9aa0a6"
LIVE = "09_live_sliders"
# Of the pages in meshcat: the file, and the share of its time at which it shows what it is about.
PAGES = {
    "meshcat_arm": ("arm_inverse_dynamics", 0.4),
    "meshcat_cart_pole": ("cart_pole_swing_up", 0.3),
    "meshcat_obstacles": ("obstacles", 0.08),
    "meshcat_quadrotor": ("quadrotor_analytic", 0.2),
    "meshcat_quadruped": ("quadruped_stand", 0.5),
}


def solve_qp(axes: Any, example: dict[str, Any]) -> None:
    H, g = example["H"], example["g"]
    x1, x2 = np.meshgrid(np.linspace(-0.1, 2.1, 200), np.linspace(-0.1, 1.7, 200))
    cost = 0.5 * (H[0, 0] * x1**2 + 2 * H[0, 1] * x1 * x2 + H[1, 1] * x2**2) + g[0] * x1 + g[1] * x2
    axes.contour(x1, x2, cost, 12, colors="#d0d4da", linewidths=1)
    axes.add_patch(plt.Rectangle((0, 0), 0.7, 0.7, facecolor="#1f77b430", edgecolor=BLUE))
    for total, name, color in ((1.0, "sol", BLUE), (3.0, "near", RED)):
        axes.plot([total - 1.7, total + 0.1], [1.7, -0.1], color=color, lw=1.5)
        axes.plot(*example[name].x, "o", color=color, label=example[name].status.name)
    axes.set(xlim=(-0.1, 2.1), ylim=(-0.1, 1.7), xlabel="$x_1$", ylabel="$x_2$")
    axes.legend(loc="upper right", fontsize=8)


def qp_layer(axes: Any, example: dict[str, Any]) -> None:
    thetas, solutions = np.linspace(1.50, 1.62, 61), []
    for theta in thetas:
        lower = torch.tensor([theta, 1.5], dtype=torch.float64)
        out = example["layer"](
            example["H"], torch.zeros(2, dtype=torch.float64), C=example["C"], l=lower, u=example["upper"]
        )
        solutions.append(out.x.numpy())
    axes.plot(thetas, solutions, label=["$x_1$", "$x_2$"])
    axes.axvspan(1.55, 1.62, color="#d6272818", label="infeasible")
    axes.set(xlim=(1.50, 1.62), xlabel=r"$\theta$")
    axes.legend(fontsize=8)


def mpc_cart_pole(axes: Any, example: dict[str, Any]) -> None:
    env, mpc = example["env"], example["mpc"]
    state, _ = env.reset(seed=0)
    states, plan, done = [state], None, False
    while not done:
        with torch.no_grad():
            plan = mpc(torch.from_numpy(state)[None], None if plan is None else plan.shift())
        state, _, terminated, truncated, _ = env.step(plan.input[0].numpy())
        states.append(state)
        done = terminated or truncated
    for name, values, color in zip(("cart [m]", "pole [rad]"), np.array(states).T[:2], (BLUE, RED), strict=True):
        axes.plot(0.05 * np.arange(len(states)), values, color=color, label=name)
    axes.set_xlabel("time [s]")
    axes.legend(fontsize=8)


def derivatives(axes: Any, example: dict[str, Any]) -> None:
    axes.fill([-0.5, 1.5, -0.5], [1.5, -0.5, -0.5], color="#1f77b430")
    points = torch.tensor([[0.2, 0.2], [2.0, 1.0], [0.5, 1.5], [1.5, 0.2]], dtype=torch.float64)
    for p in points:
        x = example["project"](p, example["a"])
        axes.annotate("", x.tolist(), p.tolist(), arrowprops={"arrowstyle": "->", "color": GREY})
        axes.plot(*p, "o", color=GREY)
        axes.plot(*x, "o", color=BLUE)
    axes.plot(0.5, 0.5, "s", color=RED, label="on the line: a kink")
    axes.set(xlim=(-0.5, 2.3), ylim=(-0.4, 1.7), xlabel="$p_1$", ylabel="$p_2$")
    axes.legend(fontsize=8)


def optimal_control(axes: Any, example: dict[str, Any]) -> None:
    found = example["plan"](example["starts"], example["learned"].detach())
    for x in found.x.numpy():
        axes.plot(0.1 * np.arange(len(x)), x[:, 0], color=BLUE)
        axes.plot(0.1 * np.arange(len(x)), x[:, 1], color=RED)
    axes.plot([], [], color=BLUE, label="position [m]")
    axes.plot([], [], color=RED, label="speed [m/s]")
    axes.axhline(-0.8, color=GREY, ls="--", lw=1)
    axes.axhline(0.8, color=GREY, ls="--", lw=1)
    axes.set_xlabel("time [s]")
    axes.legend(fontsize=8)


def nonlinear_mpc(axes: Any, example: dict[str, Any]) -> None:
    x, plan = torch.zeros(1, 12, dtype=torch.float64), None
    x[0, 0] = 2.0
    places = [x[0, :2]]
    for k in range(100):
        with torch.no_grad():
            plan = example["mpc"](x, None if plan is None else plan.shift())
            x = example["drone"].step(x, plan.input)
        if k in (4, 16):
            axes.plot(*plan.states[0, :, :2].T, color="#f07823", lw=1, label="plan" if k == 4 else None)
        places.append(x[0, :2])
    axes.add_patch(plt.Circle(example["centre"][:2].tolist(), example["radius"], color="#d6272840"))
    axes.plot(*torch.stack(places).T, color=BLUE, label="flown")
    axes.set(aspect="equal", xlabel="x [m]", ylabel="y [m]", ylim=(-0.9, 0.6))
    axes.legend(fontsize=8)


PLOTS = {
    "01_solve_qp": solve_qp,
    "02_qp_layer": qp_layer,
    "03_mpc_cart_pole": mpc_cart_pole,
    "04_derivatives": derivatives,
    "05_optimal_control": optimal_control,
    "06_nonlinear_mpc": nonlinear_mpc,
}


def plot(name: str) -> Image.Image:
    with contextlib.redirect_stdout(io.StringIO()):
        example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    figure, axes = plt.subplots(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, layout="constrained")
    PLOTS[name](axes, example)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    plt.close(figure)
    return Image.open(drawn).convert("RGB")


def screenshot(name: str, pages: Path | None) -> Image.Image:
    stem, share = PAGES[name]
    with tempfile.TemporaryDirectory() as folder:
        place = pages or Path(folder)
        if not (place / f"{stem}.html").exists():
            subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py"), "--out", str(place)], check=True)
        with viewer.Browser(2 * SIZE[0], 2 * SIZE[1]) as browser:
            browser.open(place / f"{stem}.html")
            browser.evaluate(
                f"viewer.animator.pause(), viewer.animator.seek({share} * viewer.animator.duration), "
                "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def live_view(name: str) -> Image.Image:
    """Of the page of sliders, soon after it began."""
    command = [sys.executable, "-u", str(EXAMPLES / f"{name}.py"), "--seconds", "60", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().split()[-1]
        with viewer.Browser(*(2 * side for side in SIZE)) as browser:
            browser.open_url(url)
            time.sleep(1.0)
            picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
        running.terminate()
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join((*PLOTS, LIVE, *PAGES))}")
    parser.add_argument("--pages", type=Path, help="folder of the pages of the examples in meshcat")
    given = parser.parse_args()
    for name in given.names or (*PLOTS, LIVE, *PAGES):
        picture = plot(name) if name in PLOTS else live_view(name) if name == LIVE else screenshot(name, given.pages)
        path = PICTURES / f"{name}.png"
        picture.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
