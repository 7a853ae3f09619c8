"""Brings up ComfyUI as a library on the CPU, and the pack inside it as its loader would."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if "COMFYUI_PATH" not in os.environ:
    raise RuntimeError("these tests run inside ComfyUI's Python; start them with: python launch.py host-test")
HOST = Path(os.environ["COMFYUI_PATH"])
HERE = Path(__file__).resolve().parent


def _start_host() -> None:
    sys.argv = ["pytest", "--cpu"]
    sys.path.insert(0, str(HOST))
    sys.path.append(str(HERE))
    import comfy.options

    comfy.options.enable_args_parsing()


_start_host()


@pytest.fixture(scope="session")
def pack():
    """Node classes by id, loaded by ComfyUI's own `load_custom_node`."""
    import nodes

    assert Path(nodes.__file__).parent == HOST, "ComfyUI's nodes.py is shadowed"
    loaded = asyncio.run(nodes.load_custom_node(str(ROOT)))
    assert loaded, "ComfyUI could not import the pack; see the log above"
    return {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("KVLock")}


@pytest.fixture(scope="session")
def toy():
    from world import load_toy

    return load_toy()


@pytest.fixture(scope="session")
def source(pack, toy):
    """The handle of one clip whose corner may change."""
    from world import call, mask, source_latent

    (handle,) = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=mask())
    return handle


@pytest.fixture(autouse=True)
def no_gradients():
    import torch

    with torch.inference_mode():  # as ComfyUI runs prompts
        yield
