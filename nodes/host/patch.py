"""What the nodes leave on a MODEL: one immutable value. Runs are made from it; it never holds a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from comfy.patcher_extension import WrappersMP

from ...kvlock_core import GuidanceSchedule, LockSchedule, RiskSettings, SessionSettings
from ...kvlock_core.types import LOCKABLE_ROWS
from .report import Report
from .sampling import outer_sample
from .source import SourceHandle

#: Our key in the host's tables of attachments and wrappers.
KEY = "kvlock"


@dataclass(frozen=True)
class Patch:
    """The union of what the nodes on the way to the sampler asked for; a later node replaces an earlier one's part.

    `watchers` are the ids of the nodes that show the steps, `reports` what takes the finished trace.
    """

    lock: LockSchedule | None = None
    guidance: GuidanceSchedule | None = None
    projection: bool = False
    risk: RiskSettings = field(default_factory=RiskSettings)
    rows: tuple[str, ...] = LOCKABLE_ROWS
    blocks: tuple[int, int] | None = None
    source: SourceHandle | None = None
    watchers: tuple[str, ...] = ()
    reports: tuple[Report, ...] = ()

    @property
    def tau(self) -> float | None:
        """The threshold that the page draws: the lock's, else that of guidance."""
        schedule = self.lock or self.guidance
        return None if schedule is None else schedule.tau

    def __post_init__(self):
        self.session_settings(guides=True)  # what contradicts itself is refused at its node, before anything runs

    def session_settings(self, guides: bool) -> SessionSettings:
        """What a run does; `guides` False where the sampler has nothing to guide. Raises SettingsError."""
        return SessionSettings(
            lock=self.lock,
            guidance=self.guidance if guides else None,
            risk=self.risk if self.source is not None else replace(self.risk, region="all"),
            projection=self.projection and guides,
            rows=self.rows,
            blocks=self.blocks,
        )

    def __deepcopy__(self, memo) -> Patch:
        return self  # ComfyUI up to 0.8 deep-copies options; a value that never changes need not be


def patched(model, **changes):
    """A clone of the MODEL whose runs also follow `changes` (fields of `Patch`). Lists of watchers and reports grow."""
    clone = model.clone()
    before = clone.attachments.get(KEY)
    if before is None:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _sample_with_patch)
        before = Patch()
    for name in ("watchers", "reports"):
        changes[name] = (*getattr(before, name), *changes.get(name, ()))
    clone.set_attachments(KEY, replace(before, **changes))
    return clone


def _sample_with_patch(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: everything that a run needs is born here and gone when it returns."""
    return outer_sample(executor, executor.class_obj.model_patcher.attachments[KEY], *args, **kwargs)
