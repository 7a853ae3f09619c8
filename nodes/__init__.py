"""The nodes of the pack, one file a family. Their ids are in saved workflows, so they never change."""

from comfy_api.latest import ComfyExtension

from .apply import KVLockApply
from .cache import KVLockLoadCache, KVLockSaveCache
from .cfg_schedule import KVLockCFGSchedule
from .invert_cache import KVLockInvertCache
from .mask import KVLockTokenMask
from .monitor import KVLockMonitor, KVLockReport
from .sampler import KVLockSampler


class KVLockExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            KVLockInvertCache,
            KVLockSampler,
            KVLockMonitor,
            KVLockCFGSchedule,
            KVLockApply,
            KVLockTokenMask,
            KVLockReport,
            KVLockSaveCache,
            KVLockLoadCache,
        ]


async def comfy_entrypoint() -> KVLockExtension:
    """What ComfyUI asks a node pack for."""
    return KVLockExtension()
