"""A picture of a run trace, with the drawing library that every ComfyUI has."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..kvlock_core import RunTrace

# large type: the page shows this picture at half its size and less
WIDTH, PANEL, LEFT, RIGHT, TOP, GAP, TYPE = 640, 110, 84, 16, 34, 42, 22
INK, GRID, ACTIVE, PAPER = (32, 36, 44), (205, 210, 218), (232, 240, 252), (255, 255, 255)
#: field of a step, its label, its colour
PANELS = (
    ("risk", "risk", (214, 88, 46)),
    ("alpha", "alpha: lock strength", (38, 110, 200)),
    ("omega", "omega: CFG scale", (30, 145, 95)),
    ("s_star", "s_star: scale of the negative", (130, 80, 180)),
)


def draw(trace: RunTrace) -> torch.Tensor:
    """IMAGE (1,H,W,3) in [0,1]: one panel a quantity over the steps, the active range shaded, tau as a line."""
    canvas = Image.new("RGB", (WIDTH, len(PANELS) * (PANEL + GAP) + TOP), PAPER)
    pen = ImageDraw.Draw(canvas)
    for row, (name, label, colour) in enumerate(PANELS):
        panel = _Panel(pen, TOP + row * (PANEL + GAP), trace)
        panel.draw([getattr(step, name) for step in trace.steps], label, colour, _threshold(trace) if name == "risk" else None)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0).unsqueeze(0)


def _threshold(trace: RunTrace) -> float | None:
    schedule = trace.settings.get("lock") or trace.settings.get("guidance")
    return schedule["tau"] if schedule and schedule["kind"] == "risk" else None


class _Panel:
    """One quantity over the steps."""

    def __init__(self, pen: ImageDraw.ImageDraw, top: int, trace: RunTrace):
        self.pen, self.top, self.steps, self.font = pen, top, trace.steps, ImageFont.load_default(TYPE)

    def draw(self, values: list[float | None], label: str, colour: tuple[int, int, int], tau: float | None) -> None:
        known = [value for value in values if value is not None]
        high = max([*known, *([tau] if tau is not None else [])], default=1.0) * 1.05 or 1.0
        self._frame(label if known else f"{label}: does not apply", high)
        if tau is not None:
            self.pen.line([(LEFT, self._y(tau, high)), (WIDTH - RIGHT, self._y(tau, high))], fill=INK)
            self.pen.text((WIDTH - RIGHT - 100, max(self._y(tau, high) - TYPE - 4, self.top)), f"tau {tau:g}", fill=INK, font=self.font)
        points = [(self._x(i), self._y(value, high)) for i, value in enumerate(values) if value is not None]
        if len(points) > 1:
            self.pen.line(points, fill=colour, width=3)
        for x, y in points:
            self.pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)

    def _frame(self, label: str, high: float) -> None:
        for i, step in enumerate(self.steps):
            if step.active:
                self.pen.rectangle((self._x(i - 0.5), self.top, self._x(i + 0.5), self.top + PANEL), fill=ACTIVE)
        self.pen.rectangle((LEFT, self.top, WIDTH - RIGHT, self.top + PANEL), outline=GRID)
        self.pen.text((LEFT, self.top - TYPE - 6), label, fill=INK, font=self.font)
        self.pen.text((4, self.top - 4), f"{high:.3g}", fill=INK, font=self.font)
        self.pen.text((4, self.top + PANEL - TYPE), "0", fill=INK, font=self.font)

    def _x(self, index: float) -> float:
        share = (index + 0.5) / max(len(self.steps), 1)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - RIGHT - LEFT)

    def _y(self, value: float, high: float) -> float:
        return self.top + PANEL * (1.0 - min(max(value / high, 0.0), 1.0))
