"""Pictures of a run: the schedule as a chart, clips side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kvlock_core import RunTrace

LINES = (
    ("risk", "risk (log)", True),
    ("alpha", "alpha: lock strength", False),
    ("omega", "omega: CFG scale", False),
    ("s_star", "s_star: projection", False),
)
GAP, CAPTION_HEIGHT, BACKGROUND, INK = 6, 22, (250, 250, 250), (30, 30, 30)


def plot_traces(path: Path, traces: Mapping[str, RunTrace], tau: float) -> None:
    """A PNG with risk, alpha, omega and s_star of every step, one line a run; the active range is shaded."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    for axis, (field, title, is_log) in zip(figure.subplots(len(LINES), sharex=True), LINES):
        for name, trace in traces.items():
            _draw_line(axis, name, trace, field)
        _shade_active(axis, list(traces.values())[-1])
        axis.set_ylabel(title, fontsize=9)
        axis.grid(alpha=0.25)
        if is_log:
            axis.set_yscale("log")
            axis.axhline(tau, color="black", linestyle="--", linewidth=0.8, label=f"tau = {tau:g}")
            axis.legend(fontsize=8)
    axis.set_xlabel("step")
    figure.savefig(path, dpi=110)


def _draw_line(axis, name: str, trace: RunTrace, field: str) -> None:
    """What was not measured (None) leaves a gap."""
    points = [getattr(step, field) for step in trace.steps]
    axis.plot([np.nan if point is None else point for point in points], label=name, linewidth=1.6)


def _shade_active(axis, trace: RunTrace) -> None:
    active = [step.step for step in trace.steps if step.active]
    if active:
        axis.axvspan(active[0], active[-1], color="tab:green", alpha=0.08)


def side_by_side(clips: Mapping[str, Tensor], scale: int = 1) -> Tensor:
    """Clips (F,H,W,3) in [0,1] of one size, next to each other under their names: (F,H',W',3)."""
    panels = [_titled(clip, name, scale) for name, clip in clips.items()]
    gap = torch.tensor(BACKGROUND).div(255).expand(*panels[0].shape[:2], GAP, 3)
    return torch.cat([part for panel in panels for part in (panel, gap)][:-1], dim=2)


def _titled(clip: Tensor, name: str, scale: int) -> Tensor:
    large = repeat(clip, "f h w c -> f (h y) (w x) c", y=scale, x=scale)
    return torch.cat([_title(name, large.shape[2]).expand(len(large), -1, -1, -1), large], dim=1)


def _title(name: str, width: int) -> Tensor:
    """(22,width,3): the name, centred."""
    image = Image.new("RGB", (width, CAPTION_HEIGHT), BACKGROUND)
    ImageDraw.Draw(image).text((width / 2, CAPTION_HEIGHT / 2), name, INK, _font(), anchor="mm")
    return torch.from_numpy(np.asarray(image).copy()).float() / 255


def _font() -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships, so that pictures look the same everywhere."""
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 12)


def save_contact_sheet(path: Path, clips: Mapping[str, Tensor], frames: tuple[int, ...], scale: int = 1) -> None:
    """A PNG: one column a clip, one row a frame."""
    rows = side_by_side({name: clip[list(frames)] for name, clip in clips.items()}, scale)
    sheet = rearrange(torch.cat([rows[:1, :CAPTION_HEIGHT], *rows[:, None, CAPTION_HEIGHT:]], dim=1), "1 h w c -> h w c")
    Image.fromarray((sheet * 255).round().byte().numpy()).save(path, optimize=True)


def mask_over(frames: Tensor, mask: Tensor) -> Tensor:
    """The clip in grey with the edit mask (F,H,W) on top of it in colour."""
    gray = repeat(frames.mean(-1), "f h w -> f h w 3") * 0.6 + 0.2
    return torch.where(mask[..., None] > 0.5, gray * 0.35 + torch.tensor([1.0, 0.45, 0.1]) * 0.65, gray)
