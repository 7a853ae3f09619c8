"""Theorems about storage formats of keys and values."""

import math

import pytest
import torch

from kvlock_core import GridMismatchError, NonFiniteError, SettingsError, SourceError
from kvlock_core.codec import CODECS, LEAST_SCALE, codec, key_bias, key_step

B, HEADS, N, D = 2, 3, 11, 7
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SCALED = ("fp8", "int8")


def draw(*shape, seed=0, dtype=torch.float32):
    """Normal numbers with channels of very different size, as keys have them."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (numbers * torch.logspace(-3, 2, shape[-1], dtype=torch.float64)).to(dtype)


def pair(dtype=torch.float32, shape=(B, HEADS, N, D)):
    return draw(*shape, seed=1, dtype=dtype), draw(*shape, seed=2, dtype=dtype)


def storage_bytes(packed):
    return sum(tensor.untyped_storage().nbytes() for tensor in packed.values())


def check_error(name, encode, decode, dtype=torch.float32):
    """The bounds that `Scaled` states; 2^-20 allows for float32 rounding of quotient and product."""
    sources = dict(zip(("key", "value"), pair(dtype)))
    packed = encode(*sources.values())
    for of, back in zip(sources, decode(packed, torch.float64)):
        exact, scale = sources[of].double(), packed[f"{of}_scale"].double()
        coarse = torch.maximum(exact.abs() * 2**-4, scale * 2**-10)
        bound = scale / 2 if name == "int8" else coarse
        assert ((back - exact).abs() <= bound + exact.abs() * 2**-20).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SCALED)
def test_no_number_is_off_by_more_than_half_a_step(name, dtype):
    check_error(name, codec(name).encode, codec(name).decode, dtype)


def _truncating(name):
    def encode(key, value):
        packed = codec(name).encode(key, value)
        for of, x in (("key", key), ("value", value)):
            packed[of] = (x / packed[f"{of}_scale"] * (1 if name == "int8" else 0.88)).trunc().to(packed[of].dtype)
        return packed

    return encode


@pytest.mark.parametrize("name", SCALED)
def test_the_error_checker_bites(name):
    with pytest.raises(AssertionError):
        check_error(name, _truncating(name), codec(name).decode)


def test_int8_uses_the_whole_grid_in_every_channel():
    packed = codec("int8").encode(*pair())
    assert (packed["key"].abs().amax(2) == 127).all() and (packed["value"].abs().amax(3) == 127).all()
    assert packed["key"].min() >= -127


def test_scales_lie_where_they_should():
    packed = {name: codec(name).encode(*pair()) for name in SCALED}
    assert packed["int8"]["key_scale"].shape == packed["fp8"]["key_scale"].shape == (B, HEADS, 1, D)
    assert packed["int8"]["value_scale"].shape == (B, HEADS, N, 1)
    assert packed["fp8"]["value_scale"].shape == (B, HEADS, 1, D)
    assert all(p[f"{of}_scale"].dtype == torch.float32 for p in packed.values() for of in ("key", "value"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_what_is_exact_in_the_format_comes_back_bit_for_bit(name, dtype):
    stored = {"same": dtype, "bf16": torch.bfloat16, "float32": torch.float32}.get(name)
    if stored is None:  # one channel that makes the scale 1, of numbers on the grid
        key = value = torch.tensor([-448, 224, 112, 0] if name == "fp8" else [-127, 64, 3, 0], dtype=dtype)[None, None, :, None]
        value = value if name == "fp8" else value.transpose(2, 3)
    else:
        key, value = (x.to(stored).to(dtype) for x in pair(dtype))
    for exact, back in zip((key, value), codec(name).decode(codec(name).encode(key, value), dtype)):
        assert back.dtype == dtype and torch.equal(back, exact)


@pytest.mark.parametrize("name, dtype", [("same", torch.bfloat16), ("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_decoding_to_the_stored_dtype_copies_nothing(name, dtype):
    packed = codec(name).encode(*pair(dtype))
    back = codec(name).decode(packed, dtype)
    assert [x.data_ptr() for x in back] == [packed["key"].data_ptr(), packed["value"].data_ptr()]


def test_same_keeps_what_is_not_finite():
    key, value = pair()
    key[0, 0, 0, 0], value[0, 0, 0, 0] = -math.inf, math.nan
    back = codec("same").decode(codec("same").encode(key, value), torch.float32)
    assert all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(back, (key, value)))


@pytest.mark.parametrize("shape", [(B, HEADS, N, D), (1, 5, 13, 2), (3, 1, 1, 1), (1, 2, 0, 3), (1, 1, 17, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_packed_bytes_are_the_measured_bytes(name, dtype, shape):
    packed = codec(name).encode(*pair(dtype, shape))
    measured = sum(x.numel() * x.element_size() for x in packed.values())
    assert codec(name).packed_bytes(shape, dtype) == measured == storage_bytes(packed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_no_tokens_come_back_as_no_tokens(name, dtype):
    empty = torch.zeros(B, HEADS, 0, D, dtype=dtype)
    back = codec(name).decode(codec(name).encode(empty, empty), dtype)
    assert all(x.shape == (B, HEADS, 0, D) and x.dtype == dtype for x in back)


@pytest.mark.parametrize("name", CODECS)
def test_a_view_is_stored_without_the_batch_and_like_its_copy(name):
    batch = [draw(5, N, HEADS, D, seed=s).transpose(1, 2) for s in (3, 4)]  # (batch,heads,n,dim), tokens before heads
    views = [x[1:3, :, 2:9:2, 1:] for x in batch]
    packed = codec(name).encode(*views)
    assert storage_bytes(packed) == codec(name).packed_bytes(tuple(views[0].shape), torch.float32)
    assert all(x.is_contiguous() for x in packed.values())
    for a, b in zip(packed.values(), codec(name).encode(*(x.contiguous() for x in views)).values()):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("name", CODECS)
def test_what_is_stored_does_not_follow_the_input(name):
    key, value = pair()
    packed = codec(name).encode(key, value)
    before = [x.clone() for x in codec(name).decode(packed, torch.float32)]
    key.zero_(), value.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, codec(name).decode(packed, torch.float32)))


@pytest.mark.parametrize("name", CODECS)
def test_inputs_and_packs_are_left_alone_and_no_graph_is_kept(name):
    key, value = (x.requires_grad_() for x in pair())
    before = key.detach().clone()
    packed = codec(name).encode(key, value)
    stored = {k: v.clone() for k, v in packed.items()}
    codec(name).decode(packed, torch.bfloat16)
    assert torch.equal(key, before) and not any(x.requires_grad for x in packed.values())
    assert all(torch.equal(stored[k].view(torch.uint8), packed[k].view(torch.uint8)) for k in packed)


@pytest.mark.parametrize("least", [0.0, 1e-44, LEAST_SCALE / 3])
@pytest.mark.parametrize("name", SCALED)
def test_channels_and_tokens_of_next_to_nothing(name, least):
    key, value = pair()
    key[..., 2], value[..., 4, :], value[..., 2] = least, -least, least
    for exact, back in zip((key, value), codec(name).decode(codec(name).encode(key, value), torch.float32)):
        assert back.isfinite().all() and (back[exact == 0] == 0).all()
        assert ((back - exact).abs()[exact.abs() <= least] <= LEAST_SCALE).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["key", "value"])
@pytest.mark.parametrize("name", SCALED)
def test_what_is_not_finite_is_refused(name, which, bad):
    sources = dict(zip(("key", "value"), pair(torch.bfloat16)))
    sources[which][1, 2, 5, 3] = bad
    with pytest.raises(NonFiniteError, match=rf"{which} \(2, 3, 11, 7\).*'{name}'"):
        codec(name).encode(**sources)


def test_an_unknown_name_is_refused():
    with pytest.raises(SettingsError, match="'int2'.*same, bf16, float32, fp8, int8"):
        codec("int2")
    assert tuple(codec(name).name for name in CODECS) == CODECS


def test_three_axes_are_refused():
    with pytest.raises(GridMismatchError, match=r"\(3, 5, 7\)"):
        codec("same").encode(torch.zeros(3, 5, 7), torch.zeros(1, 3, 5, 7))


@pytest.mark.parametrize("wrote, reads", [("int8", "same"), ("same", "fp8")])
def test_a_pack_of_another_codec_is_refused(wrote, reads):
    with pytest.raises(SourceError, match=f"'{reads}'"):
        codec(reads).decode(codec(wrote).encode(*pair()), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SCALED)
def test_narrow_results_are_rounded_once(name, dtype):
    packed = codec(name).encode(*(x.clamp(-100, 100) for x in pair(dtype)))
    for wide, narrow in zip(codec(name).decode(packed, torch.float32), codec(name).decode(packed, dtype)):
        assert torch.equal(wide.to(dtype), narrow)


# the bias of rounded keys -------------------------------------------------------------------------------------------

DIM, KEYS, QUERIES = 32, 512, 64


def rounded_half(step, seed):
    """Queries, exact keys, and the same keys with the first half rounded to a grid of `step`, its origin drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    query = 1.5 * torch.randn(1, 2, QUERIES, DIM, generator=generator)
    key = torch.randn(1, 2, KEYS, DIM, generator=generator)
    origin = step * torch.rand(1, 2, 1, DIM, generator=generator)
    near = torch.round((key - origin) / step) * step + origin
    return query, key, torch.cat([near[:, :, : KEYS // 2], key[:, :, KEYS // 2 :]], 2)


def mass(query, key, bias):
    """Mean attention that the first half of the keys gets."""
    logits = query @ key.transpose(-1, -2) / DIM**0.5
    logits[..., : KEYS // 2] += bias
    return logits.softmax(-1)[..., : KEYS // 2].sum(-1).mean().item()


def check_bias(correction, step=1.5):
    step = torch.full((1, 2, 1, DIM), step)
    stolen = left = 0.0
    for seed in range(8):
        query, exact, rounded = rounded_half(step, seed)
        true = mass(query, exact, 0.0)
        stolen += mass(query, rounded, 0.0) - true
        left += mass(query, rounded, correction(query, step)) - true
    assert stolen > 0.01 * 8
    assert abs(left) < stolen / 3


def test_rounded_keys_steal_attention_and_the_bias_gives_it_back():
    check_bias(key_bias)


@pytest.mark.parametrize("share", [-1.0, 0.0, 3.0])
def test_the_bias_checker_bites(share):
    with pytest.raises(AssertionError):
        check_bias(lambda query, step: share * key_bias(query, step))


def test_a_wrong_sign_makes_it_worse():
    step = torch.full((1, 2, 1, DIM), 1.5)
    query, exact, rounded = rounded_half(step, seed=0)
    bias = key_bias(query, step)
    masses = [mass(query, key, b) for key, b in ((exact, 0.0), (rounded, 0.0), (rounded, -bias))]
    assert masses[0] < masses[1] < masses[2]


def test_the_bias_is_the_formula():
    query, step = draw(B, HEADS, N, D), draw(1, HEADS, 5, D, seed=1).abs()
    bias = key_bias(query, step)
    assert bias.shape == (B, HEADS, N, 5) and (bias < 0).all()
    by_hand = -(query[1, 2, 3].double() ** 2 * step[0, 2, 4].double() ** 2).sum() / (24 * D)
    assert bias[1, 2, 3, 4].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert torch.allclose(key_bias(query, step, logit_scale=2 * D**-0.5), 4 * bias)


@pytest.mark.parametrize("name", SCALED)
def test_a_step_squared_over_twelve_is_the_mean_square_error(name):
    key = draw(1, 2, 20011, 5)
    packed = codec(name).encode(key, key)
    error = (codec(name).decode(packed, torch.float32)[0] - key).square().mean(2, keepdim=True)
    assert torch.allclose(key_step(packed).square() / 12, error, rtol=0.05)


def test_fp8_keys_are_off_by_two_and_a_half_percent():
    numbers = torch.exp2(torch.linspace(-6, 8, 14001))[None, None, :, None]
    packed = {"key": numbers.to(torch.float8_e4m3fn), "key_scale": torch.ones(1, 1, 1, 1)}
    relative = key_step(packed).square() / 12 / numbers.square().mean(2)
    assert relative.sqrt().item() == pytest.approx((2**-6 / 12 * 2 * math.log(2) / 3) ** 0.5, rel=0.05)


def test_subnormal_fp8_keys_have_the_least_step():
    key = torch.full((1, 1, 3, 1), 2.0**-8)
    key[0, 0, 0] = 0
    packed = {"key": key.to(torch.float8_e4m3fn), "key_scale": torch.ones(1, 1, 1, 1)}
    assert key_step(packed).item() == 2.0**-9


def test_plain_keys_have_no_step():
    with pytest.raises(SettingsError, match="bfloat16"):
        key_step(codec("bf16").encode(*pair()))
