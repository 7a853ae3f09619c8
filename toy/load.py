"""Loads the committed weights, kept in Wan 2.1's original layout, into diffusers' classes. Never asks a hub."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file

from .model import new_transformer, new_vae

WEIGHTS = Path(__file__).parent / "weights"
TRANSFORMER_FILE, VAE_FILE = "kvlock_toy_wan_t2v_fp16.safetensors", "kvlock_toy_wan_vae_fp16.safetensors"


def load_transformer(folder: Path = WEIGHTS) -> WanTransformer3DModel:
    """The trained toy transformer in float32, ready to sample."""
    return _filled(new_transformer(), convert_wan_transformer_to_diffusers(load_file(folder / TRANSFORMER_FILE)))


def load_vae(folder: Path = WEIGHTS) -> AutoencoderKLWan:
    """The trained toy VAE in float32."""
    return _filled(new_vae(), convert_wan_vae_to_diffusers(load_file(folder / VAE_FILE)))


def _filled(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    module.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    return module.eval().requires_grad_(False)
