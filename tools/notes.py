"""What stands in the yellow note of each example workflow."""

_FIRST = """## Change these first

1. **Load Video**: your clip. {size}
2. **Load Image (as Mask)**: a black and white picture of the same shape, **white may change**. One picture serves all frames. To paint it in the page: load a frame here, right click, *Open in MaskEditor*, then set channel to *alpha*.
3. **Source text**: what your clip shows. **Positive**: the same, with the one thing changed.

**Run.** KV-Lock Mask shows in red what may change, before the sampler starts.

"""
_SMALL = "832 x 480 is what the model was made for, up to 81 frames; 4k + 1 frames (33, 49, 81) come out whole."
_HELP = "\nEvery KV-Lock node has a help page: right click, *Node Info*.\n"


def _note(rest: str, size: str = _SMALL) -> str:
    return _FIRST.format(size=size) + rest.strip() + "\n" + _HELP


NOTES = {
    "one": _note("""
**As installed** the background stays your clip's own (keep_background), and in the first 60 % of the steps the new thing is softly locked to the clip (alpha_ceiling 0.5).

| you see | try |
|---|---|
| the new thing is weak or missing | cfg 7, alpha_ceiling 0.25, or grow 16 in KV-Lock Mask |
| the new thing does not fit into the picture | alpha_ceiling 1 |
| light or shadow outside the mask should change too | keep_background off, with alpha_ceiling 1, end_percent 1 and lock_schedule constant |

Three model files, 10 GB: the page offers those that you lack.
"""),
    "patch": _note("""
**The same edit with ComfyUI's KSampler.** Three nodes patch the model, in any order; bypass one (Ctrl+B) and only its part is gone.

| node | here |
|---|---|
| KV-Lock (Patch Model) | the lock: soft, in the first 60 % of the steps |
| CFG Schedule | up to 1.25 x cfg while the model is unsure; bypass it if colours burn |
| Hallucination Monitor | watches for the report, changes nothing |

The **latent** of Invert & Cache KV goes to the sampler: it keeps the background. With VAE Encode there instead, only the lock holds it: then set lock_schedule constant, alpha_ceiling 1, end_percent 1.

Three model files, 10 GB: the page offers those that you lack.
"""),
    "vace": _note("""
**VACE sees the clip with a hole, KV-Lock sees the clip.** VACE fills the masked part to fit; KV-Lock keeps the rest your own.

- **snap** in KV-Lock Mask is on: VACE wants a mask for every frame, and gets one in whole tokens.
- Leave **reference_image** empty: it would add a frame, which the lock refuses.
- VACE paints on its own: if the new thing ignores your words, lower **strength** of *VACE: the edit* to 0.8.

Three model files, 11 GB: the page offers those that you lack.
""", "Width and height in multiples of 16, 4k + 1 frames (33, 49, 81); 832 x 480 is a good start."),
    "experts": _note("""
**Two models, one source.** Each expert has its own KV-Lock (Patch Model) with the same source; a model without one would not be locked.

- **Switch**: end_at_step of the first half and start_at_step of the second are the same number.
- The latent of Invert & Cache KV keeps the background, through both halves: where the second begins, KV-Lock goes on keeping the **source** and not the half-denoised picture that it is given.
- Both locks have the same widgets; the steps count on from half to half. New thing too weak? alpha_ceiling 0.25 in both.

Four model files, 36 GB: the page offers those that you lack. 20 steps without a speed LoRA.
""", "832 x 480 or 1280 x 720, up to 81 frames; 4k + 1 frames (33, 49, 81) come out whole."),
    "four": _note("""
**4 steps, cfg 1.** The LoRA makes the model fast. At cfg 1 there is no negative prompt and no CFG Schedule; lock, kept background and monitor work as ever.

| you see | try |
|---|---|
| the new thing is weak or missing | alpha_ceiling 0.25, or 6 steps |
| grain or blur | sampler euler, or the LoRA's strength 0.8 |
| the new thing does not fit into the picture | alpha_ceiling 1, end_percent 1 |

lock_schedule is constant: with 4 steps there is little risk to follow. Four model files, 22 GB: the page offers those that you lack.
""", "832 x 480, up to 81 frames; 4k + 1 frames (33, 49, 81) come out whole."),
    "compare": _note("""
**Three runs with one seed**, in one clip: your source, A, B, C from left to right.

| | |
|---|---|
| A | KSampler without a lock: what the words alone make of it |
| B | a fixed full lock in all steps, no composite: the background is close, light may change |
| C | KV-Lock as installed: the background is your clip's, the lock is soft and follows the risk |

The reports show risk and alpha of each run. Change seed, cfg and steps in all three, or the comparison says nothing. It takes three times as long; bypass what you do not need.

Three model files, 10 GB: the page offers those that you lack.
"""),
}
