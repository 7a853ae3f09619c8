"""A video model of a few thousand weights in diffusers' own classes, with unequal prime sizes where Wan allows them."""

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from kvlock_diffusers.models import VideoModel

CHANNELS, WORDS, TEXT_DIM = 3, 5, 8


def transformer(seed=0):
    torch.manual_seed(seed)
    net = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS,
        text_dim=TEXT_DIM, freq_dim=16, ffn_dim=20, num_layers=3, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # the default start is so small that attention hardly matters
    return net.eval().requires_grad_(False)


def vae(seed=0):
    torch.manual_seed(seed)
    return AutoencoderKLWan(
        base_dim=2, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, 0.0, -0.1], latents_std=[1.0, 2.0, 0.5],
    ).eval().requires_grad_(False)  # fmt: skip


def text(prompt):
    """(1,5,7), the same for the same prompt."""
    generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
    return torch.randn(1, WORDS, TEXT_DIM, generator=generator)


def video_model():
    return VideoModel(transformer(), vae(), text, shift=3.0, cfg=3.0)


def latent(seed=1, batch=1, size=(3, 4, 10)):
    """(batch,3,3,4,10): 3*2*5 tokens."""
    return torch.randn(batch, CHANNELS, *size, generator=torch.Generator().manual_seed(seed))


def save_pipeline(folder):
    """A whole Wan pipeline on disk in diffusers' format."""
    from diffusers import UniPCMultistepScheduler, WanPipeline
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = UMT5Config(vocab_size=len(words), d_model=TEXT_DIM, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    parts = dict(tokenizer=tokenizer, text_encoder=UMT5EncoderModel(config), transformer=transformer(), vae=vae())
    WanPipeline(**parts, scheduler=scheduler).save_pretrained(folder)
