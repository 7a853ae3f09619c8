"""The re-noised latent composite (M10, ours): background latents are the source's at every noise level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .errors import GridMismatchError
from .invert import SourcePath


def keep_outside(new: Tensor, source: Tensor, edit: Tensor) -> Tensor:
    """`edit * new + (1 - edit) * source` (M10): latents (B,C,T,h,w) that are the source's outside `edit` (T,h,w)."""
    edit = edit.to(new)
    return edit * new + (1 - edit) * source.to(new)


@dataclass(frozen=True, eq=False)
class LatentComposite:
    """Keeps the latent outside `edit` (T,h,w; 1 = may change) on the source's `path` (M10).

    The lock (M4) leaves background latents free; this does not, so that after the last step they are the source's own.
    It is what hosts call a latent noise mask. `path` should start from the edit's own noise, as sampling does. `z_src`
    (B,C,T,h,w) the clean source. Raises GridMismatchError.
    """

    z_src: Tensor
    path: SourcePath
    edit: Tensor

    def __post_init__(self):
        if self.edit.shape != self.z_src.shape[2:]:
            raise GridMismatchError(
                f"edit mask {tuple(self.edit.shape)} is not on the grid of the source latent {tuple(self.z_src.shape)}; "
                "make it with latent_mask(..., size=...) from this latent"
            )

    def noisy(self, latents: Tensor, step: int, sigma: float) -> Tensor:
        """`edit * latents + (1 - edit) * z_src(sigma)`: what the model sees at `sigma`."""
        return keep_outside(latents, self.path.at(step, sigma), self.edit)

    def clean(self, x0: Tensor) -> Tensor:
        """`edit * x0 + (1 - edit) * z_src`: what the sampler takes for the prediction."""
        return keep_outside(x0, self.z_src, self.edit)

    def velocity(self, velocity: Tensor, latents: Tensor, sigma: float) -> Tensor:
        """The velocity that leads to `clean(x0)`, for samplers that work on velocities; `sigma` > 0."""
        return (latents - self.clean(latents - sigma * velocity)) / sigma
