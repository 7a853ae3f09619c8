"""Theorems about risk (M5)."""

import math
import statistics

import pytest
import torch

from kvlock_core import PAPER_RISK, GridMismatchError, MaskError, NonFiniteError, RiskSettings, RiskWindow, SettingsError

B, C, T, H, W = 2, 3, 3, 5, 7


def draw(n=1, seed=0):
    return list(torch.randn(n, B, C, T, H, W, generator=torch.Generator().manual_seed(seed)))


def some_edit():
    edit = torch.zeros(T, H, W)
    edit[1, 2:4, 1:6], edit[2, 0, 0] = 1, 1
    return edit


def last(window, predictions, edit=None, positions=None):
    positions = positions or [None] * len(predictions)
    return [window.push(x0, edit, position) for x0, position in zip(predictions, positions)][-1]


def literal(predictions, edit):
    """(M5) word for word: unbiased variance over time of each masked element, then their mean."""
    cells = edit.nonzero().tolist()
    series = ([float(x0[b, c, t, y, x]) for x0 in predictions] for b in range(B) for c in range(C) for t, y, x in cells)
    return statistics.fmean(statistics.variance(values) for values in series)


def check_is_the_formula(implementation):
    predictions, edit = draw(4, seed=1), some_edit()
    predictions = [x0 * (1 + 5 * (edit == 0)) for x0 in predictions]  # the outside is louder
    assert implementation(predictions, edit) == pytest.approx(literal(predictions, edit), rel=1e-5)


def test_it_is_the_formula():
    check_is_the_formula(lambda predictions, edit: last(RiskWindow(), predictions, edit))


def _biased(predictions, edit):
    return float(torch.stack(predictions).var(0, unbiased=False)[..., edit > 0].mean())


def _over_everything(predictions, edit):
    return float(torch.stack(predictions).var(0).mean())


def _diluted(predictions, edit):
    return float((torch.stack(predictions).var(0) * edit).mean())


def _pooled(predictions, edit):
    return float(torch.stack(predictions)[..., edit > 0].var())


@pytest.mark.parametrize("wrong", [_biased, _over_everything, _diluted, _pooled])
def test_the_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_is_the_formula(wrong)


def test_nothing_is_known_before_the_second_prediction_or_the_third_with_a_trend():
    plain, trend = RiskWindow(), RiskWindow(detrend=True)
    x = draw(3)
    assert [plain.push(x0) is None for x0 in x] == [True, False, False]
    assert [trend.push(x0) is None for x0 in x] == [True, True, False]


def test_a_region_without_cells_has_no_risk():
    assert last(RiskWindow(), draw(3), torch.zeros(T, H, W)) is None


def test_no_mask_is_a_mask_of_ones():
    assert last(RiskWindow(), draw(5)) == pytest.approx(last(RiskWindow(), draw(5), torch.ones(T, H, W)), rel=1e-6)


def test_the_window_forgets():
    old, recent = draw(6, seed=2), draw(4, seed=3)
    window = RiskWindow(size=4)
    assert last(window, [1e3 * x0 for x0 in old] + recent) == last(RiskWindow(size=4), recent)


def test_reset_forgets_everything():
    window = RiskWindow()
    last(window, draw(3), some_edit())
    window.reset()
    assert window.push(draw()[0]) is None


def test_what_happens_outside_the_mask_does_not_matter():
    edit, inside, outside = some_edit(), draw(4, seed=4), draw(4, seed=5)
    other = [torch.where(edit > 0, a, 100 * b) for a, b in zip(inside, outside)]
    assert last(RiskWindow(), inside, edit) == last(RiskWindow(), other, edit)


def test_risk_does_not_depend_on_the_size_of_the_mask():
    small, large = torch.zeros(T, H, W), torch.ones(T, H, W)
    small[1, 2, 3] = 1
    flat = [torch.full((B, C, T, H, W), value) for value in (0.0, 1.0, 4.0)]
    assert last(RiskWindow(), flat, small) == pytest.approx(last(RiskWindow(), flat, large), rel=1e-6)


def test_scale_law():
    """risk(c x) = c^2 risk(x); normalised, the scale falls out."""
    x = draw(5, seed=6)
    assert last(RiskWindow(), [3 * x0 for x0 in x]) == pytest.approx(9 * last(RiskWindow(), x), rel=1e-5)
    normal, scaled = (last(RiskWindow(normalise=True), [c * x0 for x0 in x]) for c in (1.0, 3.0))
    assert scaled == pytest.approx(normal, rel=1e-5)


def test_order_and_offset_do_not_matter_without_a_trend():
    x = draw(5, seed=7)
    risk = last(RiskWindow(), x)
    assert last(RiskWindow(), x[::-1]) == pytest.approx(risk, rel=1e-5)
    assert last(RiskWindow(), [x0 + 2 for x0 in x]) == pytest.approx(risk, rel=1e-4)


