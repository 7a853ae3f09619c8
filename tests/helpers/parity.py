"""The runs that both hosts play, from numbers alone: no host is imported here.

tests/embedded/test_parity_reference.py keeps what the diffusers face makes of them in parity.safetensors;
tests/host/test_parity.py plays them in ComfyUI and compares.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from toy.captions import encode

REFERENCE = Path(__file__).with_name("parity.safetensors")
SHAPE, STEPS, SHIFT, CFG = (1, 16, 3, 6, 8), 12, 3.0, 4.0
#: ComfyUI's "simple" scheduler at shift 3, written out so that both hosts walk the same levels.
SIGMAS = [SHIFT * u / (1 + (SHIFT - 1) * u) for u in (1 - k / STEPS for k in range(STEPS))] + [0.0]
WORDS = {
    "cond": encode("a large red square at the top left over slate clouds"),
    "uncond": encode(""),
    "source": encode("a large blue circle at the top left over slate clouds"),
}


@dataclass(frozen=True)
class Case:
    """One run; the fields are those of the schedules. `words` of the source row: its own text or the edit's."""

    lock: str | None = "risk"
    guidance: str | None = "risk"
    projection: bool = True
    tau: float = 5.0
    start_percent: float = 0.4
    cfg: float = CFG
    source_noise: str = "own"
    own_words: bool = False
    risk_form: str = "rate"
    risk_window: int | None = None
    composite: bool = False


CASES = {
    "full": Case(),
    "own_words": Case(own_words=True, tau=8.0),
    "paper_risk": Case(risk_form="variance", risk_window=10, tau=0.1),
    "composite": Case(composite=True, guidance=None, projection=False, start_percent=0.0, tau=16.0),
    "lock_only": Case(guidance=None, projection=False, lock="constant", start_percent=0.0),
    "guidance_only": Case(lock=None, start_percent=0.2),
    "shared_noise": Case(source_noise="shared", lock="cosine", guidance="linear"),
    "fresh_noise": Case(source_noise="fresh"),
    "cfg_1": Case(cfg=1.0),
    "unlocked": Case(lock=None, guidance=None, projection=False),
}


def draw(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator("cpu").manual_seed(seed))


NOISE_SEED, SOURCE_SEED, CLIP_SEED = 7, 1, 21


def clip() -> torch.Tensor:
    """The source in the model's own latent space, in a model's range: a smooth clip, not white noise."""
    coarse = torch.randn(1, 16, 1, 3, 4, generator=torch.Generator("cpu").manual_seed(CLIP_SEED))
    return torch.nn.functional.interpolate(coarse, SHAPE[2:], mode="trilinear")


def edit() -> torch.Tensor:
    """Latent edit mask (T,h,w)."""
    mask = torch.zeros(SHAPE[2:])
    mask[:, 2:5, 2:6] = 1.0
    return mask


def keep(results: dict[str, tuple[torch.Tensor, tuple]]) -> None:
    """Writes latents and step records by case."""
    steps = {name: json.dumps([asdict(step) for step in records]) for name, (_, records) in results.items()}
    save_file({name: latent.contiguous() for name, (latent, _) in results.items()}, REFERENCE, metadata=steps)


def kept(name: str) -> tuple[torch.Tensor, list[dict]]:
    with safe_open(REFERENCE, "pt") as file:
        return file.get_tensor(name), json.loads(file.metadata()[name])


def relative_rms(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
