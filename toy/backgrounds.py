"""The backgrounds of the small world: muted canvases that an object of saturated colour stands out from."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

TEXTURES = ("clouds", "stripes", "checks", "gradient", "photo")
TONES = {
    "sand": (0.76, 0.69, 0.56),
    "slate": (0.40, 0.46, 0.53),
    "moss": (0.44, 0.50, 0.38),
    "plum": (0.46, 0.36, 0.45),
    "clay": (0.62, 0.48, 0.41),
    "mist": (0.78, 0.80, 0.82),
}
# Photographs that scikit-image ships: chelsea, coffee and rocket are CC0, astronaut is in the public domain (NASA).
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
CONTRAST = 0.14
PHOTO_SATURATION, PHOTO_CONTRAST = 0.35, 0.6


class Background(NamedTuple):
    """What lies behind the object; `pan` is the camera's (x, y) speed in whole pixels a frame."""

    texture: str
    tone: str
    seed: int
    pan: tuple[int, int]


def two_tones(tone: str, pattern: np.ndarray) -> np.ndarray:
    """Colours around a tone for a pattern in [-1, 1], (H, W) -> (H, W, 3)."""
    return np.asarray(TONES[tone]) + CONTRAST * pattern[..., None]


def clouds(random: np.random.RandomState, size: int) -> np.ndarray:
    coarse = Image.fromarray(random.standard_normal((6, 6)).astype(np.float32))
    fine = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return np.tanh(1.2 * fine)


def stripes(random: np.random.RandomState, size: int) -> np.ndarray:
    period, angle, phase = random.uniform(22, 40), random.uniform(0, np.pi), random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    return np.tanh(1.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase))


def checks(random: np.random.RandomState, size: int) -> np.ndarray:
    period, phase = random.uniform(36, 56), random.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:size, :size] * 2 * np.pi / period
    return np.tanh(3 * np.sin(x + phase[0]) * np.sin(y + phase[1]))


def gradient(random: np.random.RandomState, size: int) -> np.ndarray:
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size * 2 - 1
    return 1.2 * (x * np.cos(angle) + y * np.sin(angle))


@lru_cache(maxsize=None)
def photograph(name: str) -> Image.Image:
    """A photograph from scikit-image's own package data, never from the network."""
    from skimage import data

    with Image.open(f"{data.__path__[0]}/{name}") as image:
        return image.convert("RGB")


def photo(random: np.random.RandomState, size: int) -> np.ndarray:
    """A crop, reduced in size, saturation and contrast, (size, size, 3) in [0, 1]."""
    image = photograph(PHOTOS[random.randint(len(PHOTOS))])
    side = int(random.uniform(0.55, 0.95) * min(image.size))
    left, top = (random.randint(edge - side + 1) for edge in image.size)
    crop = image.resize((size // 2, size // 2), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    gray = pixels.mean(-1, keepdims=True)
    return 0.5 + PHOTO_CONTRAST * (gray + PHOTO_SATURATION * (pixels - gray) - 0.5)


def canvas(background: Background, size: int) -> np.ndarray:
    """The still canvas that the camera looks at, (size, size, 3) in [0, 1]."""
    random = np.random.RandomState(background.seed)
    if background.texture == "photo":
        return photo(random, size)
    pattern = {"clouds": clouds, "stripes": stripes, "checks": checks, "gradient": gradient}[background.texture]
    return np.clip(two_tones(background.tone, pattern(random, size)), 0, 1)


def film(background: Background, frames: int, size: int, shown: range) -> np.ndarray:
    """The `shown` frames of a `frames` long shot by a camera that pans, (len(shown), size, size, 3) in [0, 1]."""
    reach = [abs(speed) * (frames - 1) for speed in background.pan]
    wide = canvas(background, size + max(reach)).astype(np.float32)
    corners = [[(k if speed > 0 else frames - 1 - k) * abs(speed) for k in shown] for speed in background.pan]
    return np.stack([wide[top : top + size, left : left + size] for left, top in zip(*corners)])
