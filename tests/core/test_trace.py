"""A trace survives JSON exactly, and nothing else passes for one."""

import json
import math
from dataclasses import replace

import pytest

from kvlock_core import KVLockError, RunTrace, StepRecord
from kvlock_core.errors import TraceError

STEP = StepRecord(
    step=3, sigma=0.1 + 0.2, active=True, risk=1 / 3, alpha=0.7, omega=4.5, s_star=0.98, needs_source=True
)
TRACE = RunTrace(
    {"lock": {"kind": "risk", "tau": 0.01}, "blocks": None, "rows": ["cond"]},
    (replace(STEP, step=2, active=False, risk=None, alpha=0.0, omega=None, s_star=None, needs_source=False), STEP),
    total=7,
)


def check_round_trip(write, read):
    for trace in (TRACE, RunTrace({}), replace(TRACE, steps=(STEP,) * 7)):
        assert read(write(trace)) == trace


def test_the_round_trip_is_exact():
    check_round_trip(RunTrace.to_json, RunTrace.from_json)


def test_the_round_trip_checker_bites():
    def rounded(trace):
        data = json.loads(trace.to_json())
        for step in data["steps"]:
            step["sigma"] = round(step["sigma"], 3)
        return json.dumps(data)

    with pytest.raises(AssertionError):
        check_round_trip(rounded, RunTrace.from_json)
    with pytest.raises(AssertionError):
        check_round_trip(RunTrace.to_json, lambda text: replace(RunTrace.from_json(text), settings={}))


def test_it_is_strict_json_even_with_numbers_that_json_lacks():
    odd = RunTrace({}, (replace(STEP, risk=math.nan, omega=math.inf, s_star=-math.inf),))
    text = odd.to_json()
    assert "NaN" not in text and "Infinity" not in text
    (back,) = RunTrace.from_json(text).steps
    assert math.isnan(back.risk) and (back.omega, back.s_star) == (math.inf, -math.inf)


def test_whole_numbers_come_back_as_floats():
    """A browser writes 4.0 as 4."""
    text = TRACE.to_json().replace("4.5", "4")
    omega = RunTrace.from_json(text).steps[1].omega
    assert omega == 4.0 and isinstance(omega, float)


def edited(**changes):
    data = json.loads(TRACE.to_json())
    return json.dumps({**data, **changes})


def edited_step(**changes):
    data = json.loads(TRACE.to_json())
    data["steps"][1].update(changes)
    return json.dumps(data)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "not JSON"),
        (TRACE.to_json()[:-5], "not JSON"),
        (None, "not JSON"),
        ("{}", "not a KV-Lock run trace"),
        ("[1, 2]", "not a KV-Lock run trace"),
        ('{"nodes": []}', "nodes"),
        (edited(kvlock_trace=1), "version 1"),
        (edited(steps=None), "no steps"),
        (edited(settings=[]), "no settings"),
        (edited(total=None), "no total"),
        (edited(total=True), "no total"),
        (edited(steps=[1]), "step 0 .*1"),
        (edited(steps=[{"step": 1}]), "step 0 "),
        (edited_step(extra=1), "extra"),
        (edited_step(alpha="high"), "alpha = 'high'"),
        (edited_step(alpha=None), "alpha = None"),
        (edited_step(step=1.5), "step = 1.5"),
        (edited_step(active=1), "active = 1"),
        (edited_step(risk=True), "risk = True"),
    ],
)
def test_anything_else_is_refused_by_name(text, says):
    with pytest.raises(TraceError, match=says) as caught:
        RunTrace.from_json(text)
    assert isinstance(caught.value, KVLockError)


def test_settings_that_json_cannot_hold_are_refused_when_written():
    with pytest.raises(TraceError, match="settings"):
        RunTrace({"tau": math.nan}).to_json()
    with pytest.raises(TraceError, match="settings"):
        RunTrace({"lock": object()}).to_json()


def test_summary():
    assert TRACE.summary() == {"steps": 2, "locked_share": 0.5, "mean_locked_alpha": 0.7, "last_risk": 1 / 3}
    assert RunTrace({}).summary() == {"steps": 0, "locked_share": 0.0, "mean_locked_alpha": None, "last_risk": None}
