"""KV-Lock for ComfyUI. Everything is in nodes/."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
