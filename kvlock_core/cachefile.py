"""A recording of source K,V as one file: safetensors, with a JSON header that says what it belongs to (M3, ours)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .codec import codec
from .errors import CacheFileError, SettingsError
from .identity import SourceKey, bytes_of
from .store import KVStore, entry_name
from .tiers import Packed, Tier

#: The name of our header among the file's metadata, and its version.
HEADER, VERSION = "kvlock", 2
#: Stands in the header where the digest will, while the digest is made over the whole file.
NO_DIGEST = "0" * 64
#: What lies beside a file while it is written.
UNFINISHED = ".part"

_CHUNK = 1 << 24
_DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8", torch.int64: "I64",
}  # fmt: skip

#: Bytes that are done, bytes in all.
Progress = Callable[[int, int], None]


def save_cache(store: KVStore, path: Path | str, progress: Progress | None = None) -> int:
    """Writes all evaluations that `store` keeps; returns the bytes of the file.

    One tensor at a time, so it takes no memory. A file that was there stays whole until the new one is. Raises
    CacheFileError, StoreError.
    """
    path = Path(path)
    if not store.keys:
        raise CacheFileError(f"nothing to save in {path.name}: no source K,V were recorded; run an edit with source mode stored first")
    part = path.with_name(path.name + UNFINISHED)
    try:
        with open(part, "wb") as file:
            _write(file, store, progress or _silent)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise CacheFileError(f"{path} could not be written: {error}; free some space or choose another name") from error
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def load_cache(path: Path | str, tiers: Sequence[Tier] = (), progress: Progress | None = None) -> KVStore:
    """A store that reads from the file, memory-mapped, and records what is missing into `tiers`.

    The whole file is read once, to check it. Raises CacheFileError for a file that is cut, foreign, or was changed.
    """
    path = Path(path)
    header = _header(path)
    if _digest_of(path, header.get("sha256"), progress or _silent) != header.get("sha256"):
        raise CacheFileError(f"{path.name} was changed after it was saved, or is damaged; record it again")
    try:
        file = CacheFileTier(path)
        store = KVStore([*tiers, file], codec(header["codec"]))
        for index, evaluation in enumerate(header["evaluations"]):
            tokens = file.tensor(f"{index}.tokens") if evaluation["has_tokens"] else None
            key = SourceKey.from_dict(evaluation["key"])
            file.find(key, index, evaluation["blocks"])
            store.adopt(key, tokens, evaluation["blocks"], file)
    except (KeyError, TypeError, SettingsError, SafetensorError) as error:
        raise CacheFileError(f"{path.name} does not hold what its header says: {error!r}; record it again") from error
    return store


class CacheFileTier:
    """A saved file as the slowest tier of a store. Nothing is ever added to it."""

    name, budget, overhead = "file", 0, 1

    def __init__(self, path: Path):
        self.path, self.used = path, path.stat().st_size
        self._file = safe_open(path, framework="pt")
        self._parts: dict[str, dict[str, str]] = {}  # "evaluation.block" -> part -> name of the tensor
        for tensor in self._file.keys():
            place, _, part = tensor.rpartition(".")
            self._parts.setdefault(place, {})[part] = tensor
        self._places: dict[str, str] = {}

    def find(self, key: SourceKey, index: int, blocks: Sequence[int]) -> None:
        """Entries of `key` lie in the file as evaluation `index`. Raises KeyError if one does not."""
        for block in blocks:
            self._places[entry_name(key, block)] = place = f"{index}.{block}"
            self._parts[place]  # noqa: B018 - a missing one is found now and not in the middle of a run

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def put(self, name: str, packed: Packed) -> None:
        raise CacheFileError(f"{self.path.name} is only read")

    def get(self, name: str) -> Packed:
        try:
            return {part: self.tensor(tensor) for part, tensor in self._parts[self._places[name]].items()}
        except (OSError, SafetensorError) as error:
            raise CacheFileError(f"{self.path} can no longer be read: {error}; load it again") from error

    def drop(self, name: str) -> None:
        """What is in the file stays there."""

    def is_at(self, device: torch.device) -> bool:
        return False

    def close(self) -> None:
        self._file, self._parts, self.used = None, {}, 0


# writing --------------------------------------------------------------------------------------------------------------


def _write(file: BinaryIO, store: KVStore, progress: Progress) -> None:
    """Header, then tensor after tensor. The digest is known last and has a place of its own in the header."""
    header, total = _layout(store, NO_DIGEST)
    file.write(header)
    digest, done = hashlib.sha256(header), 0
    for _, tensor in _named(store):
        data = memoryview(bytes_of(tensor))
        digest.update(data)
        file.write(data)
        done += len(data)
        progress(done, total)
    header, _ = _layout(store, digest.hexdigest())
    file.seek(0)
    file.write(header)


def _layout(store: KVStore, sha256: str) -> tuple[bytes, int]:
    """The file's head, in the format of safetensors, and the bytes of the data behind it."""
    table, end = {}, 0
    for name, tensor in _named(store):
        begin, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    about = {"version": VERSION, "codec": store.codec.name, "sha256": sha256, "evaluations": _evaluations(store)}
    text = json.dumps({"__metadata__": {HEADER: json.dumps(about)}, **table}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _evaluations(store: KVStore) -> list[dict[str, Any]]:
    return [
        {"key": key.to_dict(), "blocks": list(store.blocks_of(key)), "has_tokens": store.tokens_of(key) is not None}
        for key in store.keys
    ]


def _named(store: KVStore) -> Iterator[tuple[str, Tensor]]:
    for index, key in enumerate(store.keys):
        if store.tokens_of(key) is not None:
            yield f"{index}.tokens", store.tokens_of(key)
        for block in store.blocks_of(key):
            for part, tensor in sorted(store.packed(key, block).items()):
                yield f"{index}.{block}.{part}", tensor


# reading --------------------------------------------------------------------------------------------------------------


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            given = (file.metadata() or {}).get(HEADER)
    except (OSError, SafetensorError) as error:
        raise CacheFileError(f"{path.name} is not a whole safetensors file: {error}; it was cut, or is something else") from error
    if given is None:
        raise CacheFileError(f"{path.name} is a safetensors file, but not one of source K,V; choose one that KV-Lock saved")
    try:
        header = json.loads(given)
        version = header["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CacheFileError(f"{path.name} has a header that cannot be read: {error!r}; record it again") from error
    if version != VERSION:
        raise CacheFileError(f"{path.name} has version {version!r}, this KV-Lock reads {VERSION}; record it again")
    return header


def _digest_of(path: Path, own: str | None, progress: Progress) -> str:
    """Of the whole file, without the digest `own` that it carries."""
    total, done = path.stat().st_size, 0
    with open(path, "rb") as file:
        length = file.read(8)
        head = length + file.read(int.from_bytes(length, "little"))
        digest = hashlib.sha256(head.replace(str(own or NO_DIGEST).encode(), NO_DIGEST.encode(), 1))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
    return digest.hexdigest()


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
