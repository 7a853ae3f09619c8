"""python -m benchmarks.codecs      # what storage formats of source K,V cost and spoil on the toy model; two to four minutes

Writes docs/codecs.json. "int4" and "int2" are int8's code with a coarser grid: not offered, they show that the measures see
what they are made for. Errors are relative root mean squares, |a - b| / |b|; of edits the median and the worst of the clips,
as now and then an edit takes another turn for a small cause.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import timeit
from collections import defaultdict, namedtuple
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvlock_core import LockSchedule, LockSession, Lockstep, NoisedPath, SessionSettings, draw, token_mask
from kvlock_core.codec import CODECS, Codec, codec, key_bias, key_step
from kvlock_diffusers.adapter import projections, rotate
from kvlock_diffusers.engine import sample, velocity_of

from .edit_quality.cases import cases
from .edit_quality.task import Sampling, Task, load_world, prepare

FILE = Path(__file__).parent.parent / "docs" / "codecs.json"
KINDS = ("color", "shape", "removal", "addition")
LISTENED = (1, 7, 13, 18)  # of 20 steps
ROUNDS = 15
COARSE = {"int4": replace(codec("int8"), name="int4", largest=7.0), "int2": replace(codec("int8"), name="int2", largest=1.0)}
MEASURED = {name: codec(name) for name in CODECS} | COARSE
BIASED = ("fp8", "int8", *COARSE)
SETTINGS = SessionSettings(lock=LockSchedule(kind="constant", ceiling=1.0, start_percent=0.0))
#: Wan 2.1, 832x480x81: dim, width of the feed-forward net, tokens, tokens of text (config.json of the models).
WAN = {"1.3B": (1536, 8960, 32760, 512), "14B": (5120, 13824, 32760, 512)}


#: One self-attention call of a locked run: the edit's and the source's (1,heads,L,dim), and which (L,) are background.
Call = namedtuple("Call", "query key value k_src v_src kept")


class Coded(Lockstep):
    """Lockstep, but what it gives was packed and unpacked."""

    def __init__(self, by: Codec):
        super().__init__()
        self._by = by

    def provide(self, site, key, value, rows):
        k_src, v_src = super().provide(site, key, value, rows)
        return self._by.decode(self._by.encode(k_src, v_src), key.dtype)


def edited(task: Task, *, net=None, by: Codec | None = None, path: NoisedPath | None = None, told=None) -> Tensor:
    """Latents of a whole locked edit; `by` None: the source's K,V as they are."""
    tokens = token_mask(task.edit, task.model.patch)
    steps, cfg = task.sampling.steps, task.sampling.cfg
    source = Lockstep() if by is None else Coded(by)
    session = LockSession(SETTINGS, steps=steps, edit=task.edit, tokens=tokens, omega0=cfg, source=source)
    net, path = net or task.model.transformer, path or task.path
    return sample(net, task.sampling.scheduler(), task.noise, task.texts, cfg, session=session, source=path, progress=told)


def listened(task: Task) -> tuple[Tensor, list[Call]]:
    """Latents of the exact run, and its calls in the steps LISTENED."""
    kept = token_mask(task.edit, task.model.patch) < 0.5
    calls, now = [], [0]

    def listen(attn, args):
        if now[0] in LISTENED:
            q, k, v = projections(attn, args[0])
            q, k, v = (x.transpose(1, 2) for x in (rotate(q, *args[3]), rotate(k, *args[3]), v))
            calls.append(Call(q[:1], k[:1], v[:1], k[2:], v[2:], kept))  # rows: cond, uncond, source

    with listening([block.attn1 for block in task.model.transformer.blocks], listen):
        latents = edited(task, told=lambda done, steps: now.__setitem__(0, done))
    return latents, calls


@contextmanager
def listening(modules, listen: Callable):
    hooks = [module.register_forward_pre_hook(listen) for module in modules]
    yield
    for hook in hooks:
        hook.remove()


