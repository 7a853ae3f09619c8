"""Theorems about when to lock (M6) and how hard to guide (M7)."""

import math
from dataclasses import astuple, replace

import pytest

from kvlock_core import (
    COMPOSITE_LOCK,
    PAPER_GUIDANCE,
    PAPER_LOCK,
    GuidanceSchedule,
    LockSchedule,
    NonFiniteError,
    ScheduleError,
    SettingsError,
    guidance_scale,
    is_active,
    lock_strength,
)

RISKS = [0.0, 1e-9, 0.002, 0.005, 0.01, 0.013, 0.02, 1.0, 1e9]


def test_lock_strength_is_the_formula():
    for risk in RISKS:
        assert lock_strength(risk, 0.01) == min(max(risk / 0.01, 0), 1)
        assert lock_strength(risk, 0.01, 0.25, 0.75) == min(max(risk / 0.01, 0.25), 0.75)


def test_guidance_scale_is_the_formula():
    for risk in RISKS:
        assert guidance_scale(5.0, risk, 0.01, 0.0, 2.0) == 5.0 * min(max(risk / 0.01, 0), 2)
        assert guidance_scale(5.0, risk, 0.01) == 5.0 * min(max(risk / 0.01, 1), 2)


def check_never_falls_with_risk(implementation):
    values = [implementation(risk) for risk in RISKS]
    assert values == sorted(values) and values[0] < values[-1]


def test_more_risk_never_locks_or_guides_less():
    check_never_falls_with_risk(lambda risk: lock_strength(risk, 0.01))
    check_never_falls_with_risk(lambda risk: guidance_scale(3.0, risk, 0.01))


def test_the_monotony_checker_bites():
    with pytest.raises(AssertionError):
        check_never_falls_with_risk(lambda risk: 1 - lock_strength(risk, 0.01))
    with pytest.raises(AssertionError):
        check_never_falls_with_risk(lambda risk: 0.5)


def test_only_the_ratio_of_risk_and_tau_counts():
    for risk in RISKS:
        assert lock_strength(1000 * risk, 10.0) == pytest.approx(lock_strength(risk, 0.01))


def test_unknown_risk_is_treated_as_risky_but_guides_as_asked():
    assert lock_strength(None, 0.01) == 1.0
    assert lock_strength(None, 0.01, 0.1, 0.8) == 0.8
    assert guidance_scale(4.5, None, 0.01) == 4.5


def check_papers_range(implementation):
    assert [k for k in range(50) if implementation(k, 50)] == list(range(30, 50))


@pytest.mark.parametrize("implementation", [is_active, PAPER_LOCK.is_active, PAPER_GUIDANCE.is_active])
def test_the_papers_range_is_the_last_twenty_of_fifty(implementation):
    check_papers_range(implementation)


def test_the_range_checker_bites():
    with pytest.raises(AssertionError):
        check_papers_range(lambda k, n: 0.6 * n < k)
    with pytest.raises(AssertionError):
        check_papers_range(lambda k, n: 0.6 * n <= k < 0.98 * n)
    with pytest.raises(AssertionError):
        check_papers_range(LockSchedule().is_active)


@pytest.mark.parametrize(
    "schedule, kind, tau, floor, ceiling, start, end",
    [
        (LockSchedule(), "constant", 0.2, 0.0, 1.0, 0.0, 1.0),
        (COMPOSITE_LOCK, "risk", 16.0, 0.0, 0.5, 0.0, 0.6),
        (PAPER_LOCK, "risk", 0.01, 0.0, 1.0, 0.6, 1.0),
        (GuidanceSchedule(), "risk", 2.0, 1.0, 1.25, 0.0, 1.0),
        (PAPER_GUIDANCE, "risk", 0.01, 1.0, 2.0, 0.6, 1.0),
    ],
    ids=["lock alone", "beside a composite", "the paper's lock", "guidance", "the paper's guidance"],
)
def test_the_presets_are_these_numbers(schedule, kind, tau, floor, ceiling, start, end):
    assert astuple(schedule) == (kind, tau, floor, ceiling, start, end)


def test_the_default_lock_holds_all_of_the_source_in_every_step():
    assert all(LockSchedule().alpha(k, 20, risk) == 1.0 for k in range(20) for risk in (None, 0.0, 1e9))


def test_beside_a_composite_the_lock_is_soft_and_ends_early():
    assert [COMPOSITE_LOCK.alpha(k, 20, None) for k in range(20)] == [0.5] * 12 + [0.0] * 8
    assert [COMPOSITE_LOCK.alpha(0, 20, risk) for risk in (0.0, 4.0, 8.0, 80.0)] == [0.0, 0.25, 0.5, 0.5]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 20, 29, 30, 41, 50, 100, 1000])
def test_ranges_that_meet_cover_every_step_once(steps):
    cuts = [0.0, 0.1, 0.3, 0.55, 0.6, 0.7, 1.0]
    for k in range(steps):
        assert sum(is_active(k, steps, a, b) for a, b in zip(cuts, cuts[1:])) == 1


