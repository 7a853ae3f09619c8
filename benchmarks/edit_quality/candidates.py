"""What was tried on the validation clips to decide the defaults; docs/evidence.md has the outcome, docs/decisions.md the decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kvlock_core import FreshNoisePath, GuidanceSchedule, LockSchedule, LockSession, NoisedPath, SessionSettings, SourcePath
from kvlock_diffusers.engine import Texts

from .contenders import BLEND, NO_LOCK, WATCH
from .ideas import KeysOnly, Tokens, ValuesOnly, free_ring, soft_ring, with_token_risk
from .methods import Edited, Method, ours, session_run, theirs
from .rivals import latent_blend
from .task import Task

ALONE = "lock alone"
WHEN, WHAT, SOURCE, GUIDANCE = ("with composite: " + what for what in ("when and how hard", "what is locked", "the source", "guidance"))


def fixed(alpha: float = 1.0, start: float = 0.0, end: float = 1.0, **rest) -> SessionSettings:
    lock = LockSchedule(kind="constant", ceiling=alpha, start_percent=start, end_percent=end)
    return SessionSettings(lock=lock, **rest)


def risky(tau: float, ceiling: float = 1.0, end: float = 1.0) -> SessionSettings:
    return SessionSettings(lock=LockSchedule(kind="risk", tau=tau, ceiling=ceiling, end_percent=end, start_percent=0.0))


def timed(kind: str) -> SessionSettings:
    return SessionSettings(lock=LockSchedule(kind=kind, start_percent=0.0))


def candidates() -> list[Method]:
    return [ours(NO_LOCK, ALONE, "", WATCH), *_alone(), replace(theirs(BLEND, "", latent_blend), group=WHEN), *_when(), *_what(), *_source(), *_guidance()]


def _alone() -> list[Method]:
    found = [
        ours(f"alpha {alpha:g}, from {start:.0%}", ALONE, "", fixed(alpha, start)) for start in (0.0, 0.15, 0.3, 0.6) for alpha in (0.5, 1.0)
    ]
    found += [ours(f"alpha 1, up to {end:.0%}", ALONE, "", fixed(1.0, 0.0, end)) for end in (0.4, 0.7)]
    found += [ours(f"{kind} from 1 to 0", ALONE, "", timed(kind)) for kind in ("linear", "cosine")]
    found += [ours(f"risk, tau {tau:g}", ALONE, "", risky(tau)) for tau in (0.2, 0.5, 2.0)]
    return [*found, Method("alpha per token by its own error", ALONE, "", lambda task: session_run(task, fixed(), kind=with_token_risk(task.z_src)))]


def _composited(name: str, group: str, settings: SessionSettings, kind: Callable[..., LockSession] = LockSession) -> Method:
    return ours(f"{name} + blend", group, "", settings, kind=kind, composited=True)


def _when() -> list[Method]:
    spans = [(0.5, 0, 1), (1, 0, 1), (1, 0.6, 1), (1, 0, 0.2), (1, 0, 0.4), (1, 0, 0.6), (0.5, 0, 0.4), (0.5, 0, 0.6)]
    found = [_composited(f"alpha {alpha:g}, {start:.0%} to {end:.0%}", WHEN, fixed(alpha, start, end)) for alpha, start, end in spans]
    found.append(_composited("linear from 1 to 0", WHEN, timed("linear")))
    risks = [(0.5, 1, 1), (2, 1, 1), (8, 1, 1), (2, 1, 0.6), (2, 0.5, 1), (16, 0.5, 0.6), (32, 0.5, 0.6), (32, 1, 0.6)]
    return found + [_composited(f"risk, tau {tau:g}, at most {c:g}, up to {end:.0%}", WHEN, risky(tau, c, end)) for tau, c, end in risks]


def _what() -> list[Method]:
    """Each a change of one thing in "alpha 1, 0 % to 40 % + blend"."""
    early = fixed(1.0, 0.0, 0.4)
    kinds = {"keys only": KeysOnly, "values only": ValuesOnly, "half the lock next to the edit": Tokens(soft_ring), "no lock next to the edit": Tokens(free_ring)}
    found = [_composited(name, WHAT, early, kind) for name, kind in kinds.items()]
    found += [_composited(f"{row} row only", WHAT, replace(early, rows=(row,))) for row in ("cond", "uncond")]
    return found + [_composited(f"blocks {a} to {b} of 0 to 5", WHAT, replace(early, blocks=(a, b))) for a, b in ((0, 2), (3, 5))]


def _source() -> list[Method]:
    """The same lock, from another noise or text."""
    paths = {"the edit's noise": lambda task: NoisedPath(task.z_src, task.noise), "a fresh noise a step": lambda task: FreshNoisePath(task.z_src, 1)}
    texts = {"the edit's text": lambda t: replace(t.texts, source=t.texts.cond), "no text": lambda t: replace(t.texts, source=t.texts.uncond)}
    found = [_from(name, fixed(1.0, 0.0, 0.4), path=path) for name, path in paths.items()]
    found += [_from(name, fixed(1.0, 0.0, 0.4), words=words) for name, words in texts.items()]
    return [*found, _from("alpha 0.5, 0% to 40%, the edit's noise", fixed(0.5, 0.0, 0.4), path=paths["the edit's noise"])]


def _from(name: str, settings: SessionSettings, path: Callable[[Task], SourcePath] | None = None, words: Callable[[Task], Texts] | None = None) -> Method:
    def edit(task: Task) -> Edited:
        return session_run(task, settings, path=path and path(task), texts=words and words(task), composited=True)

    return Method(f"{name} + blend", SOURCE, "", edit)


def _guidance() -> list[Method]:
    early = fixed(1.0, 0.0, 0.4)
    falling = GuidanceSchedule(kind="linear", start_percent=0.0, ceiling=1.25)
    return [
        _composited("s_star", GUIDANCE, replace(early, projection=True)),
        _composited("omega from 1.25 to 1", GUIDANCE, replace(early, guidance=falling)),
    ]
