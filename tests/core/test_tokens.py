"""Theorems about masks (M1). Sizes are unequal primes so that no wrong axis can pass."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from kornia.morphology import dilation

from kvlock_core import MaskError, grow_mask, invert_mask, latent_mask, mask_coverage, token_mask

SPATIAL, TEMPORAL = 4, 4
FRAMES, HEIGHT, WIDTH = 9, 20, 28  # 3 x 5 x 7 cells, 3 x 3 x 4 tokens


def tokens_of(mask):
    return token_mask(latent_mask(mask, temporal=TEMPORAL, spatial=SPATIAL))


def pixels_of_token(mask, t, i, j):
    """What the token covers, written from the definition and with no pooling in sight."""
    frames = [0] if t == 0 else range(TEMPORAL * (t - 1) + 1, min(TEMPORAL * t + 1, mask.shape[0]))
    rows = range(2 * SPATIAL * i, min(2 * SPATIAL * (i + 1), mask.shape[1]))
    cols = range(2 * SPATIAL * j, min(2 * SPATIAL * (j + 1), mask.shape[2]))
    return [bool(mask[f, y, x]) for f, y, x in itertools.product(frames, rows, cols)]


def check_editable_iff_any_pixel_is(implementation, frames=FRAMES):
    generator = torch.Generator().manual_seed(frames)
    mask = (torch.rand(frames, HEIGHT, WIDTH, generator=generator) < 0.036 / frames).float()
    grid = (1 + math.ceil((frames - 1) / TEMPORAL), 3, 4)
    expected = [float(any(pixels_of_token(mask, *place))) for place in itertools.product(*map(range, grid))]
    assert 0 < sum(expected) < len(expected)
    assert implementation(mask).tolist() == expected


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 7, 9, 11, 13])
def test_a_token_is_editable_iff_any_pixel_it_covers_is(frames):
    check_editable_iff_any_pixel_is(tokens_of, frames)


def _averaging(mask):
    return token_mask((F.avg_pool2d(latent_mask(mask, temporal=4, spatial=1), SPATIAL) >= 0.5).float())


def _not_causal(mask):
    return tokens_of(F.pad(mask, (0, 0, 0, 0, 3, 0)).roll(-3, 0))


def _transposed(mask):
    return tokens_of(mask).reshape(3, 3, 4).transpose(1, 2).flatten()


def _padded_in_front(mask):
    cells = latent_mask(mask, temporal=TEMPORAL, spatial=SPATIAL)
    return token_mask(F.pad(cells, (1, 0, 1, 0)))


@pytest.mark.parametrize("wrong", [_averaging, _not_causal, _transposed, _padded_in_front])
def test_the_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_editable_iff_any_pixel_is(wrong)


def test_every_single_pixel_opens_exactly_one_token():
    for f, y, x in itertools.product((0, 1, 4, 5, 8), (0, 7, 8, 19), (0, 15, 16, 27)):
        mask = torch.zeros(FRAMES, HEIGHT, WIDTH)
        mask[f, y, x] = 1
        place = (math.ceil(f / TEMPORAL) * 3 + y // (2 * SPATIAL)) * 4 + x // (2 * SPATIAL)
        assert tokens_of(mask).nonzero().tolist() == [[place]]


def test_a_larger_mask_never_opens_fewer_tokens():
    small = torch.rand(FRAMES, HEIGHT, WIDTH) < 0.01
    large = small | (torch.rand(FRAMES, HEIGHT, WIDTH) < 0.01)
    assert (tokens_of(small) <= tokens_of(large)).all()


def test_empty_stays_empty_and_full_stays_full():
    assert tokens_of(torch.zeros(FRAMES, HEIGHT, WIDTH)).sum() == 0
    assert tokens_of(torch.ones(FRAMES, HEIGHT, WIDTH)).min() == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_any_real_dtype_gives_the_same_float32_mask(dtype):
    mask = torch.rand(FRAMES, HEIGHT, WIDTH) < 0.02
    cells = latent_mask(mask.to(dtype))
    assert cells.dtype == torch.float32
    assert torch.equal(cells, latent_mask(mask.float()))


def test_default_strides_are_those_of_wan():
    assert latent_mask(torch.zeros(9, 40, 56)).shape == (3, 5, 7)
    assert token_mask(torch.zeros(3, 5, 7)).shape == (36,)
    assert token_mask(torch.zeros(3, 5, 7), (2, 3, 1)).shape == (2 * 2 * 7,)


def check_touches(implementation, pixels, cells):
    """A cell of a resized mask is editable iff its interval touches an editable pixel."""
    for lit in range(pixels):
        row = torch.zeros(1, 1, pixels)
        row[0, 0, lit] = 1
        expected = [float(i * pixels < (lit + 1) * cells and lit * cells < (i + 1) * pixels) for i in range(cells)]
        assert implementation(row, (1, 1, cells)).flatten().tolist() == expected


@pytest.mark.parametrize("pixels, cells", [(28, 7), (13, 5), (5, 13), (7, 7), (3, 7)])
def test_resizing_takes_the_maximum_over_what_a_cell_touches(pixels, cells):
    check_touches(lambda row, size: latent_mask(row, size=size), pixels, cells)


def test_the_resize_checker_bites():
    with pytest.raises(AssertionError):
        check_touches(lambda row, size: F.interpolate(row[None], size[1:], mode="nearest")[0], 13, 5)
    with pytest.raises(AssertionError):
        check_touches(lambda row, size: F.interpolate(row[None], size[1:], mode="bilinear")[0], 5, 13)


def test_one_frame_holds_for_the_whole_clip():
    mask = (torch.rand(1, HEIGHT, WIDTH) < 0.05).float()
    cells = latent_mask(mask, size=(3, 5, 7))
    assert cells.shape == (3, 5, 7)
    assert all(torch.equal(frame, cells[0]) for frame in cells)


def test_soft_values_are_kept_when_asked_for_and_rounded_when_not():
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH)
    mask[6, 9, 13], mask[0, 0, 0] = 0.25, 0.75
    soft = latent_mask(mask, spatial=SPATIAL, soft=True)
    assert sorted(soft.unique().tolist()) == [0.0, 0.25, 0.75]
    assert sorted(token_mask(soft).unique().tolist()) == [0.0, 0.25, 0.75]
    assert latent_mask(mask, spatial=SPATIAL).nonzero().tolist() == [[0, 0, 0]]


def check_grows_by_a_disc(implementation, radius):
    mask = (torch.rand(2, 11, 13, generator=torch.Generator().manual_seed(3)) < 0.03).float()
    ys, xs = torch.meshgrid(torch.arange(11), torch.arange(13), indexing="ij")
    for frame, grown in zip(mask, implementation(mask, radius)):
        lit = frame.nonzero()
        near = [(ys - y) ** 2 + (xs - x) ** 2 <= radius**2 for y, x in lit.tolist()]
        assert torch.equal(grown, torch.stack(near).any(0).float())


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 17])
def test_growing_reaches_exactly_as_far_as_a_disc(radius):
    check_grows_by_a_disc(grow_mask, radius)


def test_the_grow_checker_bites():
    with pytest.raises(AssertionError):
        check_grows_by_a_disc(lambda mask, r: F.max_pool2d(mask, 2 * r + 1, 1, r), 2)  # a square
    with pytest.raises(AssertionError):
        check_grows_by_a_disc(lambda mask, r: grow_mask(mask, r + 1), 2)


def test_growing_agrees_with_kornia():
    mask, r = (torch.rand(3, 19, 23) < 0.02).float(), 4
    ys, xs = torch.meshgrid(*2 * [torch.arange(-r, r + 1)], indexing="ij")
    disc = (ys**2 + xs**2 <= r * r).float()
    assert torch.equal(grow_mask(mask, r), dilation(mask[:, None], disc)[:, 0])


def test_shrinking_is_growing_the_rest():
    mask = (torch.rand(2, 11, 13) < 0.8).float()
    assert torch.equal(grow_mask(mask, -2), invert_mask(grow_mask(invert_mask(mask), 2)))
    assert (grow_mask(mask, -1) <= mask).all() and (mask <= grow_mask(mask, 1)).all()
    assert grow_mask(torch.ones(1, 5, 7), -3).min() == 1  # the frame's border is not an edge of the mask


def test_growing_does_not_touch_its_input():
    mask = torch.zeros(1, 5, 7)
    mask[0, 2, 3] = 1
    grow_mask(mask, 2)
    assert mask.sum() == 1


def test_coverage_and_inversion():
    mask = torch.zeros(2, 3, 5)
    mask[0] = 1
    assert mask_coverage(mask) == 0.5
    assert mask_coverage(invert_mask(mask)) == 0.5
    assert mask_coverage(tokens_of(torch.ones(FRAMES, HEIGHT, WIDTH))) == 1.0


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: latent_mask(torch.zeros(5, 7)), r"\(5, 7\)"),
        (lambda: latent_mask(torch.zeros(1, 3, 5, 7)), r"\(1, 3, 5, 7\)"),
        (lambda: latent_mask(torch.zeros(0, 5, 7)), r"\(0, 5, 7\)"),
        (lambda: latent_mask(torch.full((1, 5, 7), 1.5)), "1.5"),
        (lambda: latent_mask(torch.full((1, 5, 7), -0.25)), "-0.25"),
        (lambda: latent_mask(torch.full((1, 5, 7), 255, dtype=torch.uint8)), "255"),
        (lambda: latent_mask(torch.full((1, 5, 7), math.nan)), "nan"),
        (lambda: latent_mask([[1.0]]), "list"),
        (lambda: latent_mask(torch.zeros(1, 5, 7, dtype=torch.complex64)), "complex64"),
        (lambda: latent_mask(torch.zeros(9, 5, 7), size=(4, 5, 7)), "9 frames = 3 latent frames.*has 4"),
        (lambda: latent_mask(torch.zeros(9, 5, 7), size=(3, 5)), r"\(3, 5\)"),
        (lambda: latent_mask(torch.zeros(9, 5, 7), size=(3, 0, 7)), "latent height is 0"),
        (lambda: latent_mask(torch.zeros(9, 5, 7), spatial=0), "spatial is 0"),
        (lambda: latent_mask(torch.zeros(9, 5, 7), temporal=2.5), "temporal is 2.5"),
        (lambda: token_mask(torch.zeros(5, 7)), r"\(5, 7\)"),
        (lambda: token_mask(torch.zeros(3, 5, 7), (1, 0, 2)), "patch_h is 0"),
        (lambda: token_mask(torch.zeros(3, 5, 7), (2, 2)), r"\(2, 2\)"),
        (lambda: grow_mask(torch.zeros(1, 5, 7), 1.5), "1.5"),
        (lambda: mask_coverage(torch.zeros(0)), r"\(0,\)"),
    ],
)
def test_a_bad_mask_is_named(call, says):
    with pytest.raises(MaskError, match=says):
        call()
