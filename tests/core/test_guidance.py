"""Theorems about projected guidance (M8)."""

import pytest
import torch

from kvlock_core import GridMismatchError, guide, s_star

SHAPE = (2, 3, 3, 5, 7)


def draw(seed, dtype=torch.float32):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pair(dtype=torch.float32):
    cond, other = draw(1, dtype), draw(2, dtype)
    return cond, 0.7 * cond * torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1, 1).to(dtype) + other


def residual(cond, uncond, s):
    return (cond - s * uncond).double().square().flatten(1).sum(1)


def check_minimises_the_residual(implementation):
    cond, uncond = pair()
    s = implementation(cond, uncond)
    assert s.shape == (2, 1, 1, 1, 1)
    for step in (-0.3, -0.01, 0.01, 0.3):
        assert (residual(cond, uncond, s) < residual(cond, uncond, s + step)).all()


def test_s_star_minimises_the_residual_of_each_sample():
    check_minimises_the_residual(s_star)


def _swapped(cond, uncond):
    return s_star(uncond, cond)


def _pooled(cond, uncond):
    return ((cond * uncond).sum() / uncond.square().sum()).expand(2, 1, 1, 1, 1)


def _cosine(cond, uncond):
    c, u = cond.flatten(1), uncond.flatten(1)
    return torch.cosine_similarity(c, u)[:, None, None, None, None]


@pytest.mark.parametrize("wrong", [_swapped, _pooled, _cosine])
def test_the_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_minimises_the_residual(wrong)


def test_s_star_of_a_multiple_is_the_factor():
    uncond = draw(3)
    assert torch.allclose(s_star(2.5 * uncond, uncond), torch.full((2, 1, 1, 1, 1), 2.5))
    assert torch.equal(s_star(uncond, torch.zeros(SHAPE)), torch.zeros(2, 1, 1, 1, 1))


def test_residuals_and_velocities_have_the_same_s_star():
    """x - x0 = sigma * v on a flow, and sigma falls out."""
    cond, uncond = pair()
    assert torch.allclose(s_star(0.37 * cond, 0.37 * uncond), s_star(cond, uncond))
    x = draw(4)
    assert not torch.allclose(s_star(x - cond, x - uncond), s_star(cond, uncond), atol=0.1)


def test_sums_do_not_overflow_in_half_precision():
    cond = torch.full(SHAPE, 100.0, dtype=torch.float16)
    s = s_star(cond, cond)
    assert s.dtype == torch.float32 and torch.allclose(s, torch.ones(()))


def check_guide_is_the_formula(implementation):
    cond, uncond = pair()
    for omega in (0.0, 0.5, 1.0, 4.0):
        for s in (1.0, 0.6, s_star(cond, uncond)):
            expected = (1 - omega) * s * uncond + omega * cond
            assert torch.allclose(implementation(cond, uncond, omega, s), expected, atol=1e-4)


def test_guide_is_the_formula():
    check_guide_is_the_formula(guide)


def test_the_guide_checker_bites():
    with pytest.raises(AssertionError):
        check_guide_is_the_formula(lambda cond, uncond, omega, s: uncond + omega * (cond - uncond))
    with pytest.raises(AssertionError):
        check_guide_is_the_formula(lambda cond, uncond, omega, s: guide(uncond, cond, omega, s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("omega", [0.0, 1.0, 4.5])
def test_without_a_scale_it_is_plain_cfg_bit_for_bit(dtype, omega):
    cond, uncond = draw(1, dtype), draw(2, dtype)
    assert torch.equal(guide(cond, uncond, omega), uncond + omega * (cond - uncond))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_is_that_of_the_prediction(dtype):
    cond, uncond = pair(dtype)
    assert guide(cond, uncond, 4.0, s_star(cond, uncond)).dtype == dtype


def test_a_bad_pair_is_named():
    for call in (s_star, lambda c, u: guide(c, u, 4.0)):
        with pytest.raises(GridMismatchError, match=r"\(2, 3, 3, 5, 7\).*\(1, 3, 3, 5, 7\)"):
            call(torch.zeros(SHAPE), torch.zeros(1, *SHAPE[1:]))
        with pytest.raises(GridMismatchError, match=r"\(5, 7\)"):
            call(torch.zeros(5, 7), torch.zeros(5, 7))
