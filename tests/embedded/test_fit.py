"""Fit: onto the model's grid and back, bit for bit."""

import logging
from dataclasses import FrozenInstanceError

import pytest
import torch

from kvlock_core.errors import KVLockError
from kvlock_diffusers.errors import ClipTooShortError, FitError
from kvlock_diffusers.fit import Fit

PRIMES = [(5, 17, 31), (7, 29, 37), (11, 19, 23), (13, 41, 53)]


def clip(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", ["pad", "crop"])
@pytest.mark.parametrize("size", PRIMES)
def test_restore_inverts_apply_bit_for_bit(size, rule):
    original = clip(*size, 3)
    fit = Fit.plan(*size, rule=rule)
    assert torch.equal(fit.restore(fit.apply(original), original), original)


@pytest.mark.parametrize("rule", ["pad", "crop"])
@pytest.mark.parametrize("size", PRIMES)
@pytest.mark.parametrize("temporal, multiple", [(4, 16), (4, 8), (3, 7), (1, 2)])
def test_fitted_size_is_what_the_model_takes(size, rule, temporal, multiple):
    fit = Fit.plan(*size, temporal=temporal, multiple=multiple, rule=rule)
    frames, height, width = fit.apply(clip(*size, 3)).shape[:3]
    assert (frames, height, width) == fit.model_size
    assert (frames - 1) % temporal == 0 and height % multiple == 0 and width % multiple == 0
    assert size[0] <= frames < size[0] + temporal
    sign = 1 if rule == "pad" else -1
    assert all(0 <= sign * (fitted - own) < multiple for fitted, own in zip((height, width), size[1:]))


def test_a_clip_on_the_grid_is_left_alone():
    original = clip(9, 16, 32, 3)
    for rule in ("pad", "crop"):
        assert torch.equal(Fit.plan(9, 16, 32, rule=rule).apply(original), original)


def test_pad_repeats_the_last_frame_row_and_column():
    original = clip(7, 17, 19, 3)
    fitted = Fit.plan(7, 17, 19).apply(original)
    assert fitted.shape == (9, 32, 32, 3)
    for axis, last in enumerate((6, 16, 18)):
        surplus = fitted.narrow(axis, last, fitted.shape[axis] - last)
        assert torch.equal(surplus, surplus.narrow(axis, 0, 1).expand_as(surplus))


def test_crop_takes_the_centre():
    original = clip(5, 21, 35, 3)
    assert torch.equal(Fit.plan(5, 21, 35, rule="crop").apply(original), original[:, 2:18, 1:33])


def test_crop_keeps_the_sources_own_border():
    original = clip(5, 21, 35, 3)
    fit = Fit.plan(5, 21, 35, rule="crop")
    restored = fit.restore(torch.full((5, 16, 32, 3), 2.0), original)
    inside = torch.zeros(5, 21, 35, dtype=torch.bool)
    inside[:, 2:18, 1:33] = True
    assert (restored[inside] == 2).all() and torch.equal(restored[~inside], original[~inside])


def test_wan22_5b_grid():
    assert Fit.plan(6, 33, 31, multiple=32).model_size == (9, 64, 32)


def test_pad_restores_edited_pixels_everywhere():
    fit = Fit.plan(7, 17, 19)
    edited = clip(*fit.model_size, 3, seed=1)
    restored = fit.restore(edited, clip(7, 17, 19, 3))
    assert torch.equal(restored, edited[:7, :17, :19])


@pytest.mark.parametrize("rule", ["pad", "crop"])
def test_inputs_are_not_written_to(rule):
    original, fit = clip(7, 17, 19, 3), Fit.plan(7, 17, 19, rule=rule)
    edited = clip(*fit.model_size, 3, seed=1)
    before = original.clone(), edited.clone()
    fit.apply(original).zero_()
    fit.restore(edited, original).zero_()
    assert torch.equal(original, before[0]) and torch.equal(edited, before[1])


@pytest.mark.parametrize("rule", ["pad", "crop"])
def test_restored_clip_has_the_dtype_of_the_edit(rule):
    fit = Fit.plan(5, 17, 19, rule=rule)
    edited = clip(*fit.model_size, 3).to(torch.bfloat16)
    assert fit.restore(edited, clip(5, 17, 19, 3)).dtype == torch.bfloat16


def test_padding_of_the_mask_repeats_its_border():
    mask = torch.zeros(7, 17, 19)
    mask[-1, -1, 4] = 1
    fitted = Fit.plan(7, 17, 19).apply_mask(mask)
    assert fitted.shape == (9, 32, 32) and (fitted[6:, 16:, 4] == 1).all()
    assert fitted.sum() == 3 * 16


def test_mask_and_clip_are_cropped_alike():
    mask = (clip(7, 21, 35) > 0.5).float()
    fit = Fit.plan(7, 21, 35, rule="crop")
    assert torch.equal(fit.apply_mask(mask)[:7], fit.apply(mask)[:7])


def test_a_crop_that_cuts_the_mask_says_so(caplog):
    mask = torch.zeros(5, 21, 35)
    mask[:, 0, 0] = 1
    with caplog.at_level(logging.WARNING, logger="kvlock"):
        Fit.plan(5, 21, 35, rule="crop").apply_mask(mask)
    assert "5 of 5 marked pixels" in caplog.text


def test_plan_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Fit.plan(5, 16, 16).frames = 9


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_too_short_clip_names_its_count(frames):
    with pytest.raises(ClipTooShortError, match=f"{frames}.*at least 5"):
        Fit.plan(frames, 16, 16)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"rule": "stretch"}, "stretch.*pad or crop"),
        ({"multiple": 0}, "multiple is 0"),
        ({"height": 0}, "height is 0"),
        ({"width": 16.5}, "width is 16.5"),
        ({"height": 9, "rule": "crop"}, "smaller than one cell of 16"),
    ],
)
def test_impossible_plans_are_named(arguments, words):
    with pytest.raises(FitError, match=words):
        Fit.plan(**{"frames": 5, "height": 16, "width": 16, **arguments})


def test_foreign_tensors_are_refused():
    fit = Fit.plan(5, 17, 19)
    with pytest.raises(FitError, match=r"the clip is \(5, 19, 17\)"):
        fit.apply(clip(5, 19, 17, 3))
    with pytest.raises(FitError, match="the edit mask"):
        fit.apply_mask(clip(1, 17, 19))
    with pytest.raises(FitError, match="the edited clip"):
        fit.restore(clip(5, 17, 19, 3), clip(5, 17, 19, 3))
    with pytest.raises(FitError, match="the original clip"):
        fit.restore(clip(*fit.model_size, 3), clip(5, 32, 32, 3))


def test_errors_belong_to_the_tree():
    assert issubclass(FitError, KVLockError) and issubclass(ClipTooShortError, KVLockError)
