"""From pixels to latent cells to tokens (M1), arXiv 2603.09657. Masks are 1 where the clip may change.

Always by maximum, never by an average: a token is editable if and only if any pixel it covers is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from .errors import MaskError
from .types import EDITABLE_FROM


def latent_mask(
    edit_mask: Tensor,
    *,
    temporal: int = 4,
    spatial: int = 8,
    size: tuple[int, int, int] | None = None,
    soft: bool = False,
) -> Tensor:
    """Edit mask of the pixels -> edit mask of the latent cells (M1).

    `edit_mask` (F,H,W), bool, integer or float in [0,1]. Latent frame 0 covers pixel frame 0, latent frame k >= 1
    covers frames `temporal*(k-1)+1 .. temporal*k` (causal video VAE); a last group may be shorter. One cell covers
    `spatial` x `spatial` pixels; border cells may be smaller.
    `size` (T,h,w): the latent to match; a mask of any pixel size is brought to h x w by maximum over what each cell
    touches, and a mask of one frame holds for all T. Ours: pixels count as editable from 0.5 on, `soft` keeps values.
    Returns (T,h,w) float32. Raises MaskError.
    """
    pixels = _checked(edit_mask, "edit mask (F,H,W)")
    _check_whole(temporal=temporal, spatial=spatial)
    cells = _pool_space(_pool_time(pixels, temporal), spatial, size)
    cells = cells if size is None else _match_frames(cells, size[0], pixels.shape[0])
    return cells if soft else _hard(cells)


def token_mask(latent_mask: Tensor, patch: tuple[int, int, int] = (1, 2, 2)) -> Tensor:
    """Edit mask of the latent cells (T,h,w) -> edit mask of the tokens (L,), in (t,h,w) order (M1).

    `patch` is the model's patch size (paper: Wan, 1x2x2). Sizes that it does not divide are padded at the end with
    cells that are not editable. Values are kept, so a soft latent mask gives a soft token mask.
    Returns (L,) float32 with L = ceil(T/p_t) * ceil(h/p_h) * ceil(w/p_w). Raises MaskError.
    """
    cells = _checked(latent_mask, "latent mask (T,h,w)")
    _check_triple(patch, ("patch_t", "patch_h", "patch_w"))
    # ceil_mode pads at the end with -inf, which a maximum over [0,1] cannot tell from 0
    pooled = F.max_pool3d(cells[None], tuple(patch), ceil_mode=True)[0]
    return rearrange(pooled, "t h w -> (t h w)")


def grow_mask(edit_mask: Tensor, pixels: int) -> Tensor:
    """Grow (`pixels` > 0) or shrink (< 0) an edit mask (F,H,W) by a disc of that radius, frame by frame.

    The frame's border neither grows nor shrinks anything. Returns (F,H,W) float32. Raises MaskError.
    Ours: a disc is a stack of horizontal bars, so its dilation is a maximum of shifted one-row maxima; that needs
    one extra mask of memory, where an unfolded structuring element needs (2r+1)^2 of them.
    """
    mask = _checked(edit_mask, "edit mask (F,H,W)")
    if isinstance(pixels, bool) or not isinstance(pixels, int):
        raise MaskError(f"cannot grow a mask by {pixels!r} pixels; give a whole number (negative shrinks)")
    return _dilate(mask, pixels) if pixels >= 0 else 1.0 - _dilate(1.0 - mask, -pixels)


def invert_mask(edit_mask: Tensor) -> Tensor:
    """1 - mask, as float32, any of (F,H,W). Raises MaskError."""
    return 1.0 - _checked(edit_mask, "edit mask (F,H,W)")


def mask_coverage(mask: Tensor) -> float:
    """Mean of a mask of any shape, in [0,1]: 0.0 nothing may change, 1.0 everything may. Raises MaskError if empty."""
    if mask.numel() == 0:
        raise MaskError(f"mask of shape {tuple(mask.shape)} has no elements; give one with at least one pixel")
    return float(mask.to(torch.float64).mean())


def _checked(mask: Tensor, name: str) -> Tensor:
    """The mask as float32, or MaskError."""
    if not isinstance(mask, Tensor):
        raise MaskError(f"{name} is a {type(mask).__name__}; give a torch tensor")
    if mask.ndim != 3 or mask.numel() == 0:
        raise MaskError(f"{name} has shape {tuple(mask.shape)}; give three non-empty axes (frames, height, width)")
    if mask.is_complex():
        raise MaskError(f"{name} has dtype {mask.dtype}; give bool, integer or float")
    low, high = (float(v) for v in torch.aminmax(mask.to(torch.float32)))
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails
        raise MaskError(f"{name} has values from {low} to {high}; scale it to 0 (keep) .. 1 (may change), without NaN")
    return mask.to(torch.float32)


def _check_whole(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise MaskError(f"{name} is {value!r}; give a whole number >= 1")


def _pool_time(pixels: Tensor, temporal: int) -> Tensor:
    """(F,H,W) -> (T,H,W): frame 0 alone, then maxima over groups of `temporal` frames."""
    first, rest = pixels[:1], pixels[1:]
    groups = [group.amax(0, keepdim=True) for group in rest.split(temporal)] if len(rest) else []
    return torch.cat([first, *groups])


def _pool_space(frames: Tensor, spatial: int, size: tuple[int, int, int] | None) -> Tensor:
    """(T,H,W) -> (T,h,w) by maximum over each cell."""
    if size is None:
        return F.max_pool2d(frames[None], spatial, ceil_mode=True)[0]
    _check_triple(size, ("latent frames", "latent height", "latent width"))
    return F.adaptive_max_pool2d(frames[None], tuple(size[1:]))[0]


def _check_triple(sizes: tuple[int, int, int], names: tuple[str, str, str]) -> None:
    if len(sizes) != 3:
        raise MaskError(f"{tuple(sizes)} has {len(sizes)} entries; give three: {', '.join(names)}")
    _check_whole(**dict(zip(names, sizes)))


def _match_frames(cells: Tensor, frames: int, pixel_frames: int) -> Tensor:
    """One frame is repeated; any other number must already be the latent's."""
    if pixel_frames == 1:
        return repeat(cells, "1 h w -> t h w", t=frames).contiguous()
    if cells.shape[0] != frames:
        raise MaskError(
            f"edit mask has {pixel_frames} frames = {cells.shape[0]} latent frames, but the latent has {frames}; "
            "give the mask of the same clip, or a mask of one frame to use it throughout"
        )
    return cells


def _hard(mask: Tensor) -> Tensor:
    return (mask >= EDITABLE_FROM).to(torch.float32)


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Maximum over a disc: for each row offset, a bar as wide as the disc is there."""
    grown = mask.clone()
    height = mask.shape[1]
    for dy in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        reach = math.isqrt(radius * radius - dy * dy)
        bar = F.max_pool1d(mask, 2 * reach + 1, stride=1, padding=reach)
        target, moved = (grown[:, dy:], bar[:, : height - dy]) if dy >= 0 else (grown[:, :dy], bar[:, -dy:])
        torch.maximum(target, moved, out=target)
    return grown


def lockable_positions(tokens: Tensor) -> Tensor | None:
    """Positions (n,) of the tokens that a lock can reach, those of `tokens` (L,) below 1; None where that is all of them."""
    if bool((tokens < 1).all()):
        return None
    return (tokens < 1).nonzero().squeeze(1)