def test_no_movement_is_no_risk():
    x0 = draw()[0]
    for settings in ({}, {"detrend": True}, {"normalise": True}):
        assert last(RiskWindow(**settings), [x0] * 4, some_edit()) == pytest.approx(0.0, abs=1e-12)
    assert last(RiskWindow(normalise=True), [torch.zeros_like(x0)] * 3) == 0.0


def check_a_straight_drift_is_no_risk(implementation):
    base, drift = draw(2, seed=8)
    sigmas = [0.97, 0.83, 0.71, 0.43, 0.11]
    assert implementation([base + s * drift for s in sigmas], sigmas) == pytest.approx(0.0, abs=1e-9)


def test_a_straight_drift_is_no_risk_once_detrended():
    check_a_straight_drift_is_no_risk(lambda x, s: last(RiskWindow(detrend=True), x, None, s))


def test_the_drift_checker_bites():
    with pytest.raises(AssertionError):
        check_a_straight_drift_is_no_risk(lambda x, s: last(RiskWindow(), x, None, s))
    with pytest.raises(AssertionError):  # the axis matters: these steps are not evenly spaced in sigma
        check_a_straight_drift_is_no_risk(lambda x, s: last(RiskWindow(detrend=True), x))


def test_detrended_noise_is_unbiased():
    """White noise of variance 1 keeps risk 1 with and without a trend: that is what n - 2 is for."""
    noise = list(torch.randn(6, 1, 4, 11, 13, 17, generator=torch.Generator().manual_seed(9)))
    assert last(RiskWindow(detrend=True), noise) == pytest.approx(1.0, abs=0.03)
    assert last(RiskWindow(), noise) == pytest.approx(1.0, abs=0.03)


def test_a_trend_over_one_position_is_not_known():
    assert last(RiskWindow(detrend=True), draw(4), None, [0.5] * 4) is None


def test_half_precision_is_measured_in_float32():
    x = [(100 + x0).to(torch.bfloat16) for x0 in draw(4)]
    assert last(RiskWindow(), x) == pytest.approx(last(RiskWindow(), [x0.double() for x0 in x]), rel=1e-4)


def test_only_the_region_is_remembered_and_nothing_of_the_caller():
    window, edit, x = RiskWindow(size=3), some_edit(), draw(5)
    last(window, x, edit)
    assert sum(region.numel() for _, region in window._seen) == 3 * B * C * int(edit.sum())
    window, whole = RiskWindow(), draw(3)
    window.push(whole[0])
    whole[0].zero_()  # a host may reuse its buffer
    assert window.push(whole[1]) == pytest.approx(last(RiskWindow(), [draw(3)[0], whole[1]]))


FORMS = [{}, {"detrend": True}, {"normalise": True}, {"form": "rate"}, {"detrend": True, "normalise": True, "form": "rate"}]
SIGMAS = [0.9, 0.7, 0.6, 0.2]


def check_map_is_the_risk_cell_by_cell(map_of, settings, edit):
    """Each position is the risk of a window that watches that position alone, and their mean is the risk."""
    window, x = RiskWindow(**{**settings, "normalise": False}), draw(4, seed=11)
    last(window, x, edit, SIGMAS)
    found, inside = map_of(window), (torch.ones(T, H, W) if edit is None else edit)
    for y, column in [(2, 3), (0, 0), (4, 6)]:
        alone = torch.zeros(T, H, W)
        alone[:, y, column] = inside[:, y, column]
        risk = last(RiskWindow(**{**settings, "normalise": False}), x, alone, SIGMAS)
        assert found[y, column].isnan() if risk is None else float(found[y, column]) == pytest.approx(risk, rel=1e-4)


@pytest.mark.parametrize("edit", [None, some_edit()], ids=["all", "edit"])
@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_the_map_is_the_risk_cell_by_cell(settings, edit):
    check_map_is_the_risk_cell_by_cell(RiskWindow.risk_map, settings, edit)
    window = RiskWindow(**settings)
    risk = last(window, draw(4, seed=12), edit, SIGMAS)
    cells = torch.full((H, W), float(T)) if edit is None else edit.sum(0)
    assert float((window.risk_map().nan_to_num() * cells).sum() / cells.sum()) == pytest.approx(risk, rel=1e-5)


@pytest.mark.parametrize("wrong", [lambda found: found.flip(0), lambda found: found.nan_to_num(), lambda found: found * T])
def test_the_map_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_map_is_the_risk_cell_by_cell(lambda window: wrong(window.risk_map()), {}, some_edit())


