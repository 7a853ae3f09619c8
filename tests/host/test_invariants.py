"""DESIGN's invariants, in ComfyUI: bit for bit where nothing may change, and visible change where something must."""

from types import SimpleNamespace

import pytest
import torch
from world import SHAPE, STEPS, call, draw, guided, locked, mask, monitored, of_pack, run, source_latent, text

SAMPLERS = ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "res_multistep", "lcm", "euler_ancestral"]
#: cond, uncond: what each guider is made from
GUIDERS = ["cfg", "basic", "dual"]


@pytest.fixture(scope="module")
def plain(toy):
    """Unpatched results, made once: (sampler, guider) -> latent."""
    made = {}

    def of(sampler="euler", kind="cfg", **more):
        key = (sampler, kind, *sorted(more))
        if key not in made:
            made[key] = run(toy, sampler, kind=kind, **more)
        return made[key]

    return of


def check_untouched(model, plain, sampler="euler", kind="cfg"):
    assert torch.equal(run(model, sampler, kind=kind), plain(sampler, kind))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resting_lock_is_bit_identical_to_no_lock(sampler, pack, toy, source, plain):
    check_untouched(locked(pack, toy, source, alpha_ceiling=0.0), plain, sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_monitor_alone_changes_nothing(sampler, pack, toy, source, plain):
    model, report = monitored(pack, toy, source)
    out = run(model, sampler)
    assert torch.equal(out, plain(sampler))
    assert {step.step for step in report.trace_of(out).steps} == set(range(STEPS))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_lock_pulls_the_background_to_the_source_and_not_the_edit(sampler, pack, toy, source, plain):
    clean = source_latent()["samples"]
    before, after = plain(sampler), run(locked(pack, toy, source), sampler)
    background = (source.edit == 0).expand_as(clean)
    assert (after - clean)[background].square().mean() < 0.9 * (before - clean)[background].square().mean()
    assert not torch.equal(after, before)


@pytest.mark.parametrize("kind", GUIDERS)
def test_guiders(kind, pack, toy, source, plain):
    check_untouched(locked(pack, toy, source, alpha_ceiling=0.0), plain, kind=kind)
    check_untouched(monitored(pack, toy, source)[0], plain, kind=kind)
    assert not torch.equal(run(locked(pack, toy, source), kind=kind), plain(kind=kind))


def test_this_check_bites(pack, toy, source, plain):
    with pytest.raises(AssertionError):
        check_untouched(locked(pack, toy, source, alpha_ceiling=0.01), plain)


def test_an_all_white_mask_and_an_empty_range_are_bit_identical_too(pack, toy, source, plain):
    free, _ = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=mask("all"))
    check_untouched(locked(pack, toy, free), plain)
    check_untouched(locked(pack, toy, source, start_percent=1.0), plain)
    check_untouched(locked(pack, toy, source, lock_schedule="off"), plain)


def test_an_empty_mask_reproduces_the_source_run(pack, toy, monkeypatch):
    """Same text, same noise, alpha 1, on the path that the source run really took: every key and value is its own."""
    states = []
    alone = run(toy, negative=text(1), callback=lambda step, x0, x, total: states.append(x.clone()))
    handle, _ = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=mask("none"))
    recorded = SimpleNamespace(at=lambda step, sigma: states[step])
    monkeypatch.setattr(of_pack(handle, "sampling"), "source_path", lambda source, model, noise: recorded)
    model = locked(pack, toy, handle)
    torch.testing.assert_close(run(model, negative=text(1)), alone, rtol=1e-4, atol=1e-4)
    # from other noise the lock still leads back to that clip, further than no lock does
    away, pulled = run(toy, seed=8, negative=text(1)), run(model, seed=8, negative=text(1))
    assert (pulled - alone).square().mean() < 0.7 * (away - alone).square().mean()


def test_one_step_of_one_noise_is_reproduced_exactly(pack, toy):
    """At sigma 1 with the run's own noise the source row is the edit row, so locking every token changes nothing."""
    sigmas = torch.tensor([1.0, 0.0])
    handle, _ = call(
        pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=mask("none"), source_noise="shared"
    )
    for kind in ("basic", "cfg"):
        plain = run(toy, kind=kind, sigmas=sigmas, negative=text(1))
        torch.testing.assert_close(run(locked(pack, toy, handle), kind=kind, sigmas=sigmas, negative=text(1)), plain)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_batch_is_its_clips_one_by_one(batch, pack, toy, source):
    noise = draw(batch, *SHAPE[1:], seed=9)
    model = locked(pack, toy, source)
    together = run(model, noise=noise, latent=torch.zeros_like(noise))
    for i in range(batch):
        torch.testing.assert_close(together[i : i + 1], run(model, noise=noise[i : i + 1]), rtol=2e-3, atol=2e-3)


