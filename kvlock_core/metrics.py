"""How well the background of an edited clip was kept.

Clips (F,H,W,3) float in [0,1], edit masks (F,H,W), 1 = may change.

Every mean runs over the pixels it speaks of and no others. Multiplying both clips by the background and averaging over
the whole frame, as some benchmarks do, counts masked pixels as perfect: +3 dB at half the area.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from kornia.metrics import ssim as ssim_map
from torch import Tensor

from .errors import MetricError
from .tokens import grow_mask
from .types import EDITABLE_FROM

#: Gaussian window of SSIM, 11 px (Wang et al. 2004); half of it reaches over a mask border, hence the erosion.
SSIM_WINDOW = 11
SSIM_ERODE = SSIM_WINDOW // 2

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Fidelity:
    """All measures of one edit. None where one is undefined (one frame, no edited pixel, nothing left by erosion).

    psnr, psnr_worst_frame: dB on the background, inf if identical. ssim: eroded background. color_drift: mean over the
    frames, per channel; drift_slope: its change per frame. seam: intensity per pixel. flicker_*: intensity per frame.
    """

    background_share: float
    psnr: float
    psnr_worst_frame: float
    ssim: float | None
    color_drift: Triple
    drift_slope: Triple | None
    seam: float | None
    flicker_background: float | None
    flicker_edit: float | None

    def to_dict(self) -> dict:
        return asdict(self)


def fidelity(edited: Tensor, source: Tensor, edit: Tensor) -> Fidelity:
    """Every measure of this module at once. Raises MetricError for other shapes or without any background."""
    keep = _background(edited, source, edit)
    drift = color_drift(edited, source, edit)
    return Fidelity(
        background_share=float(keep.double().mean()),
        psnr=psnr(edited, source, edit),
        psnr_worst_frame=min(v for v in psnr_per_frame(edited, source, edit) if not math.isnan(v)),
        ssim=_or_none(background_ssim, edited, source, edit),
        color_drift=tuple(drift.nanmean(0).tolist()),
        drift_slope=_or_none(lambda: tuple(drift_slope(drift).tolist())),
        seam=_or_none(seam_mismatch, edited, source, edit),
        flicker_background=_or_none(flicker, edited, source, keep),
        flicker_edit=_or_none(flicker, edited, source, ~keep),
    )


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB over the pixels outside the edit mask; inf if identical. Raises MetricError."""
    keep = _background(a, b, mask)
    return _decibel(float(_square_error(a, b)[keep].mean()))


def psnr_per_frame(a: Tensor, b: Tensor, mask: Tensor | None = None) -> tuple[float, ...]:
    """`psnr` of each frame; NaN for a frame without background. Raises MetricError."""
    keep, error = _background(a, b, mask), _square_error(a, b)
    return tuple(_decibel(float(e[k].mean())) for e, k in zip(error, keep))


def background_ssim(a: Tensor, b: Tensor, edit: Tensor, erode: int = SSIM_ERODE) -> float:
    """Mean of the SSIM map over the background shrunk by `erode` px, so that no window sees the edit.

    Raises MetricError, also if nothing is left or a frame is smaller than half the window.
    """
    _background(a, b, edit)
    if min(a.shape[1:3]) <= SSIM_WINDOW // 2:
        raise MetricError(f"frames of {tuple(a.shape[1:3])} px are too small for SSIM; give over {SSIM_WINDOW // 2}")
    # by a square, as the window is one: a disc of 5 px would let its corners see the edit
    near = F.max_pool2d(edit.float(), 2 * erode + 1, stride=1, padding=erode)
    keep = near < EDITABLE_FROM
    _require_any(keep, f"background is left after shrinking it by {erode} px; lower erode")
    # frame by frame: the map needs about ten copies of what it is given
    maps = (_frame_ssim(x, y)[k] for x, y, k in zip(a, b, keep))
    return float(torch.cat([values.flatten() for values in maps]).mean())


def color_drift(edited: Tensor, source: Tensor, edit: Tensor) -> Tensor:
    """Signed mean of edited - source over the background, per frame and channel: (F,3), NaN without background.

    Raises MetricError.
    """
    keep = _background(edited, source, edit)
    difference = edited.double() - source.double()
    return torch.stack([d[k].mean(0) for d, k in zip(difference, keep)])


