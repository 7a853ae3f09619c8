"""Wan 2.1's original key names for diffusers' modules, so that other hosts' stock loaders take the toy weights.

Reading goes the other way through diffusers' own converters; a test holds that the two are inverse.
"""

from __future__ import annotations

import re

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

State = dict[str, torch.Tensor]

TRANSFORMER_NAMES = (
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
    (r"\.scale_shift_table", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    # diffusers numbers the norms in the order of use, Wan in the order of definition
    (r"\.norm2\.", ".norm3."),
)
VAE_NAMES = (
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
)
RESIDUAL_NAMES = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
# Wan's decoder is one flat list: three residual blocks and a resampler for each resolution but the last.
BLOCKS_PER_LEVEL = 4


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def original_transformer(state: State) -> State:
    """A diffusers Wan transformer's weights under Wan's own names."""
    return {renamed(name, TRANSFORMER_NAMES): value for name, value in state.items()}


def original_vae(state: State) -> State:
    """A diffusers Wan VAE's weights under Wan's own names."""
    return {_vae_name(name): value for name, value in state.items()}


def _vae_name(name: str) -> str:
    name = re.sub(r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", _flat_place, name)
    if ".residual" not in name and re.search(r"\.(down_blocks|upsamples|resnets)\.", name):
        name = renamed(name, RESIDUAL_NAMES)
    return renamed(name, VAE_NAMES)


def _flat_place(found: re.Match) -> str:
    level, kind, place = int(found[1]), found[2], int(found[3])
    return f".upsamples.{level * BLOCKS_PER_LEVEL + (BLOCKS_PER_LEVEL - 1 if kind == 'upsamplers' else place)}."


def fold_normalisation(state: State, mean: torch.Tensor, std: torch.Tensor) -> State:
    """Weights of a VAE (diffusers names) whose latents have the spread that Wan's hosts expect.

    `state` writes and reads latents z; the result writes and reads `z * std + mean`, which hosts normalise back to z.
    The encoder's log variance becomes a constant, since hosts use the mean alone. `mean`, `std` (16,).
    """
    folded = dict(state)
    wide, channels = std.view(-1, 1, 1, 1, 1), len(std)
    weight, bias = state["quant_conv.weight"], state["quant_conv.bias"]
    folded["quant_conv.weight"] = torch.cat([weight[:channels] * wide, torch.zeros_like(weight[channels:])])
    folded["quant_conv.bias"] = torch.cat([bias[:channels] * std + mean, torch.full_like(bias[channels:], -20.0)])
    weight = state["post_quant_conv.weight"] / std.view(1, -1, 1, 1, 1)
    folded["post_quant_conv.weight"] = weight
    folded["post_quant_conv.bias"] = state["post_quant_conv.bias"] - weight.flatten(1) @ mean
    return folded


def latent_statistics(vae: AutoencoderKLWan) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each of Wan's 16 latent channels, the constants that every host carries."""
    return torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
