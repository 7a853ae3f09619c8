"""KV-Lock beside what other nodes and packs do to the same model."""

import pytest
import torch
from comfy_extras import nodes_apg, nodes_cfg, nodes_easycache, nodes_model_advanced, nodes_slg
from world import STEPS, call, draw, guided, load_toy, locked, mask, monitored, of_pack, run, sigmas_for, source_latent, text

OVERRIDE = "optimized_attention_override"


class Counting:
    """Somebody else's attention override: counts, and passes on."""

    def __init__(self):
        self.calls = 0

    def __deepcopy__(self, memo):
        return self

    def __call__(self, attend, q, k, v, *args, **kwargs):
        self.calls += 1
        return attend(q, k, v, *args, **kwargs)


def with_override(model, override):
    clone = model.clone()
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone


@pytest.mark.parametrize("order", ["before", "after"])
def test_another_override_is_still_called_and_the_lock_is_the_same(order, pack, toy, source):
    other, alone = Counting(), Counting()
    run(with_override(toy, alone))
    model = locked(pack, with_override(toy, other), source) if order == "before" else with_override(locked(pack, toy, source), other)
    assert torch.equal(run(model), run(locked(pack, toy, source)))
    assert other.calls == alone.calls > 0


def test_the_attention_backend_node_and_the_lock_combine(pack, toy, source):
    backend = getattr(nodes_model_advanced, "ModelAttentionBackend", None)
    if backend is None:
        pytest.skip("this ComfyUI has no ModelAttentionBackend")
    (chosen,) = backend().patch(locked(pack, toy, source), "pytorch attention")
    torch.testing.assert_close(run(chosen), run(locked(pack, toy, source)), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(run(chosen), run(toy), rtol=1e-3, atol=1e-3)


def test_a_pack_that_replaces_attention_itself_is_named_as_the_cause(pack, toy, source):
    model = locked(pack, toy, source)
    for i in range(6):
        own = toy.get_model_object(f"diffusion_model.blocks.{i}.self_attn")
        model.add_object_patch(f"diffusion_model.blocks.{i}.self_attn.forward", lambda x, *args, own=own, **kwargs: own.o(own.v(x)))
    with pytest.raises(Exception, match="0 of 6 blocks.*SageAttention") as caught:
        run(model)
    assert type(caught.value).__name__ == "BypassedAttentionError"
    assert torch.isfinite(run(toy)).all()


def test_lora(pack, toy, source):
    """A LoRA counts for the source row too: it is the same model."""
    name = "diffusion_model.blocks.2.self_attn.k.weight"
    with_lora = toy.clone()
    with_lora.add_patches({name: (draw(256, 256, seed=31) * 0.02,)})
    assert torch.equal(run(locked(pack, with_lora, source, alpha_ceiling=0.0)), run(with_lora))
    assert not torch.equal(run(locked(pack, with_lora, source)), run(locked(pack, toy, source)))


@pytest.mark.parametrize("sigma_shift", [3.0, 8.0])
def test_a_shift_set_after_our_nodes_is_the_one_that_counts(sigma_shift, pack, toy, source):
    (shifted,) = nodes_model_advanced.ModelSamplingSD3().patch(monitored(pack, locked(pack, toy, source), source)[0], sigma_shift)
    (before,) = nodes_model_advanced.ModelSamplingSD3().patch(toy, sigma_shift)
    assert torch.equal(run(shifted), run(locked(pack, before, source)))


def forwards(model, runs):
    """Rows of each call of the transformer's blocks during `runs()`; a cache answers before the blocks."""
    seen = []
    handle = model.model.diffusion_model.blocks[0].register_forward_pre_hook(lambda module, args, kwargs: seen.append(len(args[0])), with_kwargs=True)
    try:
        runs()
    finally:
        handle.remove()
    return seen


CACHES = {
    "EasyCache": lambda model: nodes_easycache.EasyCacheNode.execute(model, 0.5, 0.0, 1.0, False).args[0],
    "LazyCache": lambda model: nodes_easycache.LazyCacheNode.execute(model, 0.5, 0.0, 1.0, False).args[0],
}


@pytest.mark.parametrize("name", CACHES)
def test_caches_that_skip_evaluations(name, pack, toy, source):
    """A skipped evaluation skips its source row too, and no block is missed."""
    cached, sigmas = CACHES[name], sigmas_for(toy, 12)
    model, plain = cached(locked(pack, toy, source)), run(cached(toy), sigmas=sigmas)
    outs = []
    rows = forwards(toy, lambda: outs.append(run(model, sigmas=sigmas)))
    assert 0 < len(rows) < 12 and set(rows) == {3}  # some were skipped, or the test means nothing
    assert torch.isfinite(outs[0]).all() and not torch.equal(outs[0], plain)
    assert torch.equal(run(cached(locked(pack, toy, source, alpha_ceiling=0.0)), sigmas=sigmas), plain)
    assert torch.equal(run(cached(monitored(pack, toy, source)[0]), sigmas=sigmas), plain)


CFG_NODES = {
    "CFGZeroStar": lambda model: nodes_cfg.CFGZeroStar.execute(model).args[0],
    "CFGNorm": lambda model: nodes_cfg.CFGNorm.execute(model, 1.0).args[0],
    "APG": lambda model: nodes_apg.APG.execute(model, 1.0, 5.0, 0.3).args[0],
    "SkipLayerGuidance": lambda model: nodes_slg.SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "2", "").args[0],
    "RescaleCFG": lambda model: nodes_model_advanced.RescaleCFG().patch(model, 0.7)[0],
}


