"""Theorems about fusion (M4)."""

import math

import pytest
import torch

from kvlock_core import GridMismatchError, fuse

B, HEADS, L, D = 2, 3, 7, 5
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and torch.equal(a.view(BITS[a.dtype]), b.view(BITS[b.dtype]))


def check_formula(implementation):
    new, source = draw(B, HEADS, L, D, seed=1), draw(B, HEADS, L, D, seed=2)
    weight = torch.linspace(0, 1, L)
    for t, w in enumerate(weight.tolist()):
        expected = (1 - w) * new[:, :, t].double() + w * source[:, :, t].double()
        assert torch.allclose(implementation(new, source, weight)[:, :, t].double(), expected, atol=1e-6)


def check_ends_are_exact(implementation, dtype=torch.float32, kind="float"):
    new, source = draw(B, HEADS, L, D, seed=1, dtype=dtype), draw(B, HEADS, L, D, seed=2, dtype=dtype)
    weight = torch.tensor([0, 1, 0, 1, 1, 0, 0.5 if kind == "float" else 0])
    new[..., 0], source[..., 0] = -0.0, 0.0
    new[..., 1, 1], new[..., 3, 2], source[..., 0, 1], source[..., 2, 2] = math.nan, math.inf, math.nan, -math.inf
    out = implementation(new, source, weight if kind == "float" else weight.bool())
    assert same_bits(out[..., [0, 2, 5], :], new[..., [0, 2, 5], :])
    assert same_bits(out[..., [1, 3, 4], :], source[..., [1, 3, 4], :])


def test_it_is_the_formula():
    check_formula(fuse)


@pytest.mark.parametrize("kind", ["float", "bool"])
@pytest.mark.parametrize("dtype", list(BITS))
def test_weight_zero_is_new_and_one_is_source_bit_for_bit(dtype, kind):
    check_ends_are_exact(fuse, dtype, kind)


def _naive(new, source, weight):
    w = weight.float()[:, None]
    return (1 - w) * new + w * source


def _swapped(new, source, weight):
    return fuse(source, new, weight)


def _always_source(new, source, weight):
    return source.clone()


@pytest.mark.parametrize("wrong", [_swapped, _always_source])
def test_the_formula_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_formula(wrong)


@pytest.mark.parametrize("wrong", [_naive, _swapped, _always_source])
def test_the_exactness_checker_bites(wrong):
    with pytest.raises(AssertionError):
        check_ends_are_exact(wrong)


@pytest.mark.parametrize("dtype", list(BITS))
def test_dtype_and_shape_are_those_of_new(dtype):
    new, weight = draw(B, HEADS, L, D, dtype=dtype), torch.rand(L)
    out = fuse(new, draw(B, HEADS, L, D, seed=3), weight)
    assert out.dtype == dtype and out.shape == new.shape


def test_half_precision_stays_close_to_the_exact_mix():
    new, source, weight = draw(L, D, dtype=torch.bfloat16), draw(L, D, seed=4, dtype=torch.bfloat16), torch.rand(L)
    exact = torch.lerp(new.double(), source.double(), weight.double()[:, None])
    reach = (source.double() - new.double()).abs() + exact.abs()
    assert ((fuse(new, source, weight).double() - exact).abs() <= reach * 2**-8).all()


def test_inputs_are_left_alone_and_the_output_is_new():
    new, source = draw(L, D), draw(L, D, seed=5)
    before = new.clone(), source.clone()
    out = fuse(new, source, torch.ones(L))
    assert torch.equal(new, before[0]) and torch.equal(source, before[1])
    assert out.data_ptr() not in (new.data_ptr(), source.data_ptr())


def test_one_source_serves_a_whole_batch():
    new, source, weight = draw(B, HEADS, L, D), draw(1, HEADS, L, D, seed=6), torch.rand(L)
    assert torch.equal(fuse(new, source, weight), fuse(new, source.expand_as(new).clone(), weight))


@pytest.mark.parametrize(
    "shapes, says",
    [
        (((2, L, D), (2, L, D), (L + 1,)), r"\(8,\).*\(2, 7, 5\)"),
        (((2, L, D), (2, L, D), (L, 1)), r"\(7, 1\)"),
        (((2, L, D), (2, L - 2, D), (L,)), r"\(2, 5, 5\)"),
        (((2, L, D), (2, 1, D), (L,)), r"\(2, 1, 5\)"),
        (((2, L, D), (3, L, D), (L,)), r"\(3, 7, 5\)"),
        (((L, D), (2, L, D), (L,)), r"\(2, 7, 5\)"),
    ],
)
def test_a_bad_grid_is_named(shapes, says):
    with pytest.raises(GridMismatchError, match=says):
        fuse(*(torch.zeros(s) for s in shapes))


@pytest.mark.parametrize("weight", [torch.tensor([0.0, 0.3, 1.0]), torch.tensor([False, True, True])])
def test_into_a_tensor_of_the_callers(weight):
    new, source = draw(2, 3, 5), draw(2, 3, 5, seed=1)
    out = torch.empty(4, 3, 5)
    before = new.clone()
    returned = fuse(new, source, weight, out=out[1:3])
    assert returned.data_ptr() == out[1:3].data_ptr()
    assert torch.equal(out[1:3], fuse(new, source, weight)) and torch.equal(new, before)
