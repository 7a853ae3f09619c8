"""KV-Lock Mask: which tokens may change, seen over the source."""

import torch
from comfy_api.latest import io, ui
from einops import rearrange, repeat

from ..kvlock_core import grow_mask, invert_mask, latent_mask, token_mask
from .host.models import family_of
from .host.source import mask_frames
from .schema import schema

#: Colour of what may change, and how much of the picture shows through.
TINT, OPACITY = (1.0, 0.25, 0.1), 0.5
GREY = 0.5


class KVLockTokenMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockTokenMask",
            display_name="KV-Lock Mask",
            description="Shows which tokens of the model may change, over the source frames, and hands on the mask that does it. "
            "A token is the smallest piece the lock can tell apart: 16 x 16 pixels and 4 frames on Wan, 32 x 32 on Wan 2.2 5B.",
            search_aliases=["token mask", "mask preview", "grow mask", "edit mask"],
            inputs=[
                io.Model.Input("model", tooltip="The video model; tells the size of a token"),
                io.Mask.Input("edit_mask", tooltip="White may change. One frame, or one for every frame of the clip"),
                io.Image.Input("frames", optional=True, tooltip="The source frames, to see the mask on them"),
                io.Int.Input("grow", default=0, min=-512, max=512, tooltip="Widen the mask by this many pixels; negative shrinks, 0 leaves it"),
                io.Boolean.Input("invert", default=False, tooltip="Swap what may change and what is kept"),
                io.Boolean.Input("snap", default=False, tooltip="Hand on the mask in whole tokens, as shown, instead of the pixels painted"),
            ],
            outputs=[
                io.Mask.Output(display_name="edit_mask", tooltip="For Invert & Cache KV"),
                io.Image.Output(display_name="preview", tooltip="Every frame, tinted where tokens may change"),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model, edit_mask, grow, invert, snap, frames=None):
        mask = mask_frames(edit_mask)
        mask = invert_mask(mask) if invert else mask
        mask = grow_mask(mask, grow) if grow else mask
        shown = _in_tokens(mask, family_of(model.model), None if frames is None else tuple(frames.shape[:3]))
        preview = _over(frames, shown)
        return io.NodeOutput(shown if snap else mask, preview, ui=ui.PreviewImage(_first_middle_last(preview), cls=cls))


def _in_tokens(mask: torch.Tensor, family, clip: tuple[int, int, int] | None) -> torch.Tensor:
    """The mask as the model will see it, in pixels (F,H,W) again; `clip` is the size of the frames if they are known."""
    pixels = tuple(mask.shape) if clip is None else clip
    cells = _cells(pixels, family)
    edit = latent_mask(mask, temporal=family.temporal, spatial=family.spatial, size=cells)
    grid = [-(-size // step) for size, step in zip(cells, family.patch)]
    tokens = rearrange(token_mask(edit, family.patch), "(t h w) -> t h w", t=grid[0], h=grid[1])
    frame_of = [-(-frame // family.temporal) // family.patch[0] for frame in range(pixels[0])]
    height, width = (step * family.spatial for step in family.patch[1:])
    shown = repeat(tokens[frame_of], "f h w -> f (h p) (w q)", p=height, q=width)
    return shown[:, : pixels[1], : pixels[2]].contiguous()


def _cells(pixels: tuple[int, int, int], family) -> tuple[int, int, int]:
    """Size (T,h,w) of the latent of a clip: frame 0 alone, then groups (M1)."""
    frames, height, width = pixels
    return 1 + -(-(frames - 1) // family.temporal), -(-height // family.spatial), -(-width // family.spatial)


def _over(frames: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
    """Frames (F,H,W,3) with the mask (F,H,W) tinted; grey frames where none are given."""
    picture = torch.full((*mask.shape, 3), GREY) if frames is None else frames[..., :3]
    weight = OPACITY * mask.unsqueeze(-1).to(picture)
    return torch.lerp(picture, torch.tensor(TINT).to(picture).expand_as(picture), weight.expand_as(picture))


def _first_middle_last(frames: torch.Tensor) -> torch.Tensor:
    """What fits under a node; the socket has every frame."""
    last = len(frames) - 1
    return frames[sorted({0, last // 2, last})]
