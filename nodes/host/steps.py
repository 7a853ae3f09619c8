"""Which step of which schedule a noise level belongs to, when a sampler shows only noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Samplers start a hair below the first level (SDE solvers) and round levels on their way through devices.
LEVEL_TOLERANCE = 1e-4
#: A schedule that starts this close to pure noise is taken to start there.
TOP_TOLERANCE = 1e-2

_BISECTIONS = 40


@dataclass(frozen=True)
class Timeline:
    """Falling noise levels of one sampling call, as steps `first` .. of a whole run of `total` steps."""

    levels: tuple[float, ...]
    first: int
    total: int

    @property
    def ends_clean(self) -> bool:
        return self.levels[-1] == 0.0

    def step(self, sigma: float) -> int:
        """The step whose interval holds `sigma`; evaluations between two levels belong to the upper one."""
        below = (i for i, level in enumerate(self.levels[1:], 1) if level < sigma * (1.0 - LEVEL_TOLERANCE))
        return self.first + next(below, len(self.levels) - 1) - 1


def timeline(levels: Sequence[float], model_sampling) -> Timeline:
    """A whole schedule counts its own steps. A part of one (KSamplerAdvanced, SplitSigmas, denoise < 1) is placed by the
    share of the model's time that it covers, which for evenly spaced schedulers gives back the step numbers."""
    levels = tuple(float(level) for level in levels)
    steps = len(levels) - 1
    start, end = _percent(levels[0], model_sampling), 1.0 if levels[-1] == 0.0 else _percent(levels[-1], model_sampling)
    if start <= TOP_TOLERANCE and end == 1.0:
        return Timeline(levels, 0, steps)
    total = max(round(steps / max(end - start, 1e-6)), steps)
    return Timeline(levels, min(round(start * total), total - steps), total)


def _percent(sigma: float, model_sampling) -> float:
    """The inverse of the host's `percent_to_sigma`, which falls from 0 (noise) to 1 (clean)."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(model_sampling.percent_to_sigma(middle)) > sigma else (low, middle)
    return (low + high) / 2
