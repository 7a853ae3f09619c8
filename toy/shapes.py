"""The objects of the small world: four shapes as signed distances, six colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.10, 0.20, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "magenta": (0.85, 0.10, 0.80),
    "cyan": (0.10, 0.80, 0.90),
}
# Proportions that give the four shapes a similar area for the same radius.
SQUARE_HALF, CROSS_HALF, CROSS_ARM, TRIANGLE_REACH = 0.86, 1.05, 0.38, 1.30


class Thing(NamedTuple):
    """A flat coloured object: `path` holds its centre (x, y) in pixels for every frame."""

    shape: str
    color: tuple[float, float, float]
    radius: float
    path: tuple[tuple[float, float], ...]


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance in pixels from the shape's outline, negative inside; `x`, `y` are relative to its centre."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - SQUARE_HALF * radius
    if shape == "triangle":
        slanted = abs(x) * np.sqrt(0.75) - y * 0.5
        return np.maximum(slanted, y) - TRIANGLE_REACH * radius / 2
    if shape == "cross":
        long, short = CROSS_HALF * radius, CROSS_ARM * radius
        upright = np.maximum(abs(x) - short, abs(y) - long)
        return np.minimum(upright, np.maximum(abs(x) - long, abs(y) - short))
    raise ValueError(f"unknown shape {shape!r}; the world knows {', '.join(SHAPES)}")


def coverage(thing: Thing, size: int) -> np.ndarray:
    """Share of each pixel that the thing covers, (F, size, size) in [0, 1], with a one-pixel soft edge."""
    pixel = np.arange(size, dtype=np.float32) + 0.5
    path = np.asarray(thing.path, dtype=np.float32)
    x = pixel[None, None, :] - path[:, 0, None, None]
    y = pixel[None, :, None] - path[:, 1, None, None]
    return np.clip(0.5 - distance(thing.shape, x, y, thing.radius), 0, 1)
