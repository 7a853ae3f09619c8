"""The rows of the test table: what people use instead, the paper, and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kvlock_core import COMPOSITE_LOCK, PAPER_GUIDANCE, PAPER_LOCK, PAPER_RISK, GuidanceSchedule, LockSchedule, SessionSettings
from kvlock_core.schedule import PAPER_START_PERCENT

from . import rivals
from .methods import Edited, Method, ours, session_run, theirs
from .task import Task

NO_LOCK, KV_LOCK, BLEND = "no lock", "KV-Lock", "latent blend"
PAPER, OURS = "the paper", "ours"
WATCH = SessionSettings(lock=None, guidance=None, projection=False)

PAPER_FULL = SessionSettings(lock=PAPER_LOCK, guidance=PAPER_GUIDANCE, risk=PAPER_RISK, projection=True)
DEFAULT = SessionSettings(lock=COMPOSITE_LOCK)


#: The methods that matter most, for the short run.
QUICK_METHODS = (NO_LOCK, "SDEdit 0.7", BLEND, "FlowEdit", "paper, full", "alpha 1, all steps", "KV-Lock, no composite", KV_LOCK)


def quick_contenders() -> list[Method]:
    return [method for method in contenders() if method.name in QUICK_METHODS]


def contenders() -> list[Method]:
    return [ours(NO_LOCK, "nothing", "plain text to video with the edit's prompt", WATCH), *_others(), *_paper(), *_own()]


def _others() -> list[Method]:
    found = [
        theirs(f"SDEdit {strength:g}", f"partial denoise from the noised source, strength {strength:g}", _sdedit(strength))
        for strength in (0.5, 0.7, 0.85)
    ]
    zero = SessionSettings(lock=None, guidance=GuidanceSchedule(kind="constant", start_percent=0.0))
    return [
        *found,
        theirs(BLEND, "re-noised latent composite, as SetLatentNoiseMask with a mask that fits the latent", rivals.latent_blend),
        theirs("FlowEdit", "from source to edit by the difference of two velocities; knows no mask", rivals.flowedit),
        theirs("KV-Edit-like", "Euler inversion; background K,V and latents are the inversion's", rivals.kv_edit_like),
        theirs("ProEdit-like", "second-order inversion; background K,V replaced, a tenth mixed into the edit", rivals.proedit_like),
        theirs("CFG-Zero*", "s_star in all steps, a zero first step; no lock", lambda task: rivals.guided_by(task, rivals.CFGZero, zero)),
        theirs("APG", "projected guidance with momentum; no lock", lambda task: rivals.guided_by(task, rivals.APG, WATCH)),
    ]


def _sdedit(strength: float) -> Callable:
    return lambda task: rivals.sdedit(task, strength)


def _fixed(alpha: float, start: float) -> LockSchedule:
    return LockSchedule(kind="constant", ceiling=alpha, start_percent=start)


def _paper() -> list[Method]:
    """Its full method and each of its ablations, and locks that never change."""
    start, k_v = PAPER_START_PERCENT, replace(PAPER_FULL, guidance=None, projection=False)
    rows = [
        ("paper, full", "risk-driven lock, omega and s_star, the paper's values", PAPER_FULL),
        ("paper, K,V only", "the risk-driven lock alone", k_v),
        ("paper, omega only", "the risk-driven CFG scale alone", replace(PAPER_FULL, lock=None, projection=False)),
        ("paper, s_star only", "the projection alone", _s_star_only()),
        ("paper, s_star + omega", "both, no lock", replace(PAPER_FULL, lock=None)),
        ("paper, alpha 0.5", "full, with a fixed alpha", replace(PAPER_FULL, lock=_fixed(0.5, start))),
        ("paper, whole-frame risk", "full, risk measured everywhere", replace(PAPER_FULL, risk=replace(PAPER_RISK, region="all"))),
        ("alpha 0.5, from 60 %", "fixed lock, no guidance schedule", replace(k_v, lock=_fixed(0.5, start))),
        ("alpha 1, from 60 %", "fixed lock, no guidance schedule", replace(k_v, lock=_fixed(1.0, start))),
        ("alpha 0.5, all steps", "fixed lock, no guidance schedule", replace(k_v, lock=_fixed(0.5, 0.0))),
        ("alpha 1, all steps", "fixed lock, no guidance schedule", replace(k_v, lock=_fixed(1.0, 0.0))),
    ]
    return [ours(name, PAPER, note, settings) for name, note, settings in rows]


def _s_star_only() -> SessionSettings:
    constant = GuidanceSchedule(kind="constant", start_percent=PAPER_START_PERCENT)
    return SessionSettings(lock=None, guidance=constant, risk=PAPER_RISK, projection=True)


def _own() -> list[Method]:
    steady = replace(COMPOSITE_LOCK, kind="constant", end_percent=0.4)
    alone = SessionSettings(lock=LockSchedule(kind="risk"))
    found = [
        ours(KV_LOCK, OURS, "our defaults: the risk-driven lock beside the composite", DEFAULT, composited=True),
        ours("KV-Lock, steady", OURS, "the same with a fixed alpha in the first 40 % of the steps", SessionSettings(lock=steady), composited=True),
        ours("KV-Lock, no composite", OURS, "the lock alone, driven by risk; its default is alpha 1 in all steps, above", alone),
    ]
    return found + [_inverted(solver) for solver in ("euler", "rf_solver", "uni_inv")]


def _inverted(solver: str) -> Method:
    def edit(task: Task) -> Edited:
        return session_run(task, DEFAULT, path=rivals.inverted(task, solver), composited=True)

    return Method(f"KV-Lock, {solver} source", OURS, f"our defaults; source K,V from an inversion by {solver}", edit)
