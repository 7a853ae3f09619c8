"""ODE source paths: Invert & Cache KV with a schedule."""

import pytest
import torch
from world import SHAPE, STEPS, call, draw, locked, mask, run, sigmas_for, source_latent, text


@pytest.fixture(scope="module")
def clip(toy):
    """A clip that the model itself made, so that it lies where inversion works."""
    with torch.inference_mode():
        return run(toy, sigmas=sigmas_for(toy, 20), cfg=1.0)


def inverted(pack, toy, clip, solver, steps=40, **given):
    return call(
        pack["KVLockInvertCache"],
        **{"model": toy, "source_latent": {"samples": clip}, "edit_mask": mask("none"), "source_conditioning": text(1),
           "sigmas": sigmas_for(toy, steps), "source_path": solver, **given},
    )[0]  # fmt: skip


@pytest.mark.parametrize("solver", ["euler", "rf_solver", "uni_inv"])
def test_each_path_leads_back_the_better_the_finer_it_is(solver, pack, toy, clip):
    coarse, fine = (inverted(pack, toy, clip, solver, steps).trajectory for steps in (10, 80))
    assert 0 < fine.reconstruction_error < 0.6 * coarse.reconstruction_error
    assert len(fine.latents) == 81 and fine.sigmas[-1] == 0.0
    torch.testing.assert_close(toy.model.process_latent_out(fine.latents[-1]), clip, rtol=1e-4, atol=1e-4)


def test_the_second_order_leads_back_better(pack, toy, clip):
    errors = {solver: inverted(pack, toy, clip, solver).trajectory.reconstruction_error for solver in ("euler", "rf_solver")}
    assert errors["rf_solver"] < 0.5 * errors["euler"]


def test_sampling_from_the_top_of_the_path_is_the_clip_again(pack, toy, clip):
    """By the host's own sampler, not by the solver's."""
    source = inverted(pack, toy, clip, "uni_inv")
    sigmas = sigmas_for(toy, 40)
    again = run(toy, sigmas=sigmas, noise=source.trajectory.latents[0], cfg=1.0)
    elsewhere = run(toy, sigmas=sigmas, noise=draw(*SHAPE, seed=99), cfg=1.0)
    assert (again - clip).square().mean() < 0.3 * (elsewhere - clip).square().mean()


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m_sde", "heun"])
def test_the_lock_uses_the_path_with_samplers_of_other_steps(sampler, pack, toy, clip):
    source, closed = inverted(pack, toy, clip, "uni_inv", 12), inverted(pack, toy, clip, "noised")
    sigmas = sigmas_for(toy, STEPS)
    by_path = run(locked(pack, toy, source), sampler, sigmas=sigmas)
    assert torch.isfinite(by_path).all() and not torch.equal(by_path, run(locked(pack, toy, closed), sampler, sigmas=sigmas))
    pair = draw(2, *SHAPE[1:], seed=3)
    assert run(locked(pack, toy, source), noise=pair, latent=torch.zeros_like(pair), sigmas=sigmas).shape == pair.shape


def test_a_lock_on_the_model_does_not_reach_its_own_source(pack, toy, clip):
    patched = locked(pack, toy, inverted(pack, toy, clip, "noised"))
    a, b = (inverted(pack, model, clip, "euler", 4).trajectory for model in (toy, patched))
    assert all(torch.equal(one, other) for one, other in zip(a.latents, b.latents, strict=True))


@pytest.mark.parametrize(
    "given, says",
    [
        ({"sigmas": None}, "walks a schedule; link sigmas"),
        ({"source_conditioning": None}, "link source_conditioning"),
        ({"sigmas": torch.tensor([1.0, 0.5])}, "does not lead down to the clean clip"),
    ],
)
def test_what_is_missing_is_named(given, says, pack, toy, clip):
    with pytest.raises(Exception, match=says):
        inverted(pack, toy, clip, "euler", **given)


def test_a_path_that_does_not_cover_the_run_is_named(pack, toy):
    short = inverted(pack, toy, source_latent()["samples"], "euler", sigmas=torch.tensor([0.8, 0.4, 0.0]))
    with pytest.raises(Exception, match="outside the recorded path"):
        run(locked(pack, toy, short))
