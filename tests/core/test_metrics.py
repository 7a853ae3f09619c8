"""Theorems about the fidelity measures. Clips are small, sizes unequal primes."""

import json
import math

import pytest
import torch

from kvlock_core import (
    MetricError,
    background_ssim,
    color_drift,
    drift_slope,
    fidelity,
    flicker,
    psnr,
    psnr_per_frame,
    seam_mismatch,
)

FRAMES, HEIGHT, WIDTH = 5, 29, 31


def clip(seed=0):
    return 0.25 + 0.5 * torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))


def box(top=9, left=8, height=11, width=13):
    edit = torch.zeros(FRAMES, HEIGHT, WIDTH)
    edit[:, top : top + height, left : left + width] = 1
    return edit


def inside(edit):
    return edit[..., None].expand(-1, -1, -1, 3) > 0


def check_psnr_is_a_true_background_mean(implementation):
    """A known error of 0.1 outside is 20 dB whatever the mask's area and whatever happens inside."""
    source = clip()
    for edit in (box(), box(1, 1, 25, 27), torch.zeros(FRAMES, HEIGHT, WIDTH)):
        edited = torch.where(inside(edit), clip(1), source + 0.1)
        assert implementation(edited, source, edit) == pytest.approx(20.0, abs=1e-4)


def _whole_frame(a, b, edit):
    keep = 1 - edit[..., None]
    return -10 * math.log10(float((keep * (a - b)).square().mean()))


def test_psnr_is_a_true_mean_over_the_background():
    check_psnr_is_a_true_background_mean(psnr)


def test_the_psnr_checker_bites():
    with pytest.raises(AssertionError):
        check_psnr_is_a_true_background_mean(_whole_frame)
    with pytest.raises(AssertionError):
        check_psnr_is_a_true_background_mean(lambda a, b, edit: psnr(a, b))


def test_identical_is_infinite_and_symmetric_otherwise():
    assert psnr(clip(), clip()) == math.inf
    assert psnr(clip(), clip(1), box()) == psnr(clip(1), clip(), box())
    assert psnr(clip(), clip(1), box()) == psnr(clip(), clip(1), box().bool())


def test_psnr_of_frames():
    source, edit = clip(), box()
    edit[0] = 1
    edited = source + torch.tensor([0.5, 0.1, 0.01, 0.0, 0.1])[:, None, None, None]
    values = psnr_per_frame(edited, source, edit)
    assert values[1:4] == pytest.approx((20.0, 40.0, math.inf), abs=1e-3) and math.isnan(values[0])
    assert fidelity(edited, source, edit).psnr_worst_frame == pytest.approx(20.0, abs=1e-3)


def check_ssim_does_not_see_the_edit(implementation):
    edit = box()
    edited = torch.where(inside(edit), clip(1), clip())
    assert implementation(edited, clip(), edit) == pytest.approx(1.0, abs=1e-5)


def test_ssim_does_not_see_the_edit_through_its_window():
    check_ssim_does_not_see_the_edit(background_ssim)


def test_the_ssim_checker_bites():
    with pytest.raises(AssertionError):
        check_ssim_does_not_see_the_edit(lambda a, b, edit: background_ssim(a, b, edit, erode=0))


def test_ssim_falls_with_damage():
    noise = torch.randn(clip().shape, generator=torch.Generator().manual_seed(2))
    values = [background_ssim(clip() + amount * noise, clip(), box()) for amount in (0.0, 0.02, 0.1, 0.5)]
    assert values == sorted(values, reverse=True) and values[-1] < 0.8


def check_drift_is_signed_and_per_channel(implementation):
    edit, shift = box(), torch.tensor([0.02, -0.03, 0.0])
    frames = torch.arange(FRAMES)[:, None, None, None]
    edited = torch.where(inside(edit), clip(1), clip() + frames * shift)
    drift = implementation(edited, clip(), edit)
    assert torch.allclose(drift.float(), torch.arange(FRAMES)[:, None] * shift, atol=1e-6)
    assert torch.allclose(drift_slope(drift).float(), shift, atol=1e-6)


def test_colour_drift_and_its_slope():
    check_drift_is_signed_and_per_channel(color_drift)


def test_the_drift_checker_bites():
    with pytest.raises(AssertionError):
        check_drift_is_signed_and_per_channel(lambda *clips: color_drift(*clips).abs())
    with pytest.raises(AssertionError):
        check_drift_is_signed_and_per_channel(lambda a, b, edit: (a - b).mean((1, 2)))


