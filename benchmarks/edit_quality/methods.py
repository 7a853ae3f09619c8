"""The table's rows: a name, what it is, and how it edits a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kvlock_core import LockSession, RunTrace, SessionSettings, SourcePath
from kvlock_diffusers.engine import Texts, sample

from .rivals import blend
from .task import Task


@dataclass(frozen=True, eq=False)
class Edited:
    latents: Tensor
    trace: RunTrace | None = None


@dataclass(frozen=True, eq=False)
class Method:
    """`edit(task)` makes the edit; `group` and `note` are for the reader."""

    name: str
    group: str
    note: str
    edit: Callable[[Task], Edited]


def session_run(
    task: Task,
    settings: SessionSettings,
    *,
    kind: Callable[..., LockSession] = LockSession,
    path: SourcePath | None = None,
    texts: Texts | None = None,
    composited: bool = False,
) -> Edited:
    """A run of our own engine; by default the source has a noise of its own and its own text."""
    session = task.session(settings, kind)
    latents = sample(
        task.net,
        task.sampling.scheduler(),
        task.noise,
        texts or task.texts,
        task.sampling.cfg,
        session=session,
        source=path or task.path,
        composite=blend(task) if composited else None,
    )
    return Edited(latents, session.trace)


def ours(name: str, group: str, note: str, settings: SessionSettings, **how) -> Method:
    return Method(name, group, note, lambda task: session_run(task, settings, **how))


def theirs(name: str, note: str, edit: Callable[[Task], Tensor]) -> Method:
    return Method(name, "what people use instead", note, lambda task: Edited(edit(task)))