class Errors:
    """Relative root mean squares of differences that come one by one, each under a name."""

    def __init__(self):
        self._sums = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, got: Tensor, exact: Tensor) -> None:
        self._sums[name][0] += (got.double() - exact.double()).square().sum().item()
        self._sums[name][1] += exact.double().square().sum().item()

    def relative(self) -> dict[str, float]:
        return {name: float(f"{math.sqrt(error / whole):.3g}") for name, (error, whole) in self._sums.items()}


def attended(call: Call, k_src: Tensor, v_src: Tensor, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Output (1,heads,L,dim) with source K,V on the background, and the attention (1,heads,l) edited queries pay to it."""
    pick = call.kept[:, None]
    key, value = torch.where(pick, k_src, call.key), torch.where(pick, v_src, call.value)
    added = (torch.zeros(*call.query.shape[:3], len(call.kept)) + bias) * call.kept
    out = F.scaled_dot_product_attention(call.query, key, value, attn_mask=added)
    query = call.query[:, :, ~call.kept]
    logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + added[:, :, ~call.kept]
    return out, logits.softmax(3)[..., call.kept].sum(3)


def of_calls(name: str, calls: list[Call]) -> dict:
    """Errors of K, of V and of attention outputs, and how much attention moves to the background, with the bias and without."""
    errors, moved = Errors(), defaultdict(list)
    for call in calls:
        packed = MEASURED[name].encode(call.k_src, call.v_src)
        k_src, v_src = MEASURED[name].decode(packed, call.key.dtype)
        exact, mass = attended(call, call.k_src, call.v_src)
        biases = {"": 0.0} | ({"_biased": key_bias(call.query, key_step(packed))} if name in BIASED else {})
        errors.add("key_error", k_src, call.k_src)
        errors.add("value_error", v_src, call.v_src)
        for kind, bias in biases.items():
            out, got = attended(call, k_src, v_src, bias)
            errors.add(f"output_error{kind}", out, exact)
            moved[f"background_attention_change{kind}"].append((got - mass).mean().item())
    return errors.relative() | {of: float(f"{statistics.fmean(values):.3g}") for of, values in moved.items()}


def of_sizes(name: str, shape: tuple[int, ...]) -> dict:
    dtypes, by = {"float32": torch.float32, "bf16": torch.bfloat16}, MEASURED[name]
    share = {of: by.packed_bytes(shape, dtype) / (2 * math.prod(shape) * dtype.itemsize) for of, dtype in dtypes.items()}
    return {} if name in COARSE else {f"bytes_vs_{of}": round(value, 4) for of, value in share.items()}


def difference(exact: dict[Task, Tensor], run: Callable[[Task], Tensor]) -> dict:
    """How far edits by `run` are from exact ones, inside the edit mask and outside; dB = -20 log10 of the median."""
    clips = []
    for task, right in exact.items():
        got, errors, inside = run(task), Errors(), task.edit.bool().expand_as(right)
        errors.add("inside", got[inside], right[inside])
        errors.add("outside", got[~inside], right[~inside])
        clips.append(errors.relative())
    return {where: spread([clip[where] for clip in clips]) for where in ("inside", "outside")}


def spread(errors: list[float]) -> dict[str, float | None]:
    median = statistics.median(errors)
    decibels = round(-20 * math.log10(median), 1) if median else None
    return {"median": float(f"{median:.3g}"), "worst": max(errors), "median_db": decibels}


def in_bf16(net: nn.Module) -> nn.Module:
    """As diffusers loads Wan in bfloat16: with norms, modulation and time embedding in float32."""
    net = copy.deepcopy(net)
    for name, parameter in net.named_parameters():
        if not any(kept in name for kept in net._keep_in_fp32_modules):
            parameter.data = parameter.data.bfloat16()
    return net


@torch.no_grad()
def block_inputs(task: Task, k_exact: Tensor) -> dict:
    """Storing what goes into each block instead of K,V: what making K,V of it costs, beside one row's forward and unpacking."""
    net, inputs = task.model.transformer, []
    arguments = (net, task.path.at(0, 0.5), torch.tensor(500.0), task.texts.row("source"))
    with listening(net.blocks, lambda _, args: inputs.append((args[0], *args[2:]))):
        velocity_of(*arguments)
    made = [keys_values(block, *given) for block, given in zip(net.blocks, inputs)]
    packs = {name: [codec(name).encode(*pair) for pair in made] for name in ("bf16", "fp8", "int8")}
    works = {
        "forward": lambda: velocity_of(*arguments),
        "recomputing": lambda: [keys_values(block, *given) for block, given in zip(net.blocks, inputs)],
        "packing_int8": lambda: [codec("int8").encode(*pair) for pair in made],
    }
    for name, pack in packs.items():
        works[f"unpacking_{name}"] = lambda by=codec(name), pack=pack: [by.decode(x, torch.float32) for x in pack]
    rounds = [{name: timeit.timeit(work, number=1) for name, work in works.items()} for _ in range(ROUNDS)]
    times = {name: statistics.median(r[name] / r["forward"] for r in rounds) for name in works if name != "forward"}
    return {
        "bytes_vs_kv_of_one_dtype": round(inputs[0][0].numel() / (2 * k_exact.numel()), 4),
        "share_of_a_forward_of_one_row": {name: round(share, 4) for name, share in times.items()},
        "recomputing_by_arithmetic": {name: round(recomputing_share(*sizes), 4) for name, sizes in WAN.items()},
        "errors_with_int8_inputs": {way: of_inputs(net, inputs, made, at) for at, way in enumerate(("per_channel", "per_token"))},
    }


def of_inputs(net: nn.Module, inputs: list, made: list, at: int) -> dict[str, float]:
    """Errors of K,V made of block inputs that were kept as int8 the way of keys (`at` 0) or of values (1)."""
    errors = Errors()
    for block, (hidden, *others), exact in zip(net.blocks, inputs, made):
        wide = hidden.unsqueeze(1)
        coded = codec("int8").decode(codec("int8").encode(wide, wide), hidden.dtype)[at].squeeze(1)
        for of, got, right in zip(("key_error", "value_error"), keys_values(block, coded, *others), exact):
            errors.add(of, got, right)
    return errors.relative()


def keys_values(block: nn.Module, hidden: Tensor, modulation: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """K,V (1,heads,L,dim) of a Wan block's self-attention from what goes into the block."""
    attn, (shift, scale) = block.attn1, (block.scale_shift_table + modulation.float()).chunk(6, dim=1)[:2]
    normed = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    key, value = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_k(attn.to_k(normed)), attn.to_v(normed)))
    return rotate(key, *rope).transpose(1, 2), value.transpose(1, 2)


