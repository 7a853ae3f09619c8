"""KV-Lock for ComfyUI. Everything is in nodes/; what the page draws is in web/."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
