"""When to lock (M6) and how hard to guide (M7), arXiv 2603.09657. Plain numbers, no tensors.

Shape of the timed kinds over the active range, c = ceiling, f = floor:

    c |****             c |*
      |    ****           |  **         "linear", "cosine": c at the first active step, f at the last
      |        ****       |    **
    f |            *    f |      ****
       first    last       first  last
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import NonFiniteError, ScheduleError, SettingsError

#: Paper: tau = 0.01, for `PAPER_RISK`. It has no meaning of its own: see docs/method.md.
PAPER_TAU = 0.01
#: For the risk as a rate (mean square latent per unit of sigma squared): of a lock that holds the background alone, and
#: of guidance. Why these: docs/decisions.md.
LOCK_TAU, GUIDANCE_TAU = 0.2, 2.0
#: Ours; the paper doubles omega.
GUIDANCE_CEILING = 1.25
#: Paper: the schedule acts in the last 20 of 50 steps.
PAPER_START_PERCENT = 0.6
#: Paper: omega is at most doubled.
PAPER_GUIDANCE_CEILING = 2.0

KINDS = ("risk", "constant", "linear", "cosine")

#: 0.6 * 50 must be step 30 whatever floating point makes of it.
_STEP_TOLERANCE = 1e-6


def lock_strength(risk: float | None, tau: float, floor: float = 0.0, ceiling: float = 1.0) -> float:
    """`alpha = clamp(risk / tau, 0, 1)`, kept within [floor, ceiling] (M6).

    `risk` is that of the steps before this one: x0 of this step needs the forward that alpha controls. Risk None (not
    known yet) gives `ceiling`: what is unknown is treated as risky (ours). Raises SettingsError, NonFiniteError.
    """
    _check_bounds(tau, floor, ceiling, at_most=1.0)
    return ceiling if risk is None else _clamp(_finite(risk) / tau, floor, ceiling)


def guidance_scale(
    omega0: float, risk: float | None, tau: float, floor: float = 1.0, ceiling: float = PAPER_GUIDANCE_CEILING
) -> float:
    """`omega = omega0 * clamp(risk / tau, floor, ceiling)` (M7). Risk None gives `omega0`.

    Ours: floor 1. The paper's 0 drops the prompt where nothing is at risk; `floor=0.0` gives it literally.
    Raises SettingsError, NonFiniteError.
    """
    _check_bounds(tau, floor, ceiling)
    return omega0 if risk is None else omega0 * _clamp(_finite(risk) / tau, floor, ceiling)


def is_active(step: int, steps: int, start_percent: float = PAPER_START_PERCENT, end_percent: float = 1.0) -> bool:
    """True for `start_percent * steps <= step < end_percent * steps`: 0.6 .. 1.0 of 50 is steps 30 .. 49.

    Raises ScheduleError if `step` is not one of `steps`, SettingsError for an impossible range.
    """
    _check_range(start_percent, end_percent)
    if not 0 <= step < steps:
        raise ScheduleError(f"step {step} is not one of a run of {steps} steps; count from 0")
    return step in _active_steps(steps, start_percent, end_percent)


@dataclass(frozen=True)
class LockSchedule:
    """Lock strength over a run (M6). Outside the range alpha is 0. "constant" is `ceiling`.

    The defaults are for a lock that holds the background alone, `COMPOSITE_LOCK` is for one beside a latent composite
    (M10), `PAPER_LOCK` is the paper's. Raises SettingsError.
    """

    kind: str = "constant"
    tau: float = LOCK_TAU
    floor: float = 0.0
    ceiling: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self):
        _check_kind(self.kind)
        _check_bounds(self.tau, self.floor, self.ceiling, at_most=1.0)
        _check_range(self.start_percent, self.end_percent)

    def is_active(self, step: int, steps: int) -> bool:
        return is_active(step, steps, self.start_percent, self.end_percent)

    def alpha(self, step: int, steps: int, risk: float | None) -> float:
        """alpha in [0,1] of `step`; `risk` is known up to the step before. Raises ScheduleError, NonFiniteError."""
        if not self.is_active(step, steps):
            return 0.0
        if self.kind == "risk":
            return lock_strength(risk, self.tau, self.floor, self.ceiling)
        return _timed(self, step, steps)


@dataclass(frozen=True)
class GuidanceSchedule:
    """CFG scale over a run (M7). Outside the range, and for "constant", omega is omega0. Raises SettingsError.

    `floor` and `ceiling` multiply omega0; "linear" and "cosine" fall from ceiling to floor.
    """

    kind: str = "risk"
    tau: float = GUIDANCE_TAU
    floor: float = 1.0
    ceiling: float = GUIDANCE_CEILING
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self):
        _check_kind(self.kind)
        _check_bounds(self.tau, self.floor, self.ceiling)
        _check_range(self.start_percent, self.end_percent)

    def is_active(self, step: int, steps: int) -> bool:
        return is_active(step, steps, self.start_percent, self.end_percent)

    def omega(self, omega0: float, step: int, steps: int, risk: float | None) -> float:
        """omega of `step`; `risk` may include this step's prediction. Raises ScheduleError, NonFiniteError."""
        if not self.is_active(step, steps) or self.kind == "constant":
            return omega0
        if self.kind == "risk":
            return guidance_scale(omega0, risk, self.tau, self.floor, self.ceiling)
        return omega0 * _timed(self, step, steps)


