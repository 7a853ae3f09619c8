"""What happened per step, as a value that survives JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import TraceError
from .types import StepRecord

TRACE_VERSION = 2

#: JSON has no such numbers, and browsers refuse Python's spelling of them; as strings they pass everywhere.
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_TYPES = {"step": int, "active": bool, "needs_source": bool, "sigma": float, "alpha": float}
_OPTIONAL = ("risk", "omega", "s_star")


@dataclass(frozen=True)
class RunTrace:
    """`settings` in JSON's own types (see `plain`), `steps` in the order they ran, `total` of the whole run: these may be the
    first or the second model's share of it."""

    settings: dict[str, Any]
    steps: tuple[StepRecord, ...] = ()
    total: int = 0
    version: int = TRACE_VERSION

    def to_json(self) -> str:
        """Strict JSON; NaN and infinities of the steps as strings. Raises TraceError for settings that are not JSON."""
        steps = [{name: _spell(value) for name, value in asdict(step).items()} for step in self.steps]
        data = {"kvlock_trace": self.version, "settings": self.settings, "total": self.total, "steps": steps}
        try:
            return json.dumps(data, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise TraceError(f"the settings {self.settings!r} are not JSON ({exc}); give plain finite values") from exc

    @classmethod
    def from_json(cls, text: str) -> RunTrace:
        """The inverse of `to_json`, exact. Raises TraceError."""
        data = _parse(text)
        if not isinstance(data, dict) or "kvlock_trace" not in data:
            raise TraceError(f"not a KV-Lock run trace: {text[:60]!r}; give the text that RunTrace.to_json wrote")
        if data["kvlock_trace"] != TRACE_VERSION:
            raise TraceError(f"trace version {data['kvlock_trace']!r}; this KV-Lock reads {TRACE_VERSION}, update it")
        kinds = {"settings": dict, "steps": list, "total": int}
        if any(type(data.get(name)) is not kind for name, kind in kinds.items()):
            raise TraceError("the trace has no settings, no steps or no total; it was cut or edited, export it again")
        return cls(data["settings"], tuple(_record(i, step) for i, step in enumerate(data["steps"])), data["total"])

    def summary(self) -> dict[str, float | int | None]:
        """Shares and means a person asks for first; means are None where nothing was measured."""
        locked = [step.alpha for step in self.steps if step.needs_source]
        risks = [step.risk for step in self.steps if step.risk is not None]
        return {
            "steps": len(self.steps),
            "locked_share": len(locked) / len(self.steps) if self.steps else 0.0,
            "mean_locked_alpha": sum(locked) / len(locked) if locked else None,
            "last_risk": risks[-1] if risks else None,
        }


def plain(value: Any) -> Any:
    """`asdict` output in JSON's own types: tuples become lists, as they will after a round trip."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def _spell(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, TypeError) as exc:
        raise TraceError(f"the trace is not JSON ({exc}); give the whole text that RunTrace.to_json wrote") from exc


def _record(index: int, data: Any) -> StepRecord:
    names = {field.name for field in fields(StepRecord)}
    if not isinstance(data, dict) or set(data) != names:
        raise TraceError(f"step {index} of the trace is {data!r}; it needs the fields {', '.join(sorted(names))}")
    return StepRecord(**{name: _value(index, name, value) for name, value in data.items()})


def _value(index: int, name: str, value: Any) -> Any:
    if value is None and name in _OPTIONAL:
        return None
    kind = _TYPES.get(name, float)
    if kind is float and isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is not float and type(value) is kind:
        return value
    raise TraceError(f"step {index} of the trace has {name} = {value!r}; it must be a {kind.__name__}")
