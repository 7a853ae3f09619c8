"""KV-Lock (Patch Model): the lock, for any sampler."""

from comfy_api.latest import io

from ..kvlock_core import LockSchedule
from .host.patch import patched
from .inputs import LOCKED_ROWS, block_range, lock_inputs, lock_schedule, where_inputs
from .schema import rare_last, schema
from .sockets import Source


class KVLockApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockApply",
            display_name="KV-Lock (Patch Model)",
            description="Holds the background of a video to its source while any sampler edits the masked part. "
            "Add CFG Schedule for guidance and Hallucination Monitor to watch.",
            search_aliases=["kv lock", "background lock", "attention lock", "keep background"],
            inputs=[
                io.Model.Input("model", tooltip="The video model, with LoRAs and other patches in any order"),
                Source.Input("source", tooltip="From Invert & Cache KV"),
                *rare_last([*lock_inputs(LockSchedule()), *where_inputs()]),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, locked to the source in every sampler behind it")],
        )

    @classmethod
    def execute(cls, model, source, locked_rows, first_block, last_block, **lock):
        return io.NodeOutput(
            patched(
                model,
                lock=lock_schedule(**lock),
                source=source,
                rows=LOCKED_ROWS[locked_rows],
                blocks=block_range(first_block, last_block),
            )
        )
