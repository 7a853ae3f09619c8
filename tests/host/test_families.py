"""Every row of the family table, and token grids that a model of that family may meet."""

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model import CameraWanModel, VaceWanModel, WanModel
from world import FRAMES, call, draw, guided, locked, mask, monitored, of_pack, run, source_latent, text


def random_wan(**config):
    """A Wan of 2 blocks with random weights, loaded by the function behind UNETLoader."""
    size = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "in_dim": 16, "out_dim": 16, "text_dim": 4096}
    kind = {"vace": VaceWanModel, "camera_2.2": CameraWanModel}.get(config.get("model_type"), WanModel)
    net = kind(**{**size, **config}, operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(value.shape, generator=generator) * 0.05 for name, value in net.state_dict().items()}
    return comfy.sd.load_diffusion_model_state_dict(state)


VACE = {"model_type": "vace", "vace_layers": 2, "vace_in_dim": 96, "num_layers": 4}

#: What the first family's row must serve: Wan 2.1 T2V, Wan 2.2 14B I2V (no image embedding), Wan 2.1 I2V.
KINDS = {
    "t2v": {},
    "i2v_2.2": {"in_dim": 36},
    "i2v_2.1": {"in_dim": 36, "model_type": "i2v"},
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return request.param, random_wan(**KINDS[request.param])


def conds(kind):
    """Positive and negative as WanImageToVideo makes them: the start image rides in every row."""
    made = []
    for seed in (1, 2):
        (words, extra), = text(seed)
        if kind.startswith("i2v"):
            extra = {"concat_latent_image": draw(1, 16, 3, 6, 8, seed=5), "concat_mask": torch.zeros(1, 1, 3, 6, 8)}
        if kind == "i2v_2.1":
            extra = {**extra, "clip_vision_output": Vision()}
        made.append([[words, extra]])
    return dict(zip(("positive", "negative"), made))


class Vision:
    """What CLIPVisionEncode returns, as far as Wan looks."""

    penultimate_hidden_states = draw(1, 257, 1280, seed=6)


def test_wan(model, pack):
    kind, wan = model
    source, _ = call(pack["KVLockInvertCache"], model=wan, source_latent=source_latent(), edit_mask=mask())
    plain = run(wan, **conds(kind))
    assert torch.equal(run(locked(pack, wan, source, alpha_ceiling=0.0), **conds(kind)), plain)
    held, report = monitored(pack, locked(pack, wan, source), source)
    out = run(held, **conds(kind))
    assert torch.isfinite(out).all() and not torch.allclose(out, plain, atol=1e-3)
    assert all(step.needs_source for step in report.trace_of(out).steps)


def check_fixed_point(wan, pack, shape, words, monkeypatch):
    """All tokens locked, on the run's own path: the run itself. Wrong sites or rows would show at once."""
    latent, states = draw(*shape, seed=3) * 0.5, []
    given = {"noise": draw(*shape, seed=7), "latent": torch.zeros(shape), "positive": words, "negative": words}
    alone = run(wan, callback=lambda step, x0, x, total: states.append(x.clone()), **given)
    nothing = torch.zeros(1, shape[-2] * 8, shape[-1] * 8)
    source, _ = call(pack["KVLockInvertCache"], model=wan, source_latent={"samples": latent}, edit_mask=nothing)
    recorded = type("Recorded", (), {"at": lambda self, step, sigma: states[step]})()
    monkeypatch.setattr(of_pack(source, "sampling"), "source_path", lambda source, model, noise: recorded)
    torch.testing.assert_close(run(locked(pack, wan, source), **given), alone, rtol=1e-3, atol=1e-3)
    foreign = draw(*shape, seed=9)
    monkeypatch.setattr(type(recorded), "at", lambda self, step, sigma: foreign)
    assert not torch.allclose(run(locked(pack, wan, source), **given), alone, atol=1e-2)


@pytest.fixture(scope="module")
def small():
    return random_wan()


@pytest.fixture(scope="module")
def vace():
    return random_wan(**VACE)


def on_vace_hosts(test):
    """Hosts before 0.8 do not say which block runs."""
    import inspect

    return pytest.mark.skipif("block_index" not in inspect.getsource(VaceWanModel), reason="this ComfyUI gives no block_index")(test)


@on_vace_hosts
@pytest.mark.parametrize("shape, length", [((1, 16, 3, 6, 8), 12), ((1, 16, 2, 16, 16), 128)])
def test_vace_is_locked_in_its_main_blocks(shape, length, vace, pack, monkeypatch):
    words = [[text(1, length)[0][0], {"vace_frames": [draw(1, 32, *shape[2:], seed=4)], "vace_mask": [torch.ones(1, 64, *shape[2:])],
                                      "vace_strength": [1.0]}]]  # fmt: skip
    check_fixed_point(vace, pack, shape, words, monkeypatch)


@on_vace_hosts
@pytest.mark.parametrize("widgets", [{}, {"last_block": 1}, {"first_block": 2}])
def test_on_vace_the_modes_agree_and_only_main_blocks_count(widgets, vace, pack):
    def out(mode, **more):
        given = {"source_latent": source_latent(), "edit_mask": mask(), "source_mode": mode}
        source, _ = call(pack["KVLockInvertCache"], model=vace, **given)
        return run(locked(pack, vace, source, **widgets, **more)), source

    lockstep, _ = out("lockstep")
    stored, source = out("stored")
    in_step, _ = out("in_step")
    torch.testing.assert_close(in_step, lockstep, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(stored, lockstep, rtol=2e-3, atol=2e-3)
    assert source.store.blocks_of(source.store.keys[0]) == {(): (0, 1, 2, 3), ("last_block",): (0, 1), ("first_block",): (2, 3)}[tuple(widgets)]
    assert torch.equal(out("lockstep", alpha_ceiling=0.0)[0], run(vace)) and not torch.allclose(lockstep, run(vace), atol=1e-3)


@pytest.mark.parametrize(
    "shape, length",
    [
        ((1, 16, 2, 16, 16), 128),  # as many tokens as words: cross-attention looks like self-attention
        ((1, 16, 3, 5, 7), 12),  # odd sizes, which the model pads
        ((1, 16, 1, 6, 8), 12),  # one picture
    ],
)
def test_token_grids(shape, length, small, pack, monkeypatch):
    check_fixed_point(small, pack, shape, text(1, length), monkeypatch)


def test_a_block_count_is_taken_where_the_host_gives_no_index(small, pack, monkeypatch):
    """As on ComfyUI before 0.8, with as many tokens as words."""
    source, _ = call(pack["KVLockInvertCache"], model=small, source_latent=source_latent(), edit_mask=mask())
    attention, seen = of_pack(source, "attention").LockedAttention, []
    real = attention._site

    def without_index(self, kwargs):
        site = real(self, {})
        seen.append(site.block)
        return site

    monkeypatch.setattr(attention, "_site", without_index)
    run(locked(pack, small, source), positive=text(1, 36), negative=text(2, 36))
    assert seen == [0, 1] * 6


def test_a_model_outside_the_table_is_refused_by_the_lock_and_served_by_monitor_and_cfg(pack, source):
    """Wan 2.2 Fun Camera: a transformer of another class."""
    other = random_wan(model_type="camera_2.2", in_dim=36)
    with pytest.raises(Exception, match=r"does not know the model WAN21_Camera \(CameraWanModel\); it works with: Wan 2\.1"):
        call(pack["KVLockInvertCache"], model=other, source_latent=source_latent(), edit_mask=mask())
    with pytest.raises(Exception, match="does not know the model WAN21_Camera"):
        run(locked(pack, other, source))
    model, report = monitored(pack, guided(pack, other))
    out = run(model)
    assert all(step.risk is not None for step in report.trace_of(out).steps[1:])


# Wan 2.2 5B -----------------------------------------------------------------------------------------------------------

FIVE_SHAPE = (1, 48, 3, 6, 8)  # 9 frames of 128x96


@pytest.fixture(scope="module")
def five():
    return random_wan(in_dim=48, out_dim=48)


def five_source(pack, five, **widgets):
    """The source handle and its latent; the mask is painted on 128x96 pixels."""
    painted = torch.zeros(FRAMES, 96, 128)
    painted[:, 32:80, 32:80] = 1.0
    given = {"source_latent": source_latent(shape=FIVE_SHAPE), "edit_mask": painted, **widgets}
    return call(pack["KVLockInvertCache"], model=five, **given)


def kept_by_mask(latent):
    """What a sampler is given by the latent of Invert & Cache KV."""
    return {"latent": latent["samples"], "noise_mask": latent["noise_mask"], "noise": draw(*FIVE_SHAPE, seed=7)}


def test_on_5b_the_mask_lands_on_cells_of_16_pixels_and_the_lock_holds(five, pack, monkeypatch):
    source, _ = five_source(pack, five)
    assert torch.equal(source.edit[0].nonzero().amin(0), torch.tensor([2, 2])) and source.edit[0].sum() == 9
    start = {"latent": torch.zeros(FIVE_SHAPE)}
    plain = run(five, **start)
    assert torch.equal(run(locked(pack, five, source, alpha_ceiling=0.0), **start), plain)
    assert not torch.allclose(run(locked(pack, five, source), **start), plain, atol=1e-3)
    check_fixed_point(five, pack, FIVE_SHAPE, text(1), monkeypatch)


def test_on_5b_the_modes_agree(five, pack):
    outs = [run(locked(pack, five, five_source(pack, five, source_mode=mode)[0]), latent=torch.zeros(FIVE_SHAPE))
            for mode in ("lockstep", "in_step", "stored")]  # fmt: skip
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_on_5b_the_background_is_kept_at_one_noise_level_for_all_frames(sampler, five, pack):
    """By itself the host shows this model a clean background, and lowers the timestep of every frame by the mask's share."""
    (source, latent), times = five_source(pack, five), []
    hook = five.model.diffusion_model.register_forward_pre_hook(lambda module, args, kwargs: times.append(args[1]), with_kwargs=True)
    try:
        out = run(locked(pack, five, source), sampler, **kept_by_mask(latent))
        ours, _ = times[:], times.clear()
        run(five, sampler, **kept_by_mask(latent))
    finally:
        hook.remove()
    outside = source.edit == 0
    torch.testing.assert_close(out[..., outside], source.samples[..., outside], rtol=1e-3, atol=1e-3)
    assert (out - source.samples)[..., ~outside].square().mean() > 0.01
    assert all((t == t.flatten()[0]).all() for t in ours)
    assert ours[0].min() > 990 and times[0].max() < 500  # of 1000, at pure noise


def test_on_5b_a_start_image_is_refused_with_the_remedy_where_a_lock_is(five, pack):
    source, latent = five_source(pack, five)
    given = kept_by_mask(latent) | {"latent": draw(*FIVE_SHAPE, seed=9)}
    with pytest.raises(Exception, match="keeps something else than the source, such as a start image"):
        run(locked(pack, five, source), **given)
    assert torch.equal(run(locked(pack, five, source, alpha_ceiling=0.0), **given), run(five, **given))


def test_the_table_says_where_each_row_comes_from(pack, small):
    source, _ = call(pack["KVLockInvertCache"], model=small, source_latent=source_latent(), edit_mask=mask())
    models = of_pack(source, "models")
    for family in models.FAMILIES:
        assert family.source and family.patch == tuple(small.model.diffusion_model.patch_size)
    assert source.family.token_count(3, 5, 7) == 3 * 3 * 4 and FRAMES == 4 * 2 + 1


def test_a_compiled_model(pack, toy, source):
    """TorchCompileModel, with the backend that only traces: the lock must not be compiled away, nor break the graph."""
    helpers = pytest.importorskip("comfy_api.torch_helpers")
    model = locked(pack, toy, source, start_percent=0.5)
    compiled = model.clone()
    helpers.set_torch_compile_wrapper(model=compiled, backend="eager")
    try:
        torch.testing.assert_close(run(compiled), run(model), rtol=1e-3, atol=1e-3)
    finally:
        torch._dynamo.reset()
