"""KV-Lock Sampler: KSampler with the lock, the CFG schedule and the monitor in one node."""

from comfy_api.latest import io

from ..kvlock_core import COMPOSITE_LOCK
from .host.composite import composited
from .host.ksampler import SAMPLERS, SCHEDULERS, sample
from .host.patch import patched
from .host.report import Report
from .inputs import (
    LOCKED_ROWS,
    OFF,
    block_range,
    guidance_inputs,
    guidance_schedule,
    lock_inputs,
    lock_schedule,
    risk_inputs,
    risk_settings,
    where_inputs,
)
from .schema import rare_last, schema
from .sockets import ReportSocket, Source


class KVLockSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockSampler",
            display_name="KV-Lock Sampler",
            description="Edits the masked part of a video and holds the rest to the source. All of KSampler, and how hard to lock "
            "and to guide, step by step.",
            search_aliases=["kv lock", "video edit", "keep background", "background lock", "ksampler"],
            inputs=[
                *_ksampler_inputs(),
                io.Latent.Input("latent_image", optional=True,
                                tooltip="Where sampling starts; without it the source itself, which matters only below denoise 1"),
                io.Boolean.Input("keep_background", default=True,
                                 tooltip="Background latents end as the source's own; off: only the lock holds them, then set end_percent and "
                                 "alpha_ceiling to 1"),
                *rare_last([*lock_inputs(COMPOSITE_LOCK), *guidance_inputs(OFF, use_s_star=False), *where_inputs(), *risk_inputs()]),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The edited clip, for VAE Decode"),
                ReportSocket.Output(display_name="report", tooltip="Link to KV-Lock Report, with this node's latent"),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, source, seed, steps, cfg, sampler_name, scheduler, positive, negative, denoise, keep_background,
                latent_image=None, **chosen):  # fmt: skip
        report = Report()
        model = patched(model, source=source, watchers=(cls.hidden.unique_id,), reports=(report,), **_changes(**chosen))
        latent = latent_image or {"samples": source.samples}
        latent = composited(latent, source) if keep_background else latent
        return io.NodeOutput(
            sample(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, denoise), report
        )


def _ksampler_inputs() -> list:
    return [
        io.Model.Input("model", tooltip="The video model, with LoRAs and other patches in any order"),
        Source.Input("source", tooltip="From Invert & Cache KV"),
        io.Conditioning.Input("positive", tooltip="What the edited clip shows, all of it"),
        io.Conditioning.Input("negative", tooltip="What to keep out; not used at cfg 1"),
        io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="Seed of the edit's noise"),
        io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Steps of the run; 4 to 8 for distilled models"),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=0.01,
                       tooltip="How hard the prompt is pushed; 1 for distilled models: the lock works, omega and s_star rest"),
        io.Combo.Input("sampler_name", options=SAMPLERS, default="euler", tooltip="Any of ComfyUI's samplers"),
        io.Combo.Input("scheduler", options=SCHEDULERS, default="simple", tooltip="How the noise levels are spaced"),
        io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="1 starts from pure noise, less from latent_image"),
    ]  # fmt: skip


def _changes(*, omega_schedule, omega_ceiling, omega_floor, use_s_star, locked_rows, first_block, last_block, **rest) -> dict:
    """The fields of `host.patch.Patch` that the widgets stand for."""
    risk = {name: rest.pop(name) for name in list(rest) if name.startswith("risk_")}
    clock = {name: rest[name] for name in ("tau", "start_percent", "end_percent")}
    return {
        "lock": lock_schedule(**rest),
        "guidance": guidance_schedule(omega_schedule, omega_ceiling, omega_floor, **clock),
        "projection": use_s_star,
        "rows": LOCKED_ROWS[locked_rows],
        "blocks": block_range(first_block, last_block),
        "risk": risk_settings(**risk),
    }
