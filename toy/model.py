"""The toy's two networks as diffusers classes: the same architecture as Wan 2.1 T2V, far smaller."""

from __future__ import annotations

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
