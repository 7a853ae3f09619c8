"""(M10): outside the edit mask the latent is the source's at every level, inside it is left alone bit for bit."""

import pytest
import torch

from kvlock_core import GridMismatchError, LatentComposite, NoisedPath, noised

SIZE = (2, 3, 4)
Z_SRC, NOISE, LATENTS = (torch.randn(1, 5, *SIZE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
EDIT = torch.zeros(SIZE)
EDIT[:, 1:, 2:] = 1
INSIDE = EDIT > 0


def composite(edit=EDIT):
    return LatentComposite(Z_SRC, NoisedPath(Z_SRC, NOISE), edit)


def test_the_model_sees_the_noised_source_outside_and_its_own_latent_inside():
    seen = composite().noisy(LATENTS, 0, 0.7)
    assert torch.equal(seen[..., INSIDE], LATENTS[..., INSIDE])
    assert torch.equal(seen[..., ~INSIDE], noised(Z_SRC, NOISE, 0.7)[..., ~INSIDE])


def test_the_prediction_is_the_source_outside():
    clean = composite().clean(LATENTS)
    assert torch.equal(clean[..., INSIDE], LATENTS[..., INSIDE])
    assert torch.equal(clean[..., ~INSIDE], Z_SRC[..., ~INSIDE])


def test_the_velocity_leads_to_that_prediction():
    sigma, velocity = 0.6, NOISE - Z_SRC + 0.3
    kept = composite().velocity(velocity, LATENTS, sigma)
    assert torch.allclose(LATENTS - sigma * kept, composite().clean(LATENTS - sigma * velocity), atol=1e-6)
    assert torch.allclose(kept[..., INSIDE], velocity[..., INSIDE], atol=1e-5)
    assert not torch.allclose(kept[..., ~INSIDE], velocity[..., ~INSIDE], atol=1e-2)


def test_a_soft_mask_mixes_in_proportion():
    half = composite(torch.full(SIZE, 0.5)).clean(LATENTS)
    assert torch.allclose(half, (LATENTS + Z_SRC) / 2)


def test_half_precision_stays_half_precision():
    assert composite().clean(LATENTS.bfloat16()).dtype == torch.bfloat16


def test_another_grid_is_refused():
    with pytest.raises(GridMismatchError, match=r"\(2, 4, 3\).*latent_mask"):
        composite(torch.zeros(2, 4, 3))
