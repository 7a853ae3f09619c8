"""ComfyUI and the pack, once for all tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

# by path: in importlib mode this folder is not on sys.path yet
_spec = importlib.util.spec_from_file_location("kvlock_host_start", Path(__file__).with_name("start.py"))
_start = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_start)
HOST = _start.start_host()


@pytest.fixture(scope="session")
def pack():
    """Node classes by id."""
    return _start.load_pack(HOST)


@pytest.fixture(scope="session")
def toy():
    from world import load_toy

    return load_toy()


@pytest.fixture(scope="session")
def source(pack, toy):
    """The handle of one clip whose corner may change."""
    from world import call, mask, source_latent

    handle, _ = call(pack["KVLockInvertCache"], model=toy, source_latent=source_latent(), edit_mask=mask())
    return handle


@pytest.fixture(autouse=True)
def no_gradients():
    import torch

    with torch.inference_mode():  # as ComfyUI runs prompts
        yield
