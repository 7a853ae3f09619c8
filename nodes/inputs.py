"""Inputs that several nodes share, and what they mean to the method. Released widgets are only ever appended to."""

from __future__ import annotations

from comfy_api.latest import io

from ..kvlock_core import GuidanceSchedule, LockSchedule, RiskSettings
from ..kvlock_core.schedule import KINDS
from ..kvlock_core.types import RISK_FORMS
from .schema import advanced

OFF = "off"
LOCKED_ROWS = {"both": ("cond", "uncond"), "positive": ("cond",), "negative": ("uncond",)}
LAST_BLOCK = -1
#: A window that follows the number of steps; a widget has no empty value.
WINDOW_OF_STEPS = 0
TAU_STEP = 0.0001
MOST_TAU = 1e5


def percent(name: str, default: float, tooltip: str):
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def tau(default: float, tooltip: str):
    # the page rounds to the step, so the step is the smallest value too
    return io.Float.Input("tau", default=default, min=TAU_STEP, max=MOST_TAU, step=TAU_STEP, tooltip=tooltip)


def lock_inputs(d: LockSchedule) -> list:
    """How hard the background is held (M6); `d` gives the defaults."""
    return [
        io.Combo.Input("lock_schedule", options=[*KINDS, OFF], default=d.kind,
                       tooltip="risk: as hard as the model is unsure about the edit; constant: always at alpha_ceiling; "
                       "linear, cosine: falls from ceiling to floor; off: no lock"),
        percent("start_percent", d.start_percent, "Share of the steps after which the lock begins; 0 holds the background best, "
                "1 never locks"),
        percent("end_percent", d.end_percent, "Share of the steps after which the lock ends; 1 keeps it to the end"),
        percent("alpha_ceiling", d.ceiling, "Hardest lock: 1 gives the background the source's keys and values, 0 leaves it free"),
        advanced(percent("alpha_floor", d.floor, "Softest lock inside the active range; 0 lets a calm run go free")),
        advanced(tau(d.tau, "Risk at which the lock is fully on; smaller locks harder. KV-Lock Report suggests one")),
    ]  # fmt: skip


def where_inputs() -> list:
    """What of the model is locked (M4)."""
    return [
        advanced(io.Combo.Input("locked_rows", options=list(LOCKED_ROWS), default=next(iter(LOCKED_ROWS)),
                                tooltip="Which predictions are locked, of the positive and the negative prompt; both is the safe choice")),
        advanced(io.Int.Input("first_block", default=0, min=0, max=999, tooltip="First transformer block that is locked; 0 is the first")),
        advanced(io.Int.Input("last_block", default=LAST_BLOCK, min=LAST_BLOCK, max=999,
                              tooltip="Last transformer block that is locked; -1 is the model's last")),
    ]  # fmt: skip


def guidance_inputs(default: str, use_s_star: bool) -> list:
    """How hard the prompt is pushed (M7, M8); `default` is the kind of the schedule, or OFF."""
    d = GuidanceSchedule()
    return [
        io.Combo.Input("omega_schedule", options=[*KINDS, OFF], default=default,
                       tooltip="How CFG changes: risk: up where the model is unsure; linear, cosine: from ceiling to floor; "
                       "constant and off: cfg as the sampler has it"),
        io.Float.Input("omega_ceiling", default=d.ceiling, min=0.0, max=10.0, step=0.05,
                       tooltip="CFG is at most this many times the sampler's; 1 never raises it"),
        advanced(io.Float.Input("omega_floor", default=d.floor, min=0.0, max=10.0, step=0.05,
                                tooltip="CFG is at least this many times the sampler's; 1 never lowers it, 0 is the paper's literal formula")),
        advanced(io.Boolean.Input("use_s_star", default=use_s_star,
                                  tooltip="Scale the negative prediction to fit the positive one (s_star, as CFG-Zero*); off is plain CFG")),
    ]  # fmt: skip


def risk_inputs() -> list:
    """How risk is measured (M5)."""
    d = RiskSettings()
    return [
        advanced(io.Int.Input("risk_window", default=WINDOW_OF_STEPS, min=WINDOW_OF_STEPS, max=100,
                              tooltip="How many of the last predictions are compared; 0 is a fifth of the steps, the paper has 10")),
        advanced(io.Combo.Input("risk_region", options=["edit", "all"], default=d.region,
                                tooltip="Measure inside the edit mask, or everywhere; without a source it is everywhere")),
        advanced(io.Boolean.Input("risk_detrend", default=d.detrend, tooltip="Do not count the steady drift of a prediction as risk; needs a window of 3")),
        advanced(io.Boolean.Input("risk_normalise", default=d.normalise, tooltip="Divide risk by the prediction's mean square, so that tau is relative")),
        advanced(io.Combo.Input("risk_form", options=list(RISK_FORMS), default=d.form,
                                tooltip="rate: the same at any number of steps, shift and sampler; variance: the paper's, with tau 0.01")),
    ]  # fmt: skip


def risk_settings(risk_window, risk_region, risk_detrend, risk_normalise, risk_form) -> RiskSettings:
    window = None if risk_window == WINDOW_OF_STEPS else risk_window
    return RiskSettings(window, risk_region, risk_detrend, risk_normalise, risk_form)


def lock_schedule(lock_schedule, start_percent, end_percent, alpha_ceiling, alpha_floor, tau) -> LockSchedule | None:
    if lock_schedule == OFF:
        return None
    return LockSchedule(lock_schedule, tau, alpha_floor, alpha_ceiling, start_percent, end_percent)


def guidance_schedule(omega_schedule, omega_ceiling, omega_floor, tau, start_percent, end_percent) -> GuidanceSchedule | None:
    if omega_schedule == OFF:
        return None
    return GuidanceSchedule(omega_schedule, tau, omega_floor, omega_ceiling, start_percent, end_percent)


def block_range(first_block: int, last_block: int) -> tuple[int, int] | None:
    if first_block == 0 and last_block == LAST_BLOCK:
        return None
    return first_block, 10**6 if last_block == LAST_BLOCK else last_block
