"""Frozen values that flow between the modules. No behaviour beyond checking themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import SettingsError

#: A pixel or latent cell counts as editable from this mask value on (ours: the usual rounding of a mask to 0 and 1).
EDITABLE_FROM = 0.5

#: Roles a batch row can have. The source row only ever gives keys and values, it never takes any.
LOCKABLE_ROWS = ("cond", "uncond")
SOURCE_ROW = "source"

#: How a locked step gets the source's K,V: as one more row of its batch, in a call of its own before the others, or from
#: what was kept; "none" in a step that does not lock.
SUPPLIES = ("none", "row", "apart", "kept")

REGIONS = ("edit", "all")

#: "rate": variance of the prediction over the variance of sigma in the same window (ours); "variance": the paper's.
RISK_FORMS = ("rate", "variance")

#: Paper: W = 10 of 50 steps. As a share it means the same at any number of steps.
WINDOW_SHARE = 0.2


@dataclass(frozen=True)
class Site:
    """One attention call: which transformer block, and which token stream of it."""

    block: int
    stream: str = "video"


@dataclass(frozen=True)
class RiskSettings:
    """How the risk is measured (M5).

    `window`: predictions in the variance; None = WINDOW_SHARE of the run's steps. `region`: "edit" = inside the edit
    mask, "all" = everywhere. `form` of RISK_FORMS: "rate" means the same at any number of steps, shift and sampler;
    `PAPER_RISK` is the paper's literal formula. Raises SettingsError.
    """

    window: int | None = None
    region: str = "edit"
    detrend: bool = False
    normalise: bool = False
    form: str = "rate"

    def __post_init__(self):
        if self.region not in REGIONS:
            raise SettingsError(f"risk region {self.region!r} is unknown; use one of {', '.join(REGIONS)}")
        if self.window is not None:
            check_window_size(self.window, self.detrend)
        check_risk_form(self.form)

    def size(self, steps: int) -> int:
        """Predictions in the window of a run of `steps`."""
        if self.window is not None:
            return self.window
        return max(math.ceil(WINDOW_SHARE * steps - 1e-9), _least_size(self.detrend))


def check_risk_form(form: str) -> None:
    """Raise SettingsError for a form of risk that there is not."""
    if form not in RISK_FORMS:
        raise SettingsError(f"risk form {form!r} is unknown; use one of {', '.join(RISK_FORMS)}")


def check_window_size(size: int, detrend: bool) -> None:
    """Raise SettingsError if a risk window of `size` predictions can never give a value."""
    least = _least_size(detrend)
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        reason = "with detrend" if detrend else "to have a variance"
        raise SettingsError(f"risk window size {size!r} is too small; it needs a whole number >= {least} {reason}")


def _least_size(detrend: bool) -> int:
    return 3 if detrend else 2  # a line takes two degrees of freedom, a mean takes one


#: (M5) word for word, for the threshold PAPER_TAU.
PAPER_RISK = RiskSettings(window=10, form="variance")


@dataclass(frozen=True)
class StepPlan:
    """What `LockSession.begin` decided.

    `needs_source` False: this step does not lock and must not pay for a source pass. `supply` of SUPPLIES: whether it must
    run one, and how.
    """

    step: int
    sigma: float
    active: bool
    alpha: float
    needs_source: bool
    supply: str = "none"


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
