"""Finds a video model by name: the toy that comes with the code, or Wan weights in diffusers' format."""

from __future__ import annotations

import torch
from diffusers import WanPipeline
from torch import Tensor

from .errors import ModelError
from .models import VideoModel
from .toyworld import toy_model

TOY = "toy"
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(name: str, *, device: str = "auto", dtype: str = "auto") -> VideoModel:
    """`toy`, a folder, or a hub name with a Wan 2.1 text-to-video model in diffusers' format. Raises ModelError."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    place = _device(device)
    if name == TOY:
        return toy_model(place)
    return _from_pretrained(name, place, DTYPES[dtype] or (torch.float32 if place.type == "cpu" else torch.bfloat16))


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here ({error}); try --device cpu") from error


def _from_pretrained(name: str, device: torch.device, dtype: torch.dtype) -> VideoModel:
    try:
        pipeline = WanPipeline.from_pretrained(name, torch_dtype=dtype)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"no Wan model could be loaded from {name!r}: {error}\nGive a folder in diffusers' format (with model_index.json) or a "
            f"hub name such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers; text needs `pip install transformers ftfy`"
        ) from error
    if getattr(pipeline, "transformer_2", None) is not None:
        raise ModelError(f"{name!r} has two experts (Wan 2.2); this command edits with one transformer, use a Wan 2.1 model")
    _check_family(name, pipeline.transformer)
    pipeline.vae.to(device, torch.float32)
    pipeline.transformer.to(device)

    def encode_text(prompt: str) -> Tensor:
        return pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, device=pipeline.text_encoder.device)[0].to(device)

    shift = getattr(pipeline.scheduler.config, "flow_shift", 3.0)
    return VideoModel(pipeline.transformer, pipeline.vae, encode_text, shift=float(shift), cfg=5.0)


def _check_family(name: str, transformer) -> None:
    if transformer.config.in_channels != transformer.config.out_channels:
        raise ModelError(
            f"the transformer of {name!r} reads {transformer.config.in_channels} channels and writes "
            f"{transformer.config.out_channels}: an image-to-video model; use a text-to-video one"
        )