def test_rounding_moves_no_step_across_a_border():
    for steps in (1, 4, 7, 20, 29, 50, 100):
        for percent in range(101):
            first = -(-percent * steps // 100)  # whole numbers only; 0.55 * 100 is above 55 in floating point
            assert [is_active(k, steps, percent / 100, 1.0) for k in range(steps)] == [k >= first for k in range(steps)]


def test_a_distilled_run_has_an_active_step():
    assert [k for k in range(4) if is_active(k, 4)] == [3]
    assert not any(is_active(k, 4, 0.5, 0.5) for k in range(4))


@pytest.mark.parametrize("kind", ["risk", "constant", "linear", "cosine"])
def test_outside_the_range_nothing_happens(kind):
    lock, guidance = replace(PAPER_LOCK, kind=kind, floor=0.5), replace(PAPER_GUIDANCE, kind=kind, floor=1.5)
    for k in range(30):
        assert lock.alpha(k, 50, 1.0) == 0.0
        assert guidance.omega(4.0, k, 50, 1.0) == 4.0


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_timed_kinds_fall_from_ceiling_to_floor(kind):
    lock = replace(PAPER_LOCK, kind=kind, floor=0.2, ceiling=0.9)
    alphas = [lock.alpha(k, 50, None) for k in range(30, 50)]
    assert alphas[0] == 0.9 and alphas[-1] == 0.2
    assert alphas == sorted(alphas, reverse=True)
    guidance = replace(PAPER_GUIDANCE, kind=kind, floor=0.5, ceiling=1.5)
    assert guidance.omega(4.0, 30, 50, None) == 6.0 and guidance.omega(4.0, 49, 50, None) == 2.0


def test_linear_is_straight_and_cosine_is_half_way_in_the_middle():
    linear, cosine = (LockSchedule(kind, start_percent=0.0) for kind in ("linear", "cosine"))
    assert [linear.alpha(k, 5, None) for k in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert cosine.alpha(2, 5, None) == pytest.approx(0.5)
    assert cosine.alpha(1, 5, None) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_range_of_one_step_is_at_the_ceiling(kind):
    lock = replace(PAPER_LOCK, kind=kind, ceiling=0.7)
    assert [lock.alpha(k, 4, None) for k in range(4)] == [0.0, 0.0, 0.0, 0.7]


def test_constant_is_the_ceiling_for_a_lock_and_omega0_for_guidance():
    assert LockSchedule("constant", ceiling=0.4).alpha(49, 50, 0.0) == 0.4
    assert GuidanceSchedule("constant").omega(4.0, 49, 50, 1.0) == 4.0


def test_the_risk_kind_follows_the_functions():
    for risk in (None, *RISKS):
        assert replace(PAPER_LOCK, floor=0.1).alpha(40, 50, risk) == lock_strength(risk, 0.01, 0.1)
        assert COMPOSITE_LOCK.alpha(5, 50, risk) == lock_strength(risk, 16.0, 0.0, 0.5)
        assert PAPER_GUIDANCE.omega(4.0, 40, 50, risk) == guidance_scale(4.0, risk, 0.01)
        assert GuidanceSchedule().omega(4.0, 5, 50, risk) == guidance_scale(4.0, risk, 2.0, 1.0, 1.25)


@pytest.mark.parametrize("schedule", [LockSchedule, GuidanceSchedule])
@pytest.mark.parametrize(
    "settings, says",
    [
        ({"kind": "dynamic"}, "'dynamic'.*cosine"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"tau": -1.0}, "-1.0"),
        ({"tau": math.nan}, "nan"),
        ({"tau": math.inf}, "inf"),
        ({"floor": 0.9, "ceiling": 0.3}, "0.9.*0.3"),
        ({"floor": -0.1}, "-0.1"),
        ({"floor": math.nan}, "nan"),
        ({"ceiling": math.inf}, "inf"),
        ({"start_percent": 0.8, "end_percent": 0.5}, "0.8 .. 0.5"),
        ({"start_percent": -0.1}, "-0.1"),
        ({"end_percent": 1.2}, "1.2"),
        ({"start_percent": math.nan}, "nan"),
    ],
)
def test_a_bad_schedule_is_named(schedule, settings, says):
    schedule()  # the valid twin
    with pytest.raises(SettingsError, match=says):
        schedule(**settings)


def test_a_lock_cannot_be_more_than_full_but_guidance_can():
    assert GuidanceSchedule(ceiling=7.0).ceiling == 7.0
    with pytest.raises(SettingsError, match="7.0"):
        LockSchedule(ceiling=7.0)


@pytest.mark.parametrize("step", [-1, 50, 99])
def test_a_step_outside_the_run_is_named(step):
    with pytest.raises(ScheduleError, match=f"step {step} .*50"):
        is_active(step, 50)


@pytest.mark.parametrize("risk", [math.nan, math.inf])
def test_a_risk_that_is_no_number_is_named(risk):
    with pytest.raises(NonFiniteError, match=str(risk)):
        lock_strength(risk, 0.01)
    with pytest.raises(NonFiniteError, match=str(risk)):
        guidance_scale(4.0, risk, 0.01)
