"""Frozen values that flow between the modules. No behaviour beyond checking themselves."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import SettingsError

#: A pixel or latent cell counts as editable from this mask value on (ours: the usual rounding of a mask to 0 and 1).
EDITABLE_FROM = 0.5

#: Roles a batch row can have. The source row only ever gives keys and values, it never takes any.
LOCKABLE_ROWS = ("cond", "uncond")
SOURCE_ROW = "source"

REGIONS = ("edit", "all")


@dataclass(frozen=True)
class Site:
    """One attention call: which transformer block, and which token stream of it."""

    block: int
    stream: str = "video"


@dataclass(frozen=True)
class RiskSettings:
    """How the risk is measured (M5). `region`: "edit" = inside the edit mask, "all" = everywhere.

    Raises SettingsError.
    """

    window: int = 10  # paper: W = 10
    region: str = "edit"
    detrend: bool = False
    normalise: bool = False

    def __post_init__(self):
        if self.region not in REGIONS:
            raise SettingsError(f"risk region {self.region!r} is unknown; use one of {', '.join(REGIONS)}")
        check_window_size(self.window, self.detrend)


def check_window_size(size: int, detrend: bool) -> None:
    """Raise SettingsError if a risk window of `size` predictions can never give a value."""
    least = 3 if detrend else 2  # a line takes two degrees of freedom, a mean takes one
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        reason = "with detrend" if detrend else "to have a variance"
        raise SettingsError(f"risk window size {size!r} is too small; it needs a whole number >= {least} {reason}")


@dataclass(frozen=True)
class StepPlan:
    """What `LockSession.begin` decided. `needs_source` False: this step must not pay for a source pass."""

    step: int
    sigma: float
    active: bool
    alpha: float
    needs_source: bool


@dataclass(frozen=True)
class StepRecord:
    """What happened in one step.

    `risk` None: not measured or not ready yet. `omega`, `s_star` None: nothing was guided (M9); `s_star` is the mean
    over the batch of the scale that was applied, 1.0 where none was asked for.
    """

    step: int
    sigma: float
    active: bool
    risk: float | None
    alpha: float
    omega: float | None
    s_star: float | None
    needs_source: bool