def drift_slope(drift: Tensor) -> Tensor:
    """Least-squares change of a colour drift (F,3) per frame: (3,). Raises MetricError below two measured frames."""
    known = ~drift.isnan().any(1)
    if int(known.sum()) < 2:
        raise MetricError(f"{int(known.sum())} frames have a background; a slope needs two")
    frames = torch.arange(len(drift), dtype=drift.dtype, device=drift.device)[known]
    centred = (frames - frames.mean())[:, None]
    return (centred * drift[known]).sum(0) / centred.square().sum()


def seam_mismatch(edited: Tensor, source: Tensor, edit: Tensor, width: int = 3) -> float:
    """Mean |gradient of edited - gradient of source| in a ring of +-`width` px around the border of the edit mask.

    Gradients are differences of neighbouring pixels (intensity per px), both directions. A seam is a gradient the
    source does not have; a flat offset counts only where it starts. Raises MetricError without a border.
    """
    _background(edited, source, edit)
    ring = (grow_mask(edit, width) >= EDITABLE_FROM) & (grow_mask(edit, -width) < EDITABLE_FROM)
    _require_any(ring, "border of the edit mask is there to look for a seam at")
    change = edited.double() - source.double()  # the gradient is linear
    down, across = change.diff(dim=1).abs(), change.diff(dim=2).abs()
    pixels = (down[ring[:, 1:] & ring[:, :-1]], across[ring[:, :, 1:] & ring[:, :, :-1]])
    return float(torch.cat([p.flatten() for p in pixels]).mean())


def flicker(edited: Tensor, source: Tensor, region: Tensor) -> float:
    """Mean |frame-to-frame difference| of the edit minus that of the source, where `region` (F,H,W) is 1 in both.

    0 = as restless as the source, above = more. Raises MetricError without two frames that share a region.
    """
    _check_clips(edited, source, region)
    inside = region >= EDITABLE_FROM if region.dtype != torch.bool else region
    both = inside[1:] & inside[:-1]
    _require_any(both, "pixel lies in the region in two frames in a row; a flicker needs that")
    restless = (clip.double().diff(dim=0).abs()[both].mean() for clip in (edited, source))
    return float(next(restless) - next(restless))


def _background(a: Tensor, b: Tensor, edit: Tensor | None) -> Tensor:
    """(F,H,W) bool, True where the clip had to stay."""
    _check_clips(a, b, edit)
    if edit is None:
        return torch.ones(a.shape[:3], dtype=torch.bool, device=a.device)
    keep = ~edit if edit.dtype == torch.bool else edit < EDITABLE_FROM
    _require_any(keep, "background: the edit mask covers every pixel; measure with a smaller mask")
    return keep


def _check_clips(a: Tensor, b: Tensor, mask: Tensor | None) -> None:
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or a.numel() == 0:
        raise MetricError(f"clips {tuple(a.shape)} and {tuple(b.shape)}; give two of one shape (F,H,W,3)")
    if mask is not None and mask.shape != a.shape[:3]:
        raise MetricError(f"mask {tuple(mask.shape)} does not fit clips {tuple(a.shape)}; give (F,H,W) of their pixels")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise MetricError("a clip holds NaN or infinity; decode it again in higher precision")


def _require_any(pixels: Tensor, what: str) -> None:
    if not pixels.any():
        raise MetricError(f"no {what}")


def _square_error(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square()


def _decibel(mean_square_error: float) -> float:
    if mean_square_error == 0.0:
        return math.inf
    return -10.0 * math.log10(mean_square_error)


def _frame_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM map (H,W,3) of one frame (H,W,3)."""
    pair = (rearrange(x.float(), "h w c -> 1 c h w") for x in (a, b))
    return rearrange(ssim_map(*pair, SSIM_WINDOW), "1 c h w -> h w c")


def _or_none(measure, *clips) -> float | Triple | None:
    """None for a measure that these clips do not define; `fidelity` has checked their shapes before."""
    try:
        return measure(*clips)
    except MetricError:
        return None
