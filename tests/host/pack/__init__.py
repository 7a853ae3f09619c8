"""Nodes for the tests alone: the toy world's text encoder, and a VAE loader for hosts that fix the VAE's width."""

import os
import sys
from unittest import mock

import comfy.ldm.wan.vae
import comfy.sd
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io

# Behind everything else: in front, the pack's nodes/ would hide the host's own nodes.py.
sys.path.append(os.environ["KVLOCK_ROOT"])

from toy.captions import encode  # noqa: E402


class KVLockTestText(io.ComfyNode):
    """Prompt of the toy world -> CONDITIONING. `nonce` changes nothing; another value makes the host run
    everything behind this node again, instead of taking it from its cache."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="KVLockTestText",
            display_name="Toy Text (tests only)",
            category="KV-Lock/tests",
            inputs=[io.String.Input("prompt"), io.Int.Input("nonce", default=0, min=0, max=2**31)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, prompt, nonce) -> io.NodeOutput:
        return io.NodeOutput([[encode(prompt), {}]])


class KVLockTestVAE(io.ComfyNode):
    """Loads a Wan VAE of any width. The stock loader fixes the width at 96 up to some version before 0.8."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="KVLockTestVAE",
            display_name="Toy VAE (tests only)",
            category="KV-Lock/tests",
            inputs=[io.String.Input("vae_name")],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        state = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("vae", vae_name))
        width = state["decoder.head.0.gamma"].shape[0]
        with mock.patch.object(comfy.ldm.wan.vae, "WanVAE", of_width(width)):
            return io.NodeOutput(comfy.sd.VAE(sd=state))


def of_width(width):
    class Sized(comfy.ldm.wan.vae.WanVAE):
        def __init__(self, **settings):
            super().__init__(**{**settings, "dim": width})

    return Sized


class KVLockTestExtension(ComfyExtension):
    async def get_node_list(self):
        return [KVLockTestText, KVLockTestVAE]


async def comfy_entrypoint():
    return KVLockTestExtension()