def _timed(schedule: LockSchedule | GuidanceSchedule, step: int, steps: int) -> float:
    """Value of a kind that follows the clock only; `step` must be active."""
    if schedule.kind == "constant":
        return schedule.ceiling
    active = _active_steps(steps, schedule.start_percent, schedule.end_percent)
    p = (step - active[0]) / max(len(active) - 1, 1)
    fallen = p if schedule.kind == "linear" else (1.0 - math.cos(math.pi * p)) / 2.0
    return (1.0 - fallen) * schedule.ceiling + fallen * schedule.floor


def _active_steps(steps: int, start_percent: float, end_percent: float) -> range:
    first, stop = (math.ceil(percent * steps - _STEP_TOLERANCE) for percent in (start_percent, end_percent))
    return range(first, stop)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _finite(risk: float) -> float:
    if not math.isfinite(risk):
        raise NonFiniteError(f"risk is {risk}; check the predictions it was measured from")
    return float(risk)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise SettingsError(f"schedule kind {kind!r} is unknown; use one of {', '.join(KINDS)}")


def _check_bounds(tau: float, floor: float, ceiling: float, at_most: float = math.inf) -> None:
    if not 0.0 < tau < math.inf:
        raise SettingsError(f"tau is {tau}; give a risk threshold above 0 (paper: {PAPER_TAU})")
    if not (0.0 <= floor <= ceiling <= at_most and ceiling < math.inf):
        raise SettingsError(f"floor {floor} and ceiling {ceiling}; give 0 <= floor <= ceiling <= {at_most}")


def _check_range(start_percent: float, end_percent: float) -> None:
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise SettingsError(
            f"active range {start_percent} .. {end_percent}; give 0 <= start_percent <= end_percent <= 1 "
            f"(paper: {PAPER_START_PERCENT} .. 1.0)"
        )


#: Beside a latent composite (M10), which holds the background itself: softly, while the picture takes its shape.
COMPOSITE_LOCK = LockSchedule(kind="risk", tau=16.0, ceiling=0.5, end_percent=0.6)
#: The paper's, for `PAPER_RISK`.
PAPER_LOCK = LockSchedule(kind="risk", tau=PAPER_TAU, start_percent=PAPER_START_PERCENT)
PAPER_GUIDANCE = GuidanceSchedule(tau=PAPER_TAU, ceiling=PAPER_GUIDANCE_CEILING, start_percent=PAPER_START_PERCENT)
