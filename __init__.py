"""KV-Lock for ComfyUI. Everything is in nodes/, and what the page gets in web/."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
