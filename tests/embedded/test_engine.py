"""The invariants of DESIGN in diffusers: what must be bit-identical to its own pipeline, and what must not."""

from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import WanPipeline

from kvlock_core import (
    PAPER_GUIDANCE, PAPER_LOCK, GridMismatchError, LatentComposite, LockSchedule, LockSession, NoisedPath, NonFiniteError,
    SessionSettings, SettingsError, TrajectoryPath, token_mask,
)  # fmt: skip
from kvlock_diffusers.adapter import LockedAttention, riding
from kvlock_diffusers.engine import Texts, make_scheduler, sample, velocity_of

STEPS, CFG, SHIFT = 5, 3.0, 3.0
EVERYWHERE = dict(start_percent=0.0, end_percent=1.0)
ALWAYS = LockSchedule(kind="constant", **EVERYWHERE)
TEXTS = Texts(tiny.text("edit"), tiny.text("nothing"), tiny.text("source"))
EDIT = torch.zeros(3, 4, 10)
EDIT[:, :2, 4:8] = 1


@pytest.fixture(scope="module")
def net():
    return tiny.transformer()


def settings(lock=ALWAYS, guidance=None, projection=False, **more):
    return SessionSettings(lock=lock, guidance=guidance, projection=projection, **more)


def session(chosen, edit=EDIT, omega0=CFG, steps=STEPS):
    return LockSession(chosen, steps=steps, edit=edit, tokens=token_mask(edit), omega0=omega0)


def source(seed=2, batch=1):
    return NoisedPath(tiny.latent(seed, batch), tiny.latent(seed + 1, batch))


def run(net, watched=None, sampler="euler", noise=None, texts=TEXTS, path=None, steps=STEPS, **more):
    noise = tiny.latent() if noise is None else noise
    path = source(batch=len(noise)) if path is None else path
    scheduler = make_scheduler(sampler, steps, SHIFT)
    return sample(net, scheduler, noise, texts, CFG, session=watched, source=path, **more)


def pipeline_run(net, sampler, texts=TEXTS, cfg=CFG):
    """diffusers' own pipeline, which knows nothing of us."""
    pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=tiny.vae(), transformer=net, scheduler=make_scheduler(sampler, 1, SHIFT))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=texts.cond, negative_prompt_embeds=tiny.text("nothing"), latents=tiny.latent(), guidance_scale=cfg,
        height=32, width=80, num_frames=9, num_inference_steps=STEPS, output_type="latent",
    ).frames  # fmt: skip


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize(
    "chosen, edit",
    [
        (settings(lock=LockSchedule(kind="constant", ceiling=0.0, **EVERYWHERE), projection=True), EDIT),
        (settings(projection=True), torch.ones(3, 4, 10)),
        (settings(lock=LockSchedule(kind="constant", start_percent=1.0, end_percent=1.0), projection=True), EDIT),
        (settings(lock=None), EDIT),
    ],
    ids=["alpha 0", "all may change", "outside the range", "monitor alone"],
)
def test_what_locks_nothing_is_diffusers_own_pipeline_bit_for_bit(net, sampler, chosen, edit):
    watched = session(chosen, edit)
    assert torch.equal(run(net, watched, sampler), pipeline_run(net, sampler))
    assert len(watched.trace.steps) == STEPS


def test_the_bit_comparison_notices_the_smallest_lock(net):
    faint = settings(lock=LockSchedule(kind="constant", ceiling=1e-4, **EVERYWHERE))
    assert not torch.equal(run(net, session(faint)), pipeline_run(net, "euler"))


def test_cfg_1_is_the_pipeline_without_guidance(net):
    alone = Texts(TEXTS.cond)
    watched = session(settings(lock=None), omega0=1.0)
    assert torch.equal(run(net, watched, texts=alone), pipeline_run(net, "euler", cfg=1.0))
    assert all(step.omega is None and step.s_star is None for step in watched.trace.steps)


def test_lock_works_at_cfg_1(net):
    alone = Texts(TEXTS.cond)
    assert not torch.equal(run(net, session(settings(), omega0=1.0), texts=alone), run(net, texts=alone))


