"""omega and s_star (M7, M8) through ComfyUI's own CFG hooks, so that other packs' CFG nodes keep working."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from comfy.samplers import CFGGuider

from ...kvlock_core import LockSession

PRE_CFG = "sampler_pre_cfg_function"

NOT_APPLIED = (
    "KV-Lock: omega and s_star do not apply here, since cfg is 1 or the guider combines predictions in its own way; "
    "lock and monitor work as usual"
)


def can_guide(guider) -> bool:
    """True where one scale combines a positive and a negative prediction: the host's plain CFG, not at 1 (M9)."""
    return _is_plain(guider) and bool(guider.conds.get("negative")) and not math.isclose(guider.cfg, 1.0)


def rows_per_clip(guider, conditions: int) -> int:
    """Predictions that the host makes of each clip in one evaluation: plain CFG leaves the negative one out at 1."""
    return 1 if _is_plain(guider) and math.isclose(guider.cfg, 1.0) else conditions


def _is_plain(guider) -> bool:
    return type(guider).predict_noise is CFGGuider.predict_noise


@contextmanager
def scale(guider, omega: float) -> Iterator[None]:
    """The guider's CFG scale is `omega` inside, and as it was after."""
    before = guider.cfg
    guider.cfg = omega
    try:
        yield
    finally:
        guider.cfg = before


def add_projection(model_options: dict, session_now: Callable[[], LockSession]) -> None:
    """Puts s_star first among the pre-CFG functions of one run's options; `session_now()` gives its session."""

    def project(args: dict) -> list:
        if args["conds"][1] is None:
            return args["conds_out"]
        x, (cond, uncond) = args["input"], args["conds_out"][:2]
        _, s = session_now().guidance(x - cond, x - uncond)
        if isinstance(s, float):
            return args["conds_out"]
        return [cond, x - s.to(x.dtype) * (x - uncond), *args["conds_out"][2:]]

    model_options[PRE_CFG] = [project, *model_options.get(PRE_CFG, [])]
