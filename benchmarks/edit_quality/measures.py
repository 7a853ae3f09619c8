"""What is measured of one edit, as plain numbers."""

from __future__ import annotations

import statistics

from torch import Tensor

from kvlock_core import fidelity, psnr
from toy.classify import look

from .cases import succeeds
from .task import Task


def measure(task: Task, frames: Tensor) -> dict:
    """`frames` (F,H,W,3) of an edit. drift, seam, flicker in 1/255; psnr and answer in dB; right is 0 or 1.

    drift: mean size of the background's colour change per frame and channel. answer: PSNR inside the edit mask against
    the exact counterfactual.
    """
    kept = fidelity(frames, task.clip, task.mask)
    goal, seen = task.case.goal, look(frames.numpy(), task.mask.numpy())
    return {
        "psnr": kept.psnr,
        "psnr_worst_frame": kept.psnr_worst_frame,
        "ssim": kept.ssim,
        "drift": 255 * statistics.fmean(abs(value) for value in kept.color_drift),
        "seam": 255 * kept.seam,
        "flicker": 255 * abs(kept.flicker_background),
        "answer": psnr(frames, task.answer, 1 - task.mask),
        "right": int(succeeds(goal, seen)),
        "color_right": int(seen.color == goal.color),
        "shape_right": int(seen.shape == goal.shape),
    }