def test_all_background_alpha_1_reproduces_the_source_run(net):
    """Source path = the latents of a plain run; same prompt, same noise: the lock hands back what is there anyway."""
    same = Texts(TEXTS.cond, TEXTS.uncond, TEXTS.cond)
    scheduler, passed = make_scheduler("euler", STEPS, SHIFT), [tiny.latent()]
    for t in scheduler.timesteps:
        cond, uncond = (velocity_of(net, passed[-1], t, words) for words in (same.cond, same.uncond))
        passed.append(scheduler.step(uncond + 1.0 * (cond - uncond), t, passed[-1], return_dict=False)[0])
    path = TrajectoryPath(passed, make_scheduler("euler", STEPS, SHIFT).sigmas.tolist())
    nothing = torch.zeros(3, 4, 10)
    locked = run(net, session(settings(rows=("cond",)), nothing, omega0=1.0), texts=same, path=path)
    assert torch.allclose(locked, passed[-1], atol=1e-5)
    other = run(net, session(settings(rows=("cond",)), nothing, omega0=1.0), texts=same)
    assert not torch.allclose(other, passed[-1], atol=1e-3)


def test_the_source_row_never_feels_the_edit(net):
    """In a locked call the source row's own velocity is that of a plain call of the source."""
    z, t, words = tiny.latent(5), torch.tensor(500.0), tiny.text("source")
    watched = session(settings())
    watched.begin(0, 0.5)
    with riding(net, watched) as rider, rider.carrying(("cond", "source")):
        both = velocity_of(net, torch.cat([tiny.latent(6), z]), t, torch.cat([TEXTS.cond, words]))
    assert torch.allclose(both[1:], velocity_of(net, z, t, words), atol=1e-5)
    assert not torch.allclose(both[:1], velocity_of(net, tiny.latent(6), t, TEXTS.cond), atol=1e-3)


def test_lockstep_agrees_with_keys_and_values_recorded_apart(net):
    """A second mode, written here: record the source's K,V in a pass of its own, then replay them."""
    z, t = tiny.latent(5), torch.tensor(500.0)
    kept = {}

    class Recorder:
        def attention(self, site, key, value, rows):
            kept[site] = key.clone(), value.clone()
            return key, value

    class Replay:
        def provide(self, site, key, value, rows):
            return kept[site]

    with riding(net, Recorder()) as rider, rider.carrying(("source",)):
        velocity_of(net, z, t, TEXTS.source)
    replaying = LockSession(settings(), steps=STEPS, edit=EDIT, tokens=token_mask(EDIT), source=Replay())
    lockstep = session(settings())
    velocities = []
    for watched, rows in ((replaying, ("cond",)), (lockstep, ("cond", "source"))):
        watched.begin(0, 0.5)
        with riding(net, watched) as rider, rider.carrying(rows):
            latents = torch.cat([tiny.latent(6), z][: len(rows)])
            velocities.append(velocity_of(net, latents, t, torch.cat([TEXTS.cond, TEXTS.source][: len(rows)]))[:1])
    assert len(kept) == 3 and torch.allclose(*velocities, atol=1e-5)


def test_two_clips_in_a_batch_do_not_mix(net):
    noise = torch.cat([tiny.latent(1), tiny.latent(8)])
    path = NoisedPath(torch.cat([tiny.latent(2), tiny.latent(9)]), torch.cat([tiny.latent(3), tiny.latent(10)]))
    together = run(net, session(settings(risk=settings().risk)), noise=noise, path=path)
    first = run(net, session(settings()), noise=noise[:1], path=NoisedPath(path.z_src[:1], path.noise[:1]))
    assert torch.allclose(together[:1], first, atol=1e-5)


def test_risk_schedules_follow_the_run(net):
    lock, guidance = (replace(paper, tau=1e-9, **EVERYWHERE) for paper in (PAPER_LOCK, PAPER_GUIDANCE))
    watched = session(settings(lock=lock, guidance=guidance, projection=True))
    run(net, watched)
    steps = watched.trace.steps
    assert [step.alpha for step in steps] == [1.0] * STEPS and steps[0].risk is None
    assert steps[0].omega == CFG and all(step.omega == 2 * CFG and step.s_star != 1.0 for step in steps[1:])
    assert [step.sigma for step in steps] == pytest.approx(make_scheduler("euler", STEPS, SHIFT).sigmas[:-1].tolist())


def test_progress_counts_every_step(net):
    seen = []
    run(net, progress=lambda done, steps: seen.append((done, steps)))
    assert seen == [(k + 1, STEPS) for k in range(STEPS)]


