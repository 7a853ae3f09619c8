"""Files of source K,V in ComfyUI's output folder: named by the user, never outside of it (M3)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import comfy.utils
import folder_paths

from ...kvlock_core import CacheFileError, load_cache, save_cache
from .source import SourceHandle
from .supply import device, scratch_folder

SUFFIX = ".safetensors"
FOLDER = "kvlock"


def cache_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def cache_files() -> list[str]:
    """Names of saved files, below the folder, with / between."""
    return sorted(path.relative_to(cache_folder()).as_posix() for path in cache_folder().rglob(f"*{SUFFIX}"))


def save(source: SourceHandle, name: str) -> tuple[str, int]:
    """Writes what `source` keeps to a new file; returns its name and bytes. Raises CacheFileError."""
    if source.store is None:
        raise CacheFileError("this source keeps nothing; set source_mode of Invert & Cache KV to stored, and run the edit before saving")
    path = _free_path(_inside(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    size = save_cache(source.store, path, _Bar())
    return path.relative_to(cache_folder()).as_posix(), size


def load(source: SourceHandle, name: str) -> SourceHandle:
    """The source with K,V of a saved file, and a store for what it lacks. Raises CacheFileError."""
    path = _inside(name)
    if not path.is_file():
        raise CacheFileError(f"there is no {name} in {cache_folder()}; press R to see the files that are there")
    store = load_cache(path, source.storage.tiers(device(), scratch_folder()), _Bar())
    return replace(source, storage=replace(source.storage, mode="stored"), store=store)


def stamp(name: str) -> str:
    """Changes when the file does."""
    path = _inside(name)
    return f"{name} {os.path.getmtime(path)}" if path.is_file() else name


def _inside(name: str) -> Path:
    """The path of a name as users give it, without the suffix or with. Raises CacheFileError for anything outside the folder."""
    folder = cache_folder().resolve()
    path = (folder / (name if name.endswith(SUFFIX) else name + SUFFIX)).resolve()
    hidden = any(part.startswith(".") for part in Path(name).parts)
    if not name.strip() or "\0" in name or hidden or not path.is_relative_to(folder):
        raise CacheFileError(f"{name!r} is not a name inside {folder}; use letters, digits and / for subfolders")
    return path


def _free_path(path: Path) -> Path:
    """The path itself, or the next one with a number that is free: nothing that is there is replaced."""
    number, free = 2, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.stem}_{number}{SUFFIX}")
    return free


class _Bar:
    """The node's progress bar, in percent; bytes would overflow some pages."""

    def __init__(self):
        self._bar = comfy.utils.ProgressBar(100)

    def __call__(self, done: int, total: int) -> None:
        self._bar.update_absolute(100 * done // max(total, 1), 100)
