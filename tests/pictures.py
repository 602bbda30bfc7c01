"""What is seen in pictures of a cart-pole, a motion of it to look at, and whether a browser has ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TIMES = np.arange(21) * 0.05
ORANGE, BLUE, GREEN, RED = (240, 120, 35), (30, 90, 180), (46, 139, 46), (214, 39, 40)


def trajectory():
    """The cart goes from -1.5 m to 1.5 m while the pole turns from hanging to upright."""
    x = np.zeros((21, 4))
    x[:, 0] = np.linspace(-1.5, 1.5, 21)
    x[:, 1] = np.linspace(np.pi, 0.0, 21)
    return x


def where(picture, color):
    """Mean (column, row) of the pixels whose hue is near the color's, and their number."""
    pixels = picture.astype(float)
    direction = np.asarray(color, float) / np.linalg.norm(color)
    cosine = pixels @ direction / np.maximum(1.0, np.linalg.norm(pixels, axis=2))
    rows, columns = np.nonzero(cosine > 0.985)
    return (columns.mean(), rows.mean(), len(rows)) if len(rows) else (np.nan, np.nan, 0)


def running(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