def test_texts_of_different_length_run_in_calls_of_their_own(pack, toy, source, plain):
    longer = text(2, length=20)
    resting = run(locked(pack, toy, source, alpha_ceiling=0.0), negative=longer)
    assert torch.equal(resting, run(toy, negative=longer))
    assert not torch.equal(run(locked(pack, toy, source), negative=longer), resting)


def test_a_source_text_of_another_length_gives_the_same_lock_as_a_row_of_the_batch(pack, toy, monkeypatch):
    """In-step against lockstep: the source's own text, once batchable with the rows and once not."""
    latent, words = source_latent(), text(4)
    handle, _ = call(
        pack["KVLockInvertCache"], model=toy, source_latent=latent, edit_mask=mask(), source_conditioning=words
    )
    joined = run(locked(pack, toy, handle), positive=text(1), negative=text(2))
    monkeypatch.setattr(of_pack(handle, "calls").ModelCall, "can_join", lambda self, other: False)
    alone = run(locked(pack, toy, handle), positive=text(1), negative=text(2))
    torch.testing.assert_close(alone, joined, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("part", [{"locked_rows": "positive"}, {"locked_rows": "negative"}, {"first_block": 2, "last_block": 3}])
def test_rows_and_blocks_are_chosen(part, pack, toy, source, plain):
    some = run(locked(pack, toy, source, **part))
    assert not torch.equal(some, run(locked(pack, toy, source))) and not torch.equal(some, plain())


def test_the_last_block_alone_is_not_the_first_alone(pack, toy, source):
    """A wrong block index would lock the same block twice."""
    first = run(locked(pack, toy, source, first_block=0, last_block=0))
    last = run(locked(pack, toy, source, first_block=5, last_block=5))
    assert not torch.equal(first, last)


def test_blocks_that_the_model_does_not_have_are_refused(pack, toy, source):
    with pytest.raises(ValueError, match="outside a model of 6 blocks; give blocks 0 to 5"):
        run(locked(pack, toy, source, first_block=6))


def test_without_cfg_the_lock_works_and_guidance_rests(pack, toy, source):
    model, report = monitored(pack, guided(pack, locked(pack, toy, source)), source)
    out = run(model, cfg=1.0)
    assert not torch.equal(out, run(toy, cfg=1.0))
    assert all(step.omega is None and step.s_star is None and step.alpha == 1.0 for step in report.trace_of(out).steps)
    assert torch.equal(run(guided(pack, toy), cfg=1.0), run(toy, cfg=1.0))


def test_guidance_off_is_bit_identical_and_on_follows_the_risk_of_its_own_step(pack, toy, source):
    assert torch.equal(run(guided(pack, toy, omega_schedule="off", use_s_star=False)), run(toy))
    model, report = monitored(pack, guided(pack, toy, tau=30.0, omega_floor=0.5, omega_ceiling=2.0, use_s_star=False), source)
    out = run(model)
    steps = report.trace_of(out).steps
    assert not torch.equal(out, run(toy))
    for step in steps[1:]:
        assert step.omega == pytest.approx(4.0 * min(max(step.risk / 30.0, 0.5), 2.0))
    assert len({step.omega for step in steps}) > 2  # tau was chosen so that the test means something


def test_omega_reaches_other_nodes_cfg_functions_and_the_model_runs_once(pack, toy, source):
    calls, scales = [], []
    model, report = monitored(pack, guided(pack, toy, tau=20.0), source)
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: scales.append(args["cond_scale"]) or args["denoised"])
    model.set_model_unet_function_wrapper(lambda apply, args: calls.append(1) or apply(args["input"], args["timestep"], **args["c"]))
    out = run(model)
    assert scales == [step.omega for step in report.trace_of(out).steps] and len(set(scales)) > 1
    assert len(calls) == STEPS


def test_s_star_is_the_scale_that_fits_the_negative_velocity(pack, toy):
    seen = []
    model, report = monitored(pack, guided(pack, toy, omega_schedule="constant"))
    model.set_model_sampler_pre_cfg_function(lambda args: seen.append((args["input"], *args["conds_out"])) or args["conds_out"])
    out = run(model)
    for (x, cond, projected), step in zip(seen, report.trace_of(out).steps):
        v, u = (x - cond).flatten(), (x - projected).flatten()
        assert torch.dot(v, u) / torch.dot(u, u) == pytest.approx(1.0, abs=1e-3)  # nothing is left to project
        assert step.s_star != 1.0
