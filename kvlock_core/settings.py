"""Everything a session is told, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import SettingsError
from .schedule import GuidanceSchedule, LockSchedule
from .types import LOCKABLE_ROWS, RiskSettings


@dataclass(frozen=True)
class SessionSettings:
    """What one run does.

    `lock` None: no K,V is ever fused. `guidance` None: omega0 throughout. `projection`: s_star (M8) where the lock
    acts, or, without a lock, where the guidance schedule is active. `rows`: batch rows that are locked (ours: both).
    `blocks`: first and last locked block, both included; None = all. With neither lock nor guidance the session only
    watches.
    Raises SettingsError.
    """

    lock: LockSchedule | None = field(default_factory=LockSchedule)
    guidance: GuidanceSchedule | None = None
    risk: RiskSettings = field(default_factory=RiskSettings)
    projection: bool = False
    rows: tuple[str, ...] = LOCKABLE_ROWS
    blocks: tuple[int, int] | None = None

    def __post_init__(self):
        if isinstance(self.rows, str) or not self.rows or not set(self.rows) <= set(LOCKABLE_ROWS):
            raise SettingsError(f"locked rows {self.rows!r}; give a tuple of one or more of {', '.join(LOCKABLE_ROWS)}")
        if self.blocks is not None and not _is_block_range(self.blocks):
            raise SettingsError(f"block range {self.blocks!r}; give (first, last), 0 <= first <= last, or None for all")

    @property
    def acting_schedule(self) -> LockSchedule | GuidanceSchedule | None:
        """The schedule whose range is the session's active range: the lock's, without one the guidance's."""
        return self.lock if self.lock is not None else self.guidance

    @property
    def needs_risk(self) -> bool:
        """True if some schedule follows the risk, so that every step must report its prediction."""
        return any(schedule is not None and schedule.kind == "risk" for schedule in (self.lock, self.guidance))

    def locks_block(self, block: int) -> bool:
        return self.blocks is None or self.blocks[0] <= block <= self.blocks[1]


def _is_block_range(blocks: tuple[int, int]) -> bool:
    return len(blocks) == 2 and 0 <= blocks[0] <= blocks[1]
