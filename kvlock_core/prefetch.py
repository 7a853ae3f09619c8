"""Brings the next packed K,V to the computing device while the present ones are in use (M3, ours)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from .tiers import Packed

Load = Callable[[], Packed]


class Prefetcher:
    """One entry ahead, in a thread of its own; on a GPU also on a stream of its own, through page-locked buffers.

    At any time there are the entry in use and the one ahead, so a device holds two blocks' K,V at most.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kvlock_prefetch")
        self._ahead: tuple[str, Future[Packed]] | None = None
        self._staging: dict[str, Tensor] = {}

    def start(self, name: str, load: Load) -> None:
        """Begin to bring the entry `name`. Another one that nobody took is let go."""
        self.let_go()
        self._ahead = (name, self._thread.submit(self._bring, load))

    def take(self, name: str, load: Load) -> Packed:
        """The entry on the device: the one that was started, or brought now. Raises what `load` raises."""
        if self._ahead is None or self._ahead[0] != name:
            self.start(name, load)
        future, self._ahead = self._ahead[1], None
        packed = future.result()
        if self._stream is not None:
            for tensor in packed.values():  # made on the other stream: not to be reused while this one still reads
                tensor.record_stream(torch.cuda.current_stream(self.device))
        return packed

    def let_go(self) -> None:
        """What is ahead is not wanted any more, or has changed where it lies."""
        if self._ahead is not None:
            self._ahead[1].cancel()
            self._ahead = None

    def close(self) -> None:
        """Ends the thread. The prefetcher cannot be used any more."""
        self.let_go()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._staging.clear()

    def _bring(self, load: Load) -> Packed:
        packed = load()
        if self._stream is None:  # a copy, so that what lies on a disk is read here and not where it is used
            return {part: tensor.to(self.device, copy=True) for part, tensor in packed.items()}
        with torch.cuda.stream(self._stream):
            moved = {part: self._staged(part, tensor).to(self.device, non_blocking=True) for part, tensor in packed.items()}
        self._stream.synchronize()  # this thread waits, the device's other streams go on
        return moved

    def _staged(self, part: str, tensor: Tensor) -> Tensor:
        """The tensor in page-locked memory, which copies at full speed beside computing; the buffer is used again."""
        if tensor.device.type != "cpu" or tensor.is_pinned():
            return tensor
        size = tensor.numel() * tensor.element_size()
        if part not in self._staging or self._staging[part].numel() < size:
            self._staging[part] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        buffer = self._staging[part][:size].view(tensor.dtype).view(tensor.shape)
        return buffer.copy_(tensor)