def recomputing_share(dim: int, wide: int, tokens: int, words: int) -> float:
    """Of a Wan block's products: two of the four projections of self-attention over everything, per token."""
    attention = 4 * dim * dim + 2 * tokens * dim
    return 2 * dim * dim / (attention + 2 * dim * dim + 2 * words * dim + 2 * dim * wide)


def main() -> None:
    model = load_world()
    tasks = [prepare(model, next(c for c in cases("validation") if c.kind == kind), Sampling()) for kind in KINDS]
    heard = {task: listened(task) for task in tasks}
    calls = [call for _, found in heard.values() for call in found]
    exact = {task: latents for task, (latents, _) in heard.items()}
    narrow, shape = in_bf16(model.transformer), tuple(calls[0].k_src.shape)
    mass = [attended(call, call.k_src, call.v_src)[1].mean().item() for call in calls]
    report = {
        "clips": [task.case.name for task in tasks],
        "calls": len(calls),
        "shape": shape,
        "background_attention": round(statistics.fmean(mass), 4),
        "codecs": {
            name: of_sizes(name, shape) | of_calls(name, calls) | {"edit": difference(exact, lambda t, by=by: edited(t, by=by))}
            for name, by in MEASURED.items()
        },
        "edit_yardsticks": {
            "transformer in bf16": difference(exact, lambda t: edited(t, net=narrow)),
            "another source seed": difference(exact, lambda t: edited(t, path=NoisedPath(t.z_src, draw(t.z_src.shape, 2)))),
        },
        "block_inputs": block_inputs(tasks[0], calls[0].k_src),
    }
    FILE.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
