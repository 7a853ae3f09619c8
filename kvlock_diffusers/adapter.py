"""Puts a `LockSession` into the self-attention of diffusers' `WanTransformer3DModel`, and takes it out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from kvlock_core import LockSession, Site
from kvlock_core.early_end import SourceIsDone, source_ends_after
from kvlock_core.types import SOURCE_ROW


class LockedAttention:
    """Attention processor of one block: hands K,V after norm and RoPE to the session (M3, M4).

    Calls that are not locked go to the processor that was there before, so they stay bit-identical to the plain model and
    other people's processors keep working.
    """

    def __init__(self, block: int, previous, rider: Rider):
        self.site, self.previous, self.rider = Site(block), previous, rider

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None, **kwargs):
        rows = self.rider.rows
        if rows is None:
            return self.previous(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb, **kwargs)
        query, key, value = projections(attn, hidden_states)
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        key, value = self.rider.session.attention(self.site, key.transpose(1, 2), value.transpose(1, 2), rows)
        if rows == (SOURCE_ROW,) and self.site.block == self.rider.last_block:
            raise SourceIsDone
        backend = getattr(self.previous, "_attention_backend", None)
        mixed = dispatch_attention_fn(query, key.transpose(1, 2), value.transpose(1, 2), attention_mask, backend=backend)
        return attn.to_out[1](attn.to_out[0](mixed.flatten(2).type_as(query)))


class Rider:
    """Tells the processors which roles the batch of the running call has; None: the call is not locked."""

    def __init__(self, session: LockSession, blocks: nn.ModuleList, last_block: int | None):
        self.session, self.blocks, self.last_block = session, blocks, last_block
        self.rows: tuple[str, ...] | None = None

    @contextmanager
    def carrying(self, rows: tuple[str, ...], clips: int = 1) -> Iterator[None]:
        """Inside, calls have these rows of `clips` latents each, and the source goes no further than the last locked block."""
        self.rows = rows
        rides = self.last_block is not None and SOURCE_ROW in rows and len(rows) > 1
        try:
            with source_ends_after(self.blocks, self.last_block, clips * len(rows), clips) if rides else nullcontext():
                yield
        except SourceIsDone:
            if rows != (SOURCE_ROW,):
                raise
        finally:
            self.rows = None


@contextmanager
def riding(transformer: nn.Module, session: LockSession, last_block: int | None = None) -> Iterator[Rider]:
    """Installs the session in every block's self-attention; on exit, even by an error, the old processors are back.

    `last_block` that the session locks: there the source's way ends; None lets it go through all blocks.
    """
    rider = Rider(session, transformer.blocks, last_block)
    before = [block.attn1.processor for block in transformer.blocks]
    try:
        for index, block in enumerate(transformer.blocks):
            block.attn1.processor = LockedAttention(index, before[index], rider)
        yield rider
    finally:
        for block, processor in zip(transformer.blocks, before):
            block.attn1.processor = processor


def projections(attn: nn.Module, hidden: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value (B,L,heads,D) of a Wan attention before RoPE; `context` None is self-attention, fused or not."""
    if context is None and getattr(attn, "fused_projections", False):
        query, key, value = attn.to_qkv(hidden).chunk(3, dim=-1)
    else:
        context = hidden if context is None else context
        query, key, value = attn.to_q(hidden), attn.to_k(context), attn.to_v(context)
    return tuple(x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(query), attn.norm_k(key), value))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of neighbouring pairs: `x` (B,L,heads,D) by `cos`, `sin` (1,L,1,D) that repeat each pair's value."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)
