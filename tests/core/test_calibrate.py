"""calibrate: the tau it suggests gives the mean alpha that was asked for."""

import pytest

from kvlock_core import COMPOSITE_LOCK, LockSchedule, RunTrace, SettingsError, StepRecord, calibrate, lock_strength, target_alpha

RISKS = [None, 9.0, 4.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1]


def trace(risks=RISKS):
    steps = (StepRecord(k, 1 - k / len(risks), False, risk, 0.0, None, None, False) for k, risk in enumerate(risks))
    return RunTrace({}, tuple(steps), len(risks))


def check_mean_alpha(found, lock, acting, wanted):
    alphas = [lock_strength(risk, found.tau, lock.floor, lock.ceiling) for risk in acting]
    assert sum(alphas) / len(alphas) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("bounds", [{}, dict(floor=0.1, ceiling=0.95)])
def test_tau_gives_the_mean_alpha_over_the_active_steps(wanted, bounds):
    lock = LockSchedule("risk", start_percent=0.0, **bounds)
    check_mean_alpha(calibrate(trace(), lock, wanted), lock, RISKS[1:-1], wanted)


def test_only_risks_that_active_steps_lock_by_count():
    lock = LockSchedule("risk", start_percent=0.6)
    found = calibrate(trace(), lock)
    acting = RISKS[5:9]  # steps 6 .. 9 follow the step before each
    check_mean_alpha(found, lock, acting, 0.5)
    assert (found.steps, found.least, found.median, found.most) == (4, 0.2, 0.35, 0.5)
    with pytest.raises(AssertionError):
        check_mean_alpha(found, lock, RISKS[6:10], 0.5)


def test_steps_after_the_range_do_not_count():
    found = calibrate(trace(), COMPOSITE_LOCK, 0.25)
    acting = RISKS[1:5]  # steps 2 .. 5 follow the step before each; step 1 follows a step without a risk
    check_mean_alpha(found, COMPOSITE_LOCK, acting, 0.25)
    assert (found.steps, found.least, found.most) == (4, 1.0, 9.0)


@pytest.mark.parametrize("floor, ceiling, halfway", [(0.0, 1.0, 0.5), (0.0, 0.5, 0.25), (0.4, 0.5, 0.45)])
def test_without_a_word_the_mean_is_halfway_from_floor_to_ceiling(floor, ceiling, halfway):
    lock = LockSchedule("risk", floor=floor, ceiling=ceiling)
    found = calibrate(trace(), lock)
    assert found.mean_alpha == pytest.approx(halfway)
    check_mean_alpha(found, lock, RISKS[1:-1], halfway)


def test_tau_scales_with_the_risk():
    lock = LockSchedule("risk", start_percent=0.0)
    scaled = trace([risk and 1000 * risk for risk in RISKS])
    assert calibrate(scaled, lock).tau == pytest.approx(1000 * calibrate(trace(), lock).tau, rel=1e-3)


@pytest.mark.parametrize("risks", [[None] * 5, [0.0] * 5, [1.0]], ids=["never known", "never any", "one step"])
def test_a_run_that_says_nothing_is_refused(risks):
    with pytest.raises(SettingsError, match="active range"):
        calibrate(trace(risks), LockSchedule("risk", start_percent=0.0))


def test_an_alpha_outside_the_bounds_is_refused():
    with pytest.raises(SettingsError, match="0.9.*ceiling 0.8"):
        calibrate(trace(), LockSchedule("risk", ceiling=0.8), 0.9)


def test_steps_count_by_how_far_they_move_so_the_spacing_does_not_matter():
    """The same risk at the same noise level, seen by few and by many steps, evenly spaced or crowded at the top."""
    def seen_by(sigmas):
        steps = [StepRecord(k, s, False, 20.0 * s**4, 0.0, None, None, False) for k, s in enumerate(sigmas)]
        return calibrate(RunTrace({}, tuple(steps), len(steps)), LockSchedule(start_percent=0.0)).tau

    even, crowded = [1 - k / 400 for k in range(400)], [1 - (k / 400) ** 2 for k in range(400)]
    few = [1 - k / 100 for k in range(100)]
    assert seen_by(crowded) == pytest.approx(seen_by(even), rel=0.05)
    assert seen_by(few) == pytest.approx(seen_by(even), rel=0.1)


def test_an_impossible_mean_alpha_is_known_before_any_run():
    assert target_alpha(LockSchedule(floor=0.2, ceiling=0.6)) == pytest.approx(0.4)
    with pytest.raises(SettingsError, match="2.*ceiling 0.6"):
        target_alpha(LockSchedule(ceiling=0.6), 2.0)


def test_the_second_half_of_a_run_counts_as_the_second_half():
    """As the second model of a run reports it: its steps begin in the middle of the schedule."""
    whole = [StepRecord(k, 1 - k / 10, False, 20.0 * (1 - k / 10) ** 2, 0.0, None, None, False) for k in range(10)]
    late = LockSchedule("risk", start_percent=0.6)
    assert calibrate(RunTrace({}, tuple(whole[5:]), 10), late) == calibrate(RunTrace({}, tuple(whole), 10), late)


def test_the_first_half_of_a_run_counts_as_the_first_half():
    """Its last step is left out, as nothing says where it ends."""
    whole = [StepRecord(k, 1 - k / 10, False, 20.0 * (1 - k / 10) ** 2, 0.0, None, None, False) for k in range(10)]
    early = LockSchedule("risk", start_percent=0.0, end_percent=0.4)
    assert calibrate(RunTrace({}, tuple(whole[:5]), 10), early) == calibrate(RunTrace({}, tuple(whole), 10), early)
    with pytest.raises(SettingsError, match="active range"):
        calibrate(RunTrace({}, tuple(whole[:5]), 10), LockSchedule("risk", start_percent=0.6))
