"""What the diffusers face makes of the runs that ComfyUI must repeat. KVLOCK_WRITE_PARITY=1 writes the reference anew."""

import os

import parity
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from kvlock_core import (
    FreshNoisePath, GuidanceSchedule, LatentComposite, LockSchedule, LockSession, NoisedPath, RiskSettings, SessionSettings, token_mask,
)  # fmt: skip
from kvlock_diffusers.engine import Texts, sample
from toy.load import load_transformer

#: Two versions of one library on two processors; a change of the method is larger by orders of magnitude.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def transformer():
    return load_transformer()


def scheduler():
    made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    made.set_timesteps(sigmas=parity.SIGMAS[:-1])
    return made


def path(case):
    if case.source_noise == "fresh":
        return FreshNoisePath(parity.clip(), parity.SOURCE_SEED)
    return NoisedPath(parity.clip(), parity.draw(parity.NOISE_SEED if case.source_noise == "shared" else parity.SOURCE_SEED))


def settings(case):
    clock = {"tau": case.tau, "start_percent": case.start_percent}
    return SessionSettings(
        lock=None if case.lock is None else LockSchedule(case.lock, **clock),
        guidance=None if case.guidance is None else GuidanceSchedule(case.guidance, **clock),
        projection=case.projection,
        risk=RiskSettings(case.risk_window, form=case.risk_form),
    )


def play(case, transformer):
    edit = parity.edit()
    session = LockSession(settings(case), steps=parity.STEPS, edit=edit, tokens=token_mask(edit), omega0=case.cfg)
    words = parity.WORDS
    texts = Texts(words["cond"], None if case.cfg == 1.0 else words["uncond"], words["source"] if case.own_words else None)
    noise = parity.draw(parity.NOISE_SEED)
    composite = LatentComposite(parity.clip(), NoisedPath(parity.clip(), noise), edit) if case.composite else None
    latent = sample(transformer, scheduler(), noise, texts, case.cfg, session=session, source=path(case), composite=composite)
    return latent, session.trace.steps


@pytest.fixture(scope="module")
def results(transformer):
    made = {name: play(case, transformer) for name, case in parity.CASES.items()}
    if os.environ.get("KVLOCK_WRITE_PARITY"):
        parity.keep(made)
    return made


@pytest.mark.parametrize("name", parity.CASES)
def test_the_reference_is_up_to_date(name, results):
    latent, records = results[name]
    wanted, steps = parity.kept(name)
    assert parity.relative_rms(latent, wanted) < TOLERANCE
    for record, step in zip(records, steps, strict=True):
        for field in ("sigma", "alpha", "risk", "omega", "s_star"):
            assert getattr(record, field) == (None if step[field] is None else pytest.approx(step[field], rel=TOLERANCE))


def test_the_cases_differ_by_far_more_than_the_tolerance(results):
    latents = [latent for latent, _ in results.values()]
    for i, one in enumerate(latents):
        assert all(parity.relative_rms(one, other) > 30 * TOLERANCE for other in latents[:i])
    assert any(0 < step.alpha < 1 for step in results["full"][1]) and torch.isfinite(latents[0]).all()
