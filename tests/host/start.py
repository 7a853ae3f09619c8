"""Brings up ComfyUI as a library on the CPU, and the pack inside it as its loader would."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def start_host() -> Path:
    """Makes ComfyUI importable, before anything of it is imported; returns its folder."""
    if "COMFYUI_PATH" not in os.environ:
        raise RuntimeError("this runs inside ComfyUI's Python with COMFYUI_PATH set; see: python launch.py host-test")
    host = Path(os.environ["COMFYUI_PATH"])
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, str(host))
    sys.path.append(str(HERE))
    import comfy.options

    comfy.options.enable_args_parsing()
    return host


def load_pack(host: Path) -> dict:
    """Our node classes by id, loaded by ComfyUI's own `load_custom_node`."""
    import nodes

    if Path(nodes.__file__).parent != host:
        raise RuntimeError(f"ComfyUI's nodes.py is hidden by {nodes.__file__}; start from another folder")
    if not asyncio.run(nodes.load_custom_node(str(ROOT))):
        raise RuntimeError("ComfyUI could not import the pack; see the log above")
    return {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("KVLock")}