@pytest.mark.parametrize("name", CFG_NODES)
@pytest.mark.parametrize("order", ["before", "after"])
def test_cfg_nodes(name, order, pack, toy, source):
    other = CFG_NODES[name]

    def both(**widgets):
        return locked(pack, other(toy), source, **widgets) if order == "before" else other(locked(pack, toy, source, **widgets))

    plain = run(other(toy))
    assert torch.equal(run(both(alpha_ceiling=0.0)), plain)
    out = run(both())
    assert torch.isfinite(out).all() and not torch.equal(out, plain)
    steered, report = monitored(pack, guided(pack, both(), tau=20.0), source)
    assert len(report.trace_of(run(steered)).steps) == STEPS


def test_a_latent_mask_blends_outside_and_the_risk_is_read_before(pack, toy, source):
    """SetLatentNoiseMask keeps the latent outside the mask; what the model predicts there is still seen."""
    keep = torch.zeros(1, 1, 3, 6, 8)
    keep[..., 2:5, 2:5] = 1.0
    latent = source.samples
    model, report = monitored(pack, toy, None)
    out = run(model, latent=latent, noise_mask=keep)
    assert torch.equal(out, run(toy, latent=latent, noise_mask=keep))
    assert all(step.risk > 0 for step in report.trace_of(out).steps[1:])
    assert not torch.equal(run(locked(pack, toy, source), latent=latent, noise_mask=keep), out)


def test_two_interleaved_runs_do_not_see_each_other(pack, toy, source):
    """The second run, on another copy of the weights, starts and ends in the middle of the first."""
    def watched(model):
        return monitored(pack, locked(pack, model, source, lock_schedule="risk", tau=20.0), source)

    (model, report), (twin, twins_report) = watched(toy), watched(load_toy())
    alone = {seed: run(model, seed=seed) for seed in (7, 8)}
    inner = []

    def second(step, x0, x, total):
        if step == 2:
            inner.append(run(twin, seed=8))

    assert torch.equal(run(model, seed=7, callback=second), alone[7]) and torch.equal(inner[0], alone[8])
    assert report.trace_of(alone[8]) == twins_report.trace_of(inner[0]) != report.trace_of(alone[7])


# parts of a schedule ----------------------------------------------------------------------------------------------------


def two_stages(first_model, second_model, sigmas, at, **more):
    """KSamplerAdvanced twice: leftover noise from the first, no noise for the second."""
    half = run(first_model, sigmas=sigmas[: at + 1], **more)
    return run(second_model, sigmas=sigmas[at:], latent=half, noise=torch.zeros_like(half), **more)


@pytest.mark.parametrize("at", [2, 4])
def test_two_stages_are_one_run(at, pack, toy, source):
    model, sigmas = locked(pack, toy, source, start_percent=0.5), sigmas_for(toy)
    torch.testing.assert_close(two_stages(model, model, sigmas, at), run(model, sigmas=sigmas), rtol=1e-3, atol=1e-3)


