"""Edit masks from files: (F,H,W) float32, 1 = may change."""

import numpy as np
import torch
from torch.nn.functional import adaptive_max_pool2d

from .color import luma
from .decode import decode
from .errors import MaskFileError

HARD = 0.5  # compression noise stays far from it on both sides
ASPECT_TOLERANCE = 0.02  # what rounding a size to a multiple of 16 costs at 832x480


def read_mask(path, *, frames, height, width, threshold=HARD, max_frames=None):
    """Reads an edit mask for a clip of `frames` x `height` x `width`. -> (F,H,W) float32 in [0,1], 1 = may change

    White may change, black is locked: the BT.709 luma of each pixel. If any pixel of the file is not
    opaque, its **alpha channel is the mask instead** (opaque may change) and the colours mean nothing: PNG and
    WebP with transparency, WebM with alpha. A GIF with transparent pixels counts as one.

    Values >= `threshold` become 1, others 0; None keeps soft values. A mask of one frame serves all frames.
    Another size is resized if its aspect ratio is the clip's within 2 %: a pixel may change if any mask
    pixel that it overlaps may (never a blur). `max_frames` reads only the first so many, as in `read_video`.
    Raises VideoReadError for the file, MaskFileError where it does not fit the clip.
    """
    planes, _ = decode(path, _luma_and_alpha, max_frames)
    mask = _chosen_channel(np.stack(planes))
    if threshold is not None:
        mask = (mask >= threshold).float()
    mask = _resized(mask, height, width, path)
    return _for_frames(mask, frames, path)


def _luma_and_alpha(rgba):
    """(H,W,4) -> (2,H,W)"""
    return np.stack([luma(rgba[..., :3]), rgba[..., 3]])


def _chosen_channel(planes):
    """(F,2,H,W) luma and alpha -> (F,H,W): alpha if it says anything, else luma."""
    brightness, alpha = planes[:, 0], planes[:, 1]
    return torch.from_numpy(alpha.copy() if alpha.min() < 1 else brightness.clip(0, 1))


def _resized(mask, height, width, path):
    _, own_height, own_width = mask.shape
    if (own_height, own_width) == (height, width):
        return mask
    if abs(own_width * height / (own_height * width) - 1) > ASPECT_TOLERANCE:
        raise MaskFileError(
            f"the mask {path} is {own_width}x{own_height}, the clip {width}x{height}: another aspect ratio; "
            "export the mask in the clip's size"
        )
    return adaptive_max_pool2d(mask, (height, width))


def _for_frames(mask, frames, path):
    count = mask.shape[0]
    if count not in (1, frames):
        raise MaskFileError(
            f"the mask {path} has {count} frames, the clip {frames}; export one mask frame per clip frame, "
            "or a single picture for all"
        )
    return mask.expand(frames, -1, -1).contiguous()
