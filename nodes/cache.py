"""Save and load source keys and values: later edits of the same clip need no source row, also after a restart."""

from comfy_api.latest import io

from ..kvlock_core.budget import in_words
from .host import cachefiles, events
from .schema import schema
from .sockets import Source


class KVLockSaveCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockSaveCache",
            display_name="Save KV Cache",
            description="Writes the source's keys and values, recorded by an edit with source_mode stored, to ComfyUI's output folder "
            "(output/kvlock). Nothing that is there is replaced.",
            search_aliases=["kv cache", "save source"],
            inputs=[
                Source.Input("source", tooltip="From Invert & Cache KV, with source_mode stored"),
                io.Latent.Input("latent", tooltip="The edit's latent, so that saving waits for the sampler"),
                io.String.Input("filename", default="clip", tooltip="Name inside output/kvlock; subfolders with /. A number is added if it is taken"),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The same latent")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, source, latent, filename):
        name, size = cachefiles.save(source, filename)
        events.note(cls.hidden.unique_id, f"kvlock/{name}: {in_words(size)}")
        return io.NodeOutput(latent)


class KVLockLoadCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockLoadCache",
            display_name="Load KV Cache",
            description="Gives a source the keys and values that Save KV Cache wrote. They are used where model, clip, noise, text and "
            "steps are the recorded ones; everything else is computed as usual, and the node says why.",
            search_aliases=["kv cache", "load source"],
            inputs=[
                Source.Input("source", tooltip="From Invert & Cache KV, prepared like the one that was saved"),
                io.Combo.Input("cache_file", options=cachefiles.cache_files(), tooltip="A file in output/kvlock; press R after saving a new one"),
            ],
            outputs=[Source.Output(display_name="source", tooltip="For KV-Lock Sampler or KV-Lock (Patch Model)")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, cache_file, **others):
        return cachefiles.stamp(cache_file)

    @classmethod
    def execute(cls, source, cache_file):
        loaded = cachefiles.load(source, cache_file)
        sizes = ", ".join(f"{in_words(size)} in {tier}" for tier, size in loaded.store.bytes_by_tier.items() if size)
        events.note(cls.hidden.unique_id, f"{len(loaded.store.keys)} steps, {sizes}")
        return io.NodeOutput(loaded)
