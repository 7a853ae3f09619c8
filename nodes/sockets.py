"""Sockets of our own. What travels on them is a plain Python object."""

from comfy_api.latest import io

#: A `host.source.SourceHandle`: the source latent, its masks, its text, its noise.
Source = io.Custom("KVLOCK_SOURCE")
#: A `host.report.Report`: the traces of finished runs.
ReportSocket = io.Custom("KVLOCK_REPORT")
