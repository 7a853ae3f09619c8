"""A threshold for this model, this clip, this schedule: read off one run (M6, ours)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from .errors import SettingsError
from .schedule import LockSchedule, lock_strength
from .trace import RunTrace

#: Relative width at which the search for tau stops.
_PRECISION = 1e-4


@dataclass(frozen=True)
class Calibration:
    """Risks that the active steps of a run would lock by, in the risk's own unit, and the tau that they suggest.

    `steps`: how many active steps had a known risk. `tau` gives them the mean alpha `mean_alpha`, over sigma.
    """

    steps: int
    least: float
    median: float
    most: float
    mean_alpha: float
    tau: float


def calibrate(trace: RunTrace, lock: LockSchedule, mean_alpha: float | None = None) -> Calibration:
    """tau for `lock`, so that alpha is `mean_alpha` on the average over the active part of the path.

    `trace` of a run that measured the risk, best without a lock. alpha of a step follows the risk of the step before
    (M6), so that is what counts; steps without a known risk are left out, `floor` and `ceiling` hold. The average runs
    over sigma, not over steps: a step counts by how far it moves, so tau does not depend on how a schedule spaces them.
    `mean_alpha` None = half-way from floor to ceiling. Raises SettingsError if no active step has a risk above 0, or if
    floor and ceiling rule `mean_alpha` out.
    """
    wanted = target_alpha(lock, mean_alpha)
    acting = _acting(trace, lock)
    risks = [risk for risk, _ in acting]
    if not any(risk > 0.0 for risk in risks):
        raise SettingsError(
            f"{len(risks)} of {len(trace.steps)} steps have a risk to lock by in {lock.start_percent} .. {lock.end_percent}; "
            "run more steps, watch the edit mask's region, or widen the active range"
        )
    return Calibration(len(risks), min(risks), statistics.median(risks), max(risks), wanted, _tau_for(acting, lock, wanted))


def target_alpha(lock: LockSchedule, mean_alpha: float | None = None) -> float:
    """The mean alpha that `calibrate` aims at. Raises SettingsError if floor and ceiling rule it out."""
    wanted = (lock.floor + lock.ceiling) / 2 if mean_alpha is None else mean_alpha
    if not lock.floor < wanted < lock.ceiling:
        raise SettingsError(f"mean alpha {wanted} is not between floor {lock.floor} and ceiling {lock.ceiling}")
    return wanted


def _acting(trace: RunTrace, lock: LockSchedule) -> list[tuple[float, float]]:
    """(risk that it locks by, how far it moves in sigma) of each active step whose risk is known.

    A trace of the first model of a run ends in its middle: how far its last step moves, it does not know.
    """
    steps, total = trace.steps, trace.total
    ends = [step.sigma for step in steps[1:]] + ([0.0] if steps and steps[-1].step + 1 == total else [])
    pairs = zip(steps, steps[1:], ends[1:])
    return [
        (before.risk, step.sigma - end)
        for before, step, end in pairs
        if lock.is_active(step.step, total) and before.risk is not None
    ]


def _tau_for(acting: list[tuple[float, float]], lock: LockSchedule, mean_alpha: float) -> float:
    """Bisection on a logarithmic scale: the mean of alpha falls as tau rises."""
    path = sum(length for _, length in acting)

    def mean_at(tau: float) -> float:
        return sum(lock_strength(risk, tau, lock.floor, lock.ceiling) * length for risk, length in acting) / path

    most = max(risk for risk, _ in acting)
    low, high = most * 1e-9, most / (mean_alpha * 1e-3)
    while high / low > 1.0 + _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_at(middle) > mean_alpha else (low, middle)
    return high
