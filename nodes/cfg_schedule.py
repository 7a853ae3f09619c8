"""CFG Schedule: omega and s_star, for any sampler with CFG."""

from comfy_api.latest import io

from ..kvlock_core import GuidanceSchedule
from .host.patch import patched
from .inputs import guidance_inputs, guidance_schedule, percent, tau
from .schema import advanced, rare_last, schema


class KVLockCFGSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockCFGSchedule",
            display_name="CFG Schedule",
            description="Changes CFG from step to step, by risk or by the clock, and scales the negative prediction (s_star). "
            "At cfg 1 there is nothing to combine: it then says so and does nothing.",
            search_aliases=["cfg schedule", "dynamic cfg", "cfg zero star", "guidance schedule"],
            inputs=[
                io.Model.Input("model", tooltip="The video model, with LoRAs and other patches in any order"),
                *rare_last([*guidance_inputs(GuidanceSchedule().kind, use_s_star=True), *_clock_inputs()]),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, with this schedule for every sampler behind it")],
        )

    @classmethod
    def execute(cls, model, use_s_star, **guidance):
        return io.NodeOutput(patched(model, guidance=guidance_schedule(**guidance), projection=use_s_star))


def _clock_inputs() -> list:
    """When, and by which risk; KV-Lock Sampler takes the lock's for both."""
    d = GuidanceSchedule()
    return [
        percent("start_percent", d.start_percent, "Share of the steps after which CFG begins to change; 1 never"),
        percent("end_percent", d.end_percent, "Share of the steps after which CFG is the sampler's again; 1 keeps it to the end"),
        advanced(tau(d.tau, "Risk at which CFG is as the sampler has it; above it rises. KV-Lock Report suggests one")),
    ]