def test_the_map_is_not_known_before_the_risk_is_and_changes_nothing():
    window, x = RiskWindow(), draw(3)
    assert window.risk_map() is None
    window.push(x[0])
    assert window.risk_map() is None
    window.push(x[1])
    assert window.risk_map().shape == (H, W) and window.risk_map().equal(window.moved_to("cpu").risk_map())
    assert window.push(x[2]) == last(RiskWindow(), x)
    window.reset()
    assert window.risk_map() is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_prediction_is_named(value):
    window, x = RiskWindow(), draw(3)
    window.push(x[0])
    x[1][0, 0, 0, 0, 0] = value
    with pytest.raises(NonFiniteError, match="prediction 1"):
        window.push(x[1])


@pytest.mark.parametrize("size, detrend", [(1, False), (0, False), (2, True), (2.5, False), (True, False)])
def test_a_window_that_can_never_answer_is_refused(size, detrend):
    with pytest.raises(SettingsError, match=str(size)):
        RiskWindow(size, detrend)


def test_another_grid_is_named():
    with pytest.raises(GridMismatchError, match=r"\(5, 7\)"):
        RiskWindow().push(torch.zeros(5, 7))
    with pytest.raises(GridMismatchError, match=r"\(3, 7, 5\).*\(3, 5, 7\)"):
        RiskWindow().push(draw()[0], torch.zeros(T, W, H))
    window = RiskWindow()
    window.push(draw()[0])
    with pytest.raises(GridMismatchError, match="reset"):
        window.push(torch.zeros(B, C, T, H, W + 1))


@pytest.mark.parametrize("other", [None, torch.ones(T, H, W)])
def test_another_mask_within_a_window_is_refused(other):
    window = RiskWindow()
    window.push(draw()[0], some_edit())
    with pytest.raises(MaskError, match="reset"):
        window.push(draw()[0], other)


# the rate: the same on every schedule -----------------------------------------------------------------------------------


def sigmas(steps, shift):
    """A flow schedule's levels, the clean one left out."""
    even = [1 - k / steps for k in range(steps)]
    return [shift * s / (1 + (shift - 1) * s) for s in even]


def check_a_straight_drift_has_one_risk_on_every_schedule(implementation):
    base, drift = draw(2)
    found = []
    for steps in (8, 20, 50):
        for shift in (1.0, 3.0, 8.0):
            levels = sigmas(steps, shift)
            found.append(implementation(steps)(levels, [base + s * drift for s in levels]))
    assert found == pytest.approx([float(drift.square().mean())] * len(found), rel=1e-3)


def _by(settings):
    return lambda steps: lambda levels, x: last(RiskWindow.of(settings, steps), x, None, levels)


def test_the_rate_of_a_straight_drift_is_its_mean_square_on_every_schedule():
    check_a_straight_drift_has_one_risk_on_every_schedule(_by(RiskSettings()))


@pytest.mark.parametrize("settings", [PAPER_RISK, RiskSettings(form="variance")], ids=["paper", "share of the steps"])
def test_the_schedule_checker_bites(settings):
    with pytest.raises(AssertionError):
        check_a_straight_drift_has_one_risk_on_every_schedule(_by(settings))


def test_the_rate_is_the_variance_over_the_variance_of_sigma():
    x, s = draw(4), [0.9, 0.7, 0.65, 0.3]
    rate, variance = (last(RiskWindow(form=form), x, some_edit(), s) for form in ("rate", "variance"))
    assert rate == pytest.approx(variance / statistics.variance(s), rel=1e-5)
    rate, variance = (last(RiskWindow(form=form, detrend=True, normalise=True), x, None, s) for form in ("rate", "variance"))
    assert rate == pytest.approx(variance / statistics.variance(s), rel=1e-5)


def test_a_rate_at_one_single_level_is_not_known():
    assert last(RiskWindow(form="rate"), draw(3), None, [0.5] * 3) is None


def test_the_presets_of_the_risk_are_these():
    assert RiskSettings() == RiskSettings(window=None, region="edit", detrend=False, normalise=False, form="rate")
    assert PAPER_RISK == RiskSettings(window=10, region="edit", detrend=False, normalise=False, form="variance")


def test_the_default_window_is_a_fifth_of_the_steps_and_never_too_small():
    assert [RiskSettings().size(steps) for steps in (1, 4, 8, 20, 21, 50)] == [2, 2, 2, 4, 5, 10]
    assert RiskSettings(detrend=True).size(8) == 3
    assert PAPER_RISK.size(8) == PAPER_RISK.size(500) == 10


def test_a_window_goes_on_only_with_what_it_measures():
    window = RiskWindow.of(RiskSettings(), 20)
    window.push(draw()[0], some_edit(), 0.9)
    assert window.continues(RiskSettings(), 20) and window.moved_to("cpu").continues(RiskSettings(), 20)
    assert not window.continues(RiskSettings(), 50)
    assert not window.continues(RiskSettings(form="variance"), 20)


def test_an_unknown_form_is_refused():
    for make in (lambda: RiskWindow(form="spread"), lambda: RiskSettings(form="spread")):
        with pytest.raises(SettingsError, match="'spread'.*rate"):
            make()
