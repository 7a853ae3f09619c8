"""Stands in the host's attention calls: finds self-attention over the clip, asks the session, goes on to whoever came before."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key, copy_nested_dicts
from einops import rearrange
from torch import Tensor

from ...kvlock_core import LockSession, Site
from ...kvlock_core.early_end import SourceIsDone, source_ends_after
from ...kvlock_core.types import SOURCE_ROW
from .calls import ModelCall
from .errors import BypassedAttentionError, UnsupportedModelError

OVERRIDE = "optimized_attention_override"
KEY = "kvlock_attention"


class LockedAttention:
    """The attention override of one model call.

    `rows` roles of the batch in order; `tokens` length of the clip's self-attention; `texts` lengths of the contexts of
    the same call: a cross-attention whose context is as long as the clip looks the same, but comes after self-attention.
    `last_block` that is locked: there a call of the source alone ends. `side_blocks` of the model's family: they follow their
    main block, under its index, and stay as they are.
    """

    def __init__(
        self, session: LockSession, rows: tuple[str, ...], tokens: int, texts: tuple[int, ...], last_block: int, side_blocks: bool
    ):
        self.session, self.rows, self.tokens, self.last_block, self.side_blocks = session, rows, tokens, last_block, side_blocks
        self._main_blocks_seen: set[int] = set()
        self.previous = None
        self.blocks_seen = 0
        self._alike_per_block = 1 + sum(length == tokens for length in texts)
        self._alike_calls = 0

    def __call__(self, attend, query: Tensor, key: Tensor, value: Tensor, *args, **kwargs) -> Tensor:
        if self._is_self_attention(query, key, value, kwargs):
            heads = args[0] if args else kwargs["heads"]
            key, value = self._fused(self._site(kwargs), key, value, heads)
        if self.previous is None:
            return attend(query, key, value, *args, **kwargs)
        return self.previous(attend, query, key, value, *args, **kwargs)

    def _is_self_attention(self, query: Tensor, key: Tensor, value: Tensor, kwargs: dict) -> bool:
        if kwargs.get("skip_reshape") or not query.shape == key.shape == value.shape or key.shape[1] != self.tokens:
            return False
        if self.side_blocks:
            return self._is_first_of_its_block(kwargs.get("transformer_options", {}))
        self._alike_calls += 1
        return (self._alike_calls - 1) % self._alike_per_block == 0

    def _is_first_of_its_block(self, options: dict) -> bool:
        if "block_index" not in options:
            raise UnsupportedModelError(
                "this ComfyUI does not say which block of a model with side blocks (VACE) is running; update it to 0.8 or later"
            )
        is_first = options["block_index"] not in self._main_blocks_seen
        self._main_blocks_seen.add(options["block_index"])
        return is_first

    def _site(self, kwargs: dict) -> Site:
        """The host's own block index where it gives one (0.8 and later), else the count of calls."""
        block = kwargs.get("transformer_options", {}).get("block_index", self.blocks_seen)
        self.blocks_seen += 1
        return Site(block)

    def _fused(self, site: Site, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        k, v = (rearrange(x, "b l (h d) -> b h l d", h=heads) for x in (key, value))
        k, v = self.session.attention(site, k, v, self.rows)
        if self.rows == (SOURCE_ROW,) and site.block == self.last_block:
            raise SourceIsDone
        return tuple(rearrange(x, "b h l d -> b l (h d)") for x in (k, v))


def watched(executor, call: ModelCall, attention: LockedAttention) -> Tensor:
    """Runs the call with `attention` in front of whatever override it carries. Raises BypassedAttentionError.

    The source goes no further than the last locked block; a call of the source alone gives nothing but its K,V.
    """
    options = copy_nested_dicts(call.options)
    attention.previous = options.get(OVERRIDE)
    options[OVERRIDE] = attention
    models = []

    def note(run_model, *args, **kwargs):
        models.append(run_model.class_obj)
        rows, last = attention.rows, attention.last_block
        # side blocks add to the main ones, so there all rows go to the end
        rides = SOURCE_ROW in rows and len(rows) > 1 and not attention.side_blocks
        source = len(call.x) // len(rows)
        with source_ends_after(run_model.class_obj.blocks, last, len(call.x), source) if rides else nullcontext():
            return run_model(*args, **kwargs)

    # behind all other wrappers: a cache that answers for the model (EasyCache) never gets here
    add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, note, options)
    try:
        out = replace(call, options=options).run(executor)
    except SourceIsDone:
        return call.x
    for model in models:
        _check_all_blocks_came_by(model, attention, options)
    return out


def _check_all_blocks_came_by(model, attention: LockedAttention, options: dict) -> None:
    replaced = sum(kind[0] == "double_block" for kind in options.get("patches_replace", {}).get("dit", {}))
    expected = len(model.blocks)
    if attention.blocks_seen < expected - replaced:
        raise BypassedAttentionError(
            f"KV-Lock saw self-attention over {attention.tokens} tokens in {attention.blocks_seen} of {expected} blocks. "
            "Another node replaced the attention itself, for example a memory-efficient SageAttention patch, or added "
            "reference frames to the clip: remove or bypass that node, or use one that sets the attention backend"
        )
