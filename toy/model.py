"""The toy's two networks as diffusers classes: the same architecture as Wan 2.1 T2V, far smaller."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from .captions import TEXT_DIM

# Both hosts derive these from the weights: heads = dim / 128 and the VAE's width from its first convolution.
TRANSFORMER = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    text_dim=TEXT_DIM,
    freq_dim=256,
    ffn_dim=768,
    num_layers=6,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
    rope_max_seq_len=1024,
)
VAE = dict(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])


def new_transformer() -> WanTransformer3DModel:
    """A randomly initialised toy transformer (7.2 M parameters)."""
    return WanTransformer3DModel(**TRANSFORMER)


def new_vae() -> AutoencoderKLWan:
    """A randomly initialised toy VAE."""
    return AutoencoderKLWan(**VAE)


class PlainAttention:
    """Wan attention written as two matrix products: on a CPU its backward pass is faster than the flash kernel's."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(context))
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(context)))
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        query, key, value = (x.transpose(1, 2).to(value.dtype) for x in (query, key, value))
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(-1).to(value.dtype)
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of neighbouring pairs, (B, L, heads, D) by cos, sin (1, L, 1, D) that repeat each pair's value."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
