"""Seeded clips of one object over a background, and the same scene told otherwise (the exact counterfactual)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .backgrounds import TEXTURES, TONES, Background, film
from .shapes import COLORS, SHAPES, Thing, coverage

FRAMES, SIZE, FPS = 17, 128, 8
SPLITS = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
SPLIT_SIZE = 10_000_000
RADII = {"small": (19, 23), "large": (27, 32)}
BALL_COLOR = (0.97, 0.97, 0.97)


@dataclass(frozen=True)
class Scene:
    """Everything that a clip shows; `color` and `shape` of the object are None when there is none."""

    shape: str | None
    color: str | None
    radius: float
    path: tuple[tuple[float, float], ...]
    background: Background
    ball: Thing | None

    @property
    def thing(self) -> Thing | None:
        if self.shape is None or self.color is None:
            return None
        return Thing(self.shape, COLORS[self.color], self.radius, self.path)

    def recolored(self, color: str) -> Scene:
        return replace(self, color=color)

    def reshaped(self, shape: str) -> Scene:
        return replace(self, shape=shape)

    def emptied(self) -> Scene:
        return replace(self, shape=None, color=None)


def split_seed(split: str, index: int) -> int:
    """The seed of clip `index` of a split; splits never share a seed."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if not 0 <= index < SPLIT_SIZE:
        raise ValueError(f"index {index} is outside 0 ... {SPLIT_SIZE - 1} of a split")
    return SPLITS[split] + index


def scene(split: str, index: int) -> Scene:
    """The scene of a seed, the same on every machine."""
    random = np.random.RandomState(split_seed(split, index))
    size = ("small", "large")[random.randint(2)]
    return Scene(
        shape=SHAPES[random.randint(len(SHAPES))],
        color=list(COLORS)[random.randint(len(COLORS))],
        radius=float(random.uniform(*RADII[size])),
        path=wander(random, 70),
        background=setting(random),
        ball=Thing("circle", BALL_COLOR, float(random.uniform(8, 11)), wander(random, 110)) if random.rand() < 0.2 else None,
    )


def setting(random: np.random.RandomState) -> Background:
    texture, tone = TEXTURES[random.randint(len(TEXTURES))], list(TONES)[random.randint(len(TONES))]
    pan = [0, 0]
    if random.rand() < 0.4:
        pan[random.randint(2)] = int(random.choice([-2, -1, 1, 2]))
    return Background(texture, tone, int(random.randint(2**31 - 1)), (pan[0], pan[1]))


def wander(random: np.random.RandomState, travel: float) -> tuple[tuple[float, float], ...]:
    """A straight, curved or accelerating path of up to `travel` pixels whose middle lies well inside the frame."""
    time = np.linspace(-0.5, 0.5, FRAMES)
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(0, travel)
    ahead, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    bend = {"straight": 0 * ahead, "curved": aside, "accelerating": ahead}
    kind = ("straight", "curved", "accelerating")[random.randint(3)]
    middle = random.uniform(0.25, 0.75, 2) * SIZE
    steps = middle + length * (time[:, None] * ahead + (time[:, None] ** 2 - 0.08) * bend[kind])
    return tuple((float(x), float(y)) for x, y in steps)


def render(told: Scene, shown: range = range(FRAMES)) -> np.ndarray:
    """The `shown` frames of a scene, (len(shown), 128, 128, 3) float32 in [0, 1]."""
    clip = film(told.background, FRAMES, SIZE, shown)
    for thing in (told.ball, told.thing):
        if thing is not None:
            share = thing_coverage(thing, shown)[..., None]
            clip = clip * (1 - share) + np.asarray(thing.color, np.float32) * share
    return clip.astype(np.float32)


def thing_coverage(thing: Thing, shown: range) -> np.ndarray:
    return coverage(thing._replace(path=[thing.path[k] for k in shown]), SIZE)


def object_mask(told: Scene) -> np.ndarray:
    """Pixels that the object touches, (17, 128, 128) float32 of 0 and 1."""
    if told.thing is None:
        return np.zeros((FRAMES, SIZE, SIZE), np.float32)
    return (coverage(told.thing, SIZE) > 0).astype(np.float32)


def edit_mask(told: Scene, retold: Scene) -> np.ndarray:
    """Pixels that the edit from one telling to another may change, (17, 128, 128): both objects' pixels."""
    return np.maximum(object_mask(told), object_mask(retold))