def test_ksampler_advanced_twice_is_ksampler_once(pack, toy, source):
    """The stock nodes: leftover noise returned by the first, no noise added by the second."""
    import nodes

    model, empty = locked(pack, toy, source, start_percent=0.5), {"samples": torch.zeros_like(source.samples)}
    words = (text(1), text(2))
    (once,) = nodes.KSampler().sample(model, 7, 6, 4.0, "euler", "simple", *words, empty, 1.0)
    advanced = nodes.KSamplerAdvanced().sample
    (half,) = advanced(model, "enable", 7, 6, 4.0, "euler", "simple", *words, empty, 0, 2, "enable")
    (twice,) = advanced(model, "disable", 7, 6, 4.0, "euler", "simple", *words, half, 2, 10000, "disable")
    torch.testing.assert_close(twice["samples"], once["samples"], rtol=1e-3, atol=1e-3)


def test_each_stage_counts_the_steps_of_the_whole_run(pack, toy, source):
    model, report = monitored(pack, locked(pack, toy, source, start_percent=0.5), source)
    sigmas = sigmas_for(toy)
    half = run(model, sigmas=sigmas[:3])
    end = run(model, sigmas=sigmas[2:], latent=half, noise=torch.zeros_like(half))
    assert [(s.step, s.active) for s in report.trace_of(half).steps] == [(0, False), (1, False)]
    assert [(s.step, s.active) for s in report.trace_of(end).steps] == [(2, False), (3, True), (4, True), (5, True)]


def test_the_second_stage_goes_on_with_the_first_ones_risk(pack, toy, source):
    """Wan 2.2: two models, one clip. The window lives on in the source handle, and only for that very latent."""
    high, first = monitored(pack, locked(pack, toy, source, lock_schedule="risk", tau=20.0), source)
    low, second = monitored(pack, locked(pack, toy.clone(), source, lock_schedule="risk", tau=20.0), source)
    sigmas = sigmas_for(toy)
    half = run(high, sigmas=sigmas[:4])
    end = run(low, sigmas=sigmas[3:], latent=half, noise=torch.zeros_like(half))
    whole = run(high, sigmas=sigmas)
    both = [*first.trace_of(half).steps, *second.trace_of(end).steps]
    for one, two in zip(first.trace_of(whole).steps, both, strict=True):
        assert (two.risk or 0.0, two.alpha) == pytest.approx((one.risk or 0.0, one.alpha), rel=1e-3)
    again = run(low, sigmas=sigmas[3:], latent=half, noise=torch.zeros_like(half))
    assert torch.equal(again, end)
    other = run(low, sigmas=sigmas[3:], latent=half + 0.1, noise=torch.zeros_like(half))
    assert second.trace_of(other).steps[0].risk is None
    from_noise = run(low, sigmas=sigmas, latent=half)  # a run of its own, although it is given that latent
    assert second.trace_of(from_noise).steps[0].risk is None


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_a_second_stage_keeps_the_background_that_the_first_one_kept(sampler, pack, toy, source):
    """Two KSamplers (Advanced) with the latent of Invert & Cache KV: one run in two parts, the background the source's at the end."""
    model, sigmas = locked(pack, toy, source, start_percent=0.5), sigmas_for(toy)
    keep, outside = source.edit.reshape(1, 1, *source.edit.shape), source.edit == 0
    given = {"sampler": sampler, "noise_mask": keep}
    whole = run(model, sigmas=sigmas, latent=source.samples, **given)
    half = run(model, sigmas=sigmas[:3], latent=source.samples, **given)
    end = run(model, sigmas=sigmas[2:], latent=half, noise=torch.zeros_like(half), **given)
    torch.testing.assert_close(end[..., outside], source.samples[..., outside], rtol=1e-3, atol=1e-3)
    if sampler == "euler":  # the others look back at a step that the second stage has not seen
        torch.testing.assert_close(end, whole, rtol=1e-3, atol=1e-3)
    alone = run(toy, sigmas=sigmas[2:], latent=half, noise=torch.zeros_like(half), **given)
    assert (alone - source.samples)[..., outside].square().mean() > 0.05  # what the host does by itself