def test_slope_skips_frames_without_background():
    drift = torch.arange(5.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    drift[2] = math.nan
    assert torch.allclose(drift_slope(drift), torch.tensor([1.0, -2.0, 0.5]))


def check_a_seam_is_seen(implementation):
    """A flat patch of another brightness has gradients only at the border; a smooth change has none to speak of."""
    edit, source = box(), clip()
    seam = torch.where(inside(edit), source + 0.2, source)
    ramp = source + 0.2 * torch.linspace(0, 1, WIDTH)[:, None]
    assert implementation(source, source, edit) == 0.0
    assert implementation(seam, source, edit) > 5 * implementation(ramp, source, edit) > 0
    assert implementation(source + 0.2, source, edit) == pytest.approx(0.0, abs=1e-6)


def test_a_seam_is_seen_where_it_is():
    check_a_seam_is_seen(seam_mismatch)
    far = clip()
    far[:, 0, 0] += 0.2
    assert seam_mismatch(far, clip(), box()) == 0.0


def test_the_seam_checker_bites():
    with pytest.raises(AssertionError):
        check_a_seam_is_seen(lambda a, b, edit: float((a - b).abs().mean()))
    with pytest.raises(AssertionError):  # the edit's own gradients, not set against the source's
        check_a_seam_is_seen(lambda a, b, edit: float(a.diff(dim=2).abs().mean()))


def test_a_seam_has_a_known_size():
    """A vertical step of height h crosses a ring 2*width wide once per row."""
    edit, source = torch.zeros(1, 7, 40), torch.full((1, 7, 40, 3), 0.5)
    edit[:, :, 20:] = 1
    edited = torch.where(inside(edit), source + 0.3, source)
    across, down = 7 * (2 * 3 - 1), 6 * (2 * 3)
    assert seam_mismatch(edited, source, edit) == pytest.approx(0.3 * 7 / (across + down), rel=1e-5)


def check_flicker_counts_added_restlessness(implementation):
    source, edit = clip(), box()
    still = source[:1].expand_as(source)
    blink = 0.1 * (torch.arange(FRAMES) % 2)[:, None, None, None]
    assert implementation(source, source, edit) == 0.0
    outside = torch.where(inside(edit), source, source + blink)
    assert implementation(outside, source, edit) == pytest.approx(0.0, abs=1e-7)
    assert implementation(still + blink, still, edit) == pytest.approx(0.1, abs=1e-6)
    assert implementation(still, source, edit) < 0


def test_flicker_is_added_restlessness_in_its_region():
    check_flicker_counts_added_restlessness(flicker)


def test_the_flicker_checker_bites():
    with pytest.raises(AssertionError):
        check_flicker_counts_added_restlessness(lambda a, b, region: float((a - b).abs().mean()))
    with pytest.raises(AssertionError):
        check_flicker_counts_added_restlessness(lambda a, b, region: flicker(a, b, torch.ones_like(region)))


def test_flicker_of_a_moving_region_compares_only_what_both_frames_hold():
    region = torch.zeros(FRAMES, HEIGHT, WIDTH)
    edited = clip()
    for f in range(FRAMES):
        region[f, :, : 10 + 3 * f] = 1
        edited[f, :, 10 + 3 * f :] = 0.0  # loud, but outside
    assert flicker(edited, clip(), region) == 0.0


def test_fidelity_gathers_everything_and_becomes_json():
    edited = torch.where(inside(box()), clip(1), clip() + 0.01)
    found = fidelity(edited, clip(), box())
    assert found.psnr == psnr(edited, clip(), box())
    assert found.seam == seam_mismatch(edited, clip(), box())
    assert found.color_drift == pytest.approx((0.01,) * 3, abs=1e-6)
    assert found.background_share == pytest.approx(1 - 11 * 13 / (HEIGHT * WIDTH))
    assert set(json.loads(json.dumps(found.to_dict()))) == set(found.to_dict())


def test_what_is_undefined_is_none():
    one = fidelity(clip()[:1], clip()[:1], box()[:1])
    assert (one.drift_slope, one.flicker_background, one.flicker_edit) == (None, None, None)
    assert one.psnr == math.inf and one.ssim == pytest.approx(1.0, abs=1e-4)
    untouched = fidelity(clip(), clip(), torch.zeros(FRAMES, HEIGHT, WIDTH))
    assert (untouched.seam, untouched.flicker_edit) == (None, None)
    assert fidelity(clip(), clip(), box(3, 3, 23, 25)).ssim is None


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: psnr(clip(), clip()[:2]), r"\(5, 29, 31, 3\) and \(2, 29, 31, 3\)"),
        (lambda: psnr(clip()[..., :2], clip()[..., :2]), r"\(5, 29, 31, 2\)"),
        (lambda: psnr(clip(), clip(), box()[:2]), r"mask \(2, 29, 31\)"),
        (lambda: psnr(clip(), clip(), torch.ones(FRAMES, HEIGHT, WIDTH)), "covers every pixel"),
        (lambda: psnr(clip() * math.nan, clip()), "NaN"),
        (lambda: fidelity(clip(), clip(), torch.ones(FRAMES, HEIGHT, WIDTH)), "covers every pixel"),
        (lambda: background_ssim(clip(), clip(), box(3, 3, 23, 25)), "shrinking it by 5 px"),
        (lambda: background_ssim(clip()[:, :5], clip()[:, :5], box()[:, :5]), r"\(5, 31\)"),
        (lambda: seam_mismatch(clip(), clip(), torch.zeros(FRAMES, HEIGHT, WIDTH)), "border"),
        (lambda: flicker(clip()[:1], clip()[:1], box()[:1]), "two frames"),
        (lambda: flicker(clip(), clip(), box()[:2]), r"mask \(2, 29, 31\)"),
        (lambda: drift_slope(torch.zeros(1, 3)), "1 frames"),
    ],
)
def test_a_bad_measure_is_named(call, says):
    with pytest.raises(MetricError, match=says):
        call()
