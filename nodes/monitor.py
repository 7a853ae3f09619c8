"""Hallucination Monitor: watches a run and changes nothing. Report: what it saw."""

from comfy_api.latest import io, ui

from ..kvlock_core import COMPOSITE_LOCK, LockSchedule, RunTrace, SettingsError, calibrate
from .chart import draw
from .host.patch import patched
from .host.report import Report
from .inputs import risk_inputs, risk_settings
from .schema import schema
from .sockets import ReportSocket, Source


class KVLockMonitor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockMonitor",
            display_name="Hallucination Monitor",
            description="Measures at every step how much the model still changes its mind about the edit (risk). Changes nothing "
            "by itself; how risk is measured here also holds for the lock and the CFG schedule of the same model.",
            search_aliases=["risk", "hallucination", "variance monitor", "kv lock monitor"],
            inputs=[
                io.Model.Input("model", tooltip="The model to watch, patched or not"),
                Source.Input("source", optional=True, tooltip="From Invert & Cache KV: risk is measured inside its edit mask"),
                *risk_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The same model, watched in every sampler behind it"),
                ReportSocket.Output(display_name="report", tooltip="Link to KV-Lock Report, with the sampler's latent"),
            ],
            hidden=[io.Hidden.unique_id],
            # the output carries the node's id: without this ComfyUI hands it to an equal node elsewhere, from its cache
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model, source=None, **risk):
        report = Report()
        changes = {} if source is None else {"source": source}
        watchers = (cls.hidden.unique_id,)
        return io.NodeOutput(patched(model, risk=risk_settings(**risk), watchers=watchers, reports=(report,), **changes), report)


class KVLockReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="KVLockReport",
            display_name="KV-Lock Report",
            description="What happened at each step of a finished run: a chart, three numbers, and everything as JSON.",
            search_aliases=["risk chart", "kv lock trace"],
            inputs=[
                ReportSocket.Input("report", tooltip="From Hallucination Monitor or KV-Lock Sampler"),
                io.Latent.Input("latent", tooltip="The latent that the run made; it tells which run is meant"),
            ],
            outputs=[
                io.Image.Output(display_name="chart", tooltip="Risk, alpha, omega and s_star of every step, the active range shaded"),
                io.Float.Output(display_name="last_risk", tooltip="Risk of the last step; NaN if it was never known"),
                io.Float.Output(display_name="mean_alpha", tooltip="Mean lock strength over the locked steps; 0 if none was"),
                io.Float.Output(display_name="locked_share", tooltip="Share of the steps that were locked"),
                io.String.Output(display_name="json", tooltip="Settings and every step"),
                io.Float.Output(display_name="suggested_tau", tooltip="tau that locks half-way from alpha_floor to alpha_ceiling on the average "
                                "in a run like this one; NaN if no risk was known"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, report, latent):
        trace = report.trace_of(latent["samples"])
        seen, chart = trace.summary(), draw(trace)
        risk = float("nan") if seen["last_risk"] is None else seen["last_risk"]
        numbers = (risk, seen["mean_locked_alpha"] or 0.0, seen["locked_share"])
        return io.NodeOutput(chart, *numbers, trace.to_json(), _suggested_tau(trace), ui=ui.PreviewImage(chart, cls=cls))


def _suggested_tau(trace: RunTrace) -> float:
    """For the lock that the run had, or KV-Lock Sampler's where it only watched."""
    given = trace.settings.get("lock")
    lock = COMPOSITE_LOCK if given is None else LockSchedule(**given)
    try:
        return calibrate(trace, lock).tau
    except SettingsError:
        return float("nan")
