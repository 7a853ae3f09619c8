"""The toy model and its clips. The only file of this package that names `toy`."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlock_core import KVLockError
from toy.captions import UnknownWordError, caption, encode
from toy.classify import Sighting, look
from toy.scenes import FPS, Scene, edit_mask, render, scene
from toy.shapes import COLORS, SHAPES
from toy.load import load_transformer, load_vae

from .models import VideoModel

TOY_SHIFT, TOY_CFG = 3.0, 4.0

__all__ = [
    "COLORS", "FPS", "SHAPES", "Scene", "Sighting", "ToyPromptError",
    "caption", "clip", "look", "mask", "retold", "scene", "toy_model",
]  # fmt: skip


class ToyPromptError(KVLockError, ValueError):
    """A prompt uses words that the toy model never learned."""


def toy_model(device: torch.device) -> VideoModel:
    """The weights in `toy/weights`, in float32."""
    return VideoModel(load_transformer().to(device), load_vae().to(device), encode_text, TOY_SHIFT, TOY_CFG)


def encode_text(prompt: str) -> Tensor:
    try:
        return encode(prompt)
    except UnknownWordError as error:
        raise ToyPromptError(str(error)) from error


def clip(told: Scene) -> Tensor:
    """Frames (17,128,128,3) in [0,1]."""
    return torch.from_numpy(render(told))


def mask(told: Scene, retold: Scene) -> Tensor:
    """Edit mask (17,128,128) of one telling turned into another."""
    return torch.from_numpy(edit_mask(told, retold))


def retold(told: Scene, color: str | None = None, shape: str | None = None) -> Scene:
    """The same scene with another colour or shape; without either, with the next colour of the palette."""
    if color is None and shape is None:
        names = list(COLORS)
        color = names[(names.index(told.color) + 2) % len(names)]
    recolored = told if color is None else told.recolored(color)
    return recolored if shape is None else recolored.reshaped(shape)
