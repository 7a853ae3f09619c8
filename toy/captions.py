"""Captions of scenes, and the weight-free text encoder: each known word is one fixed vector of signs."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
import torch

from .backgrounds import TEXTURES, TONES
from .scenes import RADII, SIZE, Scene
from .shapes import COLORS, SHAPES

TEXT_DIM, TEXT_TOKENS = 4096, 12
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
COURSES = ("still", "rightwards", "downwards", "leftwards", "upwards")
PANS = ("panning",)
OTHERS = ("ball", "nothing")
VOCABULARY = (*RADII, *COLORS, *SHAPES, *ROWS, *COLUMNS, *COURSES, *TONES, *TEXTURES, *PANS, *OTHERS)
SILENT = ("a", "an", "the", "at", "over", "of", "and", "with", "white", "drifting", "camera")
STILL_PIXELS = 12.0


class UnknownWordError(ValueError):
    """A prompt has a word that the small world's text encoder does not know."""


def caption(told: Scene) -> str:
    """What a scene shows, in the small vocabulary."""
    ground = told.background
    where = ground.texture if ground.texture == "photo" else f"{ground.tone} {ground.texture}"
    words = [subject(told), f"over {where}"]
    words += ["panning camera"] if any(ground.pan) else []
    words += ["and a white ball"] if told.ball is not None else []
    return " ".join(words)


def subject(told: Scene) -> str:
    if told.thing is None:
        return "nothing"
    size = next(name for name, (low, high) in RADII.items() if low <= told.radius <= high)
    (left, top), (right, bottom) = told.path[0], told.path[-1]
    row, column = (min(2, int(3 * (a + b) / 2 / SIZE)) for a, b in ((top, bottom), (left, right)))
    place = f"{ROWS[row]} {COLUMNS[column]}"
    return f"a {size} {told.color} {told.shape} at {place} {course(right - left, bottom - top)}"


def course(x: float, y: float) -> str:
    """The word for a displacement in pixels."""
    if max(abs(x), abs(y)) < STILL_PIXELS:
        return "still"
    return "drifting " + ("rightwards", "downwards", "leftwards", "upwards")[round(np.arctan2(y, x) / (np.pi / 2)) % 4]


def word_vector(word: str) -> np.ndarray:
    """(4096,) of -1 and 1, read from the word's SHAKE-256 digest, so the same everywhere and for ever."""
    digest = np.frombuffer(hashlib.shake_256(word.encode()).digest(TEXT_DIM // 8), np.uint8)
    return np.unpackbits(digest).astype(np.float32) * 2 - 1


def token_ids(prompt: str) -> list[int]:
    """Places in the vocabulary, counted from 1, of a prompt's words that carry meaning."""
    words = [word for word in re.findall(r"[a-z]+", prompt.lower()) if word not in SILENT]
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise UnknownWordError(f"the toy model does not know {', '.join(unknown)}; its words are {', '.join(VOCABULARY)}")
    if len(words) > TEXT_TOKENS:
        raise UnknownWordError(f"the prompt has {len(words)} words that count, the toy model reads {TEXT_TOKENS}; shorten it")
    return [VOCABULARY.index(word) + 1 for word in words]


@lru_cache(maxsize=1)
def embeddings() -> torch.Tensor:
    """(1 + words, 4096): zeros for the empty place, then one vector for each word of the vocabulary."""
    rows = np.stack([word_vector(word) for word in VOCABULARY])
    return torch.from_numpy(np.concatenate([np.zeros_like(rows[:1]), rows]))


def encode(prompt: str) -> torch.Tensor:
    """(1, 12, 4096) float32: one row a word, then zeros. The empty prompt (the unconditional row) is all zeros."""
    ids = token_ids(prompt)
    return embeddings()[torch.tensor(ids + [0] * (TEXT_TOKENS - len(ids)))].unsqueeze(0)
