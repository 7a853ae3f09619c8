"""One spelling of node schemas for every ComfyUI that we support."""

from __future__ import annotations

import dataclasses

from comfy_api.latest import io

CATEGORY = "KV-Lock"

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields) -> io.Schema:
    """`io.Schema`, without the fields that an older ComfyUI does not have (search aliases before 0.33)."""
    return io.Schema(category=CATEGORY, **{name: value for name, value in fields.items() if name in _KNOWN})


def advanced(widget):
    """Marks an input as rarely used: Nodes 2.0 of ComfyUI 0.33 folds it away, other pages show it as any widget."""
    widget.extra_dict = {**(getattr(widget, "extra_dict", None) or {}), "advanced": True}
    return widget


def rare_last(widgets: list) -> list:
    """The same inputs with the advanced ones behind, for pages that do not fold them away."""
    return sorted(widgets, key=lambda widget: bool((getattr(widget, "extra_dict", None) or {}).get("advanced")))
