"""What was tried on the validation clips to decide the defaults; docs/evidence.md shows the outcome."""

from __future__ import annotations

from dataclasses import replace

from kvlock_core import FreshNoisePath, GuidanceSchedule, LockSchedule, NoisedPath, RiskSettings, SessionSettings

from .ideas import KeysOnly, TokenRisk, Tokens, ValuesOnly, free_ring, only_ring, soft_ring
from .methods import Method, ours, session_run, Edited, theirs
from .rivals import ALWAYS, blend, flowedit, guided_by, inverted, latent_blend, sdedit, kv_edit_like, proedit_like, CFGZero, APG
from .task import Task

PLAIN = SessionSettings(lock=None, projection=False)


def fixed(alpha: float = 1.0, start: float = 0.0, end: float = 1.0, **rest) -> SessionSettings:
    lock = LockSchedule(kind="constant", ceiling=alpha, start_percent=start, end_percent=end)
    return SessionSettings(lock=lock, projection=False, **rest)


def timed(kind: str, start: float = 0.0, floor: float = 0.0) -> SessionSettings:
    return SessionSettings(lock=LockSchedule(kind=kind, start_percent=start, floor=floor), projection=False)


def first() -> list[Method]:
    """Range, strength, composite."""
    g = "range and strength"
    found = [ours("no lock", g, "", PLAIN)]
    for start in (0.0, 0.15, 0.3, 0.6):
        for alpha in (0.5, 1.0):
            found.append(ours(f"alpha {alpha:g} from {start:g}", g, "", fixed(alpha, start)))
    for end in (0.4, 0.7):
        found.append(ours(f"alpha 1 up to {end:g}", g, "", fixed(1.0, 0.0, end)))
    for kind in ("linear", "cosine"):
        found.append(ours(f"{kind} from 1 to 0", g, "", timed(kind)))
    found.append(theirs("latent blend", "", latent_blend))
    for name, settings in (("alpha 1 from 0", fixed()), ("alpha 1 from 0.6", fixed(1, .6)), ("alpha 1 up to 0.4", fixed(1, 0, .4)), ("alpha 0.5 from 0", fixed(.5))):
        found.append(ours(name + " + blend", g, "", settings, composited=True))
    return found


def smoke() -> list[Method]:
    return [*first()[:1], theirs("latent blend", "", latent_blend), theirs("sdedit .7", "", lambda t: sdedit(t, .7)), theirs("flowedit", "", flowedit),
            theirs("kvedit", "", kv_edit_like), theirs("proedit", "", proedit_like), theirs("apg", "", lambda t: guided_by(t, APG, PLAIN)),
            theirs("cfgzero", "", lambda t: guided_by(t, CFGZero, SessionSettings(lock=None, guidance=GuidanceSchedule(kind="constant", start_percent=0), projection=True)))]


def with_paths(name, settings, path, texts=None, composited=True):
    """`path(task)` makes the source's path, `texts(task)` the texts."""
    g = "source"
    edit = lambda task: session_run(task, settings, path=path(task) if path else None, texts=texts(task) if texts else None, composited=composited)
    return Method(name, g, "", edit)


def second() -> list[Method]:
    """With the composite: when, what, from where."""
    g, base = "with composite", fixed(1.0, 0.0, 0.4)
    found = [ours(f"alpha 1, {a:g}-{b:g} + blend", g, "", fixed(1.0, a, b), composited=True) for a, b in ((0, 0.2), (0, 0.6))]
    found += [ours("alpha 0.5, 0-0.4 + blend", g, "", fixed(0.5, 0, 0.4), composited=True)]
    found += [ours("linear + blend", g, "", timed("linear"), composited=True)]
    for name, kind in (("K only", KeysOnly), ("V only", ValuesOnly), ("soft ring", Tokens(soft_ring)), ("free ring", Tokens(free_ring))):
        found.append(ours(f"{name} 0-0.4 + blend", g, "", base, kind=kind, composited=True))
    for rows in (("cond",), ("uncond",)):
        found.append(ours(f"rows {rows[0]} 0-0.4 + blend", g, "", replace(base, rows=rows), composited=True))
    for blocks in ((0, 2), (3, 5)):
        found.append(ours(f"blocks {blocks} 0-0.4 + blend", g, "", replace(base, blocks=blocks), composited=True))
    found.append(with_paths("shared noise 0-0.4 + blend", base, lambda t: NoisedPath(t.z_src, t.noise)))
    found.append(with_paths("fresh noise 0-0.4 + blend", base, lambda t: FreshNoisePath(t.z_src, 1)))
    found.append(with_paths("edit text 0-0.4 + blend", base, None, lambda t: replace(t.texts, source=t.texts.cond)))
    found.append(with_paths("empty text 0-0.4 + blend", base, None, lambda t: replace(t.texts, source=t.texts.uncond)))
    star = replace(base, projection=True)
    found.append(ours("s_star 0-0.4 + blend", g, "", star, composited=True))
    for c in (1.25,):
        found.append(ours(f"omega {c} 0-0.4 + blend", g, "", replace(base, guidance=GuidanceSchedule(kind="linear", start_percent=0, end_percent=1, floor=1, ceiling=c)), composited=True))
    return found


def risky(tau: float, start: float = 0.0, end: float = 1.0, risk: RiskSettings = RiskSettings(), floor=0.0, **rest) -> SessionSettings:
    lock = LockSchedule(tau=tau, start_percent=start, end_percent=end, floor=floor)
    return SessionSettings(lock=lock, risk=risk, projection=False, **rest)


def third() -> list[Method]:
    """tau of the schedule-free risk, with the composite; and what guidance adds."""
    g = "tau"
    found = [ours(f"rate tau {tau:g} + blend", g, "", risky(tau), composited=True) for tau in (0.5, 2.0, 8.0)]
    found += [ours("rate tau 2, 0-0.6 + blend", g, "", risky(2.0, 0, 0.6), composited=True)]
    found += [ours("rate tau 0.5", g, "", risky(0.5)), ours("rate tau 2", g, "", risky(2.0))]
    return found + second()


def token_risk(tau: float):
    def run(task: Task) -> Edited:
        kind = type("TokenRiskHere", (TokenRisk,), {"tau": tau, "z_src": task.z_src})
        return session_run(task, fixed(1.0, 0.0, 1.0), kind=kind, composited=False)
    return Method(f"token risk tau {tau:g}", "ideas", "", run)