# the model afterwards ---------------------------------------------------------------------------------------------


def processors(net):
    return [attention.processor for block in net.blocks for attention in (block.attn1, block.attn2)]


def same_objects(a, b):
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))


def test_the_model_is_as_found_after_a_run(net):
    before, weights = processors(net), {name: value.clone() for name, value in net.state_dict().items()}
    run(net, session(settings()))
    assert same_objects(processors(net), before)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_the_model_is_as_found_after_an_error(net):
    before = processors(net)

    class Broken:
        reconstruction_error = 0.0

        def at(self, step, sigma):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(net, session(settings()), path=Broken())
    assert same_objects(processors(net), before)


def test_the_comparison_of_processors_notices_a_leftover(net):
    before = processors(net)
    with riding(net, session(settings())):
        assert not same_objects(processors(net), before)
        assert isinstance(net.blocks[0].attn1.processor, LockedAttention)


def test_somebody_elses_processor_is_still_called(net):
    own, calls = net.blocks[1].attn1.processor, []

    class Counting:
        def __call__(self, *args, **kwargs):
            calls.append(1)
            return own(*args, **kwargs)

    net.blocks[1].attn1.processor = counting = Counting()
    try:
        run(net, session(settings(lock=None)))
        assert len(calls) == 2 * STEPS and net.blocks[1].attn1.processor is counting
    finally:
        net.blocks[1].attn1.processor = own


def test_a_lock_costs_one_row_and_an_idle_one_nothing(net):
    """Rows of the batches that the model is asked for: cond and uncond apart, or three in one call."""
    batches = []
    handle = net.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    try:
        run(net, session(settings(lock=replace(PAPER_LOCK, kind="constant"))))
    finally:
        handle.remove()
    assert batches == [1, 1] * 3 + [3] * 2


# bad input --------------------------------------------------------------------------------------------------------


def test_a_nan_names_the_step(net):
    poisoned = tiny.latent()
    poisoned[0, 0, 0, 0, 4] = float("nan")
    before = processors(net)
    with pytest.raises(NonFiniteError, match="step 0"):
        run(net, session(settings()), noise=poisoned)
    assert same_objects(processors(net), before)


def test_source_of_another_size(net):
    small = NoisedPath(tiny.latent(2, size=(3, 4, 8)), tiny.latent(3, size=(3, 4, 8)))
    with pytest.raises(GridMismatchError, match=r"\(1, 3, 3, 4, 8\)"):
        run(net, session(settings()), path=small)


def test_mask_of_another_grid(net):
    with pytest.raises(GridMismatchError, match="24 tokens"):
        run(net, session(settings(), torch.zeros(3, 4, 8)))


def test_a_lock_without_a_source(net):
    with pytest.raises(SettingsError, match="NoisedPath"):
        sample(net, make_scheduler("euler", STEPS, SHIFT), tiny.latent(), TEXTS, CFG, session=session(settings()))


@pytest.mark.parametrize("bad", [dict(sampler="heun"), dict(steps=0), dict(steps=2.5), dict(shift=0.0)])
def test_impossible_schedules(bad):
    with pytest.raises(SettingsError, match=str(next(iter(bad.values())))):
        make_scheduler(**{**dict(sampler="euler", steps=5, shift=3.0), **bad})


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("make_session", [lambda: None, lambda: session(settings())], ids=["plain", "locked"])
def test_a_composite_ends_with_the_source_outside_the_mask(net, sampler, make_session):
    noise, z_src, outside = tiny.latent(), tiny.latent(7), EDIT == 0
    kept = LatentComposite(z_src, NoisedPath(z_src, noise), EDIT)
    held = run(net, make_session(), sampler, noise, composite=kept)
    free = run(net, make_session(), sampler, noise)
    torch.testing.assert_close(held[..., outside], z_src[..., outside], atol=1e-5, rtol=0)
    assert not torch.allclose(free[..., outside], z_src[..., outside], atol=0.1)
    assert not torch.allclose(held[..., ~outside], z_src[..., ~outside], atol=0.1)


def test_a_composite_where_everything_may_change_changes_nothing(net):
    z_src = tiny.latent(7)
    free = LatentComposite(z_src, NoisedPath(z_src, tiny.latent()), torch.ones_like(EDIT))
    torch.testing.assert_close(run(net, None, composite=free), run(net, None), atol=1e-5, rtol=1e-5)
