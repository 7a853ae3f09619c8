"""A threshold for this model, this clip, this schedule: read off one run (M6, ours)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from .errors import SettingsError
from .schedule import LockSchedule
from .trace import RunTrace

#: Relative width at which the search for tau stops.
_PRECISION = 1e-4


@dataclass(frozen=True)
class Calibration:
    """Risks that the active steps of a run would lock by, in the risk's own unit, and the tau that they suggest.

    `steps`: how many active steps had a known risk. `tau` gives them the mean alpha `mean_alpha`.
    """

    steps: int
    least: float
    median: float
    most: float
    mean_alpha: float
    tau: float


def calibrate(trace: RunTrace, lock: LockSchedule, mean_alpha: float | None = None) -> Calibration:
    """tau for `lock`, so that alpha is `mean_alpha` on the average over its active steps; None = half-way from floor to ceiling.

    `trace` of a run that measured the risk, best without a lock. alpha of a step follows the risk of the step before
    (M6), so that is what counts; steps without a known risk are left out, `floor` and `ceiling` hold. Raises
    SettingsError if no active step has a risk above 0, or if floor and ceiling rule `mean_alpha` out.
    """
    mean_alpha = (lock.floor + lock.ceiling) / 2 if mean_alpha is None else mean_alpha
    risks = sorted(_acting_risks(trace, lock))
    if not risks or risks[-1] <= 0.0:
        raise SettingsError(
            f"{len(risks)} of {len(trace.steps)} steps have a risk to lock by in {lock.start_percent} .. {lock.end_percent}; "
            "run more steps, watch the edit mask's region, or widen the active range"
        )
    if not lock.floor < mean_alpha < lock.ceiling:
        raise SettingsError(f"mean alpha {mean_alpha} is not between floor {lock.floor} and ceiling {lock.ceiling}")
    tau = _tau_for(risks, lock, mean_alpha)
    return Calibration(len(risks), risks[0], statistics.median(risks), risks[-1], mean_alpha, tau)


def _acting_risks(trace: RunTrace, lock: LockSchedule) -> list[float]:
    """Risk that each active step of the trace locks by, where it is known."""
    steps, total = trace.steps, len(trace.steps)
    pairs = zip(steps, steps[1:])
    return [before.risk for before, step in pairs if lock.is_active(step.step, total) and before.risk is not None]


def _tau_for(risks: list[float], lock: LockSchedule, mean_alpha: float) -> float:
    """Bisection on a logarithmic scale: the mean of alpha falls as tau rises."""

    def mean_at(tau: float) -> float:
        return sum(min(max(risk / tau, lock.floor), lock.ceiling) for risk in risks) / len(risks)

    low, high = risks[-1] * 1e-9, risks[-1] / (mean_alpha * 1e-3)
    while high / low > 1.0 + _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_at(middle) > mean_alpha else (low, middle)
    return high
