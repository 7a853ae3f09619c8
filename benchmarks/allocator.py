"""Lets a benchmark run with an allocator that keeps freed memory, as torch's does on a GPU."""

from __future__ import annotations

import os
import sys

#: glibc. Without, every large activation comes from the system and is zeroed again, which makes a batch dearer than its rows and
#: plain sampling a tenth slower.
KEEPS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}


def keep_freed_memory() -> None:
    """Starts this process anew with that allocator, unless it has it: malloc reads its settings when a process begins."""
    if not os.environ.items() >= KEEPS.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | KEEPS)
