"""Any frame count and size -> what a video model takes, and back without touching a source pixel."""

import logging
from dataclasses import dataclass

import torch

from .errors import ClipTooShortError, FitError

logger = logging.getLogger("kvlock")

RULES = ("pad", "crop")


@dataclass(frozen=True)
class Fit:
    """How one clip is brought onto the model's grid. Make it with `Fit.plan`.

    Time, always: the last frame is repeated at the end up to `temporal * k + 1` frames, because the causal
    VAE codes the first frame alone and the others in groups of `temporal`.
    Space, rule `pad`: the last row and column are repeated at the bottom and the right up to a multiple of
    `multiple` (VAE stride 8 x patch 2 = 16); the output is cut back. Every source pixel is edited.
    Space, rule `crop`: the centre is cut out, down to a multiple; nothing is invented, and the output's
    border is the source's own.
    Either way the result has the source's exact frame count and size.
    """

    frames: int
    height: int
    width: int
    model_frames: int
    model_height: int
    model_width: int
    top: int
    left: int
    rule: str

    @classmethod
    def plan(cls, frames, height, width, *, temporal=4, multiple=16, rule="pad"):
        """Raises ClipTooShortError below `temporal + 1` frames, FitError for sizes and rules that do not exist."""
        _check_arguments(frames, height, width, temporal, multiple, rule)
        if frames < temporal + 1:
            raise ClipTooShortError(
                f"the clip's frame count is {frames}; a video edit needs at least {temporal + 1}: take a longer clip"
            )
        model_frames = _up(frames - 1, temporal) + 1
        if rule == "pad":
            return cls(frames, height, width, model_frames, _up(height, multiple), _up(width, multiple), 0, 0, rule)
        inner_height, inner_width = _cropped(height, width, multiple)
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        return cls(frames, height, width, model_frames, inner_height, inner_width, top, left, rule)

    @property
    def model_size(self):
        """(frames, height, width) of what the model sees."""
        return self.model_frames, self.model_height, self.model_width

    def apply(self, video):
        """(F,H,W,...) -> (F',H',W',...), each value a copy of a source value."""
        self._check(video, (self.frames, self.height, self.width), "the clip")
        starts = (0, self.top, self.left)
        for axis, (start, size) in enumerate(zip(starts, self.model_size)):
            last = video.shape[axis] - 1
            video = video.index_select(axis, torch.arange(start, start + size, device=video.device).clamp(max=last))
        return video

    def apply_mask(self, mask):
        """(F,H,W) edit mask -> (F',H',W'). What repeats a pixel that may change may change with it."""
        self._check(mask, (self.frames, self.height, self.width), "the edit mask")
        fitted = self.apply(mask)
        self._warn_if_cut(mask, mask[self._source_window()])
        return fitted

    def restore(self, edited, original):
        """(F',H',W',C) and the clip (F,H,W,C) -> (F,H,W,C) in the dtype of `edited`. restore(apply(x), x) is x."""
        self._check(edited, self.model_size, "the edited clip")
        self._check(original, (self.frames, self.height, self.width), "the original clip")
        if self.rule == "pad":
            return edited[: self.frames, : self.height, : self.width].clone()
        restored = original.to(edited, copy=True)
        restored[self._source_window()] = edited[: self.frames]
        return restored

    def _source_window(self):
        """The part of the clip that the model sees, as slices of (F,H,W)."""
        bottom, right = self.top + self.model_height, self.left + self.model_width
        return slice(None), slice(self.top, bottom), slice(self.left, right)

    def _check(self, tensor, expected, name):
        found = tuple(tensor.shape[:3])
        if found != expected:
            raise FitError(f"{name} is {found} (frames, height, width), this fit is for {expected}; plan a fit for it")

    def _warn_if_cut(self, mask, inner):
        marked, kept = int((mask > 0).sum()), int((inner > 0).sum())
        if kept < marked:
            lost = marked - kept
            logger.warning("the crop leaves %d of %d marked pixels unedited; rule 'pad' has no border", lost, marked)


def _check_arguments(frames, height, width, temporal, multiple, rule):
    if rule not in RULES:
        raise FitError(f"rule is {rule!r}; choose {' or '.join(RULES)}")
    named = {"frames": frames, "height": height, "width": width, "temporal": temporal, "multiple": multiple}
    for name, value in named.items():
        if value < 1 or value != int(value):
            raise FitError(f"{name} is {value}; give a whole number of at least 1")


def _cropped(height, width, multiple):
    inner = height // multiple * multiple, width // multiple * multiple
    if 0 in inner:
        raise FitError(f"{width}x{height} is smaller than one cell of {multiple}; use rule 'pad' or a larger clip")
    return inner


def _up(value, multiple):
    return -(-value // multiple) * multiple
