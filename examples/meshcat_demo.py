"""What the meshcat examples share: where a scene goes, and what runs beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qp_control import viewer


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Options that every example has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/meshcat"), help="folder of the page and the movie")
    parser.add_argument("--movie", choices=("gif", "mp4"), help="record the page, too; needs Chromium, mp4 also ffmpeg")
    parser.add_argument("--live", action="store_true", help="show it in your browser, from a server on 127.0.0.1")
    return parser


def show(name: str, given: argparse.Namespace, urdf: Any, times: Any, states: Any, **look: Any) -> None:
    """Write the page, and what else is asked for. look: as in `write_replay`."""
    if given.live:
        live = {key: value for key, value in look.items() if key not in ("moved", "overlay", "title")}
        view = viewer.LiveViewer(urdf, **live)
        try:
            view.play(times, states, moved=look.get("moved"))
        finally:
            view.close()
    page = viewer.write_replay(given.out / f"{name}.html", urdf, times, states, **look)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    if given.movie:
        print(viewer.write_movie(page.with_suffix(f".{given.movie}"), page))
