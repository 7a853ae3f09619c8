"""What can go wrong between ComfyUI and the method. Messages are shown on the node, so they name the remedy."""

from ...kvlock_core import KVLockError


class HostError(KVLockError):
    """ComfyUI, or another node of the graph, does something that KV-Lock cannot work with."""


class UnsupportedModelError(HostError):
    """The model is none of the families that KV-Lock knows."""


class BypassedAttentionError(HostError):
    """The model ran, but its self-attention never came by."""


class UnsupportedGraphError(HostError):
    """A feature of the graph changes the token grid in a way that KV-Lock does not follow."""
