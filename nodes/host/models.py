"""One row per model family: what KV-Lock must know about its token grid, and where that is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import UnsupportedModelError


@dataclass(frozen=True)
class ModelFamily:
    """`host_class` and `transformer` are class names, so that a row for a model that this ComfyUI lacks costs nothing.

    `patch` latent cells per token (t,h,w); `temporal`, `spatial` pixels per latent cell (M1).
    Every block calls self-attention once over all tokens of the clip, in (t,h,w) order, keys after RoPE.
    """

    name: str
    host_class: str
    transformer: str
    patch: tuple[int, int, int]
    temporal: int
    spatial: int
    source: str
    #: Blocks beside the main ones, which attend over the same tokens right after the main block of the same index.
    side_blocks: bool = False
    #: Outside a latent noise mask the host shows this model clean latents, and each frame a timestep lowered by the mask's share:
    #: right for a start image, wrong for a part of a frame.
    blends_clean: bool = False

    def fits(self, base_model) -> bool:
        classes = (type(base_model).__name__, type(base_model.diffusion_model).__name__)
        return classes == (self.host_class, self.transformer)

    def token_count(self, frames: int, height: int, width: int) -> int:
        """Tokens of a latent of `frames` x `height` x `width` cells."""
        return math.prod(math.ceil(size / step) for size, step in zip((frames, height, width), self.patch))


FAMILIES = (
    ModelFamily(
        name="Wan 2.1 and Wan 2.2 14B (T2V, I2V)",
        host_class="WAN21",
        transformer="WanModel",
        patch=(1, 2, 2),
        temporal=4,
        spatial=8,
        source="comfy/ldm/wan/model.py WanModel, comfy/sd.py VAE of latent format Wan21",
    ),
    ModelFamily(
        name="Wan 2.1 VACE",
        host_class="WAN21_Vace",
        transformer="VaceWanModel",
        patch=(1, 2, 2),
        temporal=4,
        spatial=8,
        source="comfy/ldm/wan/model.py VaceWanModel: vace_blocks run behind the main block whose index they share",
        side_blocks=True,
    ),
    ModelFamily(
        name="Wan 2.2 5B (TI2V)",
        host_class="WAN22",
        transformer="WanModel",
        patch=(1, 2, 2),
        temporal=4,
        spatial=16,
        source="comfy/model_base.py WAN22, comfy/latent_formats.py Wan22",
        blends_clean=True,
    ),
)


def attention_shape(base_model) -> tuple[int, int, int]:
    """Heads, their width, and blocks of the transformer of a known family."""
    transformer = base_model.diffusion_model
    return transformer.num_heads, transformer.dim // transformer.num_heads, len(transformer.blocks)


def family_of(base_model) -> ModelFamily:
    """The family of a ComfyUI `BaseModel`. Raises UnsupportedModelError."""
    for family in FAMILIES:
        if family.fits(base_model):
            return family
    transformer = type(getattr(base_model, "diffusion_model", None)).__name__
    known = "; ".join(family.name for family in FAMILIES)
    raise UnsupportedModelError(
        f"KV-Lock does not know the model {type(base_model).__name__} ({transformer}); it works with: {known}"
    )