def test_a_second_stage_follows_a_mask_that_changes_with_the_noise_level(pack, toy, source):
    """DifferentialDiffusion: where its mask is 1 now, the source is not kept now."""
    model, sigmas, seen = locked(pack, toy, source), sigmas_for(toy), []
    model.model_options["denoise_mask_function"] = lambda sigma, mask, extra_options: seen.append(float(sigma[0])) or torch.ones_like(mask)
    half = run(locked(pack, toy, source), sigmas=sigmas[:3])
    given = {"sigmas": sigmas[2:], "latent": half, "noise": torch.zeros_like(half)}
    keep = source.edit.reshape(1, 1, *source.edit.shape)
    assert torch.equal(run(model, noise_mask=keep, **given), run(locked(pack, toy, source), **given)) and len(set(seen)) == 4


def test_a_lock_of_no_strength_leaves_a_second_stage_to_the_host(pack, toy, source):
    sigmas, keep = sigmas_for(toy), source.edit.reshape(1, 1, *source.edit.shape)
    half = run(toy, sigmas=sigmas[:3], latent=source.samples, noise_mask=keep)
    given = {"sigmas": sigmas[2:], "latent": half, "noise": torch.zeros_like(half), "noise_mask": keep}
    assert torch.equal(run(locked(pack, toy, source, alpha_ceiling=0.0), **given), run(toy, **given))


def test_denoise_below_one_uses_the_noise_levels_of_the_whole_schedule(pack, toy, source):
    model, report = monitored(pack, locked(pack, toy, source, start_percent=0.6), source)
    sigmas = sigmas_for(toy, 10)[5:]
    out = run(model, sigmas=sigmas, latent=source.samples)
    assert [(s.step, s.active) for s in report.trace_of(out).steps] == [(5, False), (6, True), (7, True), (8, True), (9, True)]


# memory -----------------------------------------------------------------------------------------------------------------


def test_the_host_is_told_about_the_source_row(pack, toy, source, monkeypatch):
    import comfy.sampler_helpers

    seen = []
    real = comfy.sampler_helpers._prepare_sampling
    monkeypatch.setattr(comfy.sampler_helpers, "_prepare_sampling", lambda m, shape, *a, **k: seen.append(shape) or real(m, shape, *a, **k))
    for kind, cfg, factor in (("cfg", 4.0, 1.5), ("cfg", 1.0, 1.0), ("basic", 1.0, 1.0), ("dual", 4.0, 2.0)):
        run(locked(pack, toy, source), kind=kind, cfg=cfg)
        assert torch.Size(seen[-1]).numel() == source.samples.numel() * factor
    run(monitored(pack, toy, source)[0])
    assert torch.Size(seen[-1]) == source.samples.shape


def test_when_all_rows_do_not_fit_there_are_smaller_calls_and_the_user_is_told(pack, toy, source, monkeypatch, caplog):
    """The source rides with one condition and is held for the other."""
    lockstep = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=mask(), source_mode="lockstep")[0]
    rows, model = [], locked(pack, toy, lockstep)
    at_once = run(model)
    monkeypatch.setattr(of_pack(source, "memory"), "fits", lambda *args: False)
    inner = toy.model.diffusion_model
    handle = inner.register_forward_pre_hook(lambda module, args, kwargs: rows.append(len(args[0])), with_kwargs=True)
    try:
        split = run(model)
    finally:
        handle.remove()
    torch.testing.assert_close(split, at_once, rtol=2e-3, atol=2e-3)
    assert rows == [2, 1] * STEPS
    assert sum("not enough free memory" in record.message for record in caplog.records) == 1


def test_the_memory_rule_is_the_hosts_own(toy, source, monkeypatch):
    memory = of_pack(source, "memory")
    needed = toy.model.memory_required([3, *source.samples.shape[1:]], cond_shapes={})
    for free, fits in ((needed * 1.4, False), (needed * 1.6, True)):
        monkeypatch.setattr(memory, "_free", lambda model, free=free: free)
        assert memory.fits(toy.model, 3, source.samples.shape[1:], {}) is fits


def test_no_extra_row_in_steps_that_do_not_lock(pack, toy, source):
    rows, model = [], locked(pack, toy, source, start_percent=0.5)
    inner = toy.model.diffusion_model
    handle = inner.register_forward_pre_hook(lambda module, args, kwargs: rows.append(len(args[0])), with_kwargs=True)
    try:
        run(model)
        run(model, cfg=1.0)
    finally:
        handle.remove()
    assert rows == [2, 2, 2, 3, 3, 3, 1, 1, 1, 2, 2, 2]
