"""Invert & Cache KV: the clip that is edited, as a handle for the other nodes."""

from dataclasses import replace

from comfy_api.latest import io

from .host import events
from .host.composite import composited
from .host.inversion import SOLVERS, inverted
from .host.source import SOURCE_NOISES, make_source
from .host.supply import kept
from .schema import advanced, schema
from .sockets import Source
from .storage_inputs import storage_inputs, storage_settings

NOISED = "noised"


class KVLockInvertCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockInvertCache",
            display_name="Invert & Cache KV",
            description="Prepares the clip that you edit: its latent, what may change in it, and its way to noise. Its keys and "
            "values are computed inside the sampler, exactly at the steps that lock, and kept if source_mode says so; only an "
            "inversion (source_path) runs here.",
            search_aliases=["kv lock source", "invert video", "background lock"],
            inputs=[
                io.Model.Input("model", tooltip="The video model that will edit; tells the size of a token"),
                io.Latent.Input("source_latent", tooltip="The clip, encoded with the model's own VAE (VAE Encode)"),
                io.Mask.Input("edit_mask", tooltip="White may change. One frame serves the whole clip; any size"),
                io.Conditioning.Input("source_conditioning", optional=True,
                                      tooltip="Text that describes the source; without it the edit's positive is used"),
                advanced(io.Combo.Input("source_noise", options=list(SOURCE_NOISES), default=SOURCE_NOISES[0],
                                        tooltip="own: a draw of its own seed; shared: the sampler's noise; fresh: a new draw per step")),
                advanced(io.Int.Input("source_seed", default=1, min=0, max=2**63 - 1, control_after_generate=False,
                                      tooltip="Seed of the source's own noise; the edit's seed stays free")),
                io.Sigmas.Input("sigmas", optional=True,
                                tooltip="The sampler's schedule, for a source_path that inverts; noised needs none"),
                advanced(io.Combo.Input("source_path", options=[NOISED, *SOLVERS], default=NOISED,
                                        tooltip="noised: add noise, exact at any step and free; the others invert now, one or two "
                                        "model calls a step")),
                *storage_inputs(),
            ],
            outputs=[
                Source.Output(display_name="source", tooltip="For KV-Lock Sampler or KV-Lock (Patch Model)"),
                io.Latent.Output(display_name="latent", tooltip="The source with a latent noise mask, for a sampler behind KV-Lock "
                                 "(Patch Model): keeps background latents to the end, in one stage or in two"),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, source_latent, edit_mask, source_conditioning=None, source_noise="own", source_seed=1,
                sigmas=None, source_path=NOISED, **storage):  # fmt: skip
        source = make_source(model, source_latent, edit_mask, source_conditioning, source_noise, source_seed)
        source = kept(source, storage_settings(**storage), cls.hidden.unique_id)
        told = _what_may_change(source.editable_share, len(source.tokens))
        if source_path != NOISED:
            path = inverted(model, source.samples, source_conditioning, sigmas, source_path)
            source = replace(source, trajectory=path)
            told += f"; {source_path} leads back to the source within {path.reconstruction_error:.1%}"
        events.note(cls.hidden.unique_id, told)
        return io.NodeOutput(source, composited(source_latent, source))


def _what_may_change(share: float, tokens: int) -> str:
    if share == 0.0:
        return "The edit mask is empty: everything is held to the source. Paint what may change white, or invert the mask."
    if share == 1.0:
        return "The edit mask covers every token: nothing will be locked. Check the mask, or invert it."
    return f"{share:.1%} of {tokens} tokens may change"
