"""True inversion of the source: walks the sampling ODE up to the noise (M2), as a sampler of ComfyUI.

As a sampler it gets loading, precision, LoRAs, progress and interrupts from the host.
"""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...kvlock_core import SourceError, TrajectoryPath, invert
from .patch import KEY

#: name -> evaluations for N steps, with those that measure how well the path leads back
SOLVERS = {"euler": lambda n: 2 * n, "rf_solver": lambda n: 4 * n, "uni_inv": lambda n: 2 * n + 1}

#: The host tells x0, and v = (x - x0) / sigma is lost at 0; this is one of Wan's 1000 training steps above it.
LEAST_SIGMA = 1e-3


def inverted(model, samples: Tensor, conditioning: list | None, sigmas: Tensor | None, solver: str) -> TrajectoryPath:
    """The path of a source latent (1,C,T,h,w) over `sigmas`, under its own text, without CFG. Raises KVLockError."""
    if conditioning is None:
        raise SourceError(f"the source path {solver} follows the source's own text; link source_conditioning")
    if sigmas is None:
        raise SourceError(f"the source path {solver} walks a schedule; link sigmas (Basic Scheduler, the sampler's own)")
    plain = model.clone()
    plain.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)  # the source is inverted without any lock
    guider = comfy.samplers.CFGGuider(plain)
    guider.set_conds(conditioning, conditioning)
    walk = _Inversion(solver)
    guider.sample(torch.zeros_like(samples), samples, walk, sigmas, disable_pbar=True, seed=0)
    return walk.path


class _Inversion(comfy.samplers.Sampler):
    """Leaves the latent as it is and keeps the path that leads to it."""

    def __init__(self, solver: str):
        self.solver = solver
        self.path: TrajectoryPath | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        progress = comfy.utils.ProgressBar(SOLVERS[self.solver](len(sigmas) - 1))

        def velocity(z: Tensor, sigma: float) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            level = max(sigma, LEAST_SIGMA)
            x0 = model_wrap(z, torch.full((len(z),), level, device=z.device), **extra_args)
            progress.update(1)
            return (z - x0) / level

        self.path = _to_cpu(invert(velocity, latent_image, sigmas.tolist(), self.solver))
        return latent_image


def _to_cpu(path: TrajectoryPath) -> TrajectoryPath:
    """A few MB a step; the host's cards have better use for their memory."""
    return TrajectoryPath(tuple(z.to("cpu") for z in path.latents), path.sigmas, path.reconstruction_error)
